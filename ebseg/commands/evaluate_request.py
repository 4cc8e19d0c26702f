"""What ``ebseg evaluate`` was asked for."""

from dataclasses import dataclass
from pathlib import Path

ALL = "all"
"""Stands for every benchmark that is on disk."""


@dataclass(frozen=True)
class Request:
    """What was asked for. ``scenes`` and ``unseen`` are for drawn scenes."""

    model: str
    dataset: str
    root: Path
    tta: bool
    limit: int | None
    workers: int
    out: Path | None
    predictions: Path | None
    scenes: int
    unseen: bool
