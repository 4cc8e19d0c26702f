"""What every job of the loop is given, and how it ends."""

import functools
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Concatenate, ParamSpec

from redis import Redis, RedisError
from rq import Retry, get_current_job
from rq.job import Job
from rq.timeouts import JobTimeoutException

from ebseg.errors import EBSegError, Outage, TrainingError
from training.settings import Settings, load_settings
from training.storage import Storage

_log = logging.getLogger(__name__)

META_SECONDS = 2.0
"""Between writes of a job's progress."""

P = ParamSpec("P")
Result = dict[str, Any]


class Context:
    """What a job works with."""

    def __init__(self, job: Job, settings: Settings) -> None:
        self.job, self.settings = job, settings
        self.connection: Redis = job.connection
        self._written = 0.0

    @property
    def storage(self) -> Storage:
        """Where snapshots and measurements are."""
        return Storage(self.settings.storage_url, self.settings.home / "cache")

    def progress(self, log: list[str] | None = None, **told: Any) -> None:
        """Show how far the job is, and the end of its log, in its ``meta``; not at each call."""
        self.job.meta["progress"] = {**self.job.meta.get("progress", {}), **told}
        if log is not None:
            self.job.meta["log"] = log
        if time.monotonic() - self._written >= META_SECONDS:
            with suppress(RedisError):  # it may be back when the job is done
                self.job.save_meta()
            self._written = time.monotonic()

    def stage(self, name: str, total: int | None = None) -> Callable[[int], None]:
        """Say what the job does now; give a function to call with the number of things done."""
        self._written = 0.0
        self.job.meta["progress"] = {}
        self.progress(stage=name, total=total)
        return lambda done: self.progress(done=done)


def job(function: Callable[Concatenate[Context, P], Result | Retry]) -> Callable[P, Result | Retry]:
    """Make a job: it dies with its worker, its failure has a reason, what must fail is not tried again."""

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> Result | Retry:
        current = get_current_job()
        if current is None:
            raise TrainingError(f"{function.__name__} is a job: submit it to a queue")
        try:
            result = function(Context(current, load_settings()), *args, **kwargs)
        except Exception as error:
            ours = isinstance(error, EBSegError)
            if (ours and not isinstance(error, Outage)) or isinstance(error, JobTimeoutException):
                current.retries_left = 0
            current.meta["reason"] = str(error) if ours else f"{type(error).__name__}: {error}"
            _log.error("job %s: %s", current.id, current.meta["reason"])
            with suppress(Exception):  # Redis may be what has failed
                current.save_meta()
            if ours:  # what it came from may hold addresses with passwords, and RQ keeps all of it
                raise error.with_traceback(None) from None
            raise
        current.meta.pop("reason", None)
        current.save_meta()
        return result

    return run
