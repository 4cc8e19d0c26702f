"""The pause of the loop while Label Studio is away, or refuses the token: known once, to all workers.

The first job that finds it so notes it in Redis and goes back into its queue. Until a probe finds Label
Studio well again no worker takes a job that needs it: nothing is tried in vain, nothing fails for an outage.
"""

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from pydantic import TypeAdapter, ValidationError
from redis import Redis
from rq import Retry

from training.queue.queues import QueueName

_log = logging.getLogger(__name__)

PAUSE_KEY = "ebseg:pause"
PROBE_KEY = "ebseg:probe"
"""There while it is too early for another probe."""

PAUSED_LINES = (QueueName.CONTROL, QueueName.LABEL)
"""Queues of jobs that need Label Studio, or follow from such; trainings go on."""

FIRST_PROBE, LONGEST_PROBE = 5.0, 60.0
"""Seconds between probes: at first, and what they grow to, a quarter of the time that has passed."""


@dataclass(frozen=True)
class Pause:
    """Why nothing is done now: in words, and since when, in seconds since 1970."""

    reason: str
    since: float

    def __str__(self) -> str:
        since = datetime.fromtimestamp(self.since, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
        return f"paused since {since}, until Label Studio is well: {self.reason}"


_PAUSE = TypeAdapter(Pause)


def pause(connection: Redis, reason: str, clock: Callable[[], float] = time.time) -> None:
    """Note that Label Studio is away, unless that is known."""
    noted = connection.set(PAUSE_KEY, _PAUSE.dump_json(Pause(reason, clock())), nx=True)
    if noted:
        _log.warning("the loop pauses until Label Studio is well: %s", reason)


def paused(connection: Redis) -> Pause | None:
    """Tell why the loop pauses; None where it does not."""
    told = connection.get(PAUSE_KEY)
    try:
        return None if told is None else _PAUSE.validate_json(told)
    except ValidationError:  # if there is reason to pause, the next job finds it
        _log.warning("the key %s of Redis is damaged: it is dropped", PAUSE_KEY)
        connection.delete(PAUSE_KEY)
        return None


def go_back() -> Retry:
    """Give what a job returns that is to wait, in the first place, until the pause is over."""
    return Retry(max=1_000_000, interval=0, enqueue_at_front=True)


def probe(
    connection: Redis, why_away: Callable[[], str | None], clock: Callable[[], float] = time.time
) -> None:
    """End a pause where Label Studio is well again, by ``why_away``, which is asked once a while.

    Of many processes that call this as often as they like one asks.
    """
    known = paused(connection)
    if known is None:
        return
    wait = min(max((clock() - known.since) / 4, FIRST_PROBE), LONGEST_PROBE)
    if connection.set(PROBE_KEY, "1", nx=True, ex=math.ceil(wait)) and why_away() is None:
        connection.delete(PAUSE_KEY)
        _log.info("Label Studio is well again: the loop goes on")
