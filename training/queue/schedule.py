"""The schedule: the next look at all projects waits in Redis as a job whose id is its time.

Whoever plans it, and however many do: the job of one time exists once. RQ's schedulers, of which one at a
time holds the lock in Redis, move it into its queue when its time has come.
"""

import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime

import redis
from croniter import croniter
from redis import Redis
from rq.scheduler import RQScheduler
from rq.serializers import JSONSerializer

from ebseg.errors import ConfigError
from training.queue import orders
from training.queue.mending import mend
from training.queue.pause import probe
from training.queue.queues import connect, queues, rescue
from training.settings import Settings

TICK_SECONDS = 1.0
"""Between looks for jobs whose time has come."""

LOCK_SECONDS = 20.0
"""Between renewals of the lock. It is void after 61 s: then another process takes over from a dead one."""

_log = logging.getLogger(__name__)


def plan_next(connection: Redis, settings: Settings, now: datetime | None = None) -> datetime:
    """Put the next sweep into the schedule, unless it is there, and return its time (UTC).

    Raises ConfigError for a schedule that is none.
    """
    now = now or datetime.now(UTC)
    if not croniter.is_valid(settings.schedule):
        raise ConfigError(
            f'EBSEG_SCHEDULE is "{settings.schedule}", which is no time: write it as cron does, such as '
            '"0 3 * * *" for every night at 3 (UTC)'
        )
    at: datetime = croniter(settings.schedule, now).get_next(datetime)
    orders.sweep(at).submit(connection, delay=(at - now).total_seconds())
    return at


def keep_time(settings: Settings, stop: threading.Event, why_away: Callable[[], str | None]) -> None:
    """Start what is due, until told to stop: debounced readings, jobs to be tried again, sweeps, lost jobs.

    While the loop pauses, ``why_away`` is asked once a while whether Label Studio still is; see ``pause``.

    Runs in every worker and in ``ebseg scheduler``; of several, one at a time is in charge. An embedded Redis
    that was killed is started again. (RQ would fork a process for this, which outlives a killed worker.)
    """
    scheduler: RQScheduler | None = None
    locked_at, suspects = 0.0, set[str]()
    while not stop.wait(TICK_SECONDS):
        try:
            if scheduler is None:
                connection = connect(settings)
                mend(connection)
                lines = queues(connection)
                scheduler = RQScheduler(lines, connection=connection, serializer=JSONSerializer)
                locked_at = float("-inf")
            if time.monotonic() - locked_at > LOCK_SECONDS:
                plan_next(scheduler.connection, settings)
                scheduler.acquire_locks()
                locked_at = time.monotonic()
                if scheduler.acquired_locks:
                    suspects = rescue(scheduler.connection, suspects)
            scheduler.enqueue_scheduled_jobs()
            probe(scheduler.connection, why_away)
        except (redis.RedisError, ConfigError) as error:
            _log.warning("the schedule stands still: %s", error)
            scheduler = None
        except Exception:  # a full disk, say: without this thread nothing would ever be tried again
            _log.exception("the schedule stands still")
            if scheduler is not None:
                with suppress(redis.RedisError):  # else it stands still until the lock is void
                    scheduler.release_locks()
            scheduler = None
    if scheduler is not None:
        scheduler.release_locks()
