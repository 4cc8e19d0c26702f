"""Plans: predictions for the unlabelled tasks of a project, made by jobs of a few tasks each.

A plan is open in Redis until its last job is done. A prediction is made once for each task and version of the
model, whoever asks for it and however often: a job claims a task before it predicts.
"""

from collections.abc import Callable, Iterable
from itertools import islice

from redis import Redis, ResponseError

from training.queue import orders
from training.queue.orders import Which
from training.queue.projects import known_projects
from training.queue.queues import is_active, text
from training.queue.remembering import request_memory
from training.settings import Settings

CLAIM_SECONDS = 900
"""Longer than a task takes: after so long a claim whose job died without a retry is void."""

OPEN_SECONDS = 30 * 24 * 3600
"""How long the list of a plan's unfinished chunks is kept."""


def refresh(connection: Redis, settings: Settings, model: str, project: int | None = None) -> None:
    """Have a project's unlabelled tasks predicted with the model of that version, its new champion.

    Without a project, or where all share one champion, those of all known ones; who is served another version
    takes no part in it. Their memories are another model's now, and are made anew.
    """
    alone = None if settings.share == "all" else project
    for number in known_projects(connection, settings) if alone is None else [alone]:
        request_memory(connection, settings, number)
        submit_plan(connection, number, model)


def submit_plan(connection: Redis, project: int, model: str, which: Which = Which.MISSING) -> str:
    """Have unlabelled tasks of a project predicted with a version of the model; return the job's id."""
    order = orders.plan(project, model, which)
    order.resubmit(connection)
    return order.job_id


def submit_chunks(
    connection: Redis,
    settings: Settings,
    project: int,
    tasks: Iterable[int],
    version: str,
    *,
    plan: str = "",
    which: Which = Which.MISSING,
) -> list[str]:
    """Fan tasks out into jobs of a few; the same tasks and version are submitted once. Return the jobs' ids.

    ``version``: of the predictions, which names the model and what else decides them.
    ``plan``: the job on whose behalf; when all its chunks are done the project shows the version's scores.
    """
    ids: list[str] = []
    remaining = iter(tasks)
    while chunk := list(islice(remaining, settings.label_chunk)):
        order = orders.predict(project, chunk, version, plan, which)
        if plan:
            connection.sadd(_open_key(plan), order.job_id)
        order.resubmit(connection)
        ids.append(order.job_id)
    return ids


def open_plan(connection: Redis, plan: str) -> None:
    """Begin the list of what a plan has to do, with the plan itself: it cannot end before that."""
    connection.delete(_open_key(plan), _deferred_key(plan))
    connection.sadd(_open_key(plan), plan)
    connection.expire(_open_key(plan), OPEN_SECONDS)


def close_plan(connection: Redis, plan: str, part: str) -> bool:
    """Note that a part of a plan is done; tell whether it was the last."""
    with connection.pipeline() as pipeline:
        pipeline.srem(_open_key(plan), part)
        pipeline.scard(_open_key(plan))
        return int(pipeline.execute()[1]) == 0


def leave_open(connection: Redis, plan: str) -> None:
    """Note that a plan has tasks that could not be predicted for now, so that the schedule makes it again."""
    connection.set(_deferred_key(plan), "1", ex=OPEN_SECONDS)


def is_open(connection: Redis, plan: str) -> bool:
    """Tell whether a plan was begun and never came to its end, or has tasks that were deferred."""
    return bool(connection.exists(_open_key(plan), _deferred_key(plan)))


def _open_key(plan: str) -> str:
    return f"ebseg:open:{plan}"


def _deferred_key(plan: str) -> str:
    return f"ebseg:deferred:{plan}"


def claimer(connection: Redis, job_id: str, version: str) -> Callable[[int], bool]:
    """Give a function that claims a task for a job; a job that is tried again keeps its claims."""

    def claim(task_id: int) -> bool:
        key = f"ebseg:claim:{version}:{task_id}"
        if connection.set(key, job_id, nx=True, ex=CLAIM_SECONDS):
            return True
        try:
            holder = connection.get(key)
        except ResponseError:  # no text: nobody's claim
            holder = None
        if holder is None or text(holder) == job_id or not is_active(connection, text(holder)):
            connection.set(key, job_id, ex=CLAIM_SECONDS)
            return True
        return False

    return claim
