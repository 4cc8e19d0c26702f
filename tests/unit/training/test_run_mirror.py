import json

import pytest

from training.finetuning.folder import TrainingFolder
from training.finetuning.run_mirror import RunMirror
from training.storage import Storage


@pytest.fixture
def storage(tmp_path):
    return Storage(f"file://{tmp_path}/storage", tmp_path / "cache")


def _run(folder, step, measured):
    """Write what a run's folder holds when it has stored a checkpoint; ``measured``: those before it."""
    (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
    (folder / "checkpoints" / f"step-{step:08d}.pt").write_bytes(b"checkpoint %d" % step)
    if measured:
        (folder / "best.safetensors").write_bytes(b"best of %d" % len(measured))
        (folder / "measured.json").write_text(json.dumps(measured))
    (folder / "mlflow.json").write_text('{"run_id": "abc"}')
    return folder


def _files(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_an_empty_folder_gets_what_the_run_had_copied(storage, tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    mirror = RunMirror(storage, "runs/train-1", TrainingFolder(first))
    mirror.restore()  # nothing was copied yet
    assert not first.exists()
    for step, measured in ((2, {}), (4, {"2": 10.0}), (6, {"2": 10.0, "4": 20.0})):
        _run(first, step, measured)
        mirror.stored(None, step)
    RunMirror(storage, "runs/train-1", TrainingFolder(second)).restore()
    expected = _files(first)
    del expected["checkpoints/step-00000002.pt"], expected["checkpoints/step-00000004.pt"]
    assert _files(second) == expected
    assert len(storage.keys("runs/train-1")) == 5, "two places and what says which is the newest"


def test_a_folder_that_is_further_keeps_what_it_has(storage, tmp_path):
    first, second = _run(tmp_path / "first", 4, {"2": 10.0}), _run(tmp_path / "second", 6, {"2": 11.0})
    RunMirror(storage, "runs/train-1", TrainingFolder(first)).stored(None, 4)
    before = _files(second)
    RunMirror(storage, "runs/train-1", TrainingFolder(second)).restore()
    assert _files(second) == before
    (second / "checkpoints" / "step-00000006.pt").rename(second / "checkpoints" / "step-00000002.pt")
    RunMirror(storage, "runs/train-1", TrainingFolder(second)).restore()
    assert (second / "measured.json").read_text() == '{"2": 10.0}'


class _Killed(BaseException):
    pass


@pytest.mark.parametrize("allowed", range(4))
def test_a_kill_between_uploads_leaves_a_set_that_belongs_together(storage, tmp_path, monkeypatch, allowed):
    first, second = tmp_path / "first", tmp_path / "second"
    mirror = RunMirror(storage, "runs/train-1", TrainingFolder(first))
    for step, measured in ((4, {"2": 10.0}), (6, {"2": 10.0, "4": 20.0})):
        _run(first, step, measured)
        mirror.stored(None, step)
    _run(first, 8, {"2": 10.0, "4": 20.0, "6": 30.0})
    left = iter(range(allowed))

    def counted(real):
        def write(*arguments):
            if next(left, None) is None:
                raise _Killed
            real(*arguments)

        return write

    with monkeypatch.context() as patch:
        patch.setattr(storage, "upload", counted(storage.upload))
        patch.setattr(storage, "write", counted(storage.write))
        try:
            mirror.stored(None, 8)
        except _Killed:
            assert allowed < 3
    RunMirror(storage, "runs/train-1", TrainingFolder(second)).restore()
    step, looks = (8, 3) if allowed == 3 else (6, 2)
    assert _files(second / "checkpoints") == {f"step-{step:08d}.pt": b"checkpoint %d" % step}
    assert (second / "best.safetensors").read_bytes() == b"best of %d" % looks
    assert len(json.loads((second / "measured.json").read_text())) == looks


def test_a_storage_that_is_away_does_not_end_the_run(storage, tmp_path, caplog):
    first = _run(tmp_path / "first", 2, {})
    (tmp_path / "storage").write_text("no folder")
    RunMirror(storage, "runs/train-1", TrainingFolder(first)).stored(None, 2)
    assert "step 2 was not copied" in caplog.text
