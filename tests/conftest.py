"""For all tests."""

import os
import signal
import sys
from pathlib import Path

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

UNIT = Path(__file__).parent / "unit"
MOST_PROCESSES = 4
"""Each imports PyTorch and MLflow, which takes seconds and half a gigabyte."""

# A shell that runs the tests in the background has them ignore Ctrl-C, and so the commands that they start.
signal.signal(signal.SIGINT, signal.default_int_handler)

# As the Makefile has it: else each process of each run compiles all tests anew, and each command our modules.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# Services' and workers' answers are compared with float32's, pixel by pixel: a CPU with AMX would take bf16.
os.environ["EBSEG_PRECISION"] = "float32"


TOGETHER = {
    "parity": "parity/",
    "loop": "e2e/test_loop.py",
    "faults": "e2e/test_faults.py",
    "editor": "e2e/",
}
"""Tests that stay in one process where ``--dist loadfile`` spreads the others by files; the longest first.

They share a Label Studio, or full-size models, of which two would not fit into the memory.
"""


@pytest.hookimpl(optionalhook=True)  # where xdist is switched off
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Spread folders of unit tests over processes, and others where asked to.

    What is named more closely runs in this one.
    """
    folders = [Path(argument).resolve() for argument in config.args]
    unit = all(folder.is_dir() and folder.is_relative_to(UNIT) for folder in folders)
    if unit or config.getoption("dist") == "loadfile":
        return min(os.cpu_count() or 1, MOST_PROCESSES)
    return 0


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadScopeScheduling | None:
    return ByRoom(config, log) if config.getoption("dist") == "loadfile" else None


class ByRoom(LoadScopeScheduling):
    """Hands out files, and groups of files, in the order of the tests."""

    def __init__(self, config: pytest.Config, log: Producer) -> None:
        config.option.loadscopereorder = False
        super().__init__(config, log)

    def _split_scope(self, nodeid: str) -> str:
        return _group(nodeid.partition("::")[0])


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest groups first."""
    order = list(TOGETHER)
    items.sort(key=lambda item: order.index(group) if (group := _group(item.nodeid)) in order else len(order))


def _group(name: str) -> str:
    name = name.removeprefix("tests/")
    return next((group for group, beginning in TOGETHER.items() if name.startswith(beginning)), name)
