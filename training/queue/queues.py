"""The queues of the learning loop: where jobs wait, and how one is put there exactly once."""

import logging
import math
import re
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any

import redis
from redis import Redis
from rq import Queue, Retry
from rq.exceptions import DuplicateJobError, NoSuchJobError
from rq.job import Job, JobStatus
from rq.serializers import JSONSerializer

from ebseg.errors import ConfigError
from training.queue.embedded_redis import embedded_redis
from training.queue.entries import DamagedJob, LoopJob, read
from training.settings import Settings

_log = logging.getLogger(__name__)

REDIS_SECONDS = 15.0
"""For Redis to answer, after which it counts as away."""

KEPT_SECONDS = 30 * 24 * 3600
"""How long a job that has ended can be looked at."""

JOB_SECONDS = 3600
"""How long a job other than a training may take."""

RETRY_PAUSES = [10, 60, 300]
"""Seconds before a job is tried again; the last one also for further tries."""

ACTIVE = frozenset({JobStatus.QUEUED, JobStatus.SCHEDULED, JobStatus.STARTED, JobStatus.DEFERRED})
"""Of a job that will still do something by itself."""


class QueueName(StrEnum):
    """A queue; workers serve them in this order."""

    CONTROL = "ebseg"  # snapshots, evaluations, the schedule: minutes
    LABEL = "ebseg-label"  # predictions for a few tasks
    TRAIN = "ebseg-train"  # hours


def connect(settings: Settings) -> Redis:
    """Connect to the Redis that the settings name, or to the embedded one, which is started if need be.

    Raises ConfigError where it does not answer, or cannot be started.
    """
    if settings.redis_url is None:
        settings.make_home()
        url, shown = embedded_redis(settings.home / "redis"), "the embedded Redis"
    else:
        url, shown = settings.redis_url.get_secret_value(), "REDIS_URL"
    try:
        connection: Redis = Redis.from_url(
            url, health_check_interval=30, socket_timeout=REDIS_SECONDS, socket_connect_timeout=REDIS_SECONDS
        )
        connection.ping()
    except (redis.RedisError, ValueError) as error:
        raise ConfigError(
            f"{shown} cannot be used ({_without(url, str(error))}): is the server running?"
        ) from None
    return connection


def queue(connection: Redis, line: QueueName) -> Queue:
    """Open a queue. Jobs are JSON: nothing that a stranger could put there is executed on reading."""
    return Queue(
        line.value,
        connection=connection,
        job_class=LoopJob,
        serializer=JSONSerializer,
        default_timeout=JOB_SECONDS,
    )


def queues(connection: Redis) -> list[Queue]:
    """Open all queues, the most urgent first."""
    return [queue(connection, line) for line in QueueName]


def submit(
    connection: Redis,
    line: QueueName,
    function: str,
    arguments: Sequence[Any],
    *,
    job_id: str,
    what: str,
    delay: float = 0.0,
    timeout: float = JOB_SECONDS,
    retries: int = len(RETRY_PAUSES),
) -> bool:
    """Put a job into a queue unless there is, or was in the last weeks, one of this id.

    ``function``: its path; ``arguments``: what JSON can hold; ``what``: the job in words; ``delay``: seconds.
    Returns whether the job is new. Atomic in Redis: of many who submit the same job one succeeds.
    """
    options: dict[str, Any] = {
        "job_id": job_id,
        "description": what,
        "job_timeout": math.ceil(timeout),
        "result_ttl": KEPT_SECONDS,
        "failure_ttl": KEPT_SECONDS,
        "retry": Retry(max=retries, interval=RETRY_PAUSES) if retries else None,
        "unique": True,
        "args": tuple(arguments),
    }
    where = queue(connection, line)
    try:
        if delay > 0:
            where.enqueue_at(datetime.now(UTC) + timedelta(seconds=delay), function, **options)
        else:
            where.enqueue(function, **options)
    except DuplicateJobError:
        return False
    return True


