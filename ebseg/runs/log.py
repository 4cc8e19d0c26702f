"""A run's log: one line of JSON every few steps."""

import json
import math
from pathlib import Path

from ebseg.files import write_whole
from ebseg.runs.watch import StepReport


def append(path: Path, progress: StepReport) -> None:
    """Add a line: the last prediction's loss terms, gradient norm, seconds."""
    main = {name: round(value, 4) for name, value in progress.terms.items() if not name[-1].isdigit()}
    line = {
        "step": progress.step,
        "loss": round(progress.loss, 4),
        **main,
        # fp16 overflows now and then, and JSON has no infinity.
        "gradient_norm": round(progress.gradient_norm, 4) if math.isfinite(progress.gradient_norm) else None,
        "seconds": round(progress.seconds, 3),
    }
    with path.open("a") as log:
        log.write(json.dumps(line) + "\n")


def trim(path: Path, done: int) -> None:
    """Drop the lines of steps that a resumed run does again."""
    if not path.exists():
        return
    lines = [line for line in path.read_text().splitlines() if _step_of(line) <= done]
    write_whole(path, "".join(f"{line}\n" for line in lines))


def _step_of(line: str) -> float:
    """Tell a line's step; a line that a kill cut short counts as too late."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")
