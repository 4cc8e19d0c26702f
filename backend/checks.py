"""What ``ebseg doctor`` checks. Nothing is changed in Label Studio."""

from collections.abc import Callable
from dataclasses import dataclass

import httpx
from label_studio_sdk import LabelStudio
from label_studio_sdk.core import ApiError
from rq import Worker

from backend.service import load_model
from ebseg.errors import EBSegError
from ebseg.label_studio.fetch import TOKEN_REMEDY
from training.queue.queues import connect
from training.registry.registry import Registry
from training.settings import Settings

# Seconds for one answer of Label Studio.
TIMEOUT_SECONDS = 10.0

ADDRESS_REMEDY = (
    "start Label Studio with ML_BLOCK_LOCAL_IP=false and USE_DEFAULT_BANNED_SUBNETS=false (or, instead of "
    "both, SSRF_PROTECTION_ENABLED=false); else it refuses backends on loopback and private addresses"
)


NAME_REMEDY = (
    "use a host name with a dot or an IP address: for one without, such as http://backend:9090, Label Studio "
    "1.23 silently makes no webhook, and the learning loop hears of annotations by its schedule only"
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
    findings.append(_model(settings))
    return [*findings, _jobs(settings), _registry(settings)] if settings.learn else findings


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
            faults = error.body.get("validation_errors") if isinstance(error.body, dict) else None
            if "url" in (faults or {}):
                return Finding(check, f"Label Studio takes {url} for no address", NAME_REMEDY)
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


def _jobs(settings: Settings) -> Finding:
    check = "jobs"
    try:
        connection = connect(settings)
    except EBSegError as error:
        return Finding(check, "Redis cannot be used", str(error))
    workers = Worker.count(connection)
    if not workers:
        return Finding(check, "Redis answers; nothing is learnt until a worker runs (ebseg worker)")
    return Finding(check, f"Redis answers, workers: {workers}")


def _registry(settings: Settings) -> Finding:
    check = "registry"
    registry = Registry(settings)
    try:
        champion = registry.champion()
    except EBSegError as error:
        return Finding(check, "MLflow cannot be used", str(error))
    if champion is None:
        return Finding(check, "no version yet; the first reading of annotations registers the model")
    if not registry.descends(champion):
        origin = champion.tags.get("model")
        return Finding(
            check, f"the champion comes from {origin}; {settings.model} is served, and learns next"
        )
    return Finding(check, f"version {champion.number} is champion ({champion.name})")


def _client(settings: Settings) -> LabelStudio:
    key = settings.label_studio_api_key
    return LabelStudio(
        base_url=settings.label_studio_url.rstrip("/"),
        api_key=key.get_secret_value() if key else None,
        timeout=TIMEOUT_SECONDS,
    )
