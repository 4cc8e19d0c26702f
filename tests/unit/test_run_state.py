import resource
import signal
import subprocess

import pytest
import torch

from ebseg.config import RECIPES
from ebseg.errors import CheckpointError, TrainingError
from ebseg.runs.state import RunState

CONFIG = RECIPES["tiny"]


def _net():
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
    net[0].requires_grad_(False)
    return net


def _state(out, config=CONFIG, data=("photos",), net=None, model="tiny"):
    return RunState(out, net or _net(), model, config, data)


def test_the_newest_checkpoints_are_kept(tmp_path):
    state = _state(tmp_path)
    for step in (1, 2, 10):
        state.store(step, {"value": torch.tensor(step)})
    assert [path.name for path in sorted((tmp_path / "checkpoints").iterdir())] == [
        "step-00000002.pt",
        "step-00000010.pt",
    ]
    assert _state(tmp_path).newest()["value"] == 10


def test_no_checkpoint_is_no_error(tmp_path):
    assert _state(tmp_path).newest() is None


def test_a_damaged_checkpoint_falls_back_to_the_one_before(tmp_path, caplog):
    state = _state(tmp_path)
    state.store(1, {"value": torch.tensor(1)})
    state.store(2, {"value": torch.tensor(2)})
    newest = tmp_path / "checkpoints" / "step-00000002.pt"
    newest.write_bytes(newest.read_bytes()[:100])
    assert state.newest()["value"] == 1
    assert "step-00000002.pt" in caplog.text


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"config": CONFIG.model_copy(update={"learning_rate": 1.0})}, "learning_rate"),
        ({"data": ("other photos",)}, "data"),
        ({"model": "tiny with another loss"}, "model"),
        ({"net": torch.nn.Linear(2, 2)}, "starting weights"),
    ],
)
def test_another_runs_checkpoint_is_refused(tmp_path, change, named):
    _state(tmp_path).store(1, {})
    with pytest.raises(CheckpointError, match=f"differs in: {named}"):
        _state(tmp_path, **change).newest()


def test_what_does_not_change_the_weights_may_change(tmp_path):
    _state(tmp_path).store(1, {})
    config = CONFIG.model_copy(update={"checkpoint_every": 7, "max_broken": 0})
    assert _state(tmp_path, config=config).newest()["step"] == 1


def test_a_write_that_fails_keeps_the_checkpoint_before(tmp_path):
    state = _state(tmp_path)
    state.store(1, {"value": torch.tensor(1)})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))  # as a full disk: the write itself fails
    try:
        with pytest.raises(TrainingError, match=r"could not be written \(.*File too large\): make room"):
            state.store(2, {"value": torch.zeros(100_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000001.pt"]
    assert state.newest()["value"] == 1


def test_ctrl_c_waits_for_the_checkpoint_at_hand(tmp_path, monkeypatch):
    save = torch.save
    monkeypatch.setattr(torch, "save", lambda content, file: save(content, _Interrupted(file)))
    state = _state(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        state.store(1, {"value": torch.tensor(1)})
    assert state.newest()["value"] == 1
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


class _Interrupted:
    """A file in whose second write Ctrl-C is pressed."""

    def __init__(self, file):
        self.file, self.writes = file, 0

    def write(self, content):
        self.writes += 1
        if self.writes == 2:
            signal.raise_signal(signal.SIGINT)
        return self.file.write(content)

    def flush(self):
        self.file.flush()


@pytest.fixture
def small_disk(tmp_path):
    """Mount a disk of 1 MiB, where that is allowed."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"mounting is not allowed here: {error}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_is_said_in_one_line_and_keeps_the_checkpoint_before(small_disk):
    state = _state(small_disk)
    state.store(1, {"value": torch.tensor(1)})
    with pytest.raises(TrainingError, match=r"step-00000002.pt .*No space left on device") as caught:
        state.store(2, {"value": torch.zeros(1_000_000)})
    assert "\n" not in str(caught.value)
    assert [path.name for path in (small_disk / "checkpoints").iterdir()] == ["step-00000001.pt"]
    state.store(2, {"value": torch.tensor(2)})  # there is room again
    assert _state(small_disk).newest()["value"] == 2


def test_a_damaged_checkpoint_does_not_push_a_good_one_out(tmp_path):
    state = _state(tmp_path, config=CONFIG.model_copy(update={"keep_checkpoints": 1}))
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "step-00000200.pt").write_bytes(b"PK\x03\x04 junk")
    state.store(150, {"value": torch.tensor(150)})
    assert state.newest()["value"] == 150
