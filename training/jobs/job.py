"""How a function of the loop becomes a job of RQ's, and how that ends."""

import functools
import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Concatenate, ParamSpec

from rq import Retry, get_current_job
from rq.timeouts import JobTimeoutException

from ebseg.errors import EBSegError, Outage, Refused, TrainingError, Unreachable
from training.annotations.label_studio import LabelStudioUnavailable
from training.annotations.reach import why_away
from training.loop import JobProgress, Loop, Result
from training.queue.pause import PAUSED_LINES, go_back, pause, paused
from training.settings import Settings, load_settings

_log = logging.getLogger(__name__)

P = ParamSpec("P")


def job(function: Callable[Concatenate[Loop, P], Result | Retry]) -> Callable[P, Result | Retry]:
    """Make a job: its failure has a reason, and what must fail is not tried again."""

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> Result | Retry:
        current = get_current_job()
        if current is None:
            raise TrainingError(f"{function.__name__} is a job: submit it to a queue")
        if current.origin in PAUSED_LINES and paused(current.connection):
            return go_back()  # its worker took it before it knew
        settings = load_settings()
        try:
            loop = Loop.of(settings, current.connection, current.id, JobProgress(current))
            result = function(loop, *args, **kwargs)
        except Exception as error:
            if current.origin in PAUSED_LINES and _is_outage(error, settings):
                pause(current.connection, str(error))
                return go_back()
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


def _is_outage(error: Exception, settings: Settings) -> bool:
    """Tell whether Label Studio is away for all, or refuses the token: not just what this job asked for."""
    return isinstance(error, LabelStudioUnavailable | Unreachable | Refused) and bool(why_away(settings))
