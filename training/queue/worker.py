"""RQ's worker, for jobs that take hours and go on from checkpoints."""

import time
from collections.abc import Sequence
from contextlib import suppress
from types import FrameType
from typing import Any

from redis import Redis, RedisError
from rq import Queue
from rq.job import Job
from rq.serializers import JSONSerializer
from rq.worker import Worker

from training.queue.entries import LoopJob
from training.queue.lifeline import die_with_parent
from training.queue.orders import TRAINING
from training.queue.pause import PAUSED_LINES, paused

HEARTBEAT_SECONDS = 5
"""Between a worker's signs of life while a job runs."""

LOST_SECONDS = 30
"""Without a sign of life after which a job counts as abandoned and is tried again elsewhere."""

IDLE_SECONDS = 30
"""Between looks at what was abandoned, while there is nothing else to do."""

PAUSED_SECONDS = 2
"""Between looks whether a pause is over."""


class LoopWorker(Worker):
    """A worker that is soon seen to be dead, and that ends soon when it is told to."""

    def __init__(self, queues: Sequence[Queue], connection: Redis) -> None:
        super().__init__(
            queues,
            connection=connection,
            job_class=LoopJob,
            serializer=JSONSerializer,
            job_monitoring_interval=HEARTBEAT_SECONDS,
            maintenance_interval=IDLE_SECONDS,
            worker_ttl=IDLE_SECONDS + 15,  # it waits for a job 15 s less than that
        )
        self.told_to_stop = False

    def get_heartbeat_ttl(self, job: Job, working_time: float = 0.0) -> int:
        """Give the seconds for which a sign of life is good; RQ's own is a minute longer."""
        return LOST_SECONDS

    def dequeue_job_and_maintain_ttl(
        self, timeout: int | None, max_idle_time: int | None = None
    ) -> tuple[Job, Queue] | None:
        """Take the next job; while Label Studio is away (``pause``) only one that does without it."""
        while self._is_paused():
            self._ordered_queues = [each for each in self.queues if each.name not in PAUSED_LINES]
            found = self._take_within(PAUSED_SECONDS, timeout)
            if found or timeout is None:  # None: in a burst, it ends when nothing is left that can be done
                return found
        self._ordered_queues = list(self.queues)
        return super().dequeue_job_and_maintain_ttl(timeout, max_idle_time)

    def _take_within(self, seconds: int, timeout: int | None) -> tuple[Job, Queue] | None:
        if self._ordered_queues:
            waits = None if timeout is None else seconds
            return super().dequeue_job_and_maintain_ttl(waits, seconds)
        if timeout is not None:
            self.heartbeat()
            time.sleep(seconds)
        return None

    def _is_paused(self) -> bool:
        with suppress(RedisError):  # it is away: RQ waits for it
            return paused(self.connection) is not None
        return False

    def request_stop(self, signum: int, frame: FrameType | None) -> None:
        """Take no more jobs and finish the one at hand, but a training: it goes on elsewhere."""
        self.told_to_stop = True
        # A job that has not been forked yet has no process: the worker would kill itself.
        if self.horse_pid and any(each.job_id.startswith(TRAINING) for each in self.executions.values()):
            self.kill_horse()
        super().request_stop(signum, frame)  # type: ignore[no-untyped-call]

    def main_work_horse(self, job: Job, queue: Queue) -> None:
        """Do a job, in a process of its own that ends with the worker."""
        die_with_parent(parent=self.pid)
        super().main_work_horse(job, queue)

    def handle_work_horse_killed(self, job: Job, retpid: int, ret_val: int, rusage: Any) -> None:
        """Say why a job failed that could not say it itself; a stop that was asked for costs it no retry."""
        job.get_meta()
        if self.told_to_stop:
            job.meta["reason"] = "its worker was told to stop"
            job.retries_left = (job.retries_left or 0) + 1
        else:
            job.meta["reason"] = "its process was killed (too little memory?)"
        job.save_meta()

    def end_horse(self) -> None:
        """Leave no job running that nobody watches."""
        if self.horse_pid:
            self.kill_horse()
