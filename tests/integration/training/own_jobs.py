"""Jobs for tests of the worker, made as the loop's are."""

import os
import signal
import time
from pathlib import Path

from ebseg.errors import DataError
from training.jobs.job import job
from training.loop import Loop


@job
def add(loop: Loop, first: int, second: int) -> dict[str, str]:
    return {"outcome": f"the sum is {first + second}"}


@job
def ask_whose_token(loop: Loop) -> dict[str, str]:
    return {"outcome": loop.studio().user()}


@job
def refuse(loop: Loop) -> dict[str, str]:
    raise DataError("this cannot be done: do something else")


@job
def once_killed(loop: Loop, file: str) -> dict[str, str]:
    """Wait for ever the first time; the file tells the process ids of all that ran."""
    first = not Path(file).exists()
    with Path(file).open("a") as starts:
        starts.write(f"{os.getpid()} ")
    if first:
        time.sleep(1000)
    return {"outcome": "done"}


@job
def tell_process(loop: Loop, number: int) -> dict[str, object]:
    return {"outcome": f"job {number} is done", "process": os.getpid()}


@job
def end_process(loop: Loop) -> dict[str, object]:
    """End the process, as too little memory would."""
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError
