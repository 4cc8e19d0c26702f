import multiprocessing
import subprocess
import sys
import threading
import time

import pytest
import torch

from ebseg.data.batches import StepBatches, _start_worker, loader
from ebseg.errors import DataError
from tests.unit.data.test_batches import assert_same, broken_folder, recipe

WORKERS = """
import gc, os, sys
from multiprocessing import process, resource_sharer
from multiprocessing.connection import Client
from ebseg.data.batches import _start_worker

def hang_up(sends):
    address, key = resource_sharer.DupFd(0)._id
    client = Client(address, authkey=process.current_process().authkey)
    if sends:
        client.send((key, os.getpid()))
    client.close()  # as a run does that is interrupted while it takes over a batch
    resource_sharer.stop(5)

gc.freeze()  # so that the copies need not copy what they share
for name, act in {
    "at once": lambda: hang_up(False), "later": lambda: hang_up(True), "another error": lambda: 1 / 0
}.items():
    if not os.fork():
        _start_worker(0)
        act()
        os._exit(0)
    print(f"status {os.waitstatus_to_exitcode(os.wait()[1])}: {name}", file=sys.stderr, flush=True)
"""


def test_a_worker_says_nothing_when_its_run_hangs_up_and_still_tells_of_other_errors():
    done = subprocess.run([sys.executable, "-c", WORKERS], capture_output=True, text=True, timeout=60)
    first, second, *errors, last, third = done.stderr.splitlines()
    assert (first, second, third) == ("status 0: at once", "status 0: later", "status 1: another error")
    assert errors[0] == "Traceback (most recent call last):" and last == "ZeroDivisionError: division by zero"


def _hand_over_while_ending():
    _start_worker(0)
    threading.Thread(target=_hand_over_for_ever, daemon=True).start()
    time.sleep(0.2)


def _hand_over_for_ever():
    while True:
        torch.ones(1 << 16).share_memory_()


def test_a_worker_that_ends_while_it_hands_over_a_batch_is_not_cut_off():
    worker = multiprocessing.get_context("spawn").Process(target=_hand_over_while_ending)
    worker.start()
    worker.join(60)
    assert worker.exitcode == 0  # before: -6, "terminate called without an active exception"


def test_workers_read_what_this_process_would_and_hand_errors_over(tmp_path):
    """The source breaks altogether while it is read, so one start of the workers shows both."""
    source = broken_folder(tmp_path, 30, [4, 11])
    data = StepBatches([source], recipe(steps=30))
    expected = [data[step] for step in range(30)]
    got = loader(data, 2, 2)
    for step in range(2, 8):
        assert_same(next(got), expected[step])
    for photo in (tmp_path / "photos").iterdir():
        photo.write_bytes(b"")
    with pytest.raises(DataError) as info:
        list(got)
    assert "Traceback" not in str(info.value) and "tried in its place are broken" in str(info.value)
