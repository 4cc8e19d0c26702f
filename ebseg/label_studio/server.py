"""Label Studio's addresses, and which of its paths are photos.

One server often has two addresses: people see ``LABEL_STUDIO_HOST``, which tasks carry (a sub-path included),
and this process reaches it by ``LABEL_STUDIO_URL``, inside the network. Whatever a task carries is fetched by
the latter, and nothing but photos: a task's address must not become any call that the token allows.
"""

import re
from dataclasses import dataclass
from urllib.parse import unquote

import httpx

from ebseg.errors import NoPhoto, Refused

DEFAULT_PORTS = {"http": 80, "https": 443}

TOKEN_REMEDY = (
    "create a personal access token in Label Studio (Account & Settings, Personal Access Token) and set "
    "LABEL_STUDIO_API_KEY to it"
)
"""What to do without a token, or with one that is refused."""

# The routes of Label Studio 1.23 that give files: uploads and local files; files of a server that keeps its
# uploads in a cloud; objects of a project's own storages, by two names.
_MEDIA = re.compile(r"/data/.+|/storage-data/.+|/(tasks|projects)/[0-9]+/(presign|resolve)/?", re.DOTALL)
_BEGINNING = re.compile(r"/data/|/storage-data/|/(tasks|projects)/[0-9]+/(presign|resolve)/")

_MOST_DECODINGS = 5


@dataclass(frozen=True)
class Server:
    """A Label Studio server.

    ``url``: by which this process reaches it, its path ending in a slash. ``hostname``: what it calls itself
    to its backends, its public address or, where it takes that from each request, a sub-path; may be empty.
    """

    url: httpx.URL
    hostname: str = ""

    def own(self, address: str) -> httpx.URL | None:
        """Give the address by which to fetch a photo of Label Studio's own; None for another server's.

        ``address``: a path, or a whole address under any of the server's. Raises Refused for what is Label
        Studio's and no photo, NoPhoto for what cannot be an address.
        """
        is_path = address.startswith("/") and not address.startswith("//")
        whole = parse(f"{origin(self.url)}{address}" if is_path else address)
        if is_path or _is_under(whole, self.url):
            found = self._photo(whole)
            if found is None:
                raise Refused(
                    f"{shown(whole)}: is no photo's path on Label Studio (/data/..., /storage-data/..., "
                    "a task's /presign/), and no other is fetched; correct the task's data"
                )
            return found
        return self._photo(whole) if self._public and _is_under(whole, self._public) else None

    def moved(self, asked: httpx.URL, location: httpx.URL) -> str | None:
        """Say so where the server answers that it is elsewhere; None where it names another thing."""
        path = _path(asked).removeprefix(_path(self.url))
        if not _path(location).endswith(f"/{path}"):
            return None
        there = f"{origin(location)}{_path(location).removesuffix(path)}"
        if there == str(self.url):
            return None
        return (
            f"Label Studio at {shown(self.url)} redirects to {there}: set LABEL_STUDIO_URL to that address, "
            "or to another one that answers itself"
        )

    def require_no_redirect(self, response: httpx.Response) -> None:
        """Raise Refused where a call of the API is redirected: it would lose its method and its token.

        To be an event hook of httpx's clients.
        """
        if response.has_redirect_location:
            asked = response.request.url
            there = parse(response.headers["Location"], base=asked)
            raise Refused(
                self.moved(asked, there)
                or f"{shown(asked)} redirects to {shown(there)}, which is no call of Label Studio's: set "
                "LABEL_STUDIO_URL to an address that answers itself"
            )

    def _photo(self, address: httpx.URL) -> httpx.URL | None:
        """Find where the server's own path begins: behind a sub-path, which a proxy takes away."""
        path = _path(address)
        for prefix in sorted(self._sub_paths, key=len, reverse=True):
            if path.startswith(f"{prefix}/") and is_media(path.removeprefix(prefix)):
                return self._at(path.removeprefix(prefix), address)
        beginning = _BEGINNING.search(path)  # behind a sub-path that nobody has told us
        if beginning and is_media(path[beginning.start() :]):
            return self._at(path[beginning.start() :], address)
        return None

    def _at(self, path: str, address: httpx.URL) -> httpx.URL:
        query = f"?{address.query.decode()}" if address.query else ""
        return parse(f"{self.url}{path[1:]}{query}")

    @property
    def _public(self) -> httpx.URL | None:
        return _base(self.hostname) if self.hostname.startswith(("http://", "https://")) else None

    @property
    def _sub_paths(self) -> set[str]:
        """List what may stand before the server's own paths."""
        told = _path(self._public).rstrip("/") if self._public else self.hostname
        return {"", _path(self.url).rstrip("/"), told}


