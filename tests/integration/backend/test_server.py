"""The HTTP server under connections that are slow on purpose; the service itself: test_serve.py."""

import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from http.client import BadStatusLine, HTTPResponse

import httpx
import pytest
from flask import Flask, request

from backend import server as module
from backend.commands.bench import open_slow
from backend.commands.serve import listen
from backend.server import Server

SECONDS = 30
MOST_BODY = 400_000


def echo() -> Flask:
    app = Flask("echo")
    app.add_url_rule("/", "echo", lambda: str(len(request.get_data())), methods=["GET", "POST"])
    return app


@contextmanager
def running(seconds: float = 1.0, threads: int = 2) -> Iterator[str]:
    """Serve; give host:port."""
    listener = listen("127.0.0.1", 0)
    server = Server(echo(), listener, threads=threads, most_body=MOST_BODY, request_seconds=seconds)
    thread = threading.Thread(target=server.run)
    thread.start()
    host, port = listener.getsockname()
    try:
        yield f"{host}:{port}"
    finally:
        server.stop()
        thread.join(SECONDS)
        assert not thread.is_alive()
        server.close()


def connect(address: str) -> socket.socket:
    host, _, port = address.partition(":")
    return socket.create_connection((host, int(port)), timeout=SECONDS)


def posting(address: str, length: int) -> socket.socket:
    """Begin to send a body of a length."""
    connection = connect(address)
    connection.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % length)
    return connection


def answered(connection: socket.socket) -> str:
    """Read an answer."""
    answer = HTTPResponse(connection)
    answer.begin()
    assert answer.status == 200
    return answer.read().decode()


def is_dropped(connection: socket.socket) -> bool:
    """Wait until the server closes a connection; False if it answers instead."""
    with connection:
        try:
            return connection.recv(100) == b""
        except ConnectionResetError:
            return True


def test_slow_connections_take_no_thread_and_are_dropped():
    """20 for each thread: idle ones, half a head, half a body."""
    with running() as address:
        slow = open_slow(address, 40)
        for _ in range(3):
            assert httpx.get(f"http://{address}/", timeout=SECONDS).text == "0"
        assert all(map(is_dropped, slow))


def test_slow_connections_that_take_all_places_make_room(monkeypatch):
    monkeypatch.setattr(module, "CONNECTIONS", 20)
    with running(seconds=SECONDS) as address:
        slow = open_slow(address, 30)
        assert httpx.get(f"http://{address}/", timeout=SECONDS).text == "0"
        for connection in slow:
            connection.close()


def test_a_byte_now_and_then_keeps_no_connection():
    with running() as address, posting(address, 1000) as connection, pytest.raises(OSError):
        for _ in range(100 * SECONDS):
            connection.sendall(b"x")
            time.sleep(0.01)


def test_a_connection_may_be_used_again_but_not_be_kept_for_nothing():
    with running() as address, connect(address) as connection:
        for _ in range(2):
            connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            assert answered(connection) == "0"
        assert is_dropped(connection)


def test_a_large_request_has_the_time_that_it_takes():
    with running() as address, posting(address, MOST_BODY) as connection:
        for _ in range(10):
            connection.sendall(bytes(MOST_BODY // 10))
            time.sleep(0.25)
        assert answered(connection) == str(MOST_BODY)


def test_bodies_that_have_not_arrived_whole_are_bounded_together():
    with running(seconds=SECONDS) as address:
        connections = [posting(address, MOST_BODY) for _ in range(module.BODIES_AT_A_TIME + 1)]
        for number, connection in enumerate(connections):
            connection.sendall(bytes(MOST_BODY - 5 + number))
        assert is_dropped(connections[-1])
        for number, connection in enumerate(connections[:-1]):
            with connection:
                connection.sendall(bytes(5 - number))
                assert answered(connection) == str(MOST_BODY)


def test_a_request_that_is_too_large_is_refused_in_words():
    with running() as address:
        answer = httpx.post(f"http://{address}/", content=bytes(MOST_BODY), timeout=SECONDS)
        assert answer.text == str(MOST_BODY)
        answer = httpx.post(f"http://{address}/", content=bytes(MOST_BODY + 1), timeout=SECONDS)
    assert answer.status_code == 413
    assert answer.reason_phrase.startswith("the request has more than 400000 bytes; select fewer tasks, or")


REQUESTS = (
    b'POST / HTTP/1.1\r\nHost: x\r\nContent-Type: text\r\nContent-Length: 13\r\n\r\n{"tasks": []}',
    b'POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{"a":\r\n2\r\n1}\r\n0\r\n\r\n',
    b"GET /?a=%C3%A4&b=1 HTTP/1.1\r\nHost: x\r\nAuthorization: Basic dTpw\r\nExpect: 100-continue\r\n\r\n",
)


def damaged(content: bytes, chance: random.Random) -> bytes:
    """Change, drop, repeat some bytes."""
    changed = bytearray(content)
    for _ in range(chance.randint(1, 4)):
        place = chance.randrange(len(changed))
        how = chance.randrange(4)
        if how == 0:
            changed[place] = chance.randrange(256)
        elif how == 1:
            del changed[place : place + chance.randint(1, 4)]
        else:
            changed[place:place] = chance.choice(
                (b"\r\n", b"\n", b" ", b"\0", b"9" * 30, b"\xff", b":", b"-1")
            )
    return bytes(changed)


def test_no_damaged_request_is_an_internal_error(caplog):
    """1,500 of them as bytes, heads and all; test_hostile.py of the unit tests has 2,000 of bodies."""
    chance, statuses = random.Random(7), Counter[int]()
    with running(threads=4) as address:
        for number in range(1500):
            with connect(address) as connection, suppress(ConnectionError, BadStatusLine):
                connection.sendall(damaged(REQUESTS[number % 3], chance))
                connection.shutdown(socket.SHUT_WR)
                with closing(HTTPResponse(connection)) as answer:
                    answer.begin()
                    statuses[answer.status] += 1
    assert statuses.keys() <= {200, 400, 404, 405, 413, 431, 501}
    assert statuses[200] > 100 and statuses[400] > 100
    assert [record for record in caplog.records if record.exc_info] == []


def test_a_slow_connection_does_not_hold_up_the_end():
    with running(seconds=SECONDS) as address:
        slow = open_slow(address, 4)
    assert all(map(is_dropped, slow))
