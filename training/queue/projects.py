"""What the loop remembers of a project, in Redis: its events until its annotations were read, its training.

A round is one reading of a project's annotations, and what follows from it. Its job's id holds the round's
number, and the number goes up when the round is over: so however many events come, from however many
processes, one job waits.
"""

import logging
import re
import time
from collections.abc import Callable

from redis import Redis, ResponseError

from ebseg.errors import ConfigError
from training.queue import orders, outcomes
from training.queue.queues import ACTIVE, bring_forward, find, is_active, text
from training.settings import Settings

_log = logging.getLogger(__name__)

PROJECTS_KEY = "ebseg:projects"
MODEL_KEY = "ebseg:model"
"""The model that the service was told to serve."""

HOSTNAME_KEY = "ebseg:hostname"
"""What Label Studio calls itself to its backends."""

_INTEGER, _NUMBER, _TEXT = (
    re.compile(pattern) for pattern in (r"[0-9]{1,15}", r"[0-9]{1,15}(\.[0-9]+)?", r"[ -~]*")
)
_FIELDS = {"events": _INTEGER, "covered": _INTEGER, "round": _INTEGER, "first": _NUMBER, "last": _NUMBER}
"""What the fields of a project's hash may hold; of others plain text."""

_NEXT_ROUND = """
if (redis.call('HGET', KEYS[1], 'round') or '0') == ARGV[1] then
    redis.call('HINCRBY', KEYS[1], 'round', 1)
end
"""


class Project:
    """What the loop remembers of a Label Studio project, in one Redis hash.

    ``clock``: tells the seconds since 1970.
    """

    def __init__(self, connection: Redis, number: int, clock: Callable[[], float] = time.time) -> None:
        self.connection, self.number, self._clock = connection, number, clock
        self._key = f"ebseg:project:{number}"
        self._mend()

    def _mend(self) -> None:
        """Drop what cannot be read: it is hints, which come again; the log names it."""
        try:
            fields = self.connection.hgetall(self._key)
        except ResponseError:
            _log.warning("the key %s of Redis is not a hash: it is dropped", self._key)
            self.connection.delete(self._key)
            return
        for field, value in fields.items():
            if not _FIELDS.get(text(field), _TEXT).fullmatch(text(value)):
                _log.warning("%s of the key %s in Redis is damaged: it is dropped", field, self._key)
                self.connection.hdel(self._key, field)

    def note(self, events: int, *, forced: bool, uploaded: bool = False) -> None:
        """Count events; ``forced``: train with whatever there is; ``uploaded``: tasks were added."""
        now = self._clock()
        with self.connection.pipeline() as pipeline:
            pipeline.hincrby(self._key, "events", events)
            pipeline.hsetnx(self._key, "first", str(now))
            pipeline.hset(self._key, "last", str(now))
            if forced:
                pipeline.hset(self._key, "forced", "1")
            if uploaded:
                pipeline.hset(self._key, "uploaded", "1")
            pipeline.execute()

    def request_round(self, delay: float) -> str:
        """Have the annotations read after ``delay`` seconds, unless that is under way; return the job's id.

        A round whose job has ended, well or not, makes way for the next.
        """
        while True:
            number = self._integer("round")
            order = orders.snapshot(self.number, number)
            if order.submit(self.connection, delay=delay):
                return order.job_id
            job = find(self.connection, order.job_id)
            if job is not None and job.get_status(refresh=False) in ACTIVE:
                if delay == 0:
                    bring_forward(self.connection, order.line, order.job_id)
                return order.job_id
            self.end_round(number)

    def end_round(self, number: int) -> None:
        """Let the next round begin; once for each round, whoever calls."""
        self.connection.eval(_NEXT_ROUND, 1, self._key, str(number))

    def seconds_until_quiet(self, settings: Settings) -> float:
        """Tell how long to wait until no event has come for a while, or they have come for too long."""
        first, last, forced = self.connection.hmget(self._key, ["first", "last", "forced"])
        if forced or last is None or first is None:
            return 0.0
        now = self._clock()
        quiet_at = min(float(last) + settings.debounce, float(first) + settings.debounce_most)
        return max(quiet_at - now, 0.0)

    def begin_reading(self) -> tuple[int, bool]:
        """Give the number of events so far, which the reading will cover, and whether training is forced."""
        events, forced = self.connection.hmget(self._key, ["events", "forced"])
        self.connection.hdel(self._key, "first")
        return int(events or 0), bool(forced)

    def covered(self, events: int, *, forced: bool) -> None:
        """Note that a reading has covered so many events, and the order to train where there was one."""
        with self.connection.pipeline() as pipeline:
            pipeline.hset(self._key, "covered", events)
            if forced:
                pipeline.hdel(self._key, "forced")
            pipeline.execute()

    @property
    def has_news(self) -> bool:
        """Whether events have come that no reading has covered."""
        events, covered = self.connection.hmget(self._key, ["events", "covered"])
        return int(events or 0) > int(covered or 0)

    @property
    def trained(self) -> str | None:
        """The fingerprint of the annotations that were last trained on and judged."""
        return self._text("trained")

    @trained.setter
    def trained(self, fingerprint: str) -> None:
        self.connection.hset(self._key, "trained", fingerprint)

    @property
    def version(self) -> str | None:
        """The version that the project's unlabelled tasks were last to be predicted with, as far as known."""
        return self._text("version")

    @version.setter
    def version(self, version: str) -> None:
        self.connection.hset(self._key, "version", version)

    @property
    def uploaded(self) -> bool:
        """Whether tasks were added that no plan is known to have seen."""
        return bool(self._text("uploaded"))

    @uploaded.setter
    def uploaded(self, uploaded: bool) -> None:
        self.connection.hset(self._key, "uploaded", "1" if uploaded else "")

    def heard_of(self, version: str) -> bool:
        """Note the version that the service gives; tell whether it is another one than it gave before."""
        before = self._text("told")
        self.connection.hset(self._key, "told", version)
        self.connection.hsetnx(self._key, "version", version)
        return before is not None and before != version

    @property
    def training(self) -> str | None:
        """The id of the job that trains or judges for this project now."""
        for job_id in (self._text("training") or "").split():
            if is_active(self.connection, job_id):
                return job_id
        return None

    def train_with(self, *job_ids: str) -> None:
        """Note the jobs of a training: the first waits or runs, the others follow from it."""
        self.connection.hset(self._key, "training", " ".join(job_ids))

    def _text(self, field: str) -> str | None:
        value = self.connection.hget(self._key, field)
        return value.decode() if isinstance(value, bytes) else None

    def _integer(self, field: str) -> int:
        return int(self._text(field) or 0)


