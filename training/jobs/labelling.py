"""The job that predicts tasks of a project and pushes the predictions into Label Studio.

A prediction is pushed once for each task and version of the model, whoever asks for it and however often: a
job claims a task in Redis, and looks in Label Studio whether it has such a prediction, before it predicts.
"""

import logging
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

from ebseg.engine import Engine
from ebseg.errors import FetchError, TokenRefused
from ebseg.label_studio.pipeline import Fetcher, Model, Pipeline
from ebseg.label_studio.version import model_of
from training.annotations.label_studio import (
    PAGE_SIZE,
    LabelStudioClient,
    LabelStudioPrediction,
    LabelStudioTask,
    NotInLabelStudio,
)
from training.annotations.one_task import BadTask, one_task
from training.jobs.job import job
from training.jobs.planning import end_part, pipeline_of
from training.kept_model import load
from training.loop import Loop, Result
from training.queue.orders import Which
from training.queue.plans import claimer, leave_open
from training.selection.ordering import Ordering

_log = logging.getLogger(__name__)

Predict = Callable[[Pipeline, Any, Model], dict[str, Any]]


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

    @property
    def drops(self) -> bool:
        """Whether predictions are dropped for new ones."""
        return self.which in (Which.EMPTY, Which.ALL)

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
        if not self.drops:
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
        path = pipeline_of(loop, studio, studio.project(project))
    except NotInLabelStudio:
        return {"outcome": f"project {project} is not in Label Studio (any more)"}
    if plan and path.version(loop.registry.ensure_base(project).name) != version:
        return {"outcome": f"{version} is not served any more"}
    predictor = load(loop.registry.named(version), settings.device, settings.precision)
    order = Ordering(loop.storage, project, predictor.version, settings.select)
    model = Engine(predictor, encoded=order.photos)
    done = loop.progress.stage("predicting", len(tasks))
    claim = claimer(loop.connection, loop.job_id, path.version(model.version))
    anew = Anew(Which(which), {model_of(version), *loop.registry.names()})
    pushed = label(studio, path, model, project, tasks, claim, done, anew, order.predict)
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
    pipeline: Pipeline,
    model: Model,
    project: int,
    tasks: Sequence[int],
    claim: Callable[[int], bool],
    progress: Callable[[int], None],
    anew: Anew = MISSING,
    predict: Predict = Pipeline.predict,
) -> Pushed:
    """Predict tasks one by one and push each prediction as it is made; a bad task costs only itself.

    ``anew``: what is predicted though there is a prediction. ``predict`` makes a prediction of a pipeline, a
    task and a model. ``claim`` tells whether a task is this job's to
    do; ``progress`` is called with the tasks gone through. Raises StudioUnavailable where Label Studio is
    away, and FetchError where it refuses the token: what was pushed stays.
    """
    work = _Labelling(studio, pipeline, model, project, claim, anew, predict)
    # One thread talks with Label Studio while this one has the model work: of the next task and the last.
    other = ThreadPoolExecutor(1, thread_name_prefix="label-studio")
    try:
        listing = other.submit(work.look_ahead, tasks)  # before all reads, which look into it
        reads = deque(other.submit(work.read, task_id) for task_id in tasks[:1])
        listing.result()
        stores: deque[Future[None]] = deque()
        for number in range(len(tasks)):
            found = reads.popleft().result()
            reads.extend(other.submit(work.read, task_id) for task_id in tasks[number + 1 : number + 2])
            prediction = work.predict(found) if found is not None and found.task is not None else None
            while stores:
                stores.popleft().result()
            progress(number)
            if found is not None:
                stores.append(other.submit(work.store, found, prediction))
        while stores:
            stores.popleft().result()
        progress(len(tasks))
    finally:
        other.shutdown(cancel_futures=True)
    return work.done


@dataclass(frozen=True)
class _Found:
    """What Label Studio says of a task; ``task``: None where it needs no prediction.

    ``fetcher``: has its first photo already.
    """

    task_id: int
    predictions: list[LabelStudioPrediction]
    task: LabelStudioTask | None
    fetcher: Fetcher


