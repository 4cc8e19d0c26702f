import json
import logging
import os
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial

import pytest
import torch
from safetensors.torch import save_file

import ebseg
from ebseg.checkpoint import load_checkpoint, save_head
from ebseg.config import TINY
from ebseg.errors import CheckpointError, ConfigError, MlflowUnavailable
from ebseg.loading import version_name
from ebseg.runs.mlflow_store import connect, default_tracking_uri, disconnect
from ebseg.vocabulary import Vocabulary
from tests.integration.loop.conftest import copy_home
from tests.integration.loop.loop_world import write_model
from training.registry.decision import Decision, Verdict
from training.registry.history import LONGEST_TAG, predecessors, succeed
from training.registry.opened import Opened
from training.registry.registry import ChampionChanged, Registry, resolve
from training.settings import Settings

DECISION = Decision(
    Verdict.PROMOTE,
    ("better",),
    {
        "miou": {"champion": 61.25, "candidate": 64.0},
        "gain": 2.75,
        "lower_bound": None,
        "forgetting": [{"name": "drawn-scenes (val)", "before": 80.0, "after": 78.0, "lost": 0.025}],
    },
)


@pytest.fixture
def home(mlflow_database, tmp_path, mlflow_environment, monkeypatch):
    """Give a folder with MLflow's database; the process runs elsewhere."""
    home, elsewhere = tmp_path / "the home", tmp_path / "elsewhere"
    home.mkdir()
    elsewhere.mkdir()
    shutil.copy(mlflow_database, home)
    monkeypatch.chdir(elsewhere)
    monkeypatch.setenv("EBSEG_HOME", str(home))
    return home


@pytest.fixture
def registry(home):
    return Registry(Settings())


@pytest.fixture
def model_file(tmp_path):
    """Write files that have the header of a checkpoint and no weights to speak of."""

    def write(name="model.safetensors", **metadata):
        header = {
            "ebseg_format": "1",
            "config": TINY.model_dump_json(),
            "training_vocabulary": Vocabulary(["sky"]).to_json(),
            **metadata,
        }
        save_file({"weight": torch.zeros(1)}, tmp_path / name, metadata=header)
        return tmp_path / name

    return write


@pytest.fixture(scope="module")
def home_with_three(mlflow_database, tmp_path_factory):
    """Make a home whose registry has the base and two candidates, to be copied."""
    home = tmp_path_factory.mktemp("three") / "home"
    home.mkdir()
    shutil.copy(mlflow_database, home)
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        registry = Registry(Settings(home=home))
        registry.ensure_base()
        for number in (2, 3):
            file = write_model(home / "files", f"street-{number}")
            registry.register(file, key=f"train-{number}", run_id=None, tags={"project": "1"})
    return home


@pytest.fixture
def three(home, home_with_three):
    """Give a registry with the base and two candidates, in the home."""
    shutil.rmtree(home)
    copy_home(home_with_three, home)
    return Registry(Settings())


def champion_of(registry):
    return registry.champion().number


@contextmanager
def client_of(registry):
    client = connect(registry._settings.tracking_uri)
    try:
        yield client
    finally:
        disconnect(client)


def test_the_name_of_a_version_is_that_of_its_predictions(random_checkpoint, tmp_path, model_file):
    named = shutil.copy(random_checkpoint, tmp_path / "copy.safetensors")
    for path in (random_checkpoint, named):
        assert version_name(path) == ebseg.load(path, device="cpu").version
    assert version_name(model_file(version="street-7")) == "street-7"
    (tmp_path / "photo.safetensors").write_bytes(b"\x89PNG")
    for name in ("photo.safetensors", "missing.safetensors"):
        with pytest.raises(CheckpointError, match=name):
            version_name(tmp_path / name)
    with pytest.raises(CheckpointError, match="not a checkpoint of this package"):
        version_name(model_file(ebseg_format="7"))


def test_a_packaged_base_becomes_champion_and_is_not_copied(registry, home):
    assert registry.champion() is None
    base = registry.ensure_base()
    assert (base.number, base.aliases) == (1, ("champion",))
    assert base.created.endswith("+00:00")
    assert base.name == version_name(registry.checkpoint(base))
    assert registry.ensure_base() == registry.champion() == base
    assert registry.versions() == [base]
    assert [entry["version"] for entry in registry.history()] == [1]
    assert not list(home.rglob("*.safetensors"))


