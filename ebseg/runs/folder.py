"""Where a training run keeps what it writes."""

import json
from dataclasses import dataclass
from pathlib import Path

from ebseg.files import write_whole_json


@dataclass(frozen=True)
class RunFolder:
    """The folder of a training run, and the names of what is in it.

    A run that was stopped goes on from these files, so that the names of older versions stay.
    """

    path: Path

    @property
    def model(self) -> Path:
        """The trained model, there when the run has come to its end."""
        return self.path / "model.safetensors"

    @property
    def log(self) -> Path:
        """A line of JSON every few steps."""
        return self.path / "log.jsonl"

    @property
    def checkpoints(self) -> Path:
        """The folder of checkpoints."""
        return self.path / "checkpoints"

    @property
    def unfinished_checkpoint(self) -> Path:
        """A checkpoint that is being written: one name for all, so that kills leave one at most."""
        return self.checkpoints / "unfinished"

    @property
    def mlflow(self) -> Path:
        """MLflow's number of the run."""
        return self.path / "mlflow.json"

    def checkpoint(self, step: int) -> Path:
        """Name the checkpoint after so many steps."""
        return self.checkpoints / f"step-{step:08d}.pt"

    def stored(self) -> list[Path]:
        """List the checkpoints that are there, oldest first."""
        return sorted(self.checkpoints.glob("step-*.pt"))

    def mlflow_run(self) -> str | None:
        """Read MLflow's number of the run; None where it has none."""
        try:
            found: str = json.loads(self.mlflow.read_text())["run_id"]
        except (FileNotFoundError, ValueError, KeyError):
            return None
        return found

    def keep_mlflow_run(self, run_id: str) -> None:
        """Write MLflow's number of the run."""
        write_whole_json(self.mlflow, {"run_id": run_id}, indent=None)


def step_of(checkpoint: Path) -> int:
    """Tell how many steps a checkpoint comes after."""
    return int(checkpoint.stem.removeprefix("step-"))
