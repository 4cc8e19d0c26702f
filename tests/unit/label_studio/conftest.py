import ssl
import threading
from collections.abc import Callable, Iterator

import pytest

from tests.unit.label_studio.http_server import Server


@pytest.fixture
def start_server() -> Iterator[Callable[..., Server]]:
    servers = []

    def start(tls: ssl.SSLContext | None = None) -> Server:
        server = Server(tls)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def label_studio(start_server) -> Server:
    return start_server()


@pytest.fixture
def elsewhere(start_server) -> Server:
    return start_server()
