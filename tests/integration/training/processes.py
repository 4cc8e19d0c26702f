"""Processes that tests start: on CPUs also where there are GPUs, and one thread each."""

import os
import sys

import torch

LAUNCHER = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
"""Starts two processes of what follows."""


def environment(threads: int = 1) -> dict[str, str]:
    """Give the environment of such a process."""
    cpu = {"ACCELERATE_USE_CPU": "true"} if torch.cuda.is_available() else {}
    return {**os.environ, "OMP_NUM_THREADS": str(threads), **cpu}
