import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

SMALL = ("--batch", "2", "--crop", "64", "--seed", "3")


def _children(process: subprocess.Popen) -> list[int]:
    text = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
    return [int(child) for child in text.split()]


def _interrupted(command: list[str], when: Path) -> tuple[int, str, list[int]]:
    """Start a run and press Ctrl-C once a file is there; its status, standard error and children."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    deadline = time.monotonic() + 120
    while not when.exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    children = _children(process)
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=60)
    return process.returncode, err, children


def test_ctrl_c_ends_with_one_line_that_says_how_to_go_on(tmp_path):
    out = tmp_path / "run"
    command = [sys.executable, "-m", "ebseg", "train", "--out", str(out), "--no-mlflow",
               "--checkpoint-every", "1", *SMALL, "--workers", "1"]  # fmt: skip
    status, err, children = _interrupted(command, out / "checkpoints/step-00000001.pt")
    assert status == 130
    *steps, line = err.splitlines()
    assert all(re.match("training EBSeg|step ", step) for step in steps), err
    newest = max(path.stem for path in (out / "checkpoints").glob("*.pt"))
    told = f"step {int(newest.removeprefix('step-'))}, the last checkpoint in {out}"
    assert line == f"ebseg: stopped; the same command goes on from {told}"
    assert children
    deadline = time.monotonic() + 20
    while any(Path(f"/proc/{child}").exists() for child in children):
        assert time.monotonic() < deadline, "a worker outlives its run"
        time.sleep(0.1)