def test_a_base_given_as_a_file_is_copied(home, model_file):
    file = model_file("street model.safetensors")
    registry = Registry(Settings(model=str(file)))
    name = version_name(file)
    base = registry.ensure_base()
    file.unlink()
    kept = registry.checkpoint(base)
    assert base.name == name == version_name(kept)
    assert home / "mlruns" in kept.parents  # no second copy where the store is on this machine
    assert registry.ensure_base() == base


def test_a_base_whose_alias_was_lost_is_not_registered_twice(registry):
    registry.ensure_base()
    with client_of(registry) as client:
        client.delete_registered_model_alias("ebseg", "champion")
    assert registry.champion() is None
    assert registry.ensure_base().number == 1


def test_who_changes_the_model_starts_from_that_one(three, home, model_file):
    champion = three.ensure_base()
    path = model_file("other.safetensors", version="other-1")
    other = Registry(Settings(model=str(path)))
    assert three.descends(champion) and not other.descends(champion)
    with pytest.raises(ConfigError, match="comes from ebseg-tiny"):
        other.ensure_base()
    base = other.start_over()
    assert (base.name, base.aliases) == ("other-1", ("champion",))
    assert other.ensure_base().number == base.number
    with pytest.raises(ConfigError, match="comes from ebseg-tiny, and EBSEG_MODEL is"):
        other.promote(three.version("2"), "by hand")
    with pytest.raises(ConfigError, match="EBSEG_MODEL is ebseg-tiny"):
        three.promote(base, "by hand")
    assert three.start_over().name == three.version("1").name
    assert not other.descends(three.champion())
    assert Registry(Settings(model="models:/ebseg@champion")).descends(three.champion())


def test_reading_makes_no_database(tmp_path):
    registry = Registry(Settings(home=tmp_path / "new"))
    assert registry.champion() is None and registry.versions() == [] and registry.history() == []
    assert not (tmp_path / "new").exists()
    with pytest.raises(ConfigError, match="nothing is registered as 'ebseg' yet"):
        registry.version("champion")


@pytest.fixture
def meeting(monkeypatch):
    """Have two threads meet inside of a method of the registry, if they are let in at the same time."""

    def hold(owner, method):
        barrier, original = threading.Barrier(2), getattr(owner, method)

        def held(*arguments):
            with suppress(threading.BrokenBarrierError):
                barrier.wait(0.5)
            return original(*arguments)

        monkeypatch.setattr(owner, method, held)

    return hold


def test_two_that_register_the_same_at_once_make_one_version(registry, model_file, meeting):
    meeting(Registry, "_new_run")
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda _: registry.ensure_base(), range(2))
    assert first == second == registry.champion()
    with ThreadPoolExecutor(2) as pool:
        register = partial(registry.register, model_file(), key="train", run_id=None, tags={})
        calls = [pool.submit(register) for _ in range(2)]
    assert calls[0].result() == calls[1].result()
    assert [version.number for version in registry.versions()] == [1, 2]


def test_of_two_that_promote_at_once_one_is_refused(three, meeting):
    meeting(Opened, "before")
    with ThreadPoolExecutor(2) as pool:
        calls = [pool.submit(three.promote, three.version(ref), "", expected_champion=1) for ref in "23"]
    (refused,) = [call.exception() for call in calls if call.exception() is not None]
    assert isinstance(refused, ChampionChanged)


def test_a_repeated_job_registers_once(three, model_file):
    before = three.versions()
    again = three.register(model_file(version="street-2"), key="train-2", run_id=None, tags={})
    assert again == before[1]
    assert three.versions() == before
    assert [version.aliases for version in before] == [("champion",), (), ("candidate",)]
    assert before[1].tags["project"] == "1"
    assert before[1].name == version_name(three.checkpoint(before[1])) == "street-2"


def test_a_candidate_lies_in_the_run_that_trained_it(registry, model_file):
    with client_of(registry) as client:
        run_id = client.create_run("0").info.run_id
    version = registry.register(model_file(), key="train-1", run_id=run_id, tags={})
    assert version.run_id == run_id and version.source == f"runs:/{run_id}/model"
    with client_of(registry) as client:
        assert [file.path for file in client.list_artifacts(run_id, "model")] == ["model/model.safetensors"]
        assert client.get_run(run_id).info.status == "FINISHED"  # though nobody has told MLflow


