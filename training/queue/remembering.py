"""When a project's memory of corrections is brought up to date: seconds after an event, one job at a time."""

from redis import Redis

from training.queue import orders
from training.settings import Settings

DEBOUNCE_SECONDS = 1.0
"""From an event until its annotation is read: what is submitted together is remembered together."""

_KEPT_SECONDS = 24 * 3600


def request_memory(connection: Redis, settings: Settings, project: int) -> None:
    """Have a project's memory brought up to date; a job that is under way goes on with what is new."""
    if settings.memory:
        connection.set(_key(project), "1", ex=_KEPT_SECONDS)
        orders.remember(project).resubmit(connection, delay=DEBOUNCE_SECONDS)


def is_requested(connection: Redis, project: int) -> bool:
    """Tell whether there was a request since the last ``begin``."""
    return bool(connection.exists(_key(project)))


def begin(connection: Redis, project: int) -> None:
    """Note that what was requested so far is being done."""
    connection.delete(_key(project))


def _key(project: int) -> str:
    return f"ebseg:remember:{project}"
