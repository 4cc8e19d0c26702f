"""Every setting of the service, read once from the environment (``EBSEG_*``, ``LABEL_STUDIO_*``)."""

from typing import Annotated, Any, Self

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from ebseg.errors import ConfigError
from ebseg.images import DEFAULT_MAX_PIXELS

# Threads that no prediction may take, so that /health, /setup and the webhook always find one.
RESERVED_THREADS = 4


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
    host: str = Field(default="127.0.0.1", description="address to listen on; 0.0.0.0 inside a container")
    port: int = Field(default=9090, ge=0, le=65535, description="port to listen on; 0: any free one")
    threads: int = Field(
        default=16, gt=RESERVED_THREADS, description="HTTP threads; all but four may predict at a time"
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

    @field_validator("allowed_hosts", mode="before")
    @classmethod
    def _split_at_commas(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        return tuple(host.strip() for host in value.split(",") if host.strip())

    @model_validator(mode="after")
    def _credentials_come_in_pairs(self) -> Self:
        if (self.basic_auth_user is None) != (self.basic_auth_password is None):
            raise ValueError("set both EBSEG_BASIC_AUTH_USER and EBSEG_BASIC_AUTH_PASSWORD, or neither")
        return self


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
    if not field:
        return str(error["msg"]).removeprefix("Value error, ")
    return f"{field if field.isupper() else 'EBSEG_' + field.upper()}: {error['msg']}"
