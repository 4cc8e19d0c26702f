"""What ``ebseg finetune`` was asked for."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Request:
    """What was asked for; ``settings`` are the fields of FinetuneConfig that were given."""

    model: str
    data: Path
    out: Path
    photos: int | None
    general: str | None
    root: Path
    seed: int
    settings: dict[str, Any]
    as_json: bool
