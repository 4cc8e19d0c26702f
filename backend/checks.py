"""What ``ebseg doctor`` checks: the way of a photo from Label Studio to its prediction, link by link.

Nothing is changed in Label Studio but the state of a project's models, which it finds out by calling them
when they are looked at.
"""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import httpx
import jwt

from backend.findings import Finding
from backend.loop_checks import check_disk, check_jobs, check_memory, check_registry, loop_projects
from backend.project_checks import check_projects
from backend.service import ModelLoader
from ebseg.errors import EBSegError, Refused, Unreachable
from ebseg.label_studio.server import TOKEN_REMEDY
from training.annotations.inspection import NoAddress, Objection, StudioInspection, Unresolved, require_health
from training.annotations.photos import photo_fetcher
from training.settings import Settings

TIMEOUT_SECONDS = 30.0
"""For one answer of Label Studio, which itself waits 4 s for each model of a project."""

SERVICE_SECONDS = 10.0

EXPIRES_SOON = timedelta(days=14)

ADDRESS_REMEDY = (
    "start Label Studio with ML_BLOCK_LOCAL_IP=false and USE_DEFAULT_BANNED_SUBNETS=false (or, instead of "
    "both, SSRF_PROTECTION_ENABLED=false); else it refuses backends on loopback and private addresses"
)

NAME_REMEDY = (
    "use a host name with a dot or an IP address: for one without, such as http://backend:9090, Label Studio "
    "1.23 silently makes no webhook, and the learning loop hears of annotations by its schedule only"
)

UNRESOLVED_REMEDY = (
    "Label Studio does not find that name: give --backend-url the address by which its machine, or its "
    "container, reaches this service, an IP address for example"
)


def examine(settings: Settings, backend_url: str | None = None) -> list[Finding]:
    """Run every check whose precondition holds.

    ``backend_url``: the service as Label Studio reaches it; None: where the settings have it listen.
    """
    service, answer = _service(settings, backend_url or _listens_at(settings))
    findings = [service]
    label_studio = _label_studio(settings)
    findings.append(label_studio)
    if label_studio.ok:
        findings.append(_token(settings))
        if findings[-1].ok:
            findings += _in_label_studio(settings, backend_url, str(answer.get("hostname", "")))
    if "model_version" not in answer:  # else it is loaded already, and there may be no room for a second
        findings.append(_model(settings))
    if settings.learn:
        findings += [check_jobs(settings), check_registry(settings)]
    return [*findings, check_disk(settings), check_memory()]


def _listens_at(settings: Settings) -> str:
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(settings.host, settings.host)
    return f"http://{host}:{settings.port}"


def _service(settings: Settings, url: str) -> tuple[Finding, dict[str, object]]:
    """Ask this service, where Label Studio would, whether it can predict; give its answer too."""
    check = "service"
    user, password = settings.basic_auth_user, settings.basic_auth_password
    auth = (user, password.get_secret_value()) if user is not None and password is not None else None
    try:
        response = httpx.get(f"{url.rstrip('/')}/ready", auth=auth, timeout=SERVICE_SECONDS, trust_env=False)
        answer = response.json() if response.status_code != httpx.codes.UNAUTHORIZED else {}
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        return Finding(
            check,
            f"nothing answers at {url} ({error})",
            "start it (ebseg serve), run this beside it (docker compose exec backend ebseg doctor), or give "
            "--backend-url its address as Label Studio reaches it",
        ), {}
    except ValueError:
        answer = None
    if response.status_code == httpx.codes.UNAUTHORIZED:
        remedy = "set EBSEG_BASIC_AUTH_USER and EBSEG_BASIC_AUTH_PASSWORD here as they are for the service"
        return Finding(check, f"asks for another password at {url}", remedy), {}
    if not isinstance(answer, dict) or answer.get("status") not in ("ready", "loading", "failed"):
        remedy = "give --backend-url the address of ebseg serve"
        return Finding(check, f"what answers at {url} ({response.status_code}) is not ebseg", remedy), {}
    if answer["status"] == "failed":
        return Finding(check, f"answers at {url} without a model", str(answer.get("error"))), answer
    if answer["status"] == "loading":
        return Finding(check, f"answers at {url}, and loads its model"), answer
    return Finding(check, f"answers at {url}, version {answer.get('model_version')}"), answer


