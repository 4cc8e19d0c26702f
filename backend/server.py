"""The HTTP server: one thread reads all connections, threads of a pool answer what has arrived whole.

waitress does both in one process, which holds the model. Added here: a request has to arrive in time, and a
server that is told to stop finishes what is begun.
"""

import logging
import socket
import time
from typing import Any

from flask import Flask
from waitress.adjustments import Adjustments
from waitress.channel import HTTPChannel
from waitress.parser import HTTPRequestParser
from waitress.server import TcpWSGIServer
from waitress.utilities import RequestEntityTooLarge
from waitress.wasyncore import dispatcher

REQUEST_SECONDS = 10.0
"""Within which a connection's next request has to arrive; a large one gets longer, see BYTES_PER_SECOND."""

BYTES_PER_SECOND = 50_000
"""Of a request that arrives at least as fast none is dropped, however large it is."""

CONNECTIONS = 400
"""At a time. Each may take two file descriptors (a long body is a temporary file) of often 1024."""

FULL_SECONDS = 1.0
"""Takes the place of REQUEST_SECONDS while there are that many: others wait."""

BODIES_AT_A_TIME = 4
"""Largest bodies that may lie in temporary files; beyond, the longest that still arrives is dropped."""

BODY_BYTES_IN_MEMORY = 1 << 16
HEADER_BYTES = 1 << 16

GRACEFUL_SECONDS = 60.0
"""That a server that is told to stop may take to finish what it has begun."""

logger = logging.getLogger(__name__)


class _Request(HTTPRequestParser):
    """A request; ``path``: which waitress names in the log, and one whose head is damaged has none."""

    path = ""


class Connection(HTTPChannel):
    """A connection of a Server. ``owes_since``: when it was opened or answered last, in time.time()."""

    parser_class = _Request

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.owes_since = time.time()

    def service(self) -> None:
        """Answer a request, in a thread of the pool."""
        error = self.requests[0].error
        if isinstance(error, RequestEntityTooLarge):
            # Label Studio shows people the status line, and nothing else.
            error.reason = (
                f"the request has more than {self.adj.max_request_body_size - 1} bytes; select fewer tasks, "
                "or raise EBSEG_MAX_REQUEST_BYTES"
            )
        super().service()
        self.owes_since = time.time()

    def handle_close(self) -> None:
        """Close it, and the file with the body that was arriving."""
        super().handle_close()
        if self.request:
            self.request.close()

    @property
    def busy(self) -> bool:
        """Whether a request is being answered, or its answer being sent."""
        return bool(self.requests or self.total_outbufs_len)

    @property
    def arrived(self) -> int:
        """Bytes of the body that is arriving."""
        return self.request.body_bytes_received if self.request else 0

    def is_late(self, now: float, seconds: float) -> bool:
        """Tell whether it owes a request for too long. One byte now and then does not help."""
        return not self.busy and now - self.owes_since > seconds + self.arrived / BYTES_PER_SECOND


class Server(TcpWSGIServer):
    """Serves ``app`` on ``listener`` with ``threads`` threads that answer.

    Connections that have not sent their request within ``request_seconds`` are dropped (whole seconds count).
    """

    channel_class = Connection

    def __init__(
        self,
        app: Flask,
        listener: socket.socket,
        *,
        threads: int,
        most_body: int,
        request_seconds: float = REQUEST_SECONDS,
    ) -> None:
        self._seconds = request_seconds
        self._most_bodies = BODIES_AT_A_TIME * most_body
        self._stopping = False
        self._sockets: dict[int, Any] = {}
        adjustments = Adjustments(
            sockets=[listener],
            threads=threads,
            asyncore_use_poll=True,  # select() knows no descriptor above 1023
            connection_limit=CONNECTIONS,
            cleanup_interval=1,
            channel_timeout=max(round(request_seconds), 1),  # of who does not fetch an answer
            max_request_body_size=most_body + 1,  # waitress refuses from there on
            max_request_header_size=HEADER_BYTES,
            inbuf_overflow=BODY_BYTES_IN_MEMORY,
            recv_bytes=1 << 16,
            ident=None,
        )
        address = (listener.family, listener.type, listener.proto, listener.getsockname())
        super().__init__(
            app, self._sockets, True, listener, adj=adjustments, bind_socket=False, sockinfo=address
        )

    def run(self) -> None:
        """Serve until ``stop`` is called, then for up to GRACEFUL_SECONDS what is begun."""
        while not self._stopping:
            self._turn()
        dispatcher.close(self)  # the listening socket alone: answers that are due still wake the loop
        end = time.monotonic() + GRACEFUL_SECONDS
        while self._close_idle() and time.monotonic() < end:
            self._turn()
        self.task_dispatcher.shutdown()

    def stop(self) -> None:
        """Have ``run`` end; may be called by a signal's handler and from any thread."""
        self._stopping = True
        self.pull_trigger()

    def maintenance(self, now: float) -> None:
        """Drop who is late or sends too much; waitress calls this about once a second."""
        super().maintenance(int(now))
        connections = self._connections()
        seconds = FULL_SECONDS if self.in_connection_overflow else self._seconds
        late = [connection for connection in connections if connection.is_late(now, seconds)]
        late += _too_much(connections, self._most_bodies)
        for connection in late:
            connection.will_close = True
        if unfinished := sum(connection.request is not None for connection in late):
            logger.info("%d connections are dropped: their requests did not arrive in time", unfinished)

    def _turn(self) -> None:
        """Wait for something to happen, at most a second, and do it."""
        self.asyncore.loop(timeout=1.0, use_poll=True, map=self._sockets, count=1)

    def _close_idle(self) -> int:
        """Close what has begun nothing; tell how many connections are left."""
        for connection in self._connections():
            if not connection.busy:
                connection.handle_close()
        return len(self._connections())

    def _connections(self) -> list[Connection]:
        return [each for each in self._sockets.values() if isinstance(each, Connection)]


def _too_much(connections: list[Connection], most: int) -> list[Connection]:
    """List the connections to drop, the longest bodies first, for the others to fit into ``most`` bytes."""
    dropped = []
    total = sum(connection.arrived for connection in connections)
    for connection in sorted(connections, key=lambda connection: -connection.arrived):
        if total <= most:
            break
        dropped.append(connection)
        total -= connection.arrived
    return dropped
