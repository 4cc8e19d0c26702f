"""What ``ebseg train`` was asked for."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Request:
    """What was asked for; ``settings`` are the recipe's numbers that were given."""

    variant: str | None
    start: str | None
    encoders: str | None
    data: list[str]
    root: Path
    shares: list[float] | None
    out: Path
    workers: int
    settings: dict[str, Any]
    mlflow: bool
    dry_run: bool
