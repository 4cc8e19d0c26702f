"""A work horse that is kept takes one job after the other; the worker's side is here, the horse is a fork."""

import os
import signal
from collections.abc import Callable, Iterator

import psutil
import pytest

from training.queue import kept_horse
from training.queue.kept_horse import KeptHorse


@pytest.fixture
def fork() -> Iterator[Callable[[], KeptHorse]]:
    """Start a horse that has done its first job, and does nothing for others."""
    kept = KeptHorse()

    def start() -> KeptHorse:
        kept.open()
        pid = os.fork()
        if pid == 0:
            kept.begin()
            while kept.next_job():
                pass
            os._exit(0)
        kept.forked(pid)
        return kept

    yield start
    kept.end()


def test_jobs_are_taken_one_by_one_until_the_horse_has_done_its_share(fork, monkeypatch):
    monkeypatch.setattr(kept_horse, "MOST_JOBS", 3)
    kept = fork()
    assert kept.wait() and kept.wait()  # RQ may interrupt it
    assert kept.hand("label-1", "execution") and kept.wait()
    assert kept.hand("label-2", "execution") and not kept.wait()
    pid = kept.pid
    assert not kept.hand("label-3", "execution") and kept.pid == 0
    assert not psutil.pid_exists(pid)


def test_a_horse_without_a_job_ends(fork, monkeypatch):
    monkeypatch.setattr(kept_horse, "IDLE_SECONDS", 0.01)
    kept = fork()
    assert kept.wait()
    os.waitid(os.P_PID, kept.pid, os.WEXITED | os.WNOWAIT)
    assert not kept.hand("label-1", "execution") and kept.pid == 0


def test_a_horse_that_does_not_take_a_job_is_ended(fork, monkeypatch):
    monkeypatch.setattr(kept_horse, "ANSWER_SECONDS", 0.01)
    kept = fork()
    assert kept.wait()
    pid = kept.pid
    os.kill(pid, signal.SIGSTOP)
    assert not kept.hand("label-1", "execution")
    assert not psutil.pid_exists(pid)


def test_without_a_horse_no_job_is_taken():
    kept = KeptHorse()
    assert not kept.hand("label-1", "execution")
    kept.end()
    assert kept.next_job() is None