@pytest.mark.parametrize("ref", ["3", "candidate", "street-3", "street-3+3f9a2c"])
def test_versions_are_found_by_number_alias_and_name(three, ref):
    assert three.version(ref).number == 3


def test_an_unknown_version_lists_the_known_ones(three):
    with pytest.raises(ConfigError, match="has no version '7'; known: 1 champion, 2, 3 candidate$"):
        three.version("7")


def test_promotion_moves_the_alias_and_tells_why(three):
    three.promote(three.version("2"), "better", expected_champion=1)
    three.promote(three.version("2"), "once more")
    assert champion_of(three) == 2
    assert [(entry["version"], entry["reason"]) for entry in three.history()] == [
        (1, "the model to start from"),
        (2, "better"),
    ]


def test_a_candidate_that_was_compared_with_another_champion_is_not_promoted(three):
    three.promote(three.version("2"), "better")
    with pytest.raises(ChampionChanged, match="version 2 became the champion .* was compared with 1"):
        three.promote(three.version("3"), "better", expected_champion=1)
    assert champion_of(three) == 2


def test_rollback_goes_back_one_champion_at_a_time(three):
    for number in (2, 3):
        three.promote(three.version(str(number)), "better")
    assert three.rollback("worse on night photos").number == champion_of(three) == 2
    assert three.rollback("worse").number == champion_of(three) == 1
    with pytest.raises(ConfigError, match="no version of 'ebseg' was champion before"):
        three.rollback("worse")
    three.promote(three.version("3"), "by hand")
    assert three.rollback("worse").number == 1
    assert [entry["version"] for entry in three.history()] == [1, 2, 3, 2, 1, 3, 1]


def test_rollback_after_changes_in_mlflow_itself(three):
    three.promote(three.version("2"), "better")
    with client_of(three) as client:
        client.set_registered_model_alias("ebseg", "champion", "3")
    assert three.rollback("worse").number == 2
    three.promote(three.version("3"), "better")
    with client_of(three) as client:
        client.delete_model_version("ebseg", "2")
    assert three.rollback("worse").number == 1


# A champion for each project


def test_what_one_project_promotes_and_rolls_back_is_no_other_projects(three):
    three.promote(three.version("2"), "better on night photos", project=7)
    three.promote(three.version("3"), "better on plants", project=12, expected_champion=1)
    assert [three.champion(project).number for project in (7, 12, 8, None)] == [2, 3, 1, 1]
    assert {owner: each.number for owner, each in three.champions().items()} == {None: 1, 7: 2, 12: 3}
    assert three.rollback("worse", project=7).number == 1
    assert [three.champion(project).number for project in (7, 12, 8, None)] == [1, 3, 1, 1]
    assert [entry["version"] for entry in three.history(7)] == [2, 1]
    assert [entry["version"] for entry in three.history(12)] == [3]
    assert [entry["version"] for entry in three.history()] == [1] and three.history(8) == []
    for project in (7, 8):
        with pytest.raises(ConfigError, match=f"was champion of project {project} before this one"):
            three.rollback("worse", project=project)
    with pytest.raises(ChampionChanged, match="version 3 became the champion"):
        three.promote(three.version("2"), "better", project=12, expected_champion=1)


def test_another_base_is_that_of_projects_without_a_champion_of_their_own(three):
    three.promote(three.version("2"), "better", project=7)
    three.promote(three.version("3"), "by hand")
    assert [three.champion(project).number for project in (7, 8)] == [2, 3]
    assert three.version("champion-7").number == 2 and three.version("champion-8").number == 3


def test_each_project_has_a_candidate(registry, model_file):
    registry.ensure_base()
    for project in (7, 12):
        file = model_file(version=f"street-{project}")
        version = registry.register(file, key=f"train-{project}", run_id=None, tags={}, project=project)
        assert version.aliases == (f"candidate-{project}",) and version.tags["project"] == str(project)
    assert registry.version("candidate-7").name == "street-7"
    with pytest.raises(ConfigError, match="known: 1 champion, 2 candidate-7, 3 candidate-12$"):
        registry.version("candidate")


def test_a_projects_champion_waits_while_the_settings_name_another_model(three, model_file):
    three.promote(three.version("2"), "better", project=7)
    other = Registry(Settings(model=str(model_file("other.safetensors", version="other-1"))))
    base = other.start_over()
    assert other.ensure_base(7) == base and other.champions() == {None: base}
    three.start_over()
    assert three.champion(7).number == 2


