import json
import os
import re
import shutil
import threading
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import ebseg.runs.tracking
from ebseg.config import TrainConfig
from ebseg.data.samples import Sample
from ebseg.errors import ConfigError
from ebseg.runs.mlflow_store import TRANSFER_SECONDS, default_tracking_uri, patient
from ebseg.runs.tracking import MlflowRun
from ebseg.runs.watch import StepReport
from ebseg.vocabulary import Vocabulary

CONFIG = TrainConfig(steps=6, batch=2, log_every=2)
TERMS = {
    "class_a": 1.0,
    "class_b": 2.0,
    "mask": 0.5,
    "dice": 0.25,
    "ssc": 0.125,
    "class_a_0": 4.0,
    "dice_1": 8.0,
}
SAMPLE = Sample(
    "street/one.jpg", np.full((48, 64, 3), 90, np.uint8), np.tile(np.int16([0, 1]), (48, 32))
)  # fmt: skip


class Photos:
    name = "streets"
    vocabulary = Vocabulary(["sky", "road"])

    def __len__(self):
        return 7

    def fingerprint(self):
        return "abc"


def progress(step, **changed):
    values = dict(
        step=step, steps=CONFIG.steps, terms=TERMS, learning_rate=1e-4, gradient_norm=1.5,
        photos=2, seconds=0.5, memory=2**30, broken=0,
    )  # fmt: skip
    return StepReport(**{**values, **changed})


@pytest.fixture
def root(mlflow_database, mlflow_environment, tmp_path, monkeypatch) -> Path:
    """Give a folder with MLflow's database; the process runs elsewhere."""
    root, elsewhere = tmp_path / "all runs", tmp_path / "elsewhere"
    for folder in (root / "one", elsewhere):
        folder.mkdir(parents=True)
    shutil.copy(mlflow_database, root)
    monkeypatch.chdir(elsewhere)
    return root


def client_of(uri):
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    engine = getattr(client._tracking_client.store, "engine", None)
    if engine is not None:
        engine.dispose()
    return client


def run_id_of(folder):
    return json.loads((folder / "mlflow.json").read_text())["run_id"]


def recorded(root):
    client = client_of(default_tracking_uri(root))
    return client, client.get_run(run_id_of(root / "one"))


def points(client, run_id, key):
    return [(point.step, point.value) for point in client.get_metric_history(run_id, key)]


def test_a_run_is_recorded_with_settings_curves_pictures_and_end(root, random_tiny):
    before = set(threading.enumerate())
    run = MlflowRun(root / "one", name="one", validation=[SAMPLE])
    run.started(random_tiny, CONFIG, [Photos()], 0)
    for step in range(1, 6):
        run.stepped(progress(step))
    run.stepped(progress(6, gradient_norm=float("inf")))
    run.stored(random_tiny, 6)
    (root / "one" / "log.jsonl").write_text("{}\n")
    run.finished(root / "one" / "model.safetensors")

    client, found = recorded(root)
    assert (
        found.info.run_name == "one" and found.info.status == "FINISHED" and found.info.user_id == "unknown"
    )
    expected = {key: str(value) for key, value in CONFIG.model_dump().items()}
    expected |= {"model": "tiny", "data.1.name": "streets", "data.1.photos": "7", "data.1.labels": "2"}
    assert found.data.params == expected
    assert found.data.tags["data.1.fingerprint"] == "abc"
    assert found.data.tags["version.torch"] == torch.__version__.split("+")[0]
    assert found.data.tags["device"] == "cpu"
    assert found.data.tags["model_file"].endswith("model.safetensors")
    assert points(client, found.info.run_id, "loss") == [(2, 15.875), (4, 15.875), (6, 15.875)]
    assert points(client, found.info.run_id, "terms/earlier") == [(2, 12.0), (4, 12.0), (6, 12.0)]
    assert points(client, found.info.run_id, "photos_per_second") == [(2, 4.0), (4, 4.0), (6, 4.0)]
    assert points(client, found.info.run_id, "gradient_norm") == [(2, 1.5), (4, 1.5)]
    files = root / "mlruns" / found.info.run_id / "artifacts"
    pictures = files / "overlays" / "street_one.jpg"
    assert {path.name for path in pictures.iterdir()} == {"truth.png", "step-000006.png"}
    assert Image.open(BytesIO((pictures / "truth.png").read_bytes())).width > 64  # a legend beside the photo
    assert json.loads((files / "config.json").read_text())["model"]["name"] == "tiny"
    assert (files / "log.jsonl").read_text() == "{}\n"
    assert not any(Path.cwd().iterdir())
    assert not set(threading.enumerate()) - before