def server_address(url: str) -> httpx.URL:
    """Read Label Studio's address; its path ends in a slash. Raises Refused for one that cannot be."""
    try:
        server = parse(url.strip())
    except NoPhoto:
        server = httpx.URL()
    if server.scheme not in DEFAULT_PORTS:
        raise Refused(f"LABEL_STUDIO_URL is {url!r}; it must look like http://localhost:8080")
    return parse(f"{server.scheme}://{server.netloc.decode()}{_path(server).rstrip('/')}/")


def read_hostname(value: object) -> str:
    """Read what a server calls itself: an address without its last slash, or a path; else empty."""
    text = value.strip().rstrip("/") if isinstance(value, str) and len(value) < 1000 else ""
    try:
        if text.startswith(("http://", "https://")):
            return str(_base(text)).rstrip("/")
        is_path = text.startswith("/") and not text.startswith("//")
        return _path(_base(f"http://host{text}")).rstrip("/") if is_path else ""
    except NoPhoto:
        return ""


def is_media(path: str) -> bool:
    """Whether a path on Label Studio, as it is sent, is a photo's however often a proxy decodes it."""
    for _ in range(_MOST_DECODINGS):
        steps = re.split(r"[/\\]", path)
        if ".." in steps or "." in steps or not _MEDIA.fullmatch(path):
            return False
        decoded = unquote(path)
        if decoded == path:
            return True
        path = decoded
    return False


def parse(url: str, base: httpx.URL | None = None) -> httpx.URL:
    """Read an address, relative to another one. Raises NoPhoto for what cannot be one."""
    try:
        parsed = base.join(url) if base else httpx.URL(url)
        parsed.host.encode()  # decodes the ASCII form of an international name, which may not be one
    except (httpx.InvalidURL, ValueError) as error:
        raise NoPhoto(f"{url[:80]!r} is not a valid address ({error}); check the task's data") from error
    no_host = not parsed.host or "%" in parsed.host  # httpx quotes what no name can have
    no_port = parsed.port is not None and not 0 < parsed.port < 2**16
    if parsed.scheme in DEFAULT_PORTS and (no_host or no_port):
        wrong = "host" if no_host else "port"
        raise NoPhoto(f"{url[:80]!r} is not a valid address (no {wrong}); check the task's data")
    return parsed


def host_and_port(url: httpx.URL) -> tuple[str, int]:
    """Give the host as it is looked up, international names in their ASCII form, and the port."""
    return url.raw_host.decode("ascii").lower(), url.port or DEFAULT_PORTS.get(url.scheme, 0)


def origin(url: httpx.URL) -> str:
    """Write scheme, host and port, without user and password."""
    return f"{url.scheme}://{url.netloc.decode()}"


def shown(url: httpx.URL) -> str:
    """Write an address for messages, without password and query, which may hold secrets."""
    return f"{url.scheme}://{url.host}{f':{url.port}' if url.port else ''}{url.path}"


def _base(url: str) -> httpx.URL:
    parsed = parse(url)
    return parse(f"{origin(parsed)}{_path(parsed).rstrip('/')}/")


def _path(url: httpx.URL) -> str:
    """Give the path as it is sent."""
    return url.raw_path.decode("ascii").partition("?")[0]


def _is_under(address: httpx.URL, base: httpx.URL) -> bool:
    """Whether an address is of a server, which may be behind http and https alike, and below its path."""
    if address.scheme not in DEFAULT_PORTS or address.raw_host.lower() != base.raw_host.lower():
        return False
    return address.port == base.port and _path(address).startswith(_path(base))  # None: the scheme's own port
