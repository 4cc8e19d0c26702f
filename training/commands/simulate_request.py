"""What ``ebseg simulate`` was asked for."""

from dataclasses import dataclass
from pathlib import Path

from training.settings import Select

RESULTS, PLOT = "results.json", "curves.png"
"""Names of the files that it writes."""


@dataclass(frozen=True)
class Request:
    """What was asked for. ``photos``: the numbers of annotated ones to measure at, ascending."""

    model: str
    data: Path
    out: Path | None
    strategies: tuple[Select, ...]
    photos: tuple[int, ...]
    pool: int
    judges: int
    seeds: int
