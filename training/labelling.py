"""Predictions for tasks, made by worker jobs and pushed into Label Studio.

A prediction is pushed once for each task and version of the model, whoever asks for it and however often: a
job claims a task in Redis, and looks in Label Studio whether it has such a prediction, before it predicts.
"""

import hashlib
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice

from redis import Redis

from ebseg.errors import EBSegError
from ebseg.label_studio.fetch import ImageFetcher
from ebseg.label_studio.pipeline import Pipeline
from ebseg.label_studio.tasks import Labelling
from ebseg.predictor import Predictor
from training.annotations.label_studio import NotInStudio, Studio, StudioUnavailable
from training.annotations.photos import PatientFetcher
from training.queue.queues import Line, id_of, is_active, resubmit, text
from training.settings import Settings

_log = logging.getLogger(__name__)

CLAIM_SECONDS = 900
"""Longer than a task takes: after so long a claim whose job died without a retry is void."""

OPEN_SECONDS = 30 * 24 * 3600
"""How long the list of a plan's unfinished chunks is kept."""


@dataclass
class Pushed:
    """What a job did with its tasks: ids, and of those left out the reasons."""

    pushed: list[int] = field(default_factory=list)
    there: list[int] = field(default_factory=list)
    left_out: dict[int, str] = field(default_factory=dict)

    def told(self) -> str:
        """Say it in words."""
        parts = [f"{len(self.pushed)} predictions pushed"]
        if self.there:
            parts.append(f"{len(self.there)} were there")
        if self.left_out:
            parts.append(f"{len(self.left_out)} tasks left out")
        return ", ".join(parts)


def submit_chunks(
    connection: Redis, settings: Settings, project: int, tasks: Iterable[int], version: str, *, plan: str = ""
) -> list[str]:
    """Fan tasks out into jobs of a few; the same tasks and version are submitted once. Return the jobs' ids.

    ``plan``: the job on whose behalf; when all its chunks are done the project shows the version's scores.
    """
    ids: list[str] = []
    remaining = iter(tasks)
    while chunk := list(islice(remaining, settings.label_chunk)):
        digest = hashlib.sha256(repr((plan, chunk)).encode()).hexdigest()[:8]
        job_id = id_of("label", project, version, chunk[0], digest)
        if plan:
            connection.sadd(_open_key(plan), job_id)
        resubmit(
            connection,
            Line.LABEL,
            "training.jobs.label_tasks",
            [project, chunk, version, plan],
            job_id=job_id,
            what=f"predict {len(chunk)} tasks of project {project} with {version}",
        )
        ids.append(job_id)
    return ids


def open_plan(connection: Redis, plan: str) -> None:
    """Begin the list of what a plan has to do, with the plan itself: it cannot end before that."""
    connection.delete(_open_key(plan))
    connection.sadd(_open_key(plan), plan)
    connection.expire(_open_key(plan), OPEN_SECONDS)


def close_plan(connection: Redis, plan: str, part: str) -> bool:
    """Note that a part of a plan is done; tell whether it was the last."""
    with connection.pipeline() as pipeline:
        pipeline.srem(_open_key(plan), part)
        pipeline.scard(_open_key(plan))
        return int(pipeline.execute()[1]) == 0


def is_open(connection: Redis, plan: str) -> bool:
    """Tell whether a plan was begun and never came to its end."""
    return bool(connection.exists(_open_key(plan)))


def _open_key(plan: str) -> str:
    return f"ebseg:open:{plan}"


def label(
    studio: Studio,
    photos: ImageFetcher,
    model: Predictor,
    labelling: Labelling,
    settings: Settings,
    project: int,
    tasks: Sequence[int],
    claim: Callable[[int], bool],
    progress: Callable[[int], None],
) -> Pushed:
    """Predict tasks one by one and push each prediction as it is made; a bad task costs only itself.

    ``claim`` tells whether a task is this job's to do; ``progress`` is called with the tasks gone through.
    Raises StudioUnavailable where Label Studio is away: what was pushed stays.
    """
    done = Pushed()
    pipeline = Pipeline(
        labelling,
        PatientFetcher(photos, lambda: studio.project(project), settings.patience),
        default_threshold=settings.score_threshold,
        default_min_area=settings.min_area,
        max_pixels=settings.max_pixels,
    )
    for number, task_id in enumerate(tasks, start=1):
        if claim(task_id):
            _label_one(studio, pipeline, model, project, task_id, done)
        else:
            done.left_out[task_id] = "another job is at it"
        progress(number)
    return done


def _label_one(
    studio: Studio, pipeline: Pipeline, model: Predictor, project: int, task_id: int, done: Pushed
) -> None:
    try:
        if any(version == model.version for _, version in studio.predictions_of(task_id)):
            done.there.append(task_id)
            return
        task = studio.task(project, task_id)
        studio.push_prediction(task_id, pipeline.predict({"id": task.id, "data": task.data}, model))
        done.pushed.append(task_id)
    except StudioUnavailable:
        raise
    except NotInStudio:
        done.left_out[task_id] = "it was deleted"
    except EBSegError as error:
        _log.warning("task %d gets no prediction: %s", task_id, error)
        done.left_out[task_id] = str(error)


def claimer(connection: Redis, job_id: str, version: str) -> Callable[[int], bool]:
    """Give a function that claims a task for a job; a job that is tried again keeps its claims."""

    def claim(task_id: int) -> bool:
        key = f"ebseg:claim:{version}:{task_id}"
        if connection.set(key, job_id, nx=True, ex=CLAIM_SECONDS):
            return True
        holder = connection.get(key)
        if holder is None or text(holder) == job_id or not is_active(connection, text(holder)):
            connection.set(key, job_id, ex=CLAIM_SECONDS)
            return True
        return False

    return claim
