import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from backend.processes import (
    ServerProcess,
    ServerProcessError,
    end_leftovers,
    free_port,
    reach_this_machine_directly,
)

# Answers HTTP like a service: the first argument is the port, the second the status of every answer.
SERVER = """
import http.server, subprocess, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(int(sys.argv[2])); self.end_headers(); self.wfile.write(sys.argv[3].encode())
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
print("child", child.pid, flush=True)
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


def server(folder: Path, status: int = 200, body: str = "") -> tuple[ServerProcess, list[str]]:
    port = free_port()
    process = ServerProcess("The server", f"http://127.0.0.1:{port}", folder / "server.log")
    return process, [sys.executable, "-c", SERVER, str(port), str(status), body]


def is_running(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def test_a_server_runs_inside_the_block_and_its_whole_group_is_gone_after_it(tmp_path: Path) -> None:
    process, command = server(tmp_path)
    with process.running(command, os.environ):
        process.wait_until_ready("/health", timeout=20)
        pid = json.loads((tmp_path / "server.pid").read_text())["pid"]
        grandchild = int(process.log.read_text().split()[1])
        assert is_running(pid)
        assert is_running(grandchild)
        assert os.getpgid(pid) != os.getpgid(0)
    assert not is_running(pid)
    assert not is_running(grandchild)
    assert not (tmp_path / "server.pid").exists()


def test_the_group_ends_when_the_block_fails(tmp_path: Path) -> None:
    process, command = server(tmp_path)
    with pytest.raises(KeyboardInterrupt), process.running(command, os.environ):
        pid = json.loads((tmp_path / "server.pid").read_text())["pid"]
        raise KeyboardInterrupt
    assert not is_running(pid)


@pytest.mark.parametrize(
    ("body", "timeout", "message"),
    [
        ('{"status": "loading"}', 1, r"did not answer http://127.0.0.1:\d+/ready in 1 s"),
        ('{"status": "failed", "error": "no model named x"}', 20, "The server: no model named x"),
    ],
)
def test_a_server_that_is_not_ready_is_reported(
    tmp_path: Path, body: str, timeout: int, message: str
) -> None:
    process, command = server(tmp_path, 503, body)
    with process.running(command, os.environ), pytest.raises(ServerProcessError, match=message):
        process.wait_until_ready("/ready", timeout=timeout)


def test_a_server_that_ends_is_reported_with_the_end_of_its_log(tmp_path: Path) -> None:
    process, _ = server(tmp_path)
    command = [sys.executable, "-c", "print('the disk is full'); raise SystemExit(3)"]
    with (
        process.running(command, os.environ),
        pytest.raises(
            ServerProcessError, match="The server ended with status 3; its log .*server.log says why"
        ) as error,
    ):
        process.wait_until_ready("/health", timeout=20)
    assert error.value.log_tail == "the disk is full"


def test_a_command_that_does_not_exist_is_reported(tmp_path: Path) -> None:
    process, _ = server(tmp_path)
    with (
        pytest.raises(ServerProcessError, match="The server cannot be started"),
        process.running([str(tmp_path / "missing")], os.environ),
    ):
        pass


def sleeper() -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True)


def test_what_a_killed_parent_left_is_ended(tmp_path: Path) -> None:
    left = sleeper()
    created = psutil.Process(left.pid).create_time()
    (tmp_path / "left.pid").write_text(json.dumps({"pid": left.pid, "created": created}))
    end_leftovers(tmp_path)
    assert left.poll() is not None
    assert list(tmp_path.iterdir()) == []


def test_a_stranger_with_a_reused_number_is_left_alone(tmp_path: Path) -> None:
    stranger = sleeper()
    try:
        (tmp_path / "left.pid").write_text(json.dumps({"pid": stranger.pid, "created": 1.0}))
        end_leftovers(tmp_path)
        assert stranger.poll() is None
        assert list(tmp_path.iterdir()) == []
    finally:
        stranger.kill()
        stranger.wait()


def test_the_preferred_port_is_given_unless_it_is_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert free_port(port) != port
    assert free_port(port) == port


@pytest.mark.parametrize(("before", "after"), [(None, "127.0.0.1"), ("hub.corp", "hub.corp,127.0.0.1")])
def test_proxies_are_not_asked_for_this_machine(
    monkeypatch: pytest.MonkeyPatch, before: str | None, after: str
) -> None:
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "")
    if before is not None:
        monkeypatch.setenv("NO_PROXY", before)
    reach_this_machine_directly()
    assert os.environ["no_proxy"] == os.environ["NO_PROXY"] == after
