"""The process of a fine-tuning job, with everything that can end it before its time."""

import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
import torch
from PIL import Image

from ebseg.checkpoint import load_checkpoint, save_checkpoint
from ebseg.config import TINY
from ebseg.errors import Outage, TrainingError
from ebseg.model import EBSeg
from ebseg.runs.mlflow_store import connect, disconnect
from ebseg.vocabulary import Vocabulary
from tests.integration.training.processes import LAUNCHER, environment
from training.annotations.entry import Entry, LabelEntry
from training.annotations.manifest import Manifest, folder, store
from training.finetuning import parent
from training.finetuning.parent import Interrupted
from training.settings import Settings
from training.storage import Storage

PATIENCE = 600
STEPS = 6
ENDLESS = {"steps": 1000, "batch": 2, "measure_every": 2, "patience": 1000, "learning_rate": 1e-5}
COMMAND = [sys.executable, "-m", "training.finetuning.child"]
TWO_PROCESSES = [*LAUNCHER, "-m", "training.finetuning.child"]
JOB = "import subprocess, sys; subprocess.run(sys.argv[1:])"


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """A storage with a snapshot of six annotated photos, and a model of random weights."""
    root = tmp_path_factory.mktemp("here")
    storage = Storage(f"file://{root}/storage", root / "cache")
    manifest = Manifest(
        7, "street", "image", (LabelEntry("Kerb", ("kerb",)), LabelEntry("Robot", ("robot", "android"))),
        tuple(_entry(storage, number) for number in range(6)),
    )  # fmt: skip
    store(storage, manifest)
    torch.manual_seed(0)
    config = TINY.model_copy(update={"test_size": 64, "test_max_size": 160})
    net = EBSeg(config, training_vocabulary=Vocabulary(["sky", "road"]))
    save_checkpoint(net, root / "base.safetensors")
    return SimpleNamespace(root=root, storage=storage, fingerprint=manifest.fingerprint)


def _entry(storage, number):
    photo = np.full((64, 64, 3), 20 * number, np.uint8)
    photo[:, 32:] = 200
    label_map = np.repeat(np.array([[0, 1]], np.uint8), 64, axis=0).repeat(32, axis=1)
    keys = []
    for place, array in (("photos/{}", photo), ("label_maps/{}.png", label_map)):
        png = io.BytesIO()
        Image.fromarray(array).save(png, "PNG")
        keys.append(hashlib.sha256(png.getvalue()).hexdigest())
        storage.write(f"{folder(7)}/{place.format(keys[-1])}", png.getvalue())
    return Entry(
        task=number, annotation=number, time="2024-11-24T09:00:00Z", photo=keys[0], label_map=keys[1],
        held_out=number < 2, pixels={"Kerb": 2048, "Robot": 2048}, unknown=(), correction=None,
        revision="1", address="",
    )  # fmt: skip


def _spec(here, out, **changes):
    spec = {
        "base": str(here.root / "base.safetensors"),
        "storage": here.storage.url,
        "cache": str(here.storage.cache),
        "project": 7,
        "fingerprint": here.fingerprint,
        "out": str(out),
        "config": {"steps": STEPS, "batch": 2, "measure_every": 2, "learning_rate": 1e-3},
        "general": None,
        "first_model": str(here.root / "base.safetensors"),
        "data_root": str(here.root),
        "workers": 0,
        "mlflow": None,
        **changes,
    }
    out.mkdir(parents=True, exist_ok=True)
    path = out / "spec.json"
    path.write_text(json.dumps(spec))
    return path


def _mlflow(root):
    return {"tracking_uri": f"sqlite:///{root}/mlflow.db", "experiment": "ebseg", "run_name": "train-7"}


def _start(spec, command=COMMAND, **more):
    return subprocess.Popen(
        [*command, str(spec)], env=environment(), text=True, stderr=subprocess.PIPE, **more
    )


def _ended(process):
    """Wait for the end; give the exit status and the lines of standard error."""
    _, told = process.communicate(timeout=PATIENCE)
    return process.returncode, told.splitlines()


def _complaints(lines):
    return [line for line in lines if line.startswith("ebseg: ")]


