"""What the learning loop's jobs work with, as one value: a worker makes it for a job, a test by hand."""

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from redis import Redis, RedisError

from ebseg.label_studio.fetch import ImageFetcher
from training.annotations.label_studio import LabelStudioClient
from training.annotations.photos import photo_fetcher
from training.queue.projects import hostname
from training.registry.registry import Registry
from training.settings import Settings
from training.storage import Storage

META_SECONDS = 2.0
"""Between writes of a job's progress."""

Result = dict[str, Any]
"""What came of a job, as JSON may hold it; ``outcome`` says it in words."""


class Shown(Protocol):
    """What people see of a job: RQ's job, whose ``meta`` is kept in Redis."""

    meta: dict[str, Any]

    def save_meta(self) -> None:
        """Write ``meta``."""


class JobProgress:
    """How far a job is, shown in its ``meta``."""

    def __init__(self, job: Shown) -> None:
        self._job = job
        self._written = 0.0

    def tell(self, log: list[str] | None = None, **told: Any) -> None:
        """Show numbers, and the end of a log; not at each call."""
        self._job.meta["progress"] = {**self._job.meta.get("progress", {}), **told}
        if log is not None:
            self._job.meta["log"] = log
        if time.monotonic() - self._written >= META_SECONDS:
            with suppress(RedisError):  # it may be back when the job is done
                self._job.save_meta()
            self._written = time.monotonic()

    def stage(self, name: str, total: int | None = None) -> Callable[[int], None]:
        """Say what the job does now; give a function to call with the number of things done."""
        self._written = 0.0
        self._job.meta["progress"] = {}
        self.tell(stage=name, total=total)
        return lambda done: self.tell(done=done)


@dataclass(frozen=True)
class Loop:
    """What a job works with.

    ``job_id``: the job's. ``storage``: of snapshots and measurements. ``studio``, ``photos``: connect to
    Label Studio; they raise FetchError for settings that cannot be right. ``clock``: tells the seconds since
    1970.
    """

    settings: Settings
    connection: Redis
    job_id: str
    progress: JobProgress
    storage: Storage
    registry: Registry
    studio: Callable[[], LabelStudioClient]
    photos: Callable[[], ImageFetcher]
    clock: Callable[[], float] = time.time

    @classmethod
    def of(cls, settings: Settings, connection: Redis, job_id: str, progress: JobProgress) -> "Loop":
        """Take what the settings name."""
        return cls(
            settings=settings,
            connection=connection,
            job_id=job_id,
            progress=progress,
            storage=Storage(settings.storage_url, settings.home / "cache"),
            registry=Registry(settings),
            studio=partial(LabelStudioClient, settings),
            photos=lambda: photo_fetcher(settings, hostname(connection)),
        )
