"""For all tests."""

import os
import signal
from pathlib import Path

import pytest

UNIT = Path(__file__).parent / "unit"
MOST_PROCESSES = 4
"""Each imports PyTorch and MLflow, which takes seconds and half a gigabyte."""

# A shell that runs the tests in the background has them ignore Ctrl-C, and so the commands that they start.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(optionalhook=True)  # where xdist is switched off
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Spread folders of unit tests over processes; what is named more closely runs in this one.

    The other tests start processes of their own and wait for them; they share a Label Studio.
    """
    folders = [Path(argument).resolve() for argument in config.args]
    if all(folder.is_dir() and folder.is_relative_to(UNIT) for folder in folders):
        return min(os.cpu_count() or 1, MOST_PROCESSES)
    return 0