@pytest.fixture
def learnt(registry, model_file):
    """Register what two projects have learnt, one on the other, by one champion for both, as it once was."""
    shared = Registry(Settings(share="all"))
    shared.ensure_base()
    for number, project in ((2, 7), (3, 12), (4, 8)):
        tags = {"base": str(min(number - 1, 2))}
        file = model_file(version=f"street-{number}")
        version = shared.register(file, key=f"train-{number}", run_id=None, tags=tags, project=project)
        if project != 8:
            shared.promote(version, f"better {number}")
    assert shared.champion(8) == shared.champion() == shared.version("3")
    return shared


def test_the_champion_of_all_stays_with_whom_it_learnt_from(learnt, registry, monkeypatch):
    write, written = Opened.set_champion, []

    def die(self, owner, *rest):
        if owner is None:
            raise KeyboardInterrupt
        written.append(owner)
        write(self, owner, *rest)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Opened, "set_champion", die)
        registry.ensure_base(8)
    assert registry.ensure_base(8).number == 1
    assert {owner: each.number for owner, each in registry.champions().items()} == {None: 1, 7: 3, 12: 3}
    assert written == [7, 12]
    assert [entry["before"] for entry in registry.history(12)] == [[1, 2]]
    assert registry.rollback("worse", project=12).number == 2
    assert registry.champion(7).number == 3


def test_who_shares_again_and_parts_again_learns_of_what_came_between(learnt, registry):
    registry.ensure_base()
    assert learnt.champion(7).number == 1, "the base"
    learnt.promote(learnt.version("4"), "better")
    registry.start_over()
    assert {owner: each.number for owner, each in registry.champions().items()} == {
        None: 1, 7: 3, 8: 4, 12: 3
    }  # fmt: skip


def test_where_the_base_is_gone_all_keep_the_champion_that_they_have(learnt, registry):
    with client_of(registry) as client:
        client.delete_model_version("ebseg", "1")
    assert registry.ensure_base(7) == registry.ensure_base(8) == registry.version("3")


def test_the_history_fits_into_a_tag():
    history = []
    for number in range(1, 200):
        before = [*history[-1]["before"], history[-1]["version"]] if history else []
        text = succeed(history, number, "a reason " * 100, before)
        assert len(text) <= LONGEST_TAG
        history = json.loads(text)
    assert history[-1]["version"] == 199 and len(history) > 5
    assert predecessors(history, 199, range(1, 200)) == list(range(179, 199))


def test_a_decision_is_kept_with_the_version_and_its_run(three):
    candidate = three.version("candidate")
    assert three.decision(candidate) is None
    three.record_decision(candidate, DECISION, champion=1)
    assert three.decision(candidate) == {
        "verdict": "promote", "reasons": ["better"], **DECISION.numbers, "compared_with": 1
    }  # fmt: skip
    tags = three.version("candidate").tags
    assert tags["verdict"] == "promote" and tags["gain"] == "2.7500" and tags["compared_with"] == "1"
    assert tags["forgetting/drawn-scenes _val_"] == "0.0250" and "gain_lower_bound" not in tags
    with client_of(three) as client:
        metrics = client.get_run(candidate.run_id).data.metrics
    assert metrics == {
        "held_out_miou_champion": 61.25, "held_out_miou_candidate": 64.0, "gain": 2.75,
        "forgetting/drawn-scenes _val_": 0.025,
    }  # fmt: skip


def test_live_numbers_are_kept_with_the_version_that_predicted(three, caplog):
    live = {"corrections": 12, "mean_iou": 0.71234567, "untouched": float("nan")}
    three.record_live("street-2", live)
    three.record_live("street-2", live)
    version = three.version("2")
    assert {name: value for name, value in version.tags.items() if name.startswith("live.")} == {
        "live.corrections": "12", "live.mean_iou": "0.712346"
    }  # fmt: skip
    three.record_live("street-2+3f9a2c", {"corrections": 13})
    with client_of(three) as client:
        points = client.get_metric_history(version.run_id, "live.corrections")
    assert [point.value for point in points] == [12, 13]
    with caplog.at_level(logging.DEBUG, "training.registry.registry"):
        three.record_live("ebseg-tiny-of-long-ago", live)
    assert "ebseg-tiny-of-long-ago is no version of 'ebseg'" in caplog.text


