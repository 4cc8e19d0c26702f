"""A process to measure memory in: a new one, as a command's own."""

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import torch

from ebseg.lean import do_without


def fresh_process() -> ProcessPoolExecutor:
    """Make a new process that does without what a command does without, with this one's number of threads."""
    return ProcessPoolExecutor(1, get_context("spawn"), _begin, (torch.get_num_threads(),))


def _begin(threads: int) -> None:
    do_without()  # before it imports what it is to do
    torch.set_num_threads(threads)