@dataclass(frozen=True)
class _Labelling:
    """The steps of a task's prediction; what is wrong with the task itself ends in ``done``."""

    studio: LabelStudioClient
    pipeline: Pipeline
    model: Model
    project: int
    claim: Callable[[int], bool]
    anew: Anew
    predicted: Predict
    done: Pushed = field(default_factory=Pushed)
    listed: dict[int, LabelStudioTask] = field(default_factory=dict)
    """Tasks that were read ahead, which have no prediction of the wanted version."""

    @property
    def wanted(self) -> str:
        """The version of the predictions."""
        return self.pipeline.version(self.model.version)

    def look_ahead(self, tasks: Sequence[int]) -> None:
        """Read at once what surely needs a prediction and drops none; one page of it at most."""
        if not tasks or self.anew.drops:
            return
        with suppress(NotInLabelStudio):  # reading one by one says so of each
            within = (min(tasks), max(tasks))
            found = self.studio.unlabelled(self.project, without=self.wanted, within=within)
            self.listed.update({task.id: task for task in islice(found, PAGE_SIZE)})

    def read(self, task_id: int) -> _Found | None:
        """Look whether a task needs a prediction, and fetch its photo; None where it is not to be done."""
        if not self.claim(task_id):
            self.done.left_out[task_id] = "another job is at it"
            return None
        with self._one(task_id):
            if (listed := self.listed.get(task_id)) is not None:
                return _Found(task_id, [], listed, _ahead(self.pipeline, listed))
            found, fetcher = self.studio.predictions_of(task_id), self.pipeline.fetcher
            if not self.anew.is_needed(found, self.wanted):
                return _Found(task_id, found, None, fetcher)
            task = self.studio.task(self.project, task_id)
            return _Found(task_id, found, task, _ahead(self.pipeline, task))
        return None

    def predict(self, found: _Found) -> dict[str, Any] | None:
        """Have the model predict a task; None for a bad one."""
        assert found.task is not None
        with self._one(found.task_id), one_task(f"task {found.task_id}"):
            task = {"id": found.task.id, "data": found.task.data}
            return self.predicted(replace(self.pipeline, fetcher=found.fetcher), task, self.model)
        return None

    def store(self, found: _Found, prediction: dict[str, Any] | None) -> None:
        """Push a prediction, unless there is one by now, and drop those that need not stay."""
        if prediction is None and found.task is not None:
            return  # a bad one
        task_id, there = found.task_id, found.predictions
        with self._one(task_id):
            if prediction is not None:
                there = self.studio.predictions_of(task_id)  # the service may have been asked meanwhile
            stale = self.anew.stale(there, self.wanted)
            if prediction is not None and self.anew.is_needed(there, self.wanted):
                _push(self.studio, task_id, prediction, besides=stale)
                self.done.pushed.append(task_id)
            else:
                self.done.there.append(task_id)
            for each in stale:  # not before there is a better one
                self.studio.delete_prediction(each)

    @contextmanager
    def _one(self, task_id: int) -> Iterator[None]:
        """Around what is done with a task: where it cannot be predicted, say why."""
        try:
            yield
        except NotInLabelStudio:
            self.done.left_out[task_id] = "it was deleted"
        except BadTask as error:
            _log.warning("task %d gets no prediction: %s", task_id, error)
            (self.done.deferred if error.curable else self.done.left_out)[task_id] = str(error)


class _Ahead:
    """A fetcher that has fetched a photo already, or knows why it cannot be had."""

    def __init__(self, fetcher: Fetcher, url: str, content: bytes | Exception) -> None:
        self._fetcher, self._url, self._content = fetcher, url, content

    def fetch(self, url: str, *, task_id: int | None) -> bytes:
        """Give the photo, or fetch another one. Raises what the fetcher has raised."""
        if url != self._url:
            return self._fetcher.fetch(url, task_id=task_id)
        if isinstance(self._content, Exception):
            raise self._content
        return self._content


def _ahead(pipeline: Pipeline, task: LabelStudioTask) -> Fetcher:
    """Fetch the first photo of a task; a task may have any number."""
    try:
        first = pipeline.photos({"id": task.id, "data": task.data})[0]
    except Exception:  # it is raised again, where somebody hears of it
        return pipeline.fetcher
    content: bytes | Exception
    try:
        content = pipeline.fetcher.fetch(first.url, task_id=task.id) if not first.fault else b""
    except Exception as error:
        content = error
    return _Ahead(pipeline.fetcher, first.url, content)


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
