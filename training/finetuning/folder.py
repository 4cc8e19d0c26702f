"""Where a fine-tuning keeps what it writes: in a folder of its own, and a copy in the storage."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ebseg.runs.folder import RunFolder

RUNS = "runs"
"""The folder of the runs, in ``EBSEG_HOME`` and in the storage."""


@dataclass(frozen=True)
class TrainingFolder(RunFolder):
    """The folder of a fine-tuning's training run."""

    @property
    def best(self) -> Path:
        """The weights of the best checkpoint so far."""
        return self.path / "best.safetensors"

    @property
    def measured(self) -> Path:
        """The mIoU of each checkpoint on the held-out photos."""
        return self.path / "measured.json"


@dataclass(frozen=True)
class FinetuneFolder:
    """The folder of a fine-tuning, and the names of what is in it; see ``RunFolder`` about older versions."""

    path: Path

    @property
    def model(self) -> Path:
        """The model that was chosen, there when the run has come to its end."""
        return self.path / "model.safetensors"

    @property
    def outcome(self) -> Path:
        """What came of it (``finetune.FinetuneResult``), written last."""
        return self.path / "outcome.json"

    @property
    def training(self) -> TrainingFolder:
        """The training run in it."""
        return TrainingFolder(self.path / "training")

    @property
    def spec(self) -> Path:
        """What a job's process is to do (``spec.RunSpec``)."""
        return self.path / "spec.json"

    @property
    def lock(self) -> Path:
        """What the process that trains in the folder holds."""
        return self.path / "run.lock"

    @property
    def asking(self) -> Path:
        """What the one of its processes holds that asks the base about photos."""
        return self.path / "asking.lock"

    @property
    def progress(self) -> Path:
        """How far that process is (``progress_file.ProgressFile``)."""
        return self.path / "progress.json"

    @property
    def output(self) -> Path:
        """What that process and its launcher have printed."""
        return self.path / "output.log"

    @property
    def key(self) -> str:
        """The run's folder in the storage."""
        return f"{RUNS}/{self.path.name}"

    @property
    def mirror(self) -> str:
        """The folder in the storage of the copy of its newest checkpoint."""
        return f"{self.key}/mirror"

    def read_outcome(self) -> dict[str, Any]:
        """Read what came of a finished run. Raises FileNotFoundError."""
        found: dict[str, Any] = json.loads(self.outcome.read_text())
        return found

    def read_progress(self) -> dict[str, Any]:
        """Read how far the run is; empty where it has not said yet."""
        try:
            found: dict[str, Any] = json.loads(self.progress.read_text())
        except (FileNotFoundError, ValueError):
            return {}
        return found
