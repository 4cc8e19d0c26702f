"""Mutants' tests, each in a fork of a process that has imported what is slow to import."""

import importlib
import importlib.util
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from queue import Empty

import pytest
import redis

from tests.mutation.changes import Mutant

ROOT = Path(__file__).resolve().parents[2]
SLOW_IMPORTS = ("torch", "mlflow", "mlflow.tracking", "label_studio_sdk", "cv2", "rq", "pytest", "accelerate",
                "torchvision", "open_clip", "pydantic_settings", "fsspec", "safetensors.torch")  # fmt: skip
OWN = ("ebseg", "training", "backend", "tests")


@dataclass(frozen=True)
class Job:
    """Test files to run, with or without a mutant, for ``limit`` seconds at most.

    ``chosen``: which of their tests, as pytest's -k has it.
    """

    number: int
    mutant: Mutant | None
    tests: tuple[str, ...]
    chosen: str | None
    limit: float


def work(there: Path, waiting: "multiprocessing.Queue", told: "multiprocessing.Queue") -> None:
    """Run the tests of one job after the other, each in a fork, in a copy of the tree."""
    os.chdir(there)
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # they warn where they have been imported already
    sys.path[:] = [str(there), *(path for path in sys.path if Path(path or ".").resolve() != ROOT)]
    for module in SLOW_IMPORTS:
        importlib.import_module(module)
    for module in [each for each in sys.modules if each.partition(".")[0] in OWN]:
        del sys.modules[module]
    spec = importlib.util.find_spec("ebseg")
    assert spec is not None and str(spec.origin).startswith(str(there)), spec
    while True:
        try:
            job: Job = waiting.get(timeout=1)
        except Empty:
            return
        started = time.monotonic()
        with _put_into(there, job.mutant):
            outcome = _tested(there / "t", job)
        if job.mutant is None and outcome == "killed":  # without any fault: say why
            print((there / "t.log").read_text()[-8000:], file=sys.stderr, flush=True)
        told.put((job.number, outcome, time.monotonic() - started))


@contextmanager
def _put_into(there: Path, mutant: Mutant | None) -> Iterator[None]:
    if mutant is None:
        yield
        return
    path = there / mutant.file
    original = path.read_text()
    path.write_text(mutant.applied(original))
    try:
        yield
    finally:
        path.write_text(original)


def _tested(temporary: Path, job: Job) -> str:
    """Fork, and run tests until one fails; give "killed", which what takes for ever is too, or "survived"."""
    shutil.rmtree(temporary, ignore_errors=True)
    child = os.fork()
    if child == 0:
        os.setpgid(0, 0)
        log = os.open(temporary.with_suffix(".log"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(log, 1)
        os.dup2(log, 2)
        chosen = ["-k", job.chosen] if job.chosen else []
        here = ["-o", "addopts=--import-mode=importlib", "-p", "no:cacheprovider"]  # in this process
        # When the collector comes to a connection that a test left is chance, and says nothing of a fault.
        chance = ["-W", "ignore::ResourceWarning"]
        options = ["-x", "-q", *here, *chance, "--basetemp", str(temporary), *chosen]
        os._exit(pytest.main([*options, *job.tests]))
    deadline = time.monotonic() + job.limit
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            break
        if time.monotonic() > deadline:
            os.killpg(child, signal.SIGKILL)
        time.sleep(0.05)
    _end_servers(temporary)
    return "survived" if status == 0 else "killed"


def _end_servers(temporary: Path) -> None:
    """End the embedded Redis of tests that were ended themselves, or that left it to their process's exit."""
    for socket in temporary.rglob("redis.sock"):
        with suppress(redis.RedisError, OSError):
            redis.Redis(unix_socket_path=str(socket)).shutdown(nosave=True)


def copy_of_the_tree(there: Path) -> None:
    """Copy what git tracks or would, so that nobody's work is touched."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, check=True, capture_output=True, text=True,
    )  # fmt: skip
    for name in listed.stdout.splitlines():
        source = ROOT / name
        if source.is_file() and name.split("/")[0] in (*OWN, "pyproject.toml", "docs", "README.md"):
            target = there / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, target)


def run_all(jobs: list[Job], processes: int) -> Iterator[tuple[int, str, float]]:
    """Run jobs in so many processes; tell of each its number, what came of it, and its seconds."""
    context = multiprocessing.get_context("spawn")
    waiting, told = context.Queue(), context.Queue()
    for job in jobs:
        waiting.put(job)
    with tempfile.TemporaryDirectory(prefix="m") as folder:
        workers = []
        for number in range(processes):
            there = Path(folder, str(number))
            copy_of_the_tree(there)
            workers.append(context.Process(target=work, args=(there, waiting, told)))
            workers[-1].start()
        try:
            for done in range(len(jobs)):
                yield told.get()
                print(f"\r{done + 1} of {len(jobs)} ", end="", file=sys.stderr, flush=True)
            print(file=sys.stderr)
        except GeneratorExit:  # the answer so far was enough
            for worker in workers:
                worker.terminate()
            raise
        finally:
            for worker in workers:
                worker.join()