def test_a_model_is_found_by_the_name_that_predictions_carry(three):
    for name in ("street-2", "street-2+3f9a2c"):
        assert three.named(name) == three.checkpoint(three.version("2"))
    packaged = three.checkpoint(three.version("1"))
    assert three.named(version_name(packaged)) == packaged
    assert three.named(f"{version_name(packaged)}+3f9a2c") == packaged
    with pytest.raises(ConfigError, match="no model has the version 'street-7'"):
        three.named("street-7")


def test_the_settings_model_is_found_before_anything_is_registered(tmp_path, model_file):
    settings = Settings(home=tmp_path / "new", model=str(model_file(version="street-1")))
    for name in ("street-1", "street-1+3f9a2c"):
        assert str(Registry(settings).named(name)) == settings.model


def test_names_of_the_registry_can_be_loaded(registry, random_checkpoint):
    registry.ensure_base()
    registry.register(random_checkpoint, key="train-1", run_id=None, tags={})
    for name in ("models:/ebseg@candidate", "models:/ebseg/2"):
        assert ebseg.load(name, device="cpu").version == version_name(random_checkpoint)
    base = registry.champion().name
    assert ebseg.load("models:/ebseg@champion").version == base
    registry.promote(registry.version("2"), "better", project=7)
    for project, version in ((7, version_name(random_checkpoint)), (8, base)):
        assert ebseg.load(f"models:/ebseg@champion-{project}", device="cpu").version == version


def test_a_head_finds_its_backbone_in_the_registry(home, random_checkpoint, tmp_path):
    base = shutil.copy(random_checkpoint, tmp_path / "base.safetensors")
    registry = Registry(Settings(model=str(base)))
    registry.ensure_base()
    net, _ = load_checkpoint(base)
    save_head(net, tmp_path / "head.safetensors", backbone="models:/ebseg/1")
    base.unlink()  # as on another machine
    file = tmp_path / "head.safetensors"
    head = registry.register(file, key="train-1", run_id=None, tags={"base": "1"}, project=7)
    registry.promote(head, "better", project=7)
    assert ebseg.load("models:/ebseg@champion-7", device="cpu").version == head.name
    assert registry.origin(head).number == 1


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("models:/ebseg", "write models:/NAME@champion"),
        ("models:/ebseg/latest", "write models:/NAME@champion"),
        ("models:/ebseg@best", "has no version 'best'"),
        ("models:/other@champion", "nothing is registered as 'other'"),
    ],
)
def test_names_that_mean_nothing_are_refused(three, name, complaint):
    with pytest.raises(ConfigError, match=complaint):
        resolve(name)


def test_a_version_that_was_registered_by_hand_is_refused(three):
    with client_of(three) as client:
        client.create_model_version("ebseg", "somewhere")
    version = three.version("4")
    assert version.name == "ebseg-4"
    assert three.decision(version) is None
    with pytest.raises(ConfigError, match="version 4 .* register it anew"):
        three.checkpoint(version)


def test_an_mlflow_that_cannot_be_used_is_one_line_without_secrets(home, tmp_path, monkeypatch, capfd):
    def reason(uri):
        with pytest.raises(MlflowUnavailable, match="set MLFLOW_TRACKING_URI") as refused:
            Registry(Settings(mlflow_tracking_uri=uri)).champion()
        return str(refused.value)

    down = reason("http://me:secret@127.0.0.1:9")
    assert down.startswith("MLflow's store http://127.0.0.1:9 cannot be used (") and "secret" not in down
    assert "bogus://store cannot be used" in reason("bogus://store")
    broken = tmp_path / "broken.db"
    broken.write_bytes(b"no database" * 100)
    assert "file is not a database" in reason(f"sqlite:///{broken}")
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert "is not writable" in reason(default_tracking_uri(home))
    assert "Traceback" not in capfd.readouterr().err


def test_a_database_that_was_deleted_is_an_outage_and_no_empty_history(registry, home):
    registry.ensure_base()
    database = home / "mlflow.db"
    database.unlink()
    for ask in (registry.champion, registry.versions, registry.history, registry.ensure_base):
        with pytest.raises(MlflowUnavailable, match=r"mlflow.db was there and is gone: put it back"):
            ask()
    assert not database.exists()
    database.with_name("mlflow.db.lock").unlink()
    assert registry.champion() is None
