"""A benchmark in two processes: the confusion matrix of one, also when it was killed."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import psutil
import pytest

from tests.integration.training.processes import LAUNCHER, environment

PHOTOS = 8
SCRIPT = f"""
import json
import os
import sys
import time
from pathlib import Path

import numpy as np

import ebseg
from ebseg.evaluation import benchmark
from ebseg.data.drawn.scenes import BenchmarkScenes
from ebseg.evaluation.labellers import ModelLabeller

benchmark.SAVE_SECONDS = 0.0
out = Path(sys.argv[1])
others = benchmark.join()


class Scenes(BenchmarkScenes):
    def __getitem__(self, index):
        time.sleep(float(os.environ.get("PAUSE", "0")))  # time for a test to kill it
        return super().__getitem__(index)


source = Scenes({PHOTOS})
predictor = ebseg.load("ebseg-tiny", device="cpu")
found = benchmark.run_benchmark(ModelLabeller(predictor, source.vocabulary), source, out=out, others=others)
number = 0 if others is None else others.process_index
(out / f"{{number}}.json").write_text(json.dumps(found.to_json()))
np.save(out / f"{{number}}.npy", found.tally.matrix.counts)
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Give a function from a launcher and a folder to the command."""
    script = tmp_path_factory.mktemp("script") / "run.py"
    script.write_text(SCRIPT)
    return lambda launcher, out: [*launcher, str(script), str(out)]


@pytest.fixture(scope="module")
def one(run, tmp_path_factory):
    """What one process comes to, and its folder."""
    out = tmp_path_factory.mktemp("one")
    (found,) = finished(run([sys.executable], out), out)
    return found, out


def finished(command, out):
    """Run to the end; give each process's report and confusion matrix."""
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    numbers = sorted(path.stem for path in out.glob("*.json"))
    return [(json.loads((out / f"{n}.json").read_text()), np.load(out / f"{n}.npy")) for n in numbers]


def assert_same(found, expected):
    (content, counts), (expected_content, expected_counts) = found, expected
    assert (counts == expected_counts).all() and counts.sum() > 0
    for key in ("metrics", "classes", "confusion", "photos", "best", "worst"):
        assert content[key] == expected_content[key]


def test_two_processes_count_what_one_counts(run, one, tmp_path):
    found = finished(run(LAUNCHER, tmp_path), tmp_path)
    assert len(found) == 2
    for process in found:
        assert_same(process, one[0])
        assert process[0]["hardware"]["processes"] == 2


@pytest.mark.parametrize("launcher", [[sys.executable], LAUNCHER], ids=["one", "two"])
def test_killed_processes_go_on(run, one, tmp_path, launcher):
    process = subprocess.Popen(
        run(launcher, tmp_path),
        env={**environment(), "PAUSE": "2"},
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    state = tmp_path / "process-0.npz"
    deadline = time.monotonic() + 120
    while not state.exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    workers = [child.pid for child in psutil.Process(process.pid).children()]
    for number in (process.pid, *workers):
        os.kill(number, signal.SIGKILL)
    process.wait()
    assert not list(tmp_path.glob("*.json")), "it was killed before it was done"
    with np.load(state) as stored:
        assert json.loads(str(stored["rest"]))["done"] < PHOTOS // 2
    for found in finished(run(launcher, tmp_path), tmp_path):
        assert_same(found, one[0])


def test_another_number_of_processes_is_refused(run, one, tmp_path):
    shutil.copy(one[1] / "process-0.npz", tmp_path)
    done = subprocess.run(run(LAUNCHER, tmp_path), env=environment(), capture_output=True, text=True)
    assert done.returncode != 0 and "process-0.npz is of another evaluation, which differs in: processes" in (
        done.stderr
    )
