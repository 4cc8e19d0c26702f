"""With a server of MLflow's own, and what our compose file starts it with."""

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from werkzeug.serving import make_server

import ebseg.runs.tracking
from ebseg.errors import ConfigError
from ebseg.loading import version_name
from ebseg.runs.mlflow_store import default_tracking_uri
from ebseg.runs.tracking import MlflowRun
from tests.integration.test_tracking import CONFIG, SAMPLE, Photos, points, progress, recorded, root
from tests.integration.training.test_registry import DECISION, home, model_file
from tests.unit.test_container_files import OURS, SERVICES
from training.registry.registry import Registry
from training.settings import Settings

__all__ = ["home", "model_file", "root"]


@pytest.fixture
def serve_mlflow(monkeypatch: pytest.MonkeyPatch) -> Callable[..., AbstractContextManager[int]]:
    """Give a context that runs MLflow's own application on a database and a folder; it yields the port."""

    @contextmanager
    def serve(root: Path, port: int = 0) -> Iterator[int]:
        for variable, value in {
            "_MLFLOW_SERVER_FILE_STORE": default_tracking_uri(root),
            "_MLFLOW_SERVER_ARTIFACT_ROOT": "mlflow-artifacts:/",
            "_MLFLOW_SERVER_ARTIFACT_DESTINATION": str(root / "files"),
            "_MLFLOW_SERVER_SERVE_ARTIFACTS": "true",
            # It sets these for the process; here they are restored.
            "MLFLOW_TRACKING_URI": "",
            "MLFLOW_REGISTRY_URI": "",
        }.items():
            monkeypatch.setenv(variable, value)
        from mlflow.server import app, handlers
        from mlflow.tracking._model_registry import utils as registry
        from mlflow.tracking._tracking_service import utils as tracking

        for module, name in (
            (handlers, "_tracking_store"),  # another test's
            (handlers, "_model_registry_store"),
            (handlers, "_artifact_repo"),
            (registry, "_registry_uri"),
            (tracking, "_tracking_uri"),
        ):
            monkeypatch.setattr(module, name, None)
        served = make_server("127.0.0.1", port, app, threaded=True)
        thread = threading.Thread(target=served.serve_forever)
        thread.start()
        try:
            yield served.server_port
        finally:
            served.shutdown()
            thread.join()
            served.server_close()

    return serve


def test_through_a_server_files_are_fetched_once_and_whole(home, model_file, serve_mlflow):
    with serve_mlflow(home) as port:
        registry = Registry(Settings(mlflow_tracking_uri=f"http://127.0.0.1:{port}"))
        registry.ensure_base()
        registry.register(model_file(version="street/2"), key="train-2", run_id=None, tags={})
        other = registry.register(model_file(version="street-3"), key="train-3", run_id=None, tags={})
        registry.promote(registry.version("2"), "better", expected_champion=1)
        registry.record_decision(registry.version("2"), DECISION)
        assert registry.decision(registry.version("2"))["gain"] == 2.75
        champion = registry.champion()
        kept = registry.checkpoint(champion)
        assert kept == home / "models" / "street_2-2.safetensors"
        assert version_name(kept) == "street/2"
        for file in (home / "files").rglob("*.safetensors"):
            file.write_bytes(model_file(version="another").read_bytes())
        with pytest.raises(ConfigError, match="is another and should be street-3: it is damaged"):
            registry.checkpoint(other)
        assert registry.rollback("worse").number == 1
    assert registry.checkpoint(champion) == kept  # also while the server is down
    assert [path.name for path in (home / "models").iterdir()] == [kept.name]


def test_an_outage_is_one_warning_and_nothing_is_lost(root, random_tiny, monkeypatch, caplog, serve_mlflow):
    run = MlflowRun(root / "one", name="one", validation=[SAMPLE])
    with serve_mlflow(root) as port:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
        run.started(random_tiny, CONFIG, [Photos()], 0)
        run.stepped(progress(2))
    monkeypatch.setattr(ebseg.runs.tracking, "RETRY_AFTER", 0.0)
    run.stepped(progress(4))
    run.stored(random_tiny, 4)
    run.stepped(progress(6))
    warnings = [record.message for record in caplog.records if record.levelno >= logging.WARNING]
    assert [warning.split(";")[0] for warning in warnings] == ["MLflow does not answer"]
    with serve_mlflow(root, port):
        run.finished(root / "one" / "model.safetensors")
    run.failed(ValueError("the server is down again"))  # raises nothing

    client, found = recorded(root)
    assert found.info.status == "FINISHED"
    assert [step for step, _ in points(client, found.info.run_id, "loss")] == [2, 4, 6]
    assert {path.name for path in (root / "files").rglob("*.png")} == {"truth.png", "step-000004.png"}


@pytest.mark.filterwarnings("ignore:.*Any type hint is inferred:UserWarning")  # MLflow's own commands
def test_mlflow_is_started_with_options_and_variables_that_it_has():
    from mlflow import environment_variables
    from mlflow.cli import cli

    server, *options = SERVICES["mlflow"]["command"][1:]
    known = {option for parameter in cli.commands[server].params for option in parameter.opts}
    assert {option.split("=")[0] for option in options} - known == set()
    assert set(SERVICES["mlflow"]["environment"]) - set(vars(environment_variables)) == set()


@pytest.mark.parametrize("name", OURS)
def test_mlflow_answers_to_the_name_that_our_services_call_it_by(name):
    from mlflow.server.security_utils import is_allowed_host_header

    option = next(option for option in SERVICES["mlflow"]["command"] if option.startswith("--allowed-hosts="))
    host = urlsplit(SERVICES[name]["environment"]["MLFLOW_TRACKING_URI"]).netloc
    assert is_allowed_host_header(option.partition("=")[2].split(","), host)
