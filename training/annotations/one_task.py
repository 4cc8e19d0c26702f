"""One task is one task: what is wrong with its content costs no other task anything."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from rq.timeouts import BaseTimeoutException

from ebseg.errors import Curable, EBSegError
from ebseg.label_studio.shown import MOST_WORDS, shown
from training.annotations.label_studio import LabelStudioUnavailable, NotInLabelStudio

_log = logging.getLogger(__name__)


class BadTask(EBSegError):
    """A task's photo, annotation or prediction cannot be used; the others can.

    ``curable``: whether the task is not at fault, so that it may be used later.
    """

    def __init__(self, reason: str, *, curable: bool = False) -> None:
        super().__init__(reason)
        self.curable = curable


@contextmanager
def one_task(name: str) -> Iterator[None]:
    """Around what is done with other people's content, and nothing else: whatever goes wrong is a BadTask.

    No list of what may go wrong would be complete: libraries raise as they like at odd input. So calls on
    Label Studio, a storage, Redis or MLflow stay outside, as their faults are no task's. What a photo's
    fetcher hears when it asks Label Studio itself passes, and so does the end of the job's time. What nobody
    foresaw is logged with its traceback. ``name``: of the task, for the log.
    """
    try:
        yield
    except (LabelStudioUnavailable, NotInLabelStudio, BaseTimeoutException):
        raise
    except EBSegError as error:
        raise BadTask(shown(str(error), MOST_WORDS), curable=isinstance(error, Curable)) from error
    except Exception as error:
        _log.exception("%s cannot be used, and nobody foresaw why", name)
        what = shown(f"{type(error).__name__}: {error}", MOST_WORDS)
        raise BadTask(f"it cannot be used: {what} (the worker's log has more; please report it)") from error
