"""A job as Redis keeps it, read so that a damaged entry costs nothing but itself."""

import logging
from collections.abc import Iterable
from typing import Any

from redis import Redis, RedisError, ResponseError
from rq.exceptions import NoSuchJobError
from rq.job import Job
from rq.serializers import JSONSerializer
from rq.timeouts import BaseTimeoutException

_log = logging.getLogger(__name__)


class DamagedJob(NoSuchJobError):
    """What Redis keeps as a job is none of the loop's; the message says why, and what to do.

    To RQ such a job does not exist: it passes over it, where any other exception would end the worker.
    """

    def __init__(self, job_id: str, error: Exception) -> None:
        cause = error.__cause__ or error
        reason = " ".join(f"{type(cause).__name__}: {cause}".split())[:200]
        super().__init__(f"damaged in Redis ({reason}): `ebseg jobs cancel {job_id}` takes it away")


class LoopJob(Job):
    """A job of the loop's; ``fetch`` names a damaged one in the log."""

    @classmethod
    def fetch(cls, id: str, connection: Redis | None = None, serializer: Any = None) -> "LoopJob":
        """Read a job. Raises NoSuchJobError, also for a damaged one."""
        try:
            return read(connection, id)
        except DamagedJob as error:
            _log.warning("job %s is passed over: %s", id, error)
            raise

    @classmethod
    def fetch_many(
        cls, job_ids: Iterable[str], connection: Redis, serializer: Any = None
    ) -> "list[Job | None]":
        """Read jobs; None for those that there are not, and for damaged ones."""
        return [cls._fetch_or_none(job_id, connection) for job_id in job_ids]

    @classmethod
    def _fetch_or_none(cls, job_id: str, connection: Redis) -> "LoopJob | None":
        try:
            return cls.fetch(job_id, connection)
        except NoSuchJobError:
            return None

    def refresh(self) -> None:
        """Read it anew. Raises NoSuchJobError, DamagedJob too."""
        try:
            super().refresh()  # type: ignore[no-untyped-call]
        except ResponseError as error:  # not a hash
            raise DamagedJob(self.id, error) from None

    def restore(self, raw_data: Any) -> None:
        """Take what Redis keeps, all of it. Raises DamagedJob."""
        try:
            if b"data" not in raw_data:
                raise TypeError("it has no data")
            super().restore(raw_data)
            if not isinstance(self.func_name, str):  # of data that were pickled, say
                raise TypeError("it names no function")
            if not isinstance(self.meta, dict):
                raise TypeError("its meta is no JSON object")
        except (RedisError, BaseTimeoutException):
            raise
        except Exception as error:  # whatever is in a field: RQ foresees none of it
            raise DamagedJob(self.id, error) from None


def read(connection: Redis | None, job_id: str) -> LoopJob:
    """Read a job. Raises NoSuchJobError where there is none, and DamagedJob."""
    try:
        job = LoopJob(job_id.partition(":")[0], connection=connection, serializer=JSONSerializer)
    except ValueError as error:  # such an id was given by another program
        raise DamagedJob(job_id, error) from None
    job.refresh()
    return job
