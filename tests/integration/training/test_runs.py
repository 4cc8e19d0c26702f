"""Whole runs in processes of their own: killed and resumed, and spread over two processes."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from ebseg.checkpoint import load_checkpoint
from tests.integration.training.processes import LAUNCHER, environment

STEPS = 8
OPTIONS = [
    "--steps", str(STEPS), "--batch", "2", "--crop", "64", "--checkpoint-every", "2", "--no-mlflow",
    "--workers", "0", "--learning-rate", "1e-3",
]  # fmt: skip


def _command(out, *more):
    return [sys.executable, "-m", "ebseg", "train", "--out", str(out), *OPTIONS, *more]


def _run(command, threads=1):
    done = subprocess.run(command, env=environment(threads), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done


def _weights(out):
    return {name: p.detach() for name, p in load_checkpoint(out / "model.safetensors")[0].named_parameters()}


def _log(out):
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that nothing stopped, on two threads."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    _run(_command(out), threads=2)
    return out


@pytest.fixture(scope="module")
def one_batch(tmp_path_factory):
    """A run in one process, on one thread: threads add up in another order, as other batches do."""
    out = tmp_path_factory.mktemp("runs") / "one"
    _run(_command(out))
    return out


def _kill_after(out: Path, checkpoint: int, wait: float) -> None:
    """Start a run and kill it ``wait`` seconds after it has written a checkpoint."""
    process = subprocess.Popen(_command(out), env=environment(threads=2), stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not (out / "checkpoints" / f"step-{checkpoint:08d}.pt").exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    time.sleep(wait)
    process.send_signal(signal.SIGKILL)
    process.wait()


@pytest.mark.parametrize(("checkpoint", "wait"), [(2, 0.0), (4, 0.15)], ids=["while storing", "in a step"])
def test_a_killed_run_ends_as_one_that_was_not(whole, tmp_path, checkpoint, wait):
    _kill_after(tmp_path, checkpoint, wait)
    assert not (tmp_path / "model.safetensors").exists()
    _run(_command(tmp_path), threads=2)
    ours, theirs = _weights(tmp_path), _weights(whole)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    without_times = [{k: v for k, v in line.items() if k != "seconds"} for line in _log(tmp_path)]
    assert without_times == [{k: v for k, v in line.items() if k != "seconds"} for line in _log(whole)]


def test_accumulated_batches_are_one_large_batch(one_batch, tmp_path):
    _run(_command(tmp_path, "--accumulation", "2"))
    _assert_same_training(tmp_path, one_batch)


def test_two_processes_are_one_large_batch(one_batch, tmp_path):
    _run([*LAUNCHER, *_command(tmp_path)[1:]])
    _assert_same_training(tmp_path, one_batch)


def _assert_same_training(ours, theirs):
    """Equal but for the order in which float32 is summed."""
    for line, expected in zip(_log(ours), _log(theirs), strict=True):
        assert {n: v for n, v in line.items() if n != "seconds"} == pytest.approx(
            {n: v for n, v in expected.items() if n != "seconds"}, rel=1e-3
        )
    weights, expected = _weights(ours), _weights(theirs)
    for name, tensor in expected.items():
        assert torch.allclose(weights[name], tensor, rtol=1e-4, atol=1e-5), name
