"""Fetch photos by the addresses that tasks carry: from Label Studio, its storages, or the web."""

import base64
import threading
import time
from collections.abc import Collection
from dataclasses import replace

import httpx
from label_studio_sdk.core.api_error import ApiError
from label_studio_sdk.core.client_wrapper import SyncClientWrapper
from pydantic import SecretStr

from ebseg.errors import FetchError, HostUnavailable, NoPhoto, Refused, TokenRefused, Unreachable
from ebseg.label_studio.server import (
    DEFAULT_PORTS,
    TOKEN_REMEDY,
    Server,
    host_and_port,
    is_media,
    parse,
    read_hostname,
    server_address,
    shown,
)
from ebseg.label_studio.transport import AddressNotAllowed, GuardedTransport

DEFAULT_TIMEOUT_S = 20.0
"""Seconds for one photo, redirects included; Label Studio waits 100 s for a whole /predict call."""

DEFAULT_MAX_BYTES = 100_000_000

MAX_REDIRECTS = 5

BUSY = (408, 425, 429)
"""Statuses, and all from 500 on, by which a server, or a proxy before it, says that it cannot answer now."""

_GONE = (404, 410)
_WHOAMI = "api/current-user/whoami"
_HEADERS = {
    "Accept": "*/*",
    "Accept-Encoding": "identity",
    "User-Agent": "ebseg",
}  # photos are packed as they are
_CLOUD = ("s3", "gs", "azure-blob")


