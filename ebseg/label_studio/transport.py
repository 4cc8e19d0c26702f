"""An httpx transport for addresses that strangers chose: no private networks, a deadline, a bounded answer.

Photos' addresses come from tasks, so anybody who can make a task could point the service at its own
network. The check happens where the connection is made: a name is resolved once, every address it has
is checked, and the connection goes to a checked address, so that a second answer of the name
server ("DNS rebinding") is never asked for. A redirect is a new connection and is checked like any other.
"""

import ipaddress
import socket
import ssl
import time
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from functools import cached_property

import httpcore
import httpx

from ebseg.errors import NoPhoto, Refused
from ebseg.label_studio.encoding import decoded


class AddressNotAllowed(Refused):
    """An address is private, and nobody has allowed it."""


class GuardedTransport(httpx.BaseTransport):
    """Connects to public addresses and to ``allowed`` (host, port) pairs, each request within its time.

    A request's time is over at ``extensions["deadline"]`` (of ``time.monotonic()``), by default
    ``timeout_s`` after its start, however slowly the answer drips and however much it unpacks to; resolving
    the name is bounded by the system's resolver only. Connections are not reused, so one made for one host
    never serves another. Answers are unpacked here, up to ``max_bytes``.
    Raises AddressNotAllowed for a private address, and NoPhoto for an answer that is too large or cannot be
    unpacked.
    """

    def __init__(self, allowed: Collection[tuple[str, int]], timeout_s: float, max_bytes: int) -> None:
        self._allowed = frozenset(allowed)
        self._timeout_s = timeout_s
        self._max_bytes = max_bytes

    @cached_property
    def _ssl_context(self) -> ssl.SSLContext:
        return httpx.create_ssl_context()  # reads the system's certificates: 40 ms, so only for https

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send one request over a connection of its own."""
        deadline = request.extensions.get("deadline", time.monotonic() + self._timeout_s)
        pool = httpcore.ConnectionPool(
            ssl_context=self._ssl_context if request.url.scheme == "https" else None,
            network_backend=_GuardedBackend(self._allowed, deadline),
        )
        with _httpx_errors():
            response = pool.handle_request(
                httpcore.Request(
                    method=request.method,
                    url=httpcore.URL(
                        scheme=request.url.raw_scheme,
                        host=request.url.raw_host,
                        port=request.url.port,
                        target=request.url.raw_path,
                    ),
                    headers=request.headers.raw,
                    content=request.stream,
                    extensions=request.extensions,
                )
            )
        headers = httpx.Headers(response.headers)
        encoding = headers.pop("Content-Encoding", "")
        body = _Body(response, pool, encoding, deadline, self._max_bytes)
        return httpx.Response(response.status, headers=headers, stream=body)


class _Body(httpx.SyncByteStream):
    """An answer's body, unpacked; closing it closes the connection."""

    def __init__(
        self,
        response: httpcore.Response,
        pool: httpcore.ConnectionPool,
        encoding: str,
        deadline: float,
        max_bytes: int,
    ) -> None:
        self._response = response
        self._pool = pool
        self._encoding = encoding
        self._deadline = deadline
        self._max_bytes = max_bytes

    def __iter__(self) -> Iterator[bytes]:
        length = 0
        with _httpx_errors():
            for piece in decoded(self._encoding, self._response.iter_stream()):
                _left(self._deadline)
                length += len(piece)
                if length > self._max_bytes:
                    raise NoPhoto(
                        f"larger than the limit of {self._max_bytes / 1e6:g} MB; make it smaller or raise "
                        "EBSEG_MAX_BYTES"
                    )
                yield piece

    def close(self) -> None:
        self._response.close()
        self._pool.close()


class _GuardedBackend(httpcore.NetworkBackend):
    """Opens sockets to allowed addresses, with what is left until the deadline as every timeout."""

    def __init__(self, allowed: frozenset[tuple[str, int]], deadline: float) -> None:
        self._allowed = allowed
        self._deadline = deadline
        self._sockets = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        addresses = _resolve(host, port)
        if (host.lower(), port) not in self._allowed:
            refused = [address for address in addresses if not is_public(address)]
            if refused:
                raise AddressNotAllowed(
                    f"{host}:{port} is at {refused[0]}, not a public address; if photos live there, add "
                    f'"{host}:{port}" to EBSEG_ALLOWED_HOSTS'
                )
        failure: Exception = httpcore.ConnectError(f"{host} has no address")
        for tried, address in enumerate(addresses):
            share = _left(self._deadline) / (len(addresses) - tried)  # one dead address may not take it all
            try:
                stream = self._sockets.connect_tcp(address, port, share, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
            else:
                return _DeadlineStream(stream, self._deadline)
        raise failure


class _DeadlineStream(httpcore.NetworkStream):
    """A socket whose every operation may take what is left until the deadline."""

    def __init__(self, stream: httpcore.NetworkStream, deadline: float) -> None:
        self._stream = stream
        self._deadline = deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, _left(self._deadline))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, _left(self._deadline))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore.NetworkStream:
        stream = self._stream.start_tls(ssl_context, server_hostname, _left(self._deadline))
        return _DeadlineStream(stream, self._deadline)

    def get_extra_info(self, info: str) -> object:
        return self._stream.get_extra_info(info)


def is_public(address: str) -> bool:
    """Whether an IPv4 or IPv6 address is on the public internet.

    False for private, loopback, link-local, multicast and reserved ones, and for IPv6 addresses that
    carry an IPv4 one (mapped, 6to4, Teredo, NAT64), which could be any of these.
    """
    ip = ipaddress.ip_address(address.partition("%")[0])
    if not ip.is_global or ip.is_multicast or ip.is_reserved:
        return False
    if isinstance(ip, ipaddress.IPv6Address):
        return not (ip.is_site_local or ip.ipv4_mapped or ip.sixtofour or ip.teredo)
    return True


def _resolve(host: str, port: int) -> list[str]:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, ValueError) as error:
        raise httpcore.ConnectError(f"the name {host} cannot be resolved ({error})") from error
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise httpcore.TimeoutException("the time is over")
    return left


@contextmanager
def _httpx_errors() -> Iterator[None]:
    """Raise httpx's errors for httpcore's, as transports must."""
    try:
        yield
    except httpcore.ConnectError as error:
        raise httpx.ConnectError(str(error)) from error
    except httpcore.TimeoutException as error:
        raise httpx.TimeoutException(str(error)) from error
    except (httpcore.NetworkError, httpcore.ProtocolError) as error:
        raise httpx.TransportError(str(error)) from error