def resubmit(
    connection: Redis, line: QueueName, function: str, arguments: Sequence[Any], **options: Any
) -> bool:
    """Put a job into a queue, as ``submit`` does, also where one of this id has ended; it begins anew."""
    job_id = options["job_id"]
    try:
        job = read(connection, job_id)
        if job.get_status(refresh=False) not in ACTIVE:
            job.delete()
    except DamagedJob:
        connection.delete(LoopJob.key_for(job_id))
    except NoSuchJobError:
        pass
    return submit(connection, line, function, arguments, **options)


def id_of(*parts: object) -> str:
    """Make a job's id of what names it; RQ takes letters, digits, "_" and "-"."""
    return re.sub(r"[^A-Za-z0-9_-]", "_", "-".join(map(str, parts)))


def find(connection: Redis, job_id: str) -> Job | None:
    """Find a job by its id; None also for a damaged one, which the log names."""
    try:
        return LoopJob.fetch(job_id, connection)
    except NoSuchJobError:
        return None


def is_active(connection: Redis, job_id: str) -> bool:
    """Tell whether a job waits or runs."""
    job = find(connection, job_id)
    return job is not None and job.get_status(refresh=False) in ACTIVE


def rescue(connection: Redis, suspects: set[str]) -> set[str]:
    """Queue jobs again that a worker has taken out of their queue and then died before it began them.

    RQ takes a job out in one step and notes that it runs in another. ``suspects``: what the last call
    returned, some time ago: a job that is nowhere twice is not just on its way.
    """
    lines = queues(connection)
    there = {job_id for line in lines for job_id in line.get_job_ids()}
    for line in lines:
        there |= set(line.scheduled_job_registry.get_job_ids(cleanup=False))
        there |= set(line.started_job_registry.get_job_ids(cleanup=False))
        there |= set(line.failed_job_registry.get_job_ids(cleanup=False))
        there |= set(line.intermediate_queue.get_job_ids())
    nowhere = set[str]()
    for job_id, line, status in stored(connection):
        if job_id in there or status not in (b"queued", b"scheduled"):
            continue
        nowhere.add(job_id)
        if job_id in suspects and find(connection, job_id) is None:
            count_as_failed(line, job_id)
        elif job_id in suspects:
            _log.warning("job %s was lost by a worker: it is queued again", job_id)
            connection.hset(LoopJob.key_for(job_id), "status", JobStatus.QUEUED.value)
            line.push_job_id(job_id)
    return nowhere - suspects


def stored(connection: Redis) -> Iterator[tuple[str, Queue, bytes | str | None]]:
    """List the loop's jobs as Redis keeps them: id, queue and state.

    One on its way from one list of RQ's to another is in neither of those that are read one after the other.
    """
    lines = {line.name: line for line in queues(connection)}
    for key in connection.scan_iter(f"{LoopJob.redis_job_namespace_prefix}*", count=1000):
        if connection.type(key) == b"hash":
            status, origin = connection.hmget(key, ["status", "origin"])
            if origin is not None and (line := lines.get(text(origin))):
                yield text(key).removeprefix(LoopJob.redis_job_namespace_prefix), line, status


def count_as_failed(where: Queue, job_id: str) -> None:
    """Let `ebseg jobs list` show a damaged job, which no worker can do."""
    where.connection.zadd(where.failed_job_registry.key, {job_id: time.time() + KEPT_SECONDS})


def text(value: bytes | str) -> str:
    """Read what Redis keeps as text."""
    return value.decode(errors="replace") if isinstance(value, bytes) else value


def bring_forward(connection: Redis, line: QueueName, job_id: str) -> None:
    """Let a job that waits for its time start now; any other is left alone."""
    registry = queue(connection, line).scheduled_job_registry
    connection.zadd(registry.key, {job_id: int(time.time())}, xx=True)


def _without(url: str, text: str) -> str:
    """Drop an address, which may hold a password, from a message."""
    return " ".join(text.replace(url, "...").split())