def test_a_resumed_run_goes_on_in_the_same_one(root, random_tiny):
    first = MlflowRun(root / "one", name="one")
    first.started(random_tiny, CONFIG, [Photos()], 0)
    for step in range(1, 5):
        first.stepped(progress(step))
    first.failed(ValueError("a photo is broken"))
    client, found = recorded(root)
    assert found.info.status == "FAILED"
    assert found.data.tags["error"] == "ValueError: a photo is broken"

    second = MlflowRun(root / "one", name="one")
    second.started(random_tiny, CONFIG.model_copy(update={"log_every": 1}), [Photos()], 3)
    for step in range(4, 7):
        second.stepped(progress(step))
    assert recorded(root)[1].info.status == "RUNNING"
    second.finished(root / "one" / "model.safetensors")
    client, resumed = recorded(root)
    assert resumed.info.run_id == found.info.run_id
    assert resumed.info.status == "FINISHED" and "error" not in resumed.data.tags
    assert resumed.data.tags["changed.log_every"] == "1"
    assert [step for step, _ in points(client, resumed.info.run_id, "loss")] == [2, 4, 5, 6]


def test_a_run_that_starts_anew_is_a_new_one(root, random_tiny):
    MlflowRun(root / "one", name="one").started(random_tiny, CONFIG, [Photos()], 0)  # and dies
    before = run_id_of(root / "one")
    again = MlflowRun(root / "one", name="one")
    again.started(random_tiny, CONFIG, [Photos()], 0)
    again.failed(KeyboardInterrupt())
    client, found = recorded(root)
    assert found.info.run_id != before
    assert client.get_run(before).info.status == found.info.status == "KILLED"


def test_a_run_that_mlflow_does_not_know_is_a_new_one(root, random_tiny, caplog):
    (root / "one" / "mlflow.json").write_text('{"run_id": "0123"}')
    run = MlflowRun(root / "one", name="one")
    run.started(random_tiny, CONFIG, [Photos()], 3)
    run.finished(root)
    assert recorded(root)[1].info.status == "FINISHED"
    assert "no run 0123" in caplog.text


def test_pictures_leave_model_and_random_numbers_as_they_were(root, random_tiny):
    run = MlflowRun(root / "one", name="one", validation=[SAMPLE])
    random_tiny.train()
    random_tiny.text.eval()
    modes = [module.training for module in random_tiny.modules()]
    weights = {name: value.clone() for name, value in random_tiny.state_dict().items()}
    run.started(random_tiny, CONFIG, [Photos()], 0)
    random_numbers, threads = torch.get_rng_state(), torch.get_num_threads()
    run.stored(random_tiny, 2)
    assert torch.equal(torch.get_rng_state(), random_numbers)
    assert torch.get_num_threads() == threads
    assert [module.training for module in random_tiny.modules()] == modes
    assert all(torch.equal(value, weights[name]) for name, value in random_tiny.state_dict().items())
    run.finished(root)


def test_a_store_that_cannot_be_used_is_refused_at_the_start(root, random_tiny, monkeypatch):
    run = MlflowRun(root / "one", name="one")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@127.0.0.1:9")
    with pytest.raises(
        ConfigError, match="http://127.0.0.1:9 cannot be used .* set MLFLOW_TRACKING_URI"
    ) as refused:
        run.started(random_tiny, CONFIG, [Photos()], 0)
    assert "secret" not in str(refused.value)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "bogus://store")
    with pytest.raises(ConfigError, match="bogus://store cannot be used"):
        run.started(random_tiny, CONFIG, [Photos()], 0)
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(ConfigError, match="is not writable"):
        run.started(random_tiny, CONFIG, [Photos()], 0)
    run.failed(ValueError())  # a run that never started may be told of its failure


def test_requests_have_their_usual_time_when_the_last_transfer_is_done(monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    first, second = patient(), patient()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == str(TRANSFER_SECONDS)
    second.__exit__(None, None, None)
    assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "10"


def test_each_photo_has_a_folder_of_its_own():
    folders = ebseg.runs.tracking._picture_folders(["a/b.png", "a_b.png", "../é"])
    assert folders == ["overlays/a_b.png", "overlays/a_b.png-2", "overlays/photo"]


def test_mlflow_is_imported_only_when_a_run_starts():
    source = Path(ebseg.runs.tracking.__file__).read_text()
    assert re.search(r"^(import|from) mlflow", source, re.MULTILINE) is None