def _wait_until(there, process):
    deadline = time.monotonic() + PATIENCE
    while not there():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.01)


def _checkpoint(out, step):
    return out / "training" / "checkpoints" / f"step-{step:08d}.pt"


def _progress(out):
    return json.loads((out / "progress.json").read_text())


def _weights(path):
    return {name: p.detach() for name, p in load_checkpoint(path)[0].named_parameters()}


def _assert_same(out, other):
    """Bit for bit, as far as the fine-tuning itself is concerned."""
    assert _json_without_times(out) == _json_without_times(other)
    for name in ("training/best.safetensors", "model.safetensors"):
        ours, theirs = _weights(out / name), _weights(other / name)
        assert all(torch.equal(ours[parameter], theirs[parameter]) for parameter in theirs), name


def _json_without_times(out):
    outcome = json.loads((out / "outcome.json").read_text())
    return {name: value for name, value in outcome.items() if name not in ("seconds", "path")}


@pytest.fixture(scope="module")
def whole(here):
    """A run that nothing stopped, with MLflow and a process that reads photos."""
    out = here.root / "runs" / "train-7"
    status, told = _ended(_start(_spec(here, out, workers=1, mlflow=_mlflow(here.root))))
    assert status == 0, told
    return out


def test_it_leaves_a_model_its_progress_and_a_run_in_mlflow(here, whole):
    outcome = json.loads((whole / "outcome.json").read_text())
    assert outcome["steps"] == STEPS and (whole / "model.safetensors").exists()
    progress = _progress(whole)
    assert (progress["stage"], progress["step"], progress["steps"]) == ("done", STEPS, STEPS)
    assert {"class_a", "mask", "ssc"} <= progress["terms"].keys()
    client = connect(_mlflow(here.root)["tracking_uri"])
    run = client.get_run(json.loads((whole / "training" / "mlflow.json").read_text())["run_id"])
    pictures = client.list_artifacts(run.info.run_id, "overlays")
    disconnect(client)
    assert (run.info.status, run.info.run_name) == ("FINISHED", "train-7")
    assert run.data.metrics["loss"] > 0 and len(pictures) == 1
    assert not here.storage.keys("runs"), "a local folder needs no second copy"


def test_it_goes_on_on_another_machine(here, whole, tmp_path):
    """Another machine: another folder of the same name, where nothing is."""
    first, second = tmp_path / "first" / "train-8", tmp_path / "second" / "train-8"
    process = _start(_spec(here, first, mirror=True))
    _wait_until(_checkpoint(first, 4).exists, process)
    _wait_until(lambda: _newest_copy(here.storage, "train-8") == 4, process)
    process.kill()
    _ended(process)
    assert not (first / "outcome.json").exists()
    shutil.rmtree(first)
    status, told = _ended(_start(_spec(here, second, mirror=True)))
    assert status == 0, told
    assert any("step 4" in line for line in told)
    assert not _checkpoint(second, 2).exists()
    _assert_same(second, whole)


def _newest_copy(storage, run):
    key = f"runs/{run}/mirror/newest.json"
    return json.loads(storage.read(key))["step"] if storage.exists(key) else 0


def test_it_ends_in_order_when_it_is_told_to(here, tmp_path):
    out = tmp_path / "train-9"
    # In a session of its own, all of which is told, as the job does; the process that reads photos too.
    spec = _spec(here, out, workers=1, config=ENDLESS, mlflow=_mlflow(tmp_path))
    process = _start(spec, start_new_session=True)
    _wait_until(_checkpoint(out, 2).exists, process)
    os.killpg(process.pid, signal.SIGTERM)
    status, told = _ended(process)
    assert (status, _complaints(told)) == (143, [])
    assert _progress(out)["stage"] == "stopped"
    client = connect(_mlflow(tmp_path)["tracking_uri"])
    run = client.get_run(json.loads((out / "training" / "mlflow.json").read_text())["run_id"])
    disconnect(client)
    assert run.info.status == "KILLED"


def test_a_loop_trains_in_bf16_where_that_is_named():
    """Not where a measurement chose it for photos: a training that goes on might find otherwise."""

    def name(precision):
        return parent.name(Settings(precision=precision), 1, "fingerprint", 1)

    assert name("auto") == name("float32") == name("int8") != name("bf16")


