"""Reports of evaluations in MLflow's own store."""

import json
import shutil
from pathlib import Path

import pytest

from ebseg.errors import ConfigError
from ebseg.evaluation.report import log_to_mlflow, write_html
from ebseg.runs.mlflow_store import connect, default_tracking_uri, disconnect
from tests.unit.test_report import evaluation


@pytest.fixture
def store(
    mlflow_database: Path, mlflow_environment: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> str:
    """Give the address of the store below runs/ in the current folder."""
    monkeypatch.chdir(tmp_path)
    Path("runs").mkdir()
    shutil.copy(mlflow_database, "runs")
    return default_tracking_uri(Path("runs"))


def test_evaluations_are_recorded_with_mlflow(store: str, tmp_path: Path) -> None:
    content = evaluation(metrics={"miou": 30.14, "unseen": None, "seen": float("nan")})
    html, numbers = tmp_path / "r.html", tmp_path / "r.json"
    write_html(content, [], html)
    numbers.write_text(json.dumps(content))
    log_to_mlflow(content, html, numbers)  # to the store of training runs
    log_to_mlflow({"model": "m"}, None, None, tracking_uri=store)
    client = connect(store)
    experiment = client.get_experiment_by_name("ebseg evaluation")
    runs = client.search_runs([experiment.experiment_id])
    full, bare = sorted(runs, key=lambda run: str(run.info.run_name))
    assert full.info.run_name == "ebseg-base on ade20k-150"
    assert full.info.status == bare.info.status == "FINISHED"
    assert full.data.metrics == {
        "miou": 30.14,
        "published": 30.0,
        "difference": 0.14,
        "photos_per_second": 4.5,
        "seconds": 7384.2,
    }
    assert full.data.params["dataset"] == "ade20k-150"
    assert full.data.params["protocol.longest_edge"] == "2560"
    assert full.data.params["photos.measured"] == "2000"
    assert full.data.tags["hardware.device"] == "NVIDIA H100"
    assert full.data.tags["versions.torch"] == "2.6.0"
    assert sorted(file.path for file in client.list_artifacts(full.info.run_id)) == ["r.html", "r.json"]
    assert client.list_artifacts(bare.info.run_id) == []
    disconnect(client)


def test_a_store_that_cannot_be_used_is_told(store: str) -> None:
    with pytest.raises(ConfigError, match="MLflow's store nonsense://host cannot be used") as caught:
        log_to_mlflow(evaluation(), None, None, tracking_uri="nonsense://me:secret@host")
    assert "secret" not in str(caught.value)
