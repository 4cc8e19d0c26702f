"""What a fine-tuning's process is told by the job that starts it."""

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ebseg.errors import ConfigError

JOB_VARIABLE = "EBSEG_JOB_PROCESS"
"""Environment variable with the number of the process that the run works for."""


class MlflowSpec(BaseModel):
    """Where MLflow keeps the run, and what it calls it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tracking_uri: str
    experiment: str
    run_name: str


class RunSpec(BaseModel):
    """What to fine-tune, on which annotations, and where everything is."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    base: str = Field(description="what ebseg.load takes")
    backbone: str | None = Field(
        default=None, description="by which name the result finds its backbone; unset: it is stored whole"
    )
    storage: str = Field(description="folder or URL of the snapshots")
    cache: Path = Field(description="folder for copies of the storage's files")
    project: int
    fingerprint: str = Field(description="of the snapshot of the project's annotations")
    out: Path = Field(description="folder of checkpoints, progress and model; its name is the run's")
    fold: int | None = Field(
        default=None, ge=0, description="part of the photos that another model trains on"
    )
    config: dict[str, Any] = Field(description="fields of FinetuneConfig")
    general: str | None = Field(description="data not to forget, as general_data takes it")
    teacher: str | None = Field(
        default=None, description="whose own answers are that data, where no other is; as ebseg.load takes it"
    )
    first_model: str = Field(description="what the loop began with: it says what that data is where unset")
    data_root: Path = Field(description="where benchmarks are")
    workers: int = Field(ge=0, description="processes that read photos")
    mlflow: MlflowSpec | None = None
    mirror: bool | None = Field(
        default=None, description="copy checkpoints into the storage; unset: where that is not a local folder"
    )


def read_spec(path: Path) -> RunSpec:
    """Read what to do. Raises ConfigError."""
    try:
        return RunSpec.model_validate_json(path.read_text())
    except (OSError, ValidationError) as error:
        raise ConfigError(f"{path} does not say what to fine-tune: {error}") from error