def test_it_is_alone_in_its_folder_and_does_not_outlive_its_job(here, whole, tmp_path):
    out = tmp_path / "train-10"
    job = _start(_spec(here, out, config=ENDLESS), [sys.executable, "-c", JOB, *COMMAND])
    _wait_until(_checkpoint(out, 2).exists, job)
    (run,) = psutil.Process(job.pid).children()
    status, told = _ended(_start(_spec(here, out)))
    assert (status, len(told)) == (1, 1)
    assert f"ebseg: another process trains in {out}" in told[0]

    job.kill()
    _ended(job)
    assert _all_end([run])
    shutil.rmtree(out)
    status, told = _ended(_start(_spec(here, out)))
    assert status == 0, told
    _assert_same(out, whole)


def test_processes_of_a_launcher_do_not_outlive_its_job(here, tmp_path):
    out = tmp_path / "train-11"
    job = _start(_spec(here, out, config=ENDLESS), [sys.executable, "-c", JOB, *TWO_PROCESSES])
    _wait_until(_checkpoint(out, 2).exists, job)
    started = psutil.Process(job.pid).children(recursive=True)
    assert len(started) >= 3
    job.kill()
    assert _all_end(started)
    job.communicate()


def _all_end(processes):
    deadline = time.monotonic() + 60
    while any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in processes):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"fingerprint": "0" * 64}, "have the annotations read again"),
        ({"config": {"steps": 0}}, "steps: Input should be greater than 0"),
        ({"wished": 1}, "wished"),
        ({"base": "ebseg-huge"}, "no model named 'ebseg-huge'"),
    ],
)
def test_what_cannot_be_done_is_one_line(here, tmp_path, changes, complaint):
    status, told = _ended(_start(_spec(here, tmp_path, **changes)))
    assert status == 1
    assert len(told) == 1 and told[0].startswith("ebseg: ") and complaint in told[0]


def test_an_outage_is_told_from_what_fails_again(here, whole, tmp_path, monkeypatch):
    told = []
    for variable, value in environment().items():  # as many threads as the whole run had
        monkeypatch.setenv(variable, value)
    away = {"tracking_uri": "http://127.0.0.1:9", "experiment": "ebseg", "run_name": "train-13"}
    spec = json.loads(_spec(here, tmp_path / "train-13").read_text())
    with pytest.raises(TrainingError, match="no model named 'ebseg-huge'") as failed:
        parent.run_process(tmp_path / "train-13", {**spec, "base": "ebseg-huge"}, 1, lambda *_: None)
    assert not isinstance(failed.value, Outage)
    with pytest.raises(Interrupted, match="MLflow's store http://127.0.0.1:9 cannot be used"):
        parent.run_process(tmp_path / "train-13", {**spec, "mlflow": away}, 1, lambda *_: None)
    parent.run_process(tmp_path / "train-13", spec, 1, lambda progress, _log: told.append(progress))
    assert told[-1]["stage"] == "done"
    _assert_same(tmp_path / "train-13", whole)


@pytest.fixture
def small_disk(here, whole, tmp_path):
    """Mount a disk with room for one checkpoint and the best weights, but not for a second checkpoint."""
    room = int(1.5 * _checkpoint(whole, STEPS).stat().st_size) + 2_000_000
    room += (whole / "training" / "best.safetensors").stat().st_size
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={room}", "tmpfs", str(disk)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"mounting is not allowed here: {error}")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk_is_one_line_and_costs_no_checkpoint(here, whole, small_disk):
    out = small_disk / "train-12"
    status, told = _ended(_start(_spec(here, out)))
    (complaint,) = _complaints(told)
    assert status == 1 and told[-1] == complaint
    assert _checkpoint(out, 4).name in complaint and "No space left on device" in complaint
    assert list((out / "training" / "checkpoints").iterdir()) == [_checkpoint(out, 2)]
    assert (_progress(out)["stage"], _progress(out)["fails_again"]) == ("failed", False)

    subprocess.run(["mount", "-o", "remount,size=1g", str(small_disk)], check=True)
    status, told = _ended(_start(_spec(here, out)))
    assert status == 0, told
    _assert_same(out, whole)
