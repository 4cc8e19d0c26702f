"""Fetch photos by the addresses that tasks carry: from Label Studio, its storages, or the web."""

import base64
import threading
import time
from collections.abc import Collection
from http.cookiejar import CookieJar, DefaultCookiePolicy

import httpx
from label_studio_sdk.core.api_error import ApiError
from label_studio_sdk.core.client_wrapper import SyncClientWrapper
from pydantic import SecretStr

from ebseg.errors import FetchError, Unreachable
from ebseg.label_studio.transport import GuardedTransport

DEFAULT_TIMEOUT_S = 20.0
"""Seconds for one photo, redirects included; Label Studio waits 100 s for a whole /predict call."""

DEFAULT_MAX_BYTES = 100_000_000

MAX_REDIRECTS = 5

_CLOUD = ("s3", "gs", "azure-blob")
_DEFAULT_PORTS = {"http": 80, "https": 443}
TOKEN_REMEDY = (
    "create a personal access token in Label Studio (Account & Settings, Personal Access Token) and set "
    "LABEL_STUDIO_API_KEY to it"
)
"""What to do without a token, or with one that is refused."""

BUSY = (429, 500, 502, 503, 504)
"""Statuses by which a server, or a proxy before it, says that it cannot answer now, or may mean that."""


class ImageFetcher:
    """Fetches photos; safe to share between threads.

    ``label_studio_url``: the server's address, path prefix included. ``api_key``: a personal access
    token, exchanged for short-lived ones as needed, or a legacy token. It is sent to that server only.
    ``allowed_hosts``: "host:port", or "host" for ports 80 and 443, of further servers that may have a
    private address. ``timeout_s``: seconds for one photo (exchanging the token has as long again).
    ``max_bytes``: size of the largest file.
    """

    def __init__(
        self,
        *,
        label_studio_url: str | None = None,
        api_key: SecretStr | None = None,
        allowed_hosts: Collection[str] = (),
        timeout_s: float = DEFAULT_TIMEOUT_S,
        max_bytes: int = DEFAULT_MAX_BYTES,
    ) -> None:
        self._server = server_address(label_studio_url) if label_studio_url else None
        self._api_key = api_key
        self._timeout_s = timeout_s
        self._max_bytes = max_bytes
        allowed = {pair for host in allowed_hosts for pair in _host_ports(host)}
        if self._server is not None:
            allowed.add(_origin(self._server)[1:])
        self._client = httpx.Client(
            transport=GuardedTransport(allowed, timeout_s),
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),  # one host's never reach another
            trust_env=False,
        )
        self._lock = threading.Lock()
        self._tokens: SyncClientWrapper | None = None

    def __repr__(self) -> str:
        return f"ImageFetcher(label_studio_url={str(self._server or '')!r}, api_key={self._api_key!r})"

    def fetch(self, url: str, *, task_id: int | None = None) -> bytes:
        """Fetch a photo's file.

        ``url``: a path on Label Studio ("/data/..."), an http(s) address, or an object in a cloud storage
        (s3://, gs://, azure-blob://), which Label Studio signs for the task ``task_id``.
        Raises FetchError, naming the address without its query, which may hold secrets, and Unreachable where
        it is Label Studio that does not answer.
        """
        target = self._target(url, task_id)
        deadline = time.monotonic() + self._timeout_s
        trusted = True  # until a hop leaves Label Studio: a stranger's redirect must not spend the token
        for _ in range(MAX_REDIRECTS + 1):
            trusted = trusted and self._is_server(target)
            redirect, body = self._get(target, trusted, deadline)
            if redirect is None:
                return body
            target = redirect
        raise FetchError(f"{_shown(target)}: more than {MAX_REDIRECTS} redirects; use the final address")

    def _target(self, url: str, task_id: int | None) -> httpx.URL:
        """Return the address to ask first."""
        if not isinstance(url, str) or not url.strip():
            raise FetchError(f"the task has no photo's address, but {url!r}; check its data")
        url = url.strip()
        scheme = url.partition(":")[0].lower()
        if url.startswith("/") and not url.startswith("//"):
            prefix = self._needed_server(url).path
            path = url if prefix == "/" or url.startswith(prefix) else prefix + url[1:]
            return _parse(f"{_base(self._needed_server(url))}{path}")
        if scheme in _CLOUD:
            server = self._needed_server(url)
            if task_id is None:
                raise FetchError(f"{url}: Label Studio signs cloud storage by task, but the task has no id")
            signed = base64.urlsafe_b64encode(url.encode(errors="replace")).decode()
            return _parse(f"{server}tasks/{task_id}/presign/").copy_set_param("fileuri", signed)
        if scheme in _DEFAULT_PORTS:
            return _parse(url)
        raise FetchError(
            f"{url[:80]}: cannot be fetched; use an upload, http(s)://, or a cloud storage "
            f"({', '.join(f'{name}://' for name in _CLOUD)}) connected to Label Studio"
        )

    def _needed_server(self, url: str) -> httpx.URL:
        if self._server is None:
            raise FetchError(f"{url}: is kept by Label Studio; set LABEL_STUDIO_URL to its address")
        return self._server

    def _is_server(self, url: httpx.URL) -> bool:
        return self._server is not None and _origin(url) == _origin(self._server)

    def _get(self, url: httpx.URL, trusted: bool, deadline: float) -> tuple[httpx.URL | None, bytes]:
        """One hop: where it redirects to, or the body."""
        kind = Unreachable if trusted else FetchError
        try:
            authorization = self._authorization() if trusted else None
            response = self._send(url, authorization, deadline)
            if response.status_code == 401 and authorization and authorization.startswith("Bearer"):
                # the access token was revoked, or our clock is behind the server's: exchange once more
                response.close()
                response = self._send(url, self._authorization(renew=True), deadline)
            try:
                return self._answer(response, url, trusted)
            finally:
                response.close()
        except httpx.TimeoutException as error:
            raise kind(f"{_shown(url)}: no complete answer within {self._timeout_s:g} s") from error
        except httpx.ConnectError as error:
            hint = f"; is Label Studio running at {self._server}?" if trusted else ""
            raise kind(f"{_shown(url)}: cannot connect ({error}){hint}") from error
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise kind(f"{_shown(url)}: no usable answer ({error}); try again") from error

    def _send(self, url: httpx.URL, authorization: str | None, deadline: float) -> httpx.Response:
        headers = {"Authorization": authorization} if authorization else {}
        request = self._client.build_request("GET", url, headers=headers, extensions={"deadline": deadline})
        return self._client.send(request, auth=None, stream=True, follow_redirects=False)

    def _answer(
        self, response: httpx.Response, url: httpx.URL, trusted: bool
    ) -> tuple[httpx.URL | None, bytes]:
        if response.has_redirect_location:
            target = _parse(response.headers["Location"], base=url)
            if target.scheme not in _DEFAULT_PORTS:
                raise FetchError(f"{_shown(url)}: redirects to {target.scheme}://, which is not followed")
            if trusted and self._is_server(target) and "/user/login" in target.path:
                raise FetchError(self._refusal(response.status_code, url, trusted))
            return target, b""
        if response.status_code in (401, 403):
            raise FetchError(self._refusal(response.status_code, url, trusted))
        if response.status_code == 404:
            cloud = trusted and url.path.endswith("/presign/")
            hint = "is its storage connected to the project?" if cloud else "was the photo deleted or moved?"
            raise FetchError(f"{_shown(url)}: not found (404); {hint}")
        if response.status_code != 200:
            kind = Unreachable if trusted and response.status_code in BUSY else FetchError
            raise kind(f"{_shown(url)}: answered {response.status_code}, not a photo")
        return None, self._body(response, url)

    def _body(self, response: httpx.Response, url: httpx.URL) -> bytes:
        body = bytearray()
        for chunk in response.iter_bytes():
            body += chunk
            if len(body) > self._max_bytes:
                raise FetchError(
                    f"{_shown(url)}: larger than the limit of {self._max_bytes / 1e6:g} MB; "
                    "make it smaller or raise the limit"
                )
        return bytes(body)

    def _refusal(self, status: int, url: httpx.URL, trusted: bool) -> str:
        if not trusted:
            return (
                f"{_shown(url)}: access denied ({status}); only public photos and Label Studio's are served"
            )
        if self._api_key is None:
            return f"{_shown(url)}: Label Studio needs a token ({status}); {TOKEN_REMEDY}"
        if status == 403:
            return (
                f"{_shown(url)}: Label Studio denies access (403); may the token's user see this project? "
                "For local files, are they served (LABEL_STUDIO_LOCAL_FILES_SERVING_ENABLED)?"
            )
        return (
            f"{_shown(url)}: Label Studio refused the token ({status}); it is expired or revoked, or a "
            f"legacy token, which new servers refuse; {TOKEN_REMEDY}"
        )

    def _authorization(self, *, renew: bool = False) -> str | None:
        """Make the Authorization header for Label Studio; the SDK exchanges and keeps the access token."""
        if self._api_key is None:
            return None
        try:
            with self._lock:
                if self._tokens is None or renew:
                    self._tokens = SyncClientWrapper(
                        base_url=str(self._server),
                        api_key=self._api_key.get_secret_value(),
                        httpx_client=self._client,
                    )
                tokens = self._tokens
            return tokens.get_headers()["Authorization"]
        except (ApiError, ValueError) as error:
            detail = error.body if isinstance(error, ApiError) else "no readable answer"
            known = isinstance(error, ApiError) and error.status_code not in BUSY
            kind = FetchError if known else Unreachable
            raise kind(f"{self._server}: the token was not accepted ({detail}); {TOKEN_REMEDY}") from error


