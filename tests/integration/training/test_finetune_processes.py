"""Fine-tuning in two processes: the same numbers as in one, also when it was killed."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import psutil
import pytest
import torch
from PIL import Image

from ebseg.checkpoint import load_checkpoint
from tests.integration.training.processes import LAUNCHER, environment

SCRIPT = """
import json
import os
import sys
from dataclasses import asdict
from pathlib import Path

from ebseg.data.folder import FolderSource
from ebseg.data.drawn.scenes import SceneSource
from ebseg.data.subset import hold_out, sample_of
from ebseg.vocabulary import Vocabulary
from training.finetuning.finetune import FinetuneConfig, General, Snapshot, finetune

photos, base, out = Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
source = FolderSource(photos / "photos", photos / "labels", Vocabulary(["grass", "roof"]))
config = FinetuneConfig(
    steps=6, batch=2, measure_every=2, general_photos=2, learning_rate=1e-3, keep=0.82
)
general = General(SceneSource(5, 40, size=(96, 96)), SceneSource(6, 2, size=(96, 96)))
snapshot = Snapshot(*hold_out(sample_of(source, len(source)), 0.4))
outcome = finetune(base, snapshot, config, out, general=general, workers=0)
(out / f"process-{os.environ.get('RANK', '0')}.json").write_text(json.dumps(asdict(outcome), default=str))
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Give a function from a launcher and a run's folder to the command, for the same photos each time."""
    folder = tmp_path_factory.mktemp("photos")
    for kind in ("photos", "labels"):
        (folder / kind).mkdir()
    random = np.random.default_rng(0)
    for number in range(8):
        photo = np.full((64, 64, 3), (40, 90, 40), np.uint8)
        photo[:, 20 + 4 * number :] = (200, 60 + 10 * number, 60)
        photo += random.integers(0, 20, photo.shape, dtype=np.uint8)
        Image.fromarray(photo).save(folder / "photos" / f"{number}.png")
        labels = np.zeros((64, 64), np.uint8)
        labels[:, 20 + 4 * number :] = 1
        Image.fromarray(labels).save(folder / "labels" / f"{number}.png")
    script = folder / "run.py"
    script.write_text(SCRIPT)
    return lambda launcher, out: [
        *launcher, str(script), str(folder), "ebseg-tiny", str(out),
    ]  # fmt: skip


@pytest.fixture(scope="module")
def one(run, tmp_path_factory):
    """A run in one process: its folder and its outcome."""
    out = tmp_path_factory.mktemp("one")
    (outcome,) = _outcomes(run([sys.executable], out), out)
    assert 0 < outcome["chosen"]["share"] < 1, "else the choice of weights is not put to the test"
    return out, outcome


def _outcomes(command, out):
    """Run to the end; give what each process returned."""
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    return [json.loads(path.read_text()) for path in out.glob("process-*.json")]


def _weights(path):
    return {name: p.detach() for name, p in load_checkpoint(path)[0].named_parameters()}


def test_two_processes_come_to_what_one_comes_to(run, one, tmp_path):
    outcomes = _outcomes(run(LAUNCHER, tmp_path), tmp_path)
    assert len(outcomes) == 2 and outcomes[0] == outcomes[1]
    _assert_same(tmp_path, outcomes[0], *one)


def test_two_killed_processes_go_on_together(run, one, tmp_path):
    process = subprocess.Popen(
        run(LAUNCHER, tmp_path), env=environment(), stderr=subprocess.DEVNULL, start_new_session=True
    )
    checkpoint = tmp_path / "training" / "checkpoints" / "step-00000004.pt"
    deadline = time.monotonic() + 120
    while not checkpoint.exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    workers = [child.pid for child in psutil.Process(process.pid).children()]
    for number in (process.pid, *workers):
        os.kill(number, signal.SIGKILL)
    process.wait()
    assert len(workers) == 2 and not (tmp_path / "outcome.json").exists()
    outcomes = _outcomes(run(LAUNCHER, tmp_path), tmp_path)
    assert outcomes[0] == outcomes[1]
    _assert_same(tmp_path, outcomes[0], *one)


def _assert_same(out, outcome, expected_out, expected):
    """Equal but for the order in which float32 is summed, which moves a few pixels from label to label."""
    assert outcome["base"] == expected["base"], "nothing was trained yet: equal to the last digit"
    assert [mix["share"] for mix in outcome["tried"]] == [mix["share"] for mix in expected["tried"]]
    for mix, other in zip(outcome["tried"], expected["tried"], strict=True):
        assert mix == pytest.approx(other, abs=0.1)
    assert outcome["chosen"]["share"] == expected["chosen"]["share"] and outcome["steps"] == expected["steps"]
    measured, others = (
        json.loads((folder / "training" / "measured.json").read_text()) for folder in (out, expected_out)
    )
    assert measured == pytest.approx(others, abs=0.1)
    for name in ("training/best.safetensors", "model.safetensors"):
        ours, theirs = _weights(out / name), _weights(expected_out / name)
        for parameter, tensor in theirs.items():
            assert torch.allclose(ours[parameter], tensor, rtol=1e-4, atol=1e-5), (name, parameter)
