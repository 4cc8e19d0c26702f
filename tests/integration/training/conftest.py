import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from training.queue.embedded_redis import embedded_redis, stop_embedded_redis
from training.settings import Settings

SECONDS = 120


def wait_for(condition: Callable[[], object], seconds: float = SECONDS) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.1)


class Server:
    """An embedded Redis that tests may kill."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.url = embedded_redis(home / "redis")

    def connect(self) -> redis.Redis:
        return redis.Redis.from_url(self.url)

    def kill(self) -> None:
        os.kill(int(self.connect().info("server")["process_id"]), signal.SIGKILL)

    def start(self) -> None:
        embedded_redis(self.home / "redis")


@pytest.fixture
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("home"))
    yield server
    stop_embedded_redis(server.home / "redis")


@pytest.fixture
def settings(redis_server: Server) -> Settings:
    return Settings(home=redis_server.home, redis_url=redis_server.url, debounce=60.0, memory=False)


@pytest.fixture
def start(redis_server: Server) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Start ``ebseg`` commands on the test's Redis and home; their output goes to ``home/NAME.log``."""
    running: list[subprocess.Popen[bytes]] = []

    def _start(*arguments: str, name: str, **variables: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-c", "from ebseg.cli import main; main()", *arguments]
        environment = {**os.environ, "EBSEG_HOME": str(redis_server.home), **variables}
        with (redis_server.home / f"{name}.log").open("ab") as log:
            running.append(
                subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
            )
        return running[-1]

    yield _start
    for process in running:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
