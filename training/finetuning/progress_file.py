"""How far a fine-tuning is, in a small file that the job beside it reads."""

import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ebseg.config import TrainConfig
from ebseg.data.samples import Source
from ebseg.errors import EBSegError, Outage
from ebseg.files import write_whole_json
from ebseg.runs.watch import StepReport, Watcher

if TYPE_CHECKING:  # PyTorch is slow to import: progress is told before that
    from ebseg.model import EBSeg

WRITE_EVERY = 1.0
"""Seconds between writes, but where the stage changes."""

PACE_STEPS = 20
"""Steps that the pace is taken from."""


class Stage(StrEnum):
    """What a fine-tuning does."""

    STARTING = "starting"
    TRAINING = "training"
    MEASURING = "measuring"
    CHOOSING = "choosing weights"
    DONE = "done"
    FAILED = "failed"
    STOPPED = "stopped"


class ProgressFile(Watcher):
    """Writes a run's progress as JSON to ``path``, whole each time and at most once a second.

    Always there: ``stage`` and ``time`` (ISO 8601, UTC). Where it failed: ``fails_again``, whether another
    try must fail too. From the start of training on: ``step`` of
    ``steps``. From the first step on: ``loss`` and its ``terms``, ``photos_per_second``, ``seconds_left`` of
    training, and ``memory`` (peak bytes).
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._told: dict[str, Any] = {}
        self._stage: Stage | None = None
        self._written = 0.0
        self._recent: deque[tuple[int, float]] = deque(maxlen=PACE_STEPS)
        self.enter(Stage.STARTING)

    def enter(self, stage: Stage) -> None:
        """Say what the run does from now on."""
        if stage is not self._stage:
            self._stage = stage
            self._write()

    def started(self, net: "EBSeg", config: TrainConfig, sources: Sequence[Source], step: int) -> None:
        """Tell where training begins."""
        self._told = {"step": step, "steps": config.steps}
        self.enter(Stage.TRAINING)

    def stepped(self, progress: StepReport) -> None:
        """Tell what a step did, unless the last one was told a moment ago."""
        self._recent.append((progress.photos, progress.seconds))
        photos, seconds = map(sum, zip(*self._recent, strict=True))
        left = (progress.steps - progress.step) * seconds / len(self._recent)
        self._told = {
            "step": progress.step,
            "steps": progress.steps,
            "loss": round(progress.loss, 4),
            "terms": {name: round(value, 4) for name, value in progress.main.items()},
            "photos_per_second": round(photos / max(seconds, 1e-9), 2),
            "seconds_left": round(left),
            "memory": progress.memory,
        }
        self.enter(Stage.TRAINING)
        if time.monotonic() - self._written >= WRITE_EVERY:
            self._write()

    def stored(self, net: "EBSeg", step: int) -> None:
        """Tell that a checkpoint is measured now: call this before who measures it."""
        self.enter(Stage.MEASURING)

    def finished(self, path: Path) -> None:
        """Tell that training is over and the weights are chosen."""
        self.enter(Stage.CHOOSING)

    def failed(self, error: BaseException) -> None:
        """Tell that the run failed, or that somebody stopped it; why it failed is the log's to say."""
        if not isinstance(error, Exception):
            self.enter(Stage.STOPPED)
            return
        self._told["fails_again"] = isinstance(error, EBSegError) and not isinstance(error, Outage)
        self.enter(Stage.FAILED)

    def _write(self) -> None:
        content = {
            "stage": self._stage,
            **self._told,
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        with suppress(OSError):  # a full disk ends the run where it matters: at a checkpoint
            write_whole_json(self._path, content, indent=None)
        self._written = time.monotonic()
