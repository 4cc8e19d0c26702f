"""What ``ebseg doctor`` checks. Nothing is changed in Label Studio."""

from collections.abc import Callable
from dataclasses import dataclass

import httpx
from label_studio_sdk import LabelStudio
from label_studio_sdk.core import ApiError

from backend.service import load_model
from ebseg.errors import EBSegError
from training.settings import Settings

# Seconds for one answer of Label Studio.
TIMEOUT_SECONDS = 10.0

TOKEN_REMEDY = (
    "create a personal access token in Label Studio (Account & Settings, Personal Access Token) and set "
    "LABEL_STUDIO_API_KEY to it"
)
ADDRESS_REMEDY = (
    "start Label Studio with ML_BLOCK_LOCAL_IP=false and USE_DEFAULT_BANNED_SUBNETS=false (or, instead of "
    "both, SSRF_PROTECTION_ENABLED=false); else it refuses backends on loopback and private addresses"
)


@dataclass(frozen=True)
class Finding:
    """One line of the report; ``remedy`` is empty where nothing is wrong."""

    check: str
    detail: str
    remedy: str = ""

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.remedy


def examine(settings: Settings, backend_url: str) -> list[Finding]:
    """Run every check whose precondition holds. ``backend_url``: the backend as Label Studio reaches it."""
    findings = [_label_studio(settings)]
    if findings[0].ok:
        findings.append(_token(settings))
        if findings[-1].ok:
            findings += [_backend_address(settings, backend_url), _webhook_address(settings, backend_url)]
    return [*findings, _model(settings)]


def _label_studio(settings: Settings) -> Finding:
    check, url = "Label Studio", settings.label_studio_url
    try:
        response = httpx.get(f"{url.rstrip('/')}/health", timeout=TIMEOUT_SECONDS)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        remedy = "start it, or set LABEL_STUDIO_URL to its address (inside a container, localhost is itself)"
        return Finding(check, f"does not answer at {url} ({error})", remedy)
    if response.status_code != httpx.codes.OK:
        return Finding(
            check, f"{url}/health answers {response.status_code}", "set LABEL_STUDIO_URL to its address"
        )
    return Finding(check, f"answers at {url}")


def _token(settings: Settings) -> Finding:
    check = "access token"
    if settings.label_studio_api_key is None:
        return Finding(check, "LABEL_STUDIO_API_KEY is not set: uploaded photos cannot be read", TOKEN_REMEDY)
    try:
        user = _client(settings).users.whoami()
    except ApiError as error:
        return Finding(check, f"Label Studio refuses it ({error.status_code})", TOKEN_REMEDY)
    except (httpx.HTTPError, ValueError) as error:
        return Finding(check, f"it could not be checked ({error})", TOKEN_REMEDY)
    return Finding(check, f"is that of {user.email}")


def _backend_address(settings: Settings, backend_url: str) -> Finding:
    """Ask Label Studio to add the backend to no project: it checks the address first, and adds nothing."""
    return _probe(
        "backend address",
        backend_url,
        lambda: _client(settings).ml.create(url=backend_url, project=0),
    )


def _webhook_address(settings: Settings, backend_url: str) -> Finding:
    """Ask for a webhook with an unknown action: the address is checked first, and nothing is made."""
    url = f"{backend_url.rstrip('/')}/webhook"
    return _probe(
        "webhook address", url, lambda: _client(settings).webhooks.create(url=url, actions=["NO_SUCH_ACTION"])
    )


def _probe(check: str, url: str, ask: Callable[[], object]) -> Finding:
    """Call Label Studio with something it must refuse; how it refuses tells what it thinks of the address."""
    try:
        ask()
    except ApiError as error:
        if error.status_code == httpx.codes.BAD_REQUEST:
            return Finding(check, f"Label Studio may call {url}")
        reason = error.body.get("detail") if isinstance(error.body, dict) else error.body
        return Finding(check, f"Label Studio refuses {url} ({error.status_code}: {reason})", ADDRESS_REMEDY)
    except httpx.HTTPError as error:
        return Finding(check, f"it could not be checked ({error})", "run this again")
    return Finding(check, f"Label Studio may call {url}")


def _model(settings: Settings) -> Finding:
    try:
        model = load_model(settings)
    except EBSegError as error:
        return Finding("model", f"{settings.model} cannot be loaded", str(error))
    return Finding("model", f"{settings.model} loads, version {model.version}")


def _client(settings: Settings) -> LabelStudio:
    key = settings.label_studio_api_key
    return LabelStudio(
        base_url=settings.label_studio_url.rstrip("/"),
        api_key=key.get_secret_value() if key else None,
        timeout=TIMEOUT_SECONDS,
    )