def server_address(url: str) -> httpx.URL:
    """Read Label Studio's address; its path ends in a slash. Raises FetchError for one that cannot be."""
    server = _parse(url.strip())
    if server.scheme not in _DEFAULT_PORTS:
        raise FetchError(f"LABEL_STUDIO_URL is {url!r}; it must look like http://localhost:8080")
    return _parse(f"{_base(server)}{server.path.rstrip('/')}/")


def _parse(url: str, base: httpx.URL | None = None) -> httpx.URL:
    try:
        parsed = base.join(url) if base else httpx.URL(url)
    except (httpx.InvalidURL, UnicodeError) as error:
        raise FetchError(f"{url[:80]!r} is not a valid address ({error}); check the task's data") from error
    if parsed.scheme in _DEFAULT_PORTS and not parsed.host:
        raise FetchError(f"{url[:80]!r} is not a valid address (no host); check the task's data")
    return parsed


def _base(url: httpx.URL) -> str:
    return f"{url.scheme}://{url.netloc.decode()}"


def _origin(url: httpx.URL) -> tuple[str, str, int]:
    return url.scheme, _ascii_host(url), url.port or _DEFAULT_PORTS.get(url.scheme, 0)


def _ascii_host(url: httpx.URL) -> str:
    """Return the host as it is looked up: international names in their ASCII form."""
    return url.raw_host.decode("ascii").lower()


def _host_ports(host: str) -> list[tuple[str, int]]:
    url = _parse(f"//{host.strip()}")
    if not url.host or url.path not in ("", "/"):
        raise FetchError(f"allowed host {host!r} must be a host or host:port")
    return [(_ascii_host(url), port) for port in ([url.port] if url.port else _DEFAULT_PORTS.values())]


def _shown(url: httpx.URL) -> str:
    """Write an address for messages, without password and query, which may hold secrets."""
    return f"{url.scheme}://{url.host}{f':{url.port}' if url.port else ''}{url.path}"