class ImageFetcher:
    """Fetches photos; safe to share between threads.

    ``label_studio_url``: the server's address, path prefix included, as this process reaches it.
    ``hostname``: what the server calls itself, see ``note_hostname``. ``api_key``: a personal access token,
    exchanged for short-lived ones as needed, or a legacy token. It is sent to that server only, for photos
    only. ``allowed_hosts``: "host:port", or "host" for ports 80 and 443, of further servers that may have a
    private address. ``timeout_s``: seconds for one photo (exchanging the token has as long again).
    ``max_bytes``: size of the largest file.
    """

    def __init__(
        self,
        *,
        label_studio_url: str | None = None,
        hostname: str = "",
        api_key: SecretStr | None = None,
        allowed_hosts: Collection[str] = (),
        timeout_s: float = DEFAULT_TIMEOUT_S,
        max_bytes: int = DEFAULT_MAX_BYTES,
    ) -> None:
        self._server = Server(server_address(label_studio_url)) if label_studio_url else None
        self.note_hostname(hostname)
        self._api_key = api_key
        self._timeout_s = timeout_s
        allowed = {pair for host in allowed_hosts for pair in _host_ports(host)}
        self._elsewhere = GuardedTransport(allowed, timeout_s, max_bytes)
        own = {host_and_port(self._server.url)} if self._server else set()
        self._label_studio = GuardedTransport(own, timeout_s, max_bytes)
        self._exchange = httpx.Client(transport=self._label_studio, trust_env=False)
        self._exchange.event_hooks = {"response": [self._require_no_redirect]}
        self._lock = threading.Lock()
        self._tokens: SyncClientWrapper | None = None

    def __repr__(self) -> str:
        return f"ImageFetcher(label_studio_url={self._shown!r}, api_key={self._api_key!r})"

    @property
    def _shown(self) -> str:
        return shown(self._server.url) if self._server else ""

    @property
    def hostname(self) -> str:
        """What Label Studio calls itself; empty where it has not said so."""
        return self._server.hostname if self._server else ""

    def note_hostname(self, hostname: object) -> None:
        """Take what Label Studio calls itself to its backends: photos at that address are its own.

        They are fetched by ``label_studio_url`` all the same, so whoever makes up another name gains nothing.
        """
        told = read_hostname(hostname)
        if self._server and told:
            self._server = replace(self._server, hostname=told)

    def fetch(self, url: str, *, task_id: int | None = None) -> bytes:
        """Fetch a photo's file.

        ``url``: a path on Label Studio ("/data/..."), an http(s) address, or an object in a cloud storage
        (s3://, gs://, azure-blob://), which Label Studio signs for the task ``task_id``.
        Raises NoPhoto where the task is at fault, Refused where a setting or an access is, TokenRefused where
        it is the token, Unreachable where Label Studio does not answer and HostUnavailable where another
        server does not. All name the address without its query, which may hold secrets.
        """
        deadline = time.monotonic() + self._timeout_s
        target, own = first = self._target(url, task_id)
        try:
            for _ in range(MAX_REDIRECTS + 1):
                answer = self._get(target, own, deadline)
                if isinstance(answer, bytes):
                    return answer
                target, own = answer
        except FetchError as error:
            if target == first[0]:
                raise
            raise type(error)(f"{shown(first[0])} redirects to {error}") from error
        raise Refused(
            f"{shown(first[0])}: more than {MAX_REDIRECTS} redirects, the last to {shown(target)}; "
            "use the final address"
        )

    def require_access(self) -> None:
        """See whether Label Studio answers and takes the token, by asking whose it is.

        Raises TokenRefused or Refused, and Unreachable where it does not answer or cannot now.
        """
        server = self._needed_server("what is asked for")
        deadline = time.monotonic() + self._timeout_s
        answer = self._get(parse(f"{server.url}{_WHOAMI}"), True, deadline)
        if not isinstance(answer, bytes):
            raise Refused(f"{self._shown} redirects to {shown(answer[0])}; is LABEL_STUDIO_URL its address?")

    def _target(self, url: object, task_id: int | None) -> tuple[httpx.URL, bool]:
        """Give the address to ask first, and whether it is Label Studio's own."""
        if not isinstance(url, str) or not url.strip():
            raise NoPhoto(f"the task has no photo's address, but {url!r}; check its data")
        url = url.strip()
        scheme = url.partition("://")[0].lower() if "://" in url else ""
        if scheme in _CLOUD:
            server = self._needed_server(url)
            if task_id is None:
                raise NoPhoto(f"{url}: Label Studio signs cloud storage by task, but the task has no id")
            signed = base64.urlsafe_b64encode(url.encode(errors="replace")).decode()
            return parse(f"{server.url}tasks/{task_id}/presign/").copy_set_param("fileuri", signed), True
        is_path = url.startswith("/") and not url.startswith("//")
        if not is_path and scheme not in DEFAULT_PORTS:
            raise NoPhoto(
                f"{url[:80]}: cannot be fetched; use an upload, http(s)://, or a cloud storage "
                f"({', '.join(f'{name}://' for name in _CLOUD)}) connected to Label Studio"
            )
        found = self._needed_server(url).own(url) if is_path or self._server else None
        return (parse(url), False) if found is None else (found, True)

    def _needed_server(self, url: str) -> Server:
        if self._server is None:
            raise Refused(f"{url[:80]}: is kept by Label Studio; set LABEL_STUDIO_URL to its address")
        return self._server

    def _get(self, url: httpx.URL, own: bool, deadline: float) -> bytes | tuple[httpx.URL, bool]:
        """One hop: the body, or where it redirects to and whether that is still Label Studio."""
        away = Unreachable if own else HostUnavailable
        try:
            response = self._ask(url, own, deadline)
            try:
                if response.has_redirect_location:
                    return self._redirect(response, url, own)
                self._require_success(response.status_code, url, own)
                return _body(response, url)
            finally:
                response.close()
        except httpx.TimeoutException as error:
            raise away(f"{shown(url)}: no complete answer within {self._timeout_s:g} s") from error
        except httpx.ConnectError as error:
            hint = f"; is Label Studio running at {self._shown}?" if own else ""
            raise away(f"{shown(url)}: cannot connect ({error}){hint}") from error
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise away(f"{shown(url)}: no usable answer ({error}); try again") from error
        except AddressNotAllowed as error:
            if own or not is_media(url.path):
                raise
            raise Refused(
                f"{error}. If that is Label Studio itself, set its own variable LABEL_STUDIO_HOST to the "
                "address that people see: it tells its backends"
            ) from error

    def _ask(self, url: httpx.URL, own: bool, deadline: float) -> httpx.Response:
        if not own:
            return _send(self._elsewhere, url, None, deadline)
        authorization = self._authorization()
        response = _send(self._label_studio, url, authorization, deadline)
        if response.status_code == 401 and authorization and authorization.startswith("Bearer"):
            # the access token was revoked, or our clock is behind the server's: exchange once more
            response.close()
            response = _send(self._label_studio, url, self._authorization(renew=True), deadline)
        return response

    def _redirect(self, response: httpx.Response, url: httpx.URL, own: bool) -> tuple[httpx.URL, bool]:
        """Follow a redirect. A stranger's is one to a stranger: it must not spend the token."""
        target = _location(response, url)
        if not own or self._server is None:
            return target, False
        if "/user/login" in target.path:
            raise self._refusal(response.status_code, url)
        if moved := self._server.moved(url, target):
            raise Refused(moved)
        try:
            found = self._server.own(str(target))
        except FetchError as error:
            raise type(error)(f"{shown(url)} redirects to {error}") from error
        return (target, False) if found is None else (found, True)

    def _require_success(self, status: int, url: httpx.URL, own: bool) -> None:
        if status == 200:
            return
        if status in BUSY or status >= 500:
            # 1.23 looks an upload up in its database, and fails where that does not have it any more
            hint = "; was the photo deleted?" if own and status == 500 and "/data/upload/" in url.path else ""
            kind = Unreachable if own else HostUnavailable
            raise kind(f"{shown(url)}: answered {status}{hint}")
        if own and status in (401, 403):
            raise self._refusal(status, url)
        if own and status in _GONE:
            raise Refused(f"{shown(url)}: not found ({status}) on Label Studio; {_why_gone(url)}")
        if status in _GONE:
            raise NoPhoto(f"{shown(url)}: not found ({status}); was the photo deleted or moved?")
        if status in (401, 403):
            raise Refused(
                f"{shown(url)}: access denied ({status}); only public photos and Label Studio's are served"
            )
        raise Refused(f"{shown(url)}: answered {status}")

    def _refusal(self, status: int, url: httpx.URL) -> Refused:
        if self._api_key is None:
            return Refused(f"{shown(url)}: Label Studio needs a token ({status}); {TOKEN_REMEDY}")
        if status == 403:
            return Refused(
                f"{shown(url)}: Label Studio denies access (403); may the token's user see this project? "
                "For local files, are they served (LABEL_STUDIO_LOCAL_FILES_SERVING_ENABLED)?"
            )
        return TokenRefused(
            f"{shown(url)}: Label Studio refused the token ({status}); it is expired or revoked, or a "
            f"legacy token, which new servers refuse; {TOKEN_REMEDY}"
        )

    def _authorization(self, *, renew: bool = False) -> str | None:
        """Make the Authorization header for Label Studio; the SDK exchanges and keeps the access token."""
        if self._api_key is None or self._server is None:
            return None
        try:
            with self._lock:
                if self._tokens is None or renew:
                    self._tokens = SyncClientWrapper(
                        base_url=str(self._server.url),
                        api_key=self._api_key.get_secret_value(),
                        httpx_client=self._exchange,
                    )
                tokens = self._tokens
            return tokens.get_headers()["Authorization"]
        except NoPhoto as error:
            raise Refused(f"{self._shown}: the answer to the exchange of tokens: {error}") from error
        except (ApiError, ArithmeticError, TypeError, ValueError) as error:  # what is no token, or no answer
            detail = error.body if isinstance(error, ApiError) else "no readable answer"
            status = (error.status_code or 0) if isinstance(error, ApiError) else 0
            kind = TokenRefused if 400 <= status < 500 and status not in BUSY else Unreachable
            raise kind(f"{self._shown}: the token was not accepted ({detail}); {TOKEN_REMEDY}") from error

    def _require_no_redirect(self, response: httpx.Response) -> None:
        if self._server:
            self._server.require_no_redirect(response)


