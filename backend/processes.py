"""Child processes that answer HTTP: start them, wait for them, leave none behind."""

import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import psutil

from ebseg.errors import EBSegError

STOP_SECONDS = 10.0
"""How long a child may take to end by itself before it is killed."""

LOG_TAIL_LINES = 15
"""Lines of a child's log that an error shows."""


class ServerProcessError(EBSegError):
    """A child process did not start, ended early, or does not answer; ``log_tail`` is what it said last."""

    def __init__(self, message: str, log_tail: str = "") -> None:
        super().__init__(message)
        self.log_tail = log_tail


def free_port(preferred: int = 0) -> int:
    """Give ``preferred`` if nothing listens there, else a port that the system chooses."""
    try:
        listener = socket.create_server(("127.0.0.1", preferred))
    except OSError:
        listener = socket.create_server(("127.0.0.1", 0))
    with listener:
        return int(listener.getsockname()[1])


def reach_this_machine_directly() -> None:
    """Keep a proxy that the environment names out of calls between processes of this machine."""
    known = os.environ.get("no_proxy") or os.environ.get("NO_PROXY")
    os.environ["no_proxy"] = os.environ["NO_PROXY"] = f"{known},127.0.0.1" if known else "127.0.0.1"


class ServerProcess:
    """A child process that answers HTTP, in a process group of its own.

    A group of its own keeps the terminal's Ctrl-C from it, so that its parent ends it in order. Its output
    goes to ``log``; beside it a ``.pid`` file names the process, by which ``end_leftovers`` ends
    what a killed parent left running.
    """

    def __init__(self, name: str, url: str, log: Path) -> None:
        self.name = name
        self.url = url
        self.log = log
        self._record = log.with_suffix(".pid")
        self._process: subprocess.Popen[bytes] | None = None

    @contextmanager
    def running(self, command: Sequence[str], environment: Mapping[str, str]) -> Iterator[None]:
        """Run ``command`` until the block is left; its whole group has ended then.

        Raises ServerProcessError when the command cannot be run.
        """
        self.log.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._start(command, environment)
            yield
        finally:
            self._stop()

    @property
    def pid(self) -> int:
        """The number of the process that runs, the leader of its group."""
        return int(json.loads(self._record.read_text())["pid"])

    def _start(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        with self.log.open("wb") as log:
            try:
                self._process = subprocess.Popen(
                    command,
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            except OSError as error:
                raise ServerProcessError(f"{self.name} cannot be started: {error}") from error
        created = psutil.Process(self._process.pid).create_time()
        self._record.write_text(json.dumps({"pid": self._process.pid, "created": created}))

    def _stop(self) -> None:
        if self._process is not None:
            _end_group(self._process.pid)
            self._process.wait()
            self._record.unlink(missing_ok=True)

    def wait_until_ready(self, path: str, timeout: float) -> None:
        """Return when ``path`` answers 200.

        Raises ServerProcessError, with the end of the log, after ``timeout`` seconds, when the process ends,
        or when it answers that it has failed.
        """
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            self.check_alive()
            try:
                answer = httpx.get(self.url + path, timeout=2)
            except httpx.HTTPError:
                pass  # not up yet
            else:
                if answer.is_success:
                    return
                if '"failed"' in answer.text:
                    raise ServerProcessError(f"{self.name}: {answer.json()['error']}")
            time.sleep(0.25)
        raise self._error(f"did not answer {self.url}{path} in {timeout:.0f} s")

    def check_alive(self) -> None:
        """Raise ServerProcessError, with the end of the log, if the process has ended."""
        if self._process is None or self._process.poll() is None:
            return
        raise self._error(f"ended with status {self._process.returncode}")

    def _error(self, what: str) -> ServerProcessError:
        lines = self.log.read_text(errors="replace").splitlines()
        return ServerProcessError(
            f"{self.name} {what}; its log {self.log} says why", "\n".join(lines[-LOG_TAIL_LINES:])
        )


def end_leftovers(folder: Path) -> None:
    """End what a killed parent left running: the process groups that the folder's ``.pid`` files name."""
    for record in folder.glob("*.pid"):
        entry = json.loads(record.read_text())
        with suppress(psutil.NoSuchProcess):
            # Process numbers are used again; the time of birth tells whether this is still our child.
            if psutil.Process(entry["pid"]).create_time() == entry["created"]:
                _end_group(entry["pid"])
        record.unlink()


def _end_group(group: int) -> None:
    """Ask every process of the group to end, wait for ``STOP_SECONDS``, kill what is left."""
    family: list[psutil.Process] = []
    with suppress(psutil.NoSuchProcess):
        leader = psutil.Process(group)
        family = [leader, *leader.children(recursive=True)]
    with suppress(ProcessLookupError):
        os.killpg(group, signal.SIGTERM)
        psutil.wait_procs(family, timeout=STOP_SECONDS)
        os.killpg(group, signal.SIGKILL)
