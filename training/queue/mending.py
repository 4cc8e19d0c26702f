"""Keys of the loop's in Redis that something else has written to: put aside and named; workers go on."""

import logging
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from redis import Redis, ResponseError
from rq.exceptions import NoSuchJobError
from rq.worker_registration import REDIS_WORKER_KEYS as RQ_WORKERS
from rq.worker_registration import WORKERS_BY_QUEUE_KEY

from training.queue.entries import DamagedJob, LoopJob, read
from training.queue.outcomes import NEWEST_KEY
from training.queue.pause import PAUSE_KEY, PROBE_KEY
from training.queue.projects import HOSTNAME_KEY, MODEL_KEY, PROJECTS_KEY
from training.queue.queues import count_as_failed, queues, stored, text

_log = logging.getLogger(__name__)

RQ_QUEUES = "rq:queues"

_ID = re.compile(rb"[A-Za-z0-9_-]+(:[A-Za-z0-9_-]+)?")
"""A job's id, and in the list of those that run a colon and the execution's."""


@dataclass(frozen=True)
class Fault:
    """A key of another type than the loop's or, with a ``member``, one that cannot be a job's id."""

    key: str
    member: bytes | None
    what: str


def faults(connection: Redis) -> Iterator[Fault]:
    """List what is wrong with the keys of the queues and with the loop's own."""
    for key, kind in _keys(connection):
        found = text(connection.type(key))
        if found not in (kind, "none"):
            yield Fault(key, None, f"the key {key} of Redis is a {found}, not a {kind}")
            continue
        for member in _members(connection, key):
            if not _ID.fullmatch(member):
                yield Fault(key, member, f"{member!r} of the key {key} in Redis is no job's id")


def mend(connection: Redis) -> None:
    """Put aside keys of another type than the loop's; take out of the queues what cannot be a job.

    RQ's workers and its scheduler end at either. Each is named in the log.
    """
    for fault in faults(connection):
        if fault.member is None:
            _log.warning("%s: it is now %s:damaged", fault.what, fault.key)
            with suppress(ResponseError):  # another process was faster
                connection.rename(fault.key, f"{fault.key}:damaged")
        else:
            _log.warning("%s: it is taken out", fault.what)
            _take_out(connection, fault.key, fault.member)
    for line in queues(connection):
        due = line.scheduled_job_registry
        for job_id in due.get_job_ids(cleanup=False):
            try:
                read(connection, job_id)
            except DamagedJob as error:
                _log.warning("job %s is not started: %s", job_id, error)
                due.remove(job_id)
                count_as_failed(line, job_id)
            except NoSuchJobError:
                pass  # RQ sees to those


def job_ids(connection: Redis) -> list[str]:
    """List the ids of all jobs that wait, run, or have ended, each once; what is none is left out."""
    found: dict[str, None] = {job_id: None for job_id, _, _ in stored(connection)}
    for key, kind in _keys(connection):
        if kind in ("list", "zset"):
            for member in _members(connection, key):
                if _ID.fullmatch(member):
                    found[text(member).partition(":")[0]] = None
    return list(found)


def discard(connection: Redis, job_id: str) -> None:
    """Take a damaged job away."""
    for key, kind in _keys(connection):
        if kind in ("list", "zset"):
            _take_out(connection, key, job_id.encode())
    connection.delete(LoopJob.key_for(job_id))


def _keys(connection: Redis) -> Iterator[tuple[str, str]]:
    """List keys with their types."""
    yield from ((MODEL_KEY, "string"), (HOSTNAME_KEY, "string"), (PAUSE_KEY, "string"))
    yield from ((PROBE_KEY, "string"), (NEWEST_KEY, "zset"), (PROJECTS_KEY, "set"))
    yield from ((RQ_QUEUES, "set"), (RQ_WORKERS, "set"))
    for line in queues(connection):
        yield WORKERS_BY_QUEUE_KEY % line.name, "set"
        yield line.key, "list"
        yield line.intermediate_queue.key, "list"
        for registry in (
            line.started_job_registry,
            line.finished_job_registry,
            line.failed_job_registry,
            line.scheduled_job_registry,
            line.deferred_job_registry,
            line.canceled_job_registry,
        ):
            yield registry.key, "zset"


def _members(connection: Redis, key: str) -> list[bytes]:
    """List what a key holds; nothing where it holds something of another type."""
    reading: dict[str, Callable[[], Any]] = {
        "list": lambda: connection.lrange(key, 0, -1),
        "zset": lambda: connection.zrange(key, 0, -1),
    }
    found: list[bytes] = reading.get(text(connection.type(key)), list)()
    return found


def _take_out(connection: Redis, key: str, member: bytes) -> None:
    with suppress(ResponseError):  # of another type by now
        if text(connection.type(key)) == "list":
            connection.lrem(key, 0, member)  # type: ignore[arg-type]
        else:
            connection.zrem(key, member)