def _label_studio(settings: Settings) -> Finding:
    check = "Label Studio"
    try:
        require_health(settings, SERVICE_SECONDS)
    except Refused as error:
        return Finding(check, f"{settings.label_studio_url} is not where it answers", str(error))
    except Unreachable as error:
        remedy = "start it, or set LABEL_STUDIO_URL to its address (inside a container, localhost is itself)"
        return Finding(check, str(error), remedy)
    return Finding(check, f"answers at {settings.label_studio_url}")


def _token(settings: Settings) -> Finding:
    check = "access token"
    if settings.label_studio_api_key is None:
        return Finding(check, "LABEL_STUDIO_API_KEY is not set: uploaded photos cannot be read", TOKEN_REMEDY)
    kind, expiry = _kind_of(settings.label_studio_api_key.get_secret_value())
    until = f", until {expiry:%Y-%m-%d}" if expiry else ""
    if expiry and expiry < datetime.now(UTC):
        return Finding(check, f"it is {kind} that has expired ({expiry:%Y-%m-%d %H:%M} UTC)", TOKEN_REMEDY)
    if kind == _SHORT_LIVED:
        return Finding(check, f"it is {kind}, good for minutes", TOKEN_REMEDY)
    try:
        user = _studio(settings).user()
    except EBSegError as error:
        return Finding(check, f"it is {kind}{until}, which cannot be used", str(error))
    if expiry and expiry < datetime.now(UTC) + EXPIRES_SOON:
        until += "; make a new one in time"
    return Finding(check, f"{kind} of {user}{until}")


_SHORT_LIVED = "a short-lived access token"


def _kind_of(key: str) -> tuple[str, datetime | None]:
    """Tell the kind of a token and until when it is good; a legacy one has no end."""
    try:
        claims = jwt.decode(key, options={"verify_signature": False})
        expiry = datetime.fromtimestamp(float(claims["exp"]), UTC) if "exp" in claims else None
    except (jwt.InvalidTokenError, ArithmeticError, OSError, TypeError, ValueError):
        return "a legacy token", None
    return (_SHORT_LIVED if claims.get("token_type") == "access" else "a personal access token"), expiry


def _in_label_studio(settings: Settings, backend_url: str | None, hostname: str) -> list[Finding]:
    """Look at the projects, and at what Label Studio thinks of the addresses that it is to call."""
    studio = _studio(settings)
    try:
        photos = photo_fetcher(settings, hostname)
        projects, connected = check_projects(studio, photos, settings, loop_projects(settings))
    except EBSegError as error:
        return [Finding("projects", "cannot be looked at", str(error))]
    addresses = [backend_url] if backend_url else connected or [_listens_at(settings)]
    findings = []
    for url in dict.fromkeys(address.rstrip("/") for address in addresses):
        findings.append(_address("backend address", url, studio.require_backend_address))
        if settings.learn:
            findings.append(_address("webhook address", f"{url}/webhook", studio.require_webhook_address))
    return [*findings, *projects]


def _address(check: str, url: str, require: Callable[[str], None]) -> Finding:
    try:
        require(url)
    except Unresolved as error:
        return Finding(check, f"Label Studio cannot call {url} ({error})", UNRESOLVED_REMEDY)
    except NoAddress as error:
        return Finding(check, f"Label Studio cannot call {url}: {error}", NAME_REMEDY)
    except Objection as error:
        return Finding(check, f"Label Studio refuses {url} ({error})", ADDRESS_REMEDY)
    except EBSegError as error:
        return Finding(check, "it could not be checked", str(error))
    return Finding(check, f"Label Studio may call {url}")


def _model(settings: Settings) -> Finding:
    try:
        model = ModelLoader(settings)()
    except EBSegError as error:
        return Finding("model", f"{settings.model} cannot be loaded", str(error))
    return Finding("model", f"{settings.model} loads, version {model.version}")


def _studio(settings: Settings) -> StudioInspection:
    """Connect to Label Studio, with no patience."""
    http = httpx.Client(timeout=TIMEOUT_SECONDS)
    return StudioInspection(settings.model_copy(update={"patience": 0.0}), http=http)
