"""Every job that can be asked for: its function, its queue, the id it gets, its arguments, its time limit.

This is the one place that names the jobs' functions. Redis keeps a function's path, and a worker imports it:
so whoever asks for a job, the service among them, imports neither the jobs nor PyTorch.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from hashlib import sha256
from typing import Any

from redis import Redis

from training.queue.queues import JOB_SECONDS, RETRY_PAUSES, QueueName, id_of, resubmit, submit
from training.settings import Settings

TRAINING, JUDGING = "train-", "judge-"
"""Beginnings of the ids of these jobs; what follows names the training."""


class Which(StrEnum):
    """Which of a project's unlabelled tasks a plan is for."""

    MISSING = "missing"  # that have no prediction of the version
    NEW = "new"  # that have no prediction at all
    EMPTY = "empty"  # that have an empty prediction: it is made anew
    ALL = "all"  # whatever there is: it is made anew


@dataclass(frozen=True)
class Order:
    """A job to be done.

    ``function``: its path; ``arguments``: what JSON can hold; ``what``: the job in words; ``timeout``:
    seconds that it may take; ``retries``: how often it is tried again.
    """

    function: str
    line: QueueName
    arguments: tuple[Any, ...]
    job_id: str
    what: str
    timeout: float = JOB_SECONDS
    retries: int = len(RETRY_PAUSES)

    def submit(self, connection: Redis, *, delay: float = 0.0) -> bool:
        """Put it into its queue once, after ``delay`` seconds; see ``queues.submit``."""
        return submit(connection, self.line, self.function, self.arguments, delay=delay, **self._options)

    def resubmit(self, connection: Redis, *, delay: float = 0.0) -> bool:
        """Put it into its queue, also where it was done before; see ``queues.resubmit``."""
        return resubmit(connection, self.line, self.function, self.arguments, delay=delay, **self._options)

    @property
    def _options(self) -> dict[str, Any]:
        return {
            "job_id": self.job_id,
            "what": self.what,
            "timeout": self.timeout,
            "retries": self.retries,
        }


def snapshot(project: int, number: int) -> Order:
    """Read a project's annotations, in its round ``number``."""
    return Order(
        "training.jobs.snapshot_project",
        QueueName.CONTROL,
        (project, number),
        f"snapshot-{project}-{number}",
        f"read the annotations of project {project}",
    )


def remember(project: int) -> Order:
    """Bring a project's memory of corrections up to date."""
    return Order(
        "training.jobs.remember_project",
        QueueName.CONTROL,
        (project,),
        f"remember-{project}",
        f"remember the corrections of project {project}",
    )


def finetune(settings: Settings, name: str, project: int, fingerprint: str, base: int, why: str) -> Order:
    """Fine-tune version ``base`` on a reading of annotations; ``name``: the training's."""
    return Order(
        "training.jobs.finetune_project",
        QueueName.TRAIN,
        (project, fingerprint, base),
        f"{TRAINING}{name}",
        f"fine-tune version {base} for project {project}: {why}",
        settings.train_timeout,
        settings.train_retries,
    )


def judge(settings: Settings, name: str, project: int, fingerprint: str, candidate: int) -> Order:
    """Compare the version that came of the training ``name`` with the champion."""
    return Order(
        "training.jobs.judge_candidate",
        QueueName.CONTROL,
        (project, fingerprint, candidate),
        f"{JUDGING}{name}",
        f"compare version {candidate} with the champion, for project {project}",
        settings.train_timeout,
    )


def plan(project: int, model: str, which: Which = Which.MISSING) -> Order:
    """Have unlabelled tasks of a project predicted with the model of that version."""
    special = _special(which)
    what = "".join(f" ({each})" for each in special)
    return Order(
        "training.jobs.label_project",
        QueueName.CONTROL,
        (project, model, *special),
        id_of("plan", project, model, *special),
        f"predict the unlabelled tasks of project {project} with {model}{what}",
    )


def predict(
    project: int, tasks: Sequence[int], version: str, plan: str = "", which: Which = Which.MISSING
) -> Order:
    """Predict some tasks; ``version``: of the predictions; ``plan``: id of the job on whose behalf."""
    digest = sha256(repr((plan, list(tasks))).encode()).hexdigest()[:8]
    return Order(
        "training.jobs.label_tasks",
        QueueName.LABEL,
        (project, list(tasks), version, plan, *_special(which)),
        id_of("label", project, version, tasks[0], digest),
        f"predict {len(tasks)} tasks of project {project} with {version}",
    )


def _special(which: Which) -> tuple[Which, ...]:
    """Give what is said of a plan only where it is not the usual one: so jobs are as they ever were."""
    return () if which is Which.MISSING else (which,)


def sweep(at: datetime) -> Order:
    """Look at all projects, as the schedule wants at a time (UTC)."""
    name = at.strftime("%Y-%m-%dT%H:%MZ")
    return Order(
        "training.jobs.sweep",
        QueueName.CONTROL,
        (name,),
        f"sweep-{at:%Y%m%dT%H%M}",
        f"look at all projects, as scheduled for {name}",
    )
