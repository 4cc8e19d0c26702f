"""What of a machine decides how fast a model is on it."""

import os
import platform
import re
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict

CPUINFO = Path("/proc/cpuinfo")
UNKNOWN = "unknown"
INSTRUCTIONS = ("avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_bf16", "amx_int8")
"""Sets of instructions that matrix products of floats, of half their bits and of 8-bit integers can use."""


class Machine(BaseModel):
    """A machine, as this process may use it.

    ``cores``: that the process may run on; ``threads``: of PyTorch's for one operation. ``instructions``:
    those of ``INSTRUCTIONS`` that the CPU has, or ``UNKNOWN``. ``gpu``: None where PyTorch finds none.
    """

    model_config = ConfigDict(frozen=True)

    cpu: str
    cores: int
    threads: int
    instructions: str
    torch: str
    gpu: str | None


def this_machine() -> Machine:
    """Look at this machine; outside Linux a CPU does not tell its instructions."""
    cpu, instructions = read_cpuinfo(CPUINFO.read_text() if CPUINFO.exists() else "")
    return Machine(
        cpu=cpu,
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        threads=torch.get_num_threads(),
        instructions=instructions,
        torch=torch.__version__,
        gpu=torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    )


def read_cpuinfo(content: str) -> tuple[str, str]:
    """Give the first CPU's name, and its instructions as in ``Machine``, of what Linux says of CPUs."""
    name = re.search(r"^model name\s*:\s*(.+)$", content, re.MULTILINE)
    flags = re.search(r"^flags\s*:\s*(.+)$", content, re.MULTILINE)
    has = UNKNOWN
    if flags:
        has = " ".join(each for each in INSTRUCTIONS if each in flags[1].split())
    return name[1] if name else platform.processor() or UNKNOWN, has