def known_projects(connection: Redis, settings: Settings) -> list[int]:
    """List the projects that have called, and those that the settings name."""
    called = {text(member) for member in connection.smembers(PROJECTS_KEY)}
    if strange := sorted(member for member in called if not re.fullmatch(r"[0-9]{1,10}", member)):
        _log.warning("the key %s of Redis holds what is no project's number: %s", PROJECTS_KEY, strange)
    return sorted({int(member) for member in called.difference(strange)} | set(settings.projects))


def forget_project(connection: Redis, number: int) -> None:
    """Drop a project that Label Studio does not have any more."""
    connection.srem(PROJECTS_KEY, number)
    outcomes.forget(connection, number)


def tell_the_hostname(connection: Redis, hostname: str) -> None:
    """Note what Label Studio calls itself, for the workers: tasks' photos carry that address."""
    connection.set(HOSTNAME_KEY, hostname)


def hostname(connection: Redis) -> str:
    """Give what Label Studio calls itself, as it last told the service; empty where it never did."""
    told = connection.get(HOSTNAME_KEY)
    return "" if told is None else text(told)


def tell_the_model(connection: Redis, settings: Settings) -> None:
    """Note the model that the service was told to serve."""
    connection.set(MODEL_KEY, settings.base_model)


def require_the_services_model(connection: Redis, settings: Settings) -> None:
    """Raise ConfigError where this process would teach another model than the service serves."""
    served = connection.get(MODEL_KEY)
    if served is not None and text(served) != settings.base_model:
        raise ConfigError(
            f"the service serves {text(served)}, and this worker's EBSEG_MODEL is {settings.base_model}: "
            "set EBSEG_MODEL to the same for both"
        )
