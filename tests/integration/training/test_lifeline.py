import signal
import subprocess
import sys
import time
from contextlib import suppress

import psutil
import pytest

CHILD = """
import os, sys, time
from training.queue import lifeline
lifeline.LOOK_SECONDS = 0.1
lifeline.die_with_parent(int(sys.argv[1]))
print(os.getpid(), flush=True)
time.sleep(600)
"""
PARENT = """
import subprocess, sys
subprocess.Popen(sys.argv[1:])
sys.stdin.read()
"""


def _start(parents, generations):
    """Start a child below some parents that do nothing; return the first of these and the child."""
    command = [sys.executable, "-c", CHILD, str(generations)]
    for _ in range(parents):
        command = [sys.executable, "-c", PARENT, *command]
    oldest = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    return oldest, psutil.Process(int(oldest.stdout.readline()))


def _ends(process):
    deadline = time.monotonic() + 30
    while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


@pytest.mark.parametrize(("parents", "generations"), [(1, 1), (2, 2)])
def test_a_process_ends_when_the_one_it_works_for_is_killed(parents, generations):
    oldest, child = _start(parents, generations)
    between = [process for process in child.parents() if process.pid != oldest.pid][: parents - 1]
    try:
        time.sleep(0.3)  # it has looked, and all are there
        assert child.is_running()
        oldest.send_signal(signal.SIGKILL)
        assert _ends(child)
    finally:
        for process in (oldest, *between, child):
            with suppress(psutil.NoSuchProcess):
                process.kill()
        with oldest:
            pass


def test_a_process_ends_when_its_launcher_is_killed_and_the_launchers_parent_is_not():
    oldest, child = _start(2, 2)
    try:
        child.parent().kill()
        assert _ends(child)
    finally:
        oldest.kill()
        with oldest:
            pass


def test_a_process_whose_parent_had_ended_before_ends_at_once():
    code = (
        "from training.queue.lifeline import die_with_parent\ndie_with_parent(parent=1234567)\nprint('here')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (1, "")
