"""Workers of a run that was killed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

SCRIPT = """
import multiprocessing, os, sys, time
from pathlib import Path

def work(pids):
    from ebseg.data.orphans import end_with_parent
    parent = os.getppid()
    Path(pids + "~").write_text(f"{parent} {os.getpid()}")
    os.replace(pids + "~", pids)
    while os.getppid() == parent:
        time.sleep(0.01)
    end_with_parent()
    time.sleep(600)

if __name__ == "__main__":
    worker = multiprocessing.get_context("spawn").Process(target=work, args=sys.argv[1:])
    worker.start()
    worker.join()
"""


def test_a_worker_ends_whose_run_was_killed_before_it_began(tmp_path):
    script, pids = tmp_path / "run.py", tmp_path / "pids"
    script.write_text(SCRIPT)
    run = subprocess.Popen([sys.executable, str(script), str(pids)])
    _until(pids.exists)
    parent, worker = map(int, pids.read_text().split())
    assert parent == run.pid
    run.kill()
    run.wait()
    try:
        _until(lambda: _is_gone(worker))
    finally:
        if not _is_gone(worker):
            os.kill(worker, signal.SIGKILL)


def _is_gone(pid: int) -> bool:
    status = Path(f"/proc/{pid}/stat")
    return not status.exists() or status.read_text().rpartition(")")[2].split()[0] == "Z"


def _until(there) -> None:
    deadline = time.monotonic() + 60
    while not there():
        assert time.monotonic() < deadline
        time.sleep(0.02)