def _send(
    transport: GuardedTransport, url: httpx.URL, authorization: str | None, deadline: float
) -> httpx.Response:
    """Ask for a photo, without what a client adds: cookies, and a look at where a redirect goes."""
    headers = dict(_HEADERS, Authorization=authorization) if authorization else _HEADERS
    request = httpx.Request("GET", url, headers=headers, extensions={"deadline": deadline})
    return transport.handle_request(request)


def _location(response: httpx.Response, url: httpx.URL) -> httpx.URL:
    try:
        target = parse(response.headers["Location"], base=url)
    except NoPhoto as error:
        raise NoPhoto(f"{shown(url)} redirects to {error}") from error
    if target.scheme not in DEFAULT_PORTS:
        raise Refused(f"{shown(url)}: redirects to {target.scheme}://, which is not followed")
    return target


def _body(response: httpx.Response, url: httpx.URL) -> bytes:
    try:
        body = response.read()
    except NoPhoto as error:
        raise NoPhoto(f"{shown(url)}: {error}") from error
    if body[:200].lstrip().lower().startswith((b"<!doctype html", b"<html")):
        raise Refused(
            f"{shown(url)}: answered with a web page, not a photo; does one have to log in there, or is a "
            "proxy in between?"
        )
    return body


def _why_gone(url: httpx.URL) -> str:
    if url.path.endswith(_WHOAMI):
        return "is LABEL_STUDIO_URL its address?"
    if url.path.endswith("/presign/"):
        return "is its storage connected to the project?"
    return "was the photo deleted or moved?"


def _host_ports(host: str) -> list[tuple[str, int]]:
    try:
        url = parse(f"//{host.strip()}")
    except NoPhoto:
        url = httpx.URL()
    if not url.host or url.path not in ("", "/"):
        raise Refused(f"EBSEG_ALLOWED_HOSTS: {host!r} must be a host or host:port")
    ports = [url.port] if url.port else DEFAULT_PORTS.values()
    return [(host_and_port(url)[0], port) for port in ports]
