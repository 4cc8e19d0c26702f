"""The job that predicts tasks of a project and pushes the predictions into Label Studio.

A prediction is pushed once for each task and version of the model, whoever asks for it and however often: a
job claims a task in Redis, and looks in Label Studio whether it has such a prediction, before it predicts.
"""

import logging
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

from ebseg.engine import Engine
from ebseg.errors import FetchError, TokenRefused
from ebseg.label_studio.pipeline import Model, Pipeline
from ebseg.label_studio.version import model_of
from ebseg.loading import load
from training.annotations.label_studio import LabelStudioClient, LabelStudioPrediction, NotInLabelStudio
from training.annotations.one_task import BadTask, one_task
from training.jobs.job import job
from training.jobs.planning import end_part, pipeline_of
from training.loop import Loop, Result
from training.queue.orders import Which
from training.queue.plans import claimer, leave_open
from training.selection.ordering import Ordering

_log = logging.getLogger(__name__)


@dataclass
class Pushed:
    """What a job did with its tasks: ids, and of those without a prediction the reasons.

    ``left_out``: they would be again; ``deferred``: something else was in the way, which passes or can be
    put right.
    """

    pushed: list[int] = field(default_factory=list)
    there: list[int] = field(default_factory=list)
    left_out: dict[int, str] = field(default_factory=dict)
    deferred: dict[int, str] = field(default_factory=dict)

    def summary(self) -> str:
        """Say it in words."""
        parts = [f"{len(self.pushed)} predictions pushed"]
        if self.there:
            parts.append(f"{len(self.there)} were there")
        if self.left_out:
            parts.append(f"{len(self.left_out)} tasks left out")
        if self.deferred:
            parts.append(f"{len(self.deferred)} tasks deferred")
        return ", ".join(parts)


@dataclass(frozen=True)
class Anew:
    """What is predicted anew, and which predictions are dropped for it; ``ours``: versions of our model."""

    which: Which
    ours: Collection[str]

    def is_needed(self, found: Sequence[LabelStudioPrediction], wanted: str) -> bool:
        """Tell whether a task with these predictions needs one of the wanted version."""
        there = [each for each in found if each.version == wanted]
        if self.which is Which.ALL:
            return True
        if self.which is Which.EMPTY:
            return any(each.empty for each in found) and all(each.empty for each in there)
        return not there

    def stale(self, found: Sequence[LabelStudioPrediction], wanted: str) -> list[int]:
        """List the ids of the predictions that a new one replaces."""
        if self.which not in (Which.EMPTY, Which.ALL):
            return []
        whole = self.which is Which.ALL
        return [
            each.id
            for each in found
            if (each.empty and model_of(each.version) in self.ours) or (whole and each.version == wanted)
        ]


MISSING = Anew(Which.MISSING, ())


def predict_tasks(
    loop: Loop, project: int, tasks: list[int], version: str, plan: str, which: str = Which.MISSING
) -> Result:
    """Predict some tasks and push the predictions; the last job of a plan makes the project show them.

    Without a plan the model of that version predicts them, with the label config as it is now. ``which``: see
    Which.
    """
    settings, studio = loop.settings, loop.studio()
    loop.progress.stage("loading the model")
    try:
        path = pipeline_of(loop, studio, project)
    except NotInLabelStudio:
        return {"outcome": f"project {project} is not in Label Studio (any more)"}
    if plan and path.version(loop.registry.ensure_base(project).name) != version:
        return {"outcome": f"{version} is not served any more"}
    predictor = load(loop.registry.named(version), device=settings.device)
    order = Ordering(path, loop.storage, project, predictor.version, settings.select)
    model = Engine(predictor, encoded=order.photos)
    done = loop.progress.stage("predicting", len(tasks))
    claim = claimer(loop.connection, loop.job_id, path.version(model.version))
    anew = Anew(Which(which), {model_of(version), *loop.registry.names()})
    pushed = label(studio, order, model, project, tasks, claim, done, anew)
    order.keep()
    if plan:
        if pushed.deferred:
            leave_open(loop.connection, plan)
        end_part(loop, studio, project, version, plan=plan)
    return {
        "outcome": pushed.summary(),
        "left_out": {str(task): why for task, why in pushed.left_out.items()},
        "deferred": {str(task): why for task, why in pushed.deferred.items()},
    }


def label(
    studio: LabelStudioClient,
    pipeline: Pipeline | Ordering,
    model: Model,
    project: int,
    tasks: Sequence[int],
    claim: Callable[[int], bool],
    progress: Callable[[int], None],
    anew: Anew = MISSING,
) -> Pushed:
    """Predict tasks one by one and push each prediction as it is made; a bad task costs only itself.

    ``anew``: what is predicted though there is a prediction. ``claim`` tells whether a task is this job's to
    do; ``progress`` is called with the tasks gone through. Raises StudioUnavailable where Label Studio is
    away, and FetchError where it refuses the token: what was pushed stays.
    """
    done = Pushed()
    for number, task_id in enumerate(tasks, start=1):
        if claim(task_id):
            _label_one(studio, pipeline, model, project, task_id, anew, done)
        else:
            done.left_out[task_id] = "another job is at it"
        progress(number)
    return done


def _label_one(
    studio: LabelStudioClient,
    pipeline: Pipeline | Ordering,
    model: Model,
    project: int,
    task_id: int,
    anew: Anew,
    done: Pushed,
) -> None:
    try:
        wanted = pipeline.version(model.version)
        found = studio.predictions_of(task_id)
        stale = anew.stale(found, wanted)
        if anew.is_needed(found, wanted):
            task = studio.task(project, task_id)
            with one_task(f"task {task_id}"):
                prediction = pipeline.predict({"id": task.id, "data": task.data}, model)
            _push(studio, task_id, prediction, besides=stale)
            done.pushed.append(task_id)
        else:
            done.there.append(task_id)
        for each in stale:  # not before there is a better one
            studio.delete_prediction(each)
    except NotInLabelStudio:
        done.left_out[task_id] = "it was deleted"
    except BadTask as error:
        _log.warning("task %d gets no prediction: %s", task_id, error)
        (done.deferred if error.curable else done.left_out)[task_id] = str(error)


def _push(
    studio: LabelStudioClient, task_id: int, prediction: dict[str, Any], *, besides: Sequence[int]
) -> None:
    """Store a prediction. One that Label Studio will not have is its task's fault, and no other's."""
    try:
        studio.push_prediction(task_id, prediction, besides=besides)
    except TokenRefused:
        raise
    except FetchError as error:
        raise BadTask(str(error)) from error


label_tasks = job(predict_tasks)
