"""The jobs of the learning loop, one module each, by the names under which Redis keeps them.

In the order in which they follow each other: ``snapshot_project``, ``finetune_project``,
``judge_candidate``, ``label_project``, ``label_tasks``; beside them ``remember_project``; and ``sweep``,
which the schedule starts. Each is a function of JSON values that may be run again at any time: it finds what
an earlier run has done, and goes on.
"""

import importlib
from typing import Any

_MODULES = {
    "snapshot_project": "reading",
    "remember_project": "remembering",
    "finetune_project": "finetuning",
    "judge_candidate": "judging",
    "label_project": "planning",
    "label_tasks": "labelling",
    "sweep": "sweeping",
}
__all__ = list(_MODULES)


def __getattr__(name: str) -> Any:
    """Import a job when it is asked for: half of them need no PyTorch, which takes seconds and a gigabyte."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
