"""A work horse that is kept: it does one job after the other, with what it has imported and loaded.

RQ forks a process for each job. Here the worker keeps one, to which it hands the next job over a socket; a
byte comes back for a job that is taken, and for one that is done. A horse whose job failed, or that was
killed, is not used again; so a job finds what a fork would find, or what jobs that went well have left.
"""

import os
import signal
import socket
from contextlib import suppress

IDLE_SECONDS = 60.0
"""After which a horse without a job ends, and gives its memory back."""

MOST_JOBS = 100
"""After which a horse ends: whatever libraries have kept of each job does not add up for ever."""

ANSWER_SECONDS = 5.0
"""For a horse to take a job; one that does not is ended, and a new one takes it."""

_DONE, _TAKEN = b"d", b"t"


class KeptHorse:
    """The worker's side; in the horse, after ``begin``, the horse's."""

    def __init__(self) -> None:
        self.pid = 0
        self._jobs = 0
        self._mine: socket.socket | None = None
        self._theirs: socket.socket | None = None

    def open(self) -> None:
        """Make the socket, before the fork."""
        self._mine, self._theirs = socket.socketpair()

    def forked(self, pid: int) -> None:
        """Hear, in the worker, which process the fork has made."""
        self.pid = pid
        if self._theirs is not None:
            self._theirs.close()
            self._theirs = None

    def hand(self, job_id: str, execution_id: str) -> bool:
        """Hand the next job to the horse; tell whether it took it. One that did not is ended."""
        if self._mine is None:
            return False
        try:
            self._mine.settimeout(ANSWER_SECONDS)
            if self._mine.recv(1) == _DONE:  # of the job before
                self._mine.sendall(f"{job_id} {execution_id}\n".encode())
                if self._mine.recv(1) == _TAKEN:
                    return True
        except OSError:  # it has ended, or does not answer
            pass
        self.end()
        return False

    def wait(self) -> bool:
        """Wait until the job is done; False where the horse has ended instead.

        The byte stays where it is: RQ interrupts this with a signal, and what was read then would be lost.
        """
        assert self._mine is not None
        self._mine.settimeout(None)
        try:
            return self._mine.recv(1, socket.MSG_PEEK) == _DONE
        except ConnectionError:
            return False

    def end(self) -> None:
        """End the horse, whatever it does, if there is one."""
        if self.pid:
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
            with suppress(ChildProcessError):
                os.waitpid(self.pid, 0)
        self.forget()

    def forget(self) -> None:
        """Hear that the horse has ended and was waited for: another process may get its id."""
        self.pid = 0
        if self._mine is not None:
            self._mine.close()
            self._mine = None

    def begin(self) -> None:
        """Become the horse's side, in the horse."""
        self.forget()

    def next_job(self) -> tuple[str, str] | None:
        """Say, in the horse, that the job is done, and wait for the next: its id and its execution's.

        None where there is none any more, and where the horse has done its share: then it ends.
        """
        self._jobs += 1
        if self._theirs is None or self._jobs == MOST_JOBS:
            return None
        try:
            self._theirs.sendall(_DONE)
            self._theirs.settimeout(IDLE_SECONDS)
            line = self._line()
            if line:
                self._theirs.sendall(_TAKEN)
        except OSError:  # the worker has ended, or has nothing to do
            return None
        job_id, _, execution_id = line.partition(" ")
        return (job_id, execution_id) if execution_id else None

    def _line(self) -> str:
        found = b""
        while not found.endswith(b"\n"):
            part = self._theirs.recv(4096) if self._theirs is not None else b""
            if not part:
                return ""
            found += part
        return found.decode().rstrip("\n")
