"""With MLflow's own registry: whose champion is served to whom, and what ``ebseg check`` says of it."""

import shutil

import pytest

from backend.app import create_app
from backend.loop_checks import check_registry
from ebseg.checkpoint import save_checkpoint
from tests.unit.backend.conftest import label_config, named, until
from tests.unit.backend.test_own_models import heads
from tests.unit.backend.test_swap import service_of
from training.registry.registry import Registry
from training.settings import Settings

__all__ = ["heads"]


@pytest.fixture
def home(mlflow_database, tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    shutil.copy(mlflow_database, home)
    return home


def test_the_registrys_champion_is_served_and_so_is_the_one_before_after_a_rollback(
    home, tmp_path, checkpoint, successor
):
    settings = Settings(home=home, model=str(checkpoint), follow_seconds=0.05)
    registry = Registry(settings)
    base = registry.ensure_base()
    client = create_app(settings, connect=lambda: 1 / 0).test_client()
    until(lambda: client.get("/versions").json == {"versions": [base.name]}, "the base is served")
    trained = tmp_path / "trained.safetensors"
    save_checkpoint(successor.net, trained)
    candidate = registry.register(trained, key="train-1", run_id=None, tags={})
    registry.promote(candidate, "better")
    until(lambda: client.get("/versions").json == {"versions": [candidate.name]}, "the candidate is served")
    registry.rollback("worse after all")
    until(lambda: client.get("/versions").json == {"versions": [base.name]}, "the base is served again")
    service_of(client).stop()


def test_what_one_project_promotes_in_the_registry_is_served_to_it_alone(home, checkpoint, heads):
    settings = Settings(home=home, model=str(checkpoint), follow_seconds=0.05, min_area=0.0)
    registry = Registry(settings)
    base = registry.ensure_base()
    client = create_app(settings, connect=lambda: 1 / 0).test_client()

    def is_served(project, version):
        body = {"schema": label_config(), "project": project}
        return client.post("/setup", json=body).json == {"model_version": named(version)}

    until(lambda: is_served(7, base.name), "the base is served")
    candidate = registry.register(heads["one"], key="train-1", run_id=None, tags={}, project=7)
    registry.promote(candidate, "better", project=7)
    until(lambda: is_served(7, "one"), "the candidate is served")
    assert is_served(8, base.name)
    registry.rollback("worse after all", project=7)
    until(lambda: is_served(7, base.name), "the base is served again")
    service_of(client).stop()


def test_the_registrys_base_and_projects_champions_are_named(home, checkpoint):
    settings = Settings(home=home, model="ebseg-tiny")
    registry = Registry(settings)
    base = registry.ensure_base()
    assert check_registry(settings).detail == f"version 1 is the base ({base.name})"
    for project in (12, 7):
        own = registry.register(checkpoint, key=f"train-{project}", run_id=None, tags={}, project=project)
        registry.promote(own, "better", project=project)
    assert check_registry(settings).detail == (
        f"version 1 is the base ({base.name}); champions of their own: project 7: version 3, "
        "project 12: version 2"
    )
