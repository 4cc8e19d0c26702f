"""Every setting of the service and of the learning loop, read once from the environment."""

import os
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from platformdirs import user_data_path
from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from ebseg.config import InferencePrecision
from ebseg.errors import ConfigError
from ebseg.images import DEFAULT_MAX_PIXELS

RESERVED_THREADS = 4
"""That no prediction may take, so that /health, /setup and the webhook always find one."""

WAITING_THREADS = 48
"""Beside EBSEG_THREADS, for requests that wait until another one predicts no more."""


class Select(StrEnum):
    """Which unlabelled task a project's scores put first, see ``training.selection``."""

    RANDOM = "random"
    DIVERSE = "diverse"
    UNCERTAIN = "uncertain"
    MIXED = "mixed"


class Settings(BaseSettings):
    """What can be set from outside; each field is the variable ``EBSEG_<FIELD>`` unless it says otherwise."""

    model_config = SettingsConfigDict(
        env_prefix="EBSEG_",
        frozen=True,
        env_ignore_empty=True,
        populate_by_name=True,
        hide_input_in_errors=True,
    )

    model: str = Field(default="ebseg-tiny", description="what ebseg.load takes: a name or a checkpoint file")
    device: str | None = Field(default=None, description="such as cpu or cuda:0; unset: the best here")
    torch_threads: int | None = Field(
        default=None, ge=1, description="CPU threads of one prediction; unset: PyTorch's own choice"
    )
    precision: InferencePrecision = Field(
        default=InferencePrecision.AUTO,
        description="for photos: auto (bf16 where this CPU multiplies it faster), float32, bf16, int8",
    )
    host: str = Field(default="127.0.0.1", description="address to listen on; 0.0.0.0 inside a container")
    port: int = Field(default=9090, ge=0, le=65535, description="port to listen on; 0: any free one")
    threads: int = Field(
        default=16,
        gt=RESERVED_THREADS,
        description="HTTP threads; all but four may predict at a time, while 48 more requests wait",
    )
    basic_auth_user: str | None = Field(default=None, description="user to ask for; unset: open to all")
    basic_auth_password: SecretStr | None = Field(default=None, description="password that goes with it")
    label_studio_url: str = Field(
        default="http://localhost:8080",
        validation_alias="LABEL_STUDIO_URL",
        description="address of Label Studio as this process reaches it (variable LABEL_STUDIO_URL)",
    )
    label_studio_api_key: SecretStr | None = Field(
        default=None,
        validation_alias="LABEL_STUDIO_API_KEY",
        description="personal access token that fetches uploaded photos (variable LABEL_STUDIO_API_KEY)",
    )
    allowed_hosts: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(),
        description="hosts besides Label Studio's that may have private addresses, separated by commas",
    )
    fetch_timeout: float = Field(default=20.0, gt=0, description="seconds that fetching one photo may take")
    max_bytes: int = Field(default=100_000_000, gt=0, description="bytes that a photo's file may have")
    max_pixels: int = Field(
        default=DEFAULT_MAX_PIXELS, gt=0, description="pixels (width x height) that a photo may have"
    )
    min_area: float = Field(
        default=0.001, ge=0, lt=1, description="share of the photo below which a label's mask is left out"
    )
    min_region_confidence: float = Field(
        default=0.0, ge=0, le=1, description="score below which a region is left out"
    )
    score_threshold: float | None = Field(
        default=None, ge=0, le=1, description="share below which a pixel stays unlabelled; unset: the model's"
    )
    predict_budget: float = Field(
        default=80.0,
        gt=0,
        description="seconds after which /predict leaves the other tasks out (Label Studio waits for 100)",
    )
    max_request_bytes: int = Field(
        default=256_000_000,
        gt=0,
        description="bytes of a request; hundreds of tasks come at once, with all their annotations",
    )

    home: Path = Field(
        default_factory=lambda: user_data_path("ebseg"),
        description="folder of the loop: runs, the embedded Redis, MLflow's store",
    )
    storage: str | None = Field(
        default=None,
        description="folder or fsspec URL (s3://...) of snapshots and runs for all workers; unset: in home",
    )
    redis_url: SecretStr | None = Field(
        default=None,
        validation_alias="REDIS_URL",
        description="Redis that holds the jobs (variable REDIS_URL); unset: an embedded one, in home",
    )
    mlflow_tracking_uri: SecretStr | None = Field(
        default=None,
        validation_alias="MLFLOW_TRACKING_URI",
        description="MLflow's server or store (MLFLOW_TRACKING_URI); unset: SQLite and a folder in home",
    )
    registered_model: str = Field(
        default="ebseg", description="name in MLflow's registry of the model that learns"
    )
    follow: bool = Field(
        default=True,
        description="serve the registry's champion, where there is one, rather than the model",
    )
    follow_seconds: float = Field(
        default=5.0, gt=0, description="seconds between looks at which version is the champion"
    )
    share: Literal["project", "all"] = Field(
        default="project",
        description="who learns from whom: each project from itself alone, or all share one",
    )
    project_models: int = Field(
        default=16,
        ge=1,
        description="models of projects kept in memory beside the base, of which they are heads",
    )
    learn: bool = Field(default=True, description="take corrections and webhooks as a reason to train")
    memory: bool = Field(
        default=True, description="use what corrections say of pixels within seconds, without a training"
    )
    debounce: float = Field(
        default=60.0, ge=0, description="seconds without an event before a project's annotations are read"
    )
    debounce_most: float = Field(
        default=600.0, gt=0, description="seconds after which they are read even while events go on coming"
    )
    schedule: str = Field(
        default="0 3 * * *", description="when all known projects are looked at, as cron writes it, in UTC"
    )
    projects: Annotated[tuple[int, ...], NoDecode] = Field(
        default=(), description="projects that the schedule looks at besides those that called, by commas"
    )
    min_new_annotations: int = Field(
        default=20, ge=1, description="new or changed annotations of a project that start a training"
    )
    min_new_labels: int = Field(
        default=1,
        ge=1,
        description="labels never trained on before that start a training too",
    )
    held_out_share: float = Field(
        default=0.3,
        gt=0,
        lt=1,
        description="share of the tasks that is never trained on, by a hash, for ever",
    )
    finetune_steps: int = Field(default=600, ge=1, description="updates of a fine-tuning at most")
    finetune_learning_rate: float = Field(default=5e-4, gt=0, description="of a fine-tuning")
    unlabelled: Literal["ignored", "background"] = Field(
        default="ignored", description="what a pixel without a region is: not known, or none of the labels"
    )
    general_data: str | None = Field(
        default=None,
        description="data not to forget, as --data of ebseg train, or own-answers, the base's on the "
        "project's photos; unset: drawn scenes for ebseg-tiny, own-answers for others",
    )
    data_root: Path = Field(
        default=Path("datasets"), description="where benchmarks named by general_data lie"
    )
    general_photos: int = Field(default=40, ge=1, description="general photos that forgetting is measured on")
    train_processes: int = Field(
        default=1, ge=1, description="processes (GPUs) of a fine-tuning on its machine, by accelerate launch"
    )
    train_timeout: float = Field(default=24 * 3600.0, gt=0, description="seconds that a fine-tuning may take")
    train_retries: int = Field(
        default=3, ge=0, description="times that a training whose worker died goes on from its checkpoint"
    )
    promote_margin: float = Field(
        default=1.0, ge=0, description="points of held-out mIoU by which a candidate must be better"
    )
    largest_drop: float = Field(
        default=5.0, ge=0, description="points of IoU that a label with enough pixels may lose"
    )
    enough_pixels: int = Field(
        default=10_000, ge=1, description="held-out pixels from which a label's own IoU counts in the gate"
    )
    largest_forgetting: float = Field(
        default=0.05, ge=0, le=1, description="share of the mIoU on general data that a candidate may lose"
    )
    min_held_out: int = Field(default=8, ge=2, description="held-out tasks below which nothing is promoted")
    few_held_out: Literal["wait", "cross-validate"] = Field(
        default="wait", description="what to do with fewer held-out tasks than that"
    )
    label_chunk: int = Field(default=8, ge=1, description="tasks that one labelling job predicts")
    select: Select = Field(
        default=Select.DIVERSE, description="which unlabelled task comes first by the scores of predictions"
    )
    patience: float = Field(
        default=15.0,
        ge=0,
        description="seconds that a call waits for Label Studio to answer, before the loop pauses",
    )

    @field_validator("allowed_hosts", mode="before")
    @classmethod
    def _split_at_commas(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        return tuple(host.strip() for host in value.split(",") if host.strip())

    @field_validator("projects", mode="before")
    @classmethod
    def _numbers_at_commas(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        return tuple(part.strip() for part in value.split(",") if part.strip())

    @field_validator("registered_model")
    @classmethod
    def _is_a_name_to_mlflow(cls, value: str) -> str:
        # MLflow refuses such a name at each call, which would look like a fault of its store.
        if value.strip() in ("", ".", "..") or "/" in value or ":" in value:
            raise ValueError(
                "MLflow takes no name that is empty, . or .., or that has / or : in it: choose another"
            )
        return value

    @model_validator(mode="after")
    def _credentials_come_in_pairs(self) -> Self:
        if (self.basic_auth_user is None) != (self.basic_auth_password is None):
            raise ValueError("set both EBSEG_BASIC_AUTH_USER and EBSEG_BASIC_AUTH_PASSWORD, or neither")
        return self

    @property
    def tracking_uri(self) -> str:
        """Where MLflow keeps runs and models."""
        if self.mlflow_tracking_uri is not None:
            return self.mlflow_tracking_uri.get_secret_value()
        return f"sqlite:///{(self.home / 'mlflow.db').resolve()}"

    @property
    def base_model(self) -> str:
        """The model by a name that is the same wherever a process runs: a file by its whole path."""
        path = Path(self.model).expanduser()
        return str(path.resolve()) if path.is_file() else self.model

    @property
    def storage_url(self) -> str:
        """Where snapshots and runs are kept: a folder or an fsspec URL."""
        return self.storage or str((self.home / "storage").resolve())

    def make_home(self) -> None:
        """Make the loop's folder if need be. Raises ConfigError where it cannot be made or written to."""
        try:
            self.home.mkdir(parents=True, exist_ok=True)
            reason = None if os.access(self.home, os.W_OK | os.X_OK) else "it cannot be written to"
        except OSError as error:
            reason = error.strerror
        if reason:
            raise ConfigError(
                f"EBSEG_HOME: {self.home} cannot be used ({reason}): set it to a writable folder"
            )


def load_settings(**overrides: Any) -> Settings:
    """Read the settings from the environment, with overrides that are not None.

    Raises ConfigError that names each wrong variable; values are left out, as they may be secrets.
    """
    try:
        return Settings(**{name: value for name, value in overrides.items() if value is not None})
    except ValidationError as error:
        raise ConfigError("; ".join(map(_complaint, error.errors()))) from None


def _complaint(error: Any) -> str:
    field = str(error["loc"][0]) if error["loc"] else ""
    message = str(error["msg"]).removeprefix("Value error, ")
    if not field:
        return message
    return f"{field if field.isupper() else 'EBSEG_' + field.upper()}: {message}"
