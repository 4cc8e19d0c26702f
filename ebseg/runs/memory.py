"""How much memory a run has taken at most."""

import re
import resource
from pathlib import Path

import torch

_STATUS = Path("/proc/self/status")


def peak_bytes(device: torch.device) -> int:
    """Bytes that a GPU's tensors, or else this process, have taken at most."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    # Linux: getrusage would start from the peak of the process that started this one.
    found = re.search(r"VmHWM:\s*(\d+) kB", _STATUS.read_text()) if _STATUS.exists() else None
    kib = int(found[1]) if found else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kib * 1024
