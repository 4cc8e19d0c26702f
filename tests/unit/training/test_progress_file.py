import json
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest

from ebseg.errors import DataError, MlflowUnavailable
from ebseg.runs.watch import StepReport
from training.finetuning import progress_file
from training.finetuning.progress_file import ProgressFile, Stage

TERMS = {"class_a": 1.0, "mask": 2.0, "mask_0": 4.0}


def _step(step):
    return StepReport(
        step=step, steps=10, terms=TERMS, learning_rate=1e-3, gradient_norm=1.0, photos=4, seconds=2.0,
        memory=2**30, broken=0,
    )  # fmt: skip


@pytest.fixture
def clock(monkeypatch):
    now = SimpleNamespace(seconds=1000.0)
    monkeypatch.setattr(progress_file.time, "monotonic", lambda: now.seconds)
    return now


def test_it_tells_each_stage_of_a_run(tmp_path):
    path = tmp_path / "progress.json"
    progress = ProgressFile(path)
    told = [json.loads(path.read_text())]
    for action in (
        lambda: progress.started(None, SimpleNamespace(steps=10), [], 2),
        lambda: progress.stored(None, 4),
        lambda: progress.stepped(_step(5)),
        lambda: progress.finished(tmp_path),
        lambda: progress.enter(Stage.DONE),
    ):
        action()
        told.append(json.loads(path.read_text()))
    assert [each["stage"] for each in told] == [
        "starting", "training", "measuring", "training", "choosing weights", "done",
    ]  # fmt: skip
    assert told[0].keys() == {"stage", "time"}
    assert (told[1]["step"], told[1]["steps"]) == (2, 10)
    assert told[-1]["step"] == 5
    written = datetime.fromisoformat(told[-1]["time"])
    assert written.utcoffset() == timedelta(0) and datetime.now(UTC) - written < timedelta(minutes=1)


def test_it_tells_what_a_step_did(tmp_path, clock):
    path = tmp_path / "progress.json"
    progress = ProgressFile(path)
    progress.started(None, SimpleNamespace(steps=10), [], 0)
    clock.seconds += 2
    progress.stepped(_step(4))
    told = json.loads(path.read_text())
    del told["time"]
    assert told == {
        "stage": "training", "step": 4, "steps": 10, "loss": 7.0, "terms": {"class_a": 1.0, "mask": 2.0},
        "photos_per_second": 2.0, "seconds_left": 12, "memory": 2**30,
    }  # fmt: skip


def test_it_writes_at_most_once_a_second(tmp_path, clock):
    path = tmp_path / "progress.json"
    progress = ProgressFile(path)
    progress.started(None, SimpleNamespace(steps=10), [], 0)
    seen = []
    for step in range(1, 9):
        clock.seconds += 0.4
        progress.stepped(_step(step))
        seen.append(json.loads(path.read_text())["step"])
    assert seen == [0, 0, 3, 3, 3, 6, 6, 6]


@pytest.mark.parametrize(
    ("error", "stage", "fails_again"),
    [
        (ValueError(), "failed", False),
        (OSError(28, "No space left on device"), "failed", False),
        (MlflowUnavailable("MLflow is away"), "failed", False),
        (DataError("no photo can be read"), "failed", True),
        (SystemExit(143), "stopped", None),
    ],
)
def test_it_tells_a_bad_end(tmp_path, error, stage, fails_again):
    path = tmp_path / "progress.json"
    ProgressFile(path).failed(error)
    told = json.loads(path.read_text())
    assert (told["stage"], told.get("fails_again")) == (stage, fails_again)


def test_a_full_disk_does_not_end_the_run_here(tmp_path):
    (tmp_path / "run").write_text("no folder")
    progress = ProgressFile(tmp_path / "run" / "progress.json")
    progress.enter(Stage.DONE)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
