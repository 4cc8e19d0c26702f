"""RQ's worker, for jobs that take hours and go on from checkpoints."""

import os
import time
from collections.abc import Sequence
from contextlib import suppress
from types import FrameType
from typing import Any

from redis import Redis, RedisError
from rq import Queue
from rq.executions import Execution
from rq.job import Job
from rq.serializers import JSONSerializer
from rq.worker import Worker

from training.queue.entries import LoopJob
from training.queue.kept_horse import KeptHorse
from training.queue.lifeline import die_with_parent
from training.queue.orders import JUDGING, TRAINING
from training.queue.pause import PAUSED_LINES, paused
from training.queue.queues import QueueName
from training.queue.queues import queue as open_queue

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
        self._kept = KeptHorse()

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

    def fork_work_horse(self, job: Job, queue: Queue) -> None:
        """Have a job done in another process, which is kept for the next one with the model that it loaded.

        Trainings and judgements have a process of their own: they need the memory that the model takes.
        """
        on_its_own = job.id.startswith((TRAINING, JUDGING))
        if not on_its_own and self._kept.hand(job.id, self._execution_of(job).id):
            self._horse_pid = self._kept.pid
            return
        self._kept.end()
        if not on_its_own:
            self._kept.open()
        super().fork_work_horse(job, queue)
        if not on_its_own:
            self._kept.forked(self.horse_pid)

    def _execution_of(self, job: Job) -> Execution:
        return next(each for each in self.executions.values() if each.job_id == job.id)

    def wait_for_horse(self) -> tuple[int | None, int | None, Any]:
        """Wait until the job is done or its process has ended."""
        if self._kept.pid == self.horse_pid and self._kept.wait():
            return self.horse_pid, os.EX_OK, None
        found = super().wait_for_horse()
        if self._kept.pid == self.horse_pid:
            self._kept.forget()
        return found

    def main_work_horse(self, job: Job, queue: Queue) -> None:
        """Do a job, and then others that the worker hands over, in a process that ends with the worker."""
        die_with_parent(parent=self.pid)
        self._kept.begin()
        super().main_work_horse(job, queue)

    def perform_job(self, job: Job, queue: Queue, execution: Execution) -> bool:
        """Do a job in its process; one that went well is followed by others, where the process is kept."""
        while super().perform_job(job, queue, execution):
            following = self._kept.next_job()
            if following is None:
                return True
            job_id, execution_id = following
            job = LoopJob.fetch(job_id, self.connection)
            queue = open_queue(self.connection, QueueName(job.origin))
            execution = Execution.fetch(execution_id, job_id, self.connection)
            execution._job = job  # it would fetch one that is pickled
            self.execution = execution
        return False

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
        self._kept.end()
