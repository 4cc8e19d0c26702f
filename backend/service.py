"""Tasks in, Label Studio predictions out: what both the Flask routes and the label-studio-ml adapter call."""

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from backend.follower import AskChampions, ChampionFollower, registry_champions
from backend.hints import Hints
from backend.label_studio_watch import LabelStudioWatch
from backend.memories import Memories
from backend.metrics import Metrics, TaskOutcome
from backend.model_holder import ModelHolder, ModelUnavailable, PinnedModel
from backend.outbox import Outbox, Sink
from backend.webhook_events import Event
from ebseg.errors import Curable, EBSegError, Refused, TokenRefused, Unreachable
from ebseg.label_studio.fetch import ImageFetcher
from ebseg.label_studio.pipeline import OWN_FAULTS, Model, Pipeline
from ebseg.label_studio.regions import Region, prediction
from ebseg.label_studio.smart_tools import InteractiveRequest, parse_context
from ebseg.label_studio.tasks import Labelling, TaskPhoto, describe, language_hint, task_id
from ebseg.read_ahead import read_ahead
from training.annotations.labelling import read_labelling
from training.annotations.photos import photo_fetcher
from training.settings import RESERVED_THREADS, WAITING_THREADS, Settings

if TYPE_CHECKING:
    from ebseg.engine import EncodedPhotos
    from ebseg.predictor import Predictor

logger = logging.getLogger(__name__)

# Photos of one request that are fetched and decoded ahead of the model: enough to hide the fetching behind
# the model, few enough that decoded photos (150 MB at the pixel limit) do not fill the memory.
FETCH_AHEAD = 4


_BUSY = "all threads that may predict are busy; ask again later, or raise EBSEG_THREADS"

_Photo = Future[npt.NDArray[np.uint8]]


class Busy(Curable):
    """As many requests predict or wait for it as there are threads."""


class _OutOfTime(Exception):
    """The budget of a request is spent, or the process is about to end."""


@dataclass(frozen=True)
class _Request:
    """What all tasks of one request have in common."""

    model: PinnedModel
    pipeline: Pipeline
    asked: InteractiveRequest | None
    deadline: float  # of time.monotonic()

    @property
    def seconds_left(self) -> float:
        return max(self.deadline - time.monotonic(), 0.0)


@dataclass(frozen=True)
class _Part:
    """One photo of one of a request's tasks."""

    number: int
    task: Any
    photo: TaskPhoto


@dataclass(frozen=True)
class _Answer:
    """What became of a photo, or of a task."""

    outcome: TaskOutcome
    regions: list[Region] = field(default_factory=list)

    @property
    def is_whole(self) -> bool:
        """Whether asking again would give the same."""
        return self.outcome in (TaskOutcome.PREDICTED, TaskOutcome.EMPTY)

    def joined(self, other: "_Answer") -> "_Answer":
        """Add another photo of the task: it is left out where one is, and empty where all are."""
        empty = other.outcome is TaskOutcome.EMPTY
        return _Answer(self.outcome if empty else other.outcome, self.regions + other.regions)


@dataclass(frozen=True)
class Setup:
    """What a project is told when it connects: its predictions' version, and what of it is not served."""

    version: str
    problems: tuple[str, ...] = ()


class Service:
    """Predicts for tasks, each project's with its own champion or the base; may be called from many threads.

    ``model`` is the base. ``follower`` has models exchanged, and those of projects that have their own;
    ``outbox`` takes what the learning loop is to know; ``memories`` has what projects' corrections taught;
    None: not here.
    """

    def __init__(
        self,
        settings: Settings,
        model: ModelHolder,
        photos: ImageFetcher,
        metrics: Metrics,
        follower: ChampionFollower | None = None,
        outbox: Outbox | None = None,
        watch: LabelStudioWatch | None = None,
        memories: Memories | None = None,
    ) -> None:
        self.settings = settings
        self.model = model
        self.metrics = metrics
        self.follower = follower
        self.outbox = outbox
        self.watch = watch
        self.memories = memories
        self.hints = Hints()
        self._photos = photos
        self._stopping = False
        predicting = settings.threads - RESERVED_THREADS
        self._places = threading.BoundedSemaphore(predicting)
        self._line = threading.BoundedSemaphore(predicting + WAITING_THREADS)

    def stop(self) -> None:
        """Leave out every task that is not begun, so that the process can end soon and keep what is done.

        Takes no lock, as an event of threading would: a signal's handler calls this, and a second signal
        (Ctrl-C reaches all processes of a terminal) interrupts it where it is.
        """
        self._stopping = True
        self.model.stop()
        if self.follower:
            self.follower.stop()
        if self.watch:
            self.watch.stop()
        if self.memories:
            self.memories.stop()

    @property
    def hostname(self) -> str:
        """What Label Studio calls itself; empty where it has not said so."""
        return self._photos.hostname

    def note_hostname(self, hostname: object) -> None:
        """Take what Label Studio calls itself: photos at that address are its own, for the workers too."""
        self._photos.note_hostname(hostname)

    def version(self, label_config: str | None, project: int | None = None) -> str:
        """Tell the version of a project's predictions with a label config; without one, its model's.

        Raises LabelConfigError or VocabularyError for one that cannot be served.
        """
        labelling = self._labelling(label_config, project)
        return self._version(labelling, project, self._current(project).version)

    def versions(self) -> list[str]:
        """List the versions that are served: the base's, and those of projects' own champions."""
        own = self.follower.own.champions().values() if self.follower else ()
        return list(dict.fromkeys([self.model.version, *(champion.wanted.name for champion in own)]))

    def _current(self, project: int | None) -> PinnedModel:
        """Give the model that serves a project now."""
        return self.follower.own.current(project, self.model) if self.follower else self.model.current()

    def _version(self, labelling: Labelling | None, project: int | None, model: str) -> str:
        return self._pipeline(labelling, project).version(model) if labelling else model

    def _pipeline(self, labelling: Labelling, project: int | None) -> Pipeline:
        memory = self.memories.find(project) if self.memories else None
        return Pipeline(labelling, self._photos, max_pixels=self.settings.max_pixels, memory=memory)

    def setup(self, label_config: str | None, project: int | None) -> Setup:
        """Tell a project's version, at once, and take the hint that it uses this service.

        What of its label config is not served is told to people too, see ``Hints``.

        Raises what would make its predictions fail: ModelUnavailable, LabelConfigError or VocabularyError,
        and Refused while nothing can be had from Label Studio, as was last seen.
        """
        model = self._current(project)
        if model.failure:
            raise ModelUnavailable(model.failure)
        labelling = self._labelling(label_config, project)
        version = self._version(labelling, project, model.version)
        self._note_project(project, version if label_config and model.ready else "")
        if self.watch and self.watch.trouble:
            raise Refused(self.watch.trouble)
        return Setup(version, labelling.problems if labelling else ())

    def _labelling(self, label_config: str | None, project: int | None) -> Labelling | None:
        """Read a project's label config, if there is one, and tell people what they could do better."""
        if not label_config:
            return None
        labelling = read_labelling(label_config, self.settings)
        hints = [*labelling.problems, language_hint(labelling)]
        self.hints.note(project, "; ".join(filter(None, hints)))
        return labelling

    def _note_project(self, project: int | None, version: str) -> None:
        """Take the hint that a project uses this service; ``version``: of its predictions, if it is known."""
        if self.outbox and project is not None:
            self.outbox.called(project, self.hostname, version)
        if self.watch and project is not None and version:
            self.watch.show(project, version)

    def note_event(self, event: Event) -> bool:
        """Take an event as a hint; tell whether it is one, and hints are taken here."""
        if self.outbox is None or event.action is None or event.project is None:
            return False
        self.outbox.changed(event.project, forced=event.forced, uploaded=event.uploaded)
        return True

    def predict(
        self,
        tasks: Sequence[Any],
        label_config: str,
        context: Mapping[str, Any] | None = None,
        project: int | None = None,
    ) -> list[dict[str, Any]]:
        """Give one prediction for each task, in order; ``{}`` for a task not finished within the budget.

        All are made by the model that served the project when the request began, and carry its version. A bad
        task or photo gets an empty prediction, one whose photo cannot be had for now ``{}``, and the log the
        reason. Tasks of a ``project`` that are not finished become a hint, on which workers finish them.
        ``context`` is that of a smart tool, which asks for one label; what it asked for in vain is of no use
        later.

        Raises LabelConfigError or AnnotationError for what no task can be predicted with, or nobody can
        point with; whatever leaves a smart tool without an answer, Curable where asking again may help;
        ModelUnavailable if the model could not be loaded, and Busy.
        """
        try:
            return self._predictions(tasks, label_config, context, project)
        except Exception:
            if context and context.get("result"):  # whatever it is: Label Studio shows it to who drew
                self.metrics.tasks.labels(TaskOutcome.TOLD).inc()
            raise

    def _predictions(
        self,
        tasks: Sequence[Any],
        label_config: str,
        context: Mapping[str, Any] | None,
        project: int | None,
    ) -> list[dict[str, Any]]:
        deadline = time.monotonic() + self.settings.predict_budget
        with self._place(deadline):
            request = self._request(label_config, context, project, deadline)
            if request.model.failure:
                raise ModelUnavailable(request.model.failure)
            answers = self._predict(tasks, request)
        # Asked once, and last: a model that was still being loaded may have come with a later task.
        version = request.pipeline.version(request.model.version)
        self._note_project(project, version if request.model.ready else "")
        if self.outbox and project is not None and request.asked is None and request.model.ready:
            self.outbox.unfinished(project, _unfinished(tasks, answers), version)
        results = [_result(answer, version) for answer in answers]
        if self.watch and project is not None and request.asked is None and any(results):
            self.watch.show(project, version, stored=True)
        used = self.settings.predict_budget - request.seconds_left
        logger.info("%d of %d tasks answered in %.1f s", sum(map(bool, results)), len(tasks), used)
        return results

    @contextmanager
    def _place(self, deadline: float) -> Iterator[None]:
        """Take one of the places to predict at, after those that came before.

        Raises Busy where too many wait already, or none comes free in time.
        """
        if not self._line.acquire(blocking=False):
            raise Busy(_BUSY)
        try:
            if not self._places.acquire(timeout=max(deadline - time.monotonic(), 0.0)):
                raise Busy(_BUSY)
            try:
                yield
            finally:
                self._places.release()
        finally:
            self._line.release()

    def _predict(self, tasks: Sequence[Any], request: _Request) -> list[_Answer]:
        fetch = partial(self._photo, request)
        answers = []
        # Photos that are still being fetched when time is over are not waited for.
        with read_ahead(
            fetch, _parts(tasks, request), threads=FETCH_AHEAD, count=FETCH_AHEAD, wait=False
        ) as photos:
            for _, of_task in groupby(photos, key=lambda each: each[0].number):
                answers.append(self._joined(of_task, request))
                self.metrics.tasks.labels(answers[-1].outcome).inc()
        return answers

    def _joined(self, photos: Iterable[tuple[_Part, _Photo]], request: _Request) -> _Answer:
        """Predict a task's photos; where one is left out, the task is, and the others are not begun."""
        answer = _Answer(TaskOutcome.EMPTY)
        for part, photo in photos:
            if answer.is_whole:
                answer = answer.joined(self._answer(part, photo, request))
        return answer

    def _request(
        self, label_config: str, context: Mapping[str, Any] | None, project: int | None, deadline: float
    ) -> _Request:
        labelling, asked = read_labelling(label_config, self.settings), parse_context(context)
        if project is not None and self.follower:  # which is the project's champion is not known at once
            self.follower.heard.wait(self.settings.predict_budget)
        return _Request(
            model=self._current(project),
            pipeline=self._pipeline(labelling, project),
            asked=asked,
            deadline=deadline,
        )

    def _photo(self, request: _Request, part: _Part) -> npt.NDArray[np.uint8]:
        """Fetch and decode a photo: (H, W, 3) uint8."""
        self._require_time(request)
        return request.pipeline.photo(part.task, part.photo)

    def _answer(self, part: _Part, photo: _Photo, request: _Request) -> _Answer:
        """Predict one photo; whatever goes wrong with it stays with its task.

        A smart tool has one task, and an empty answer would look like a click that was lost: it is raised,
        for Label Studio shows an error's reason to the person who drew, and stores nothing.
        """
        if request.asked:
            return self._pointed(part, photo, request)
        name = describe(part.task, part.photo.url)
        try:
            image = photo.result(request.seconds_left)
            return _Answer(TaskOutcome.PREDICTED, self._regions(image, part, request))
        except ModelUnavailable:
            raise
        except (_OutOfTime, TimeoutError):
            logger.warning("%s is left out: out of time", name)
            return _Answer(TaskOutcome.SKIPPED)
        except OWN_FAULTS as error:
            logger.warning("%s gets no regions: %s", name, error)
            return _Answer(TaskOutcome.EMPTY)
        except EBSegError as error:
            if self.watch and isinstance(error, TokenRefused | Unreachable):
                self.watch.look_now()
            logger.warning("%s is left out: %s", name, error)
            return _Answer(TaskOutcome.DEFERRED if isinstance(error, Curable) else TaskOutcome.FAILED)
        except Exception:  # one task must not cost the others' finished masks; left out, it can be retried
            logger.exception("%s is left out: internal error", name)
            return _Answer(TaskOutcome.FAILED)

    def _pointed(self, part: _Part, photo: _Photo, request: _Request) -> _Answer:
        """Answer a smart tool. Raises Busy where there is no time, and what is in the way."""
        try:
            image = photo.result(request.seconds_left)
            return _Answer(TaskOutcome.PREDICTED, self._regions(image, part, request))
        except (_OutOfTime, TimeoutError) as error:
            raise Busy("there was no time for the smart tool; draw again in a moment") from error
        except (TokenRefused, Unreachable):
            if self.watch:
                self.watch.look_now()
            raise

    def _regions(self, image: npt.NDArray[np.uint8], part: _Part, request: _Request) -> list[Region]:
        """Regions that the request's model finds in a photo."""
        pipeline, asked = request.pipeline, request.asked
        found = request.model.answer(pipeline.ask(image, part.photo.question, asked), request.seconds_left)
        return pipeline.regions(found, part.photo, asked)

    def _require_time(self, request: _Request) -> None:
        if self._stopping or not request.seconds_left:
            raise _OutOfTime


def build_service(
    settings: Settings,
    load: Callable[[], Model] | None = None,
    champions: AskChampions | None = None,
    connect: Callable[[], Sink] | None = None,
    watch: LabelStudioWatch | None = None,
    memories: Memories | None = None,
) -> Service:
    """Build the service that ``settings`` describe and begin to load its model in the background.

    ``load`` gives another model than the one that the settings name; with it no champion is followed, no
    hints are taken, Label Studio is not watched and no memory is used, except by ``champions``, ``connect``,
    ``watch`` and ``memories``, which stand for the registry, the queues, the token and the storage of the
    settings. Raises FetchError for an address in the
    settings that cannot be one.
    """
    photos, loader = photo_fetcher(settings), ModelLoader(settings)
    if load is None:
        load = loader
        champions = champions or partial(registry_champions, settings)
        connect = connect or partial(_triggers, settings)
        watch = watch or (LabelStudioWatch.of(settings) if settings.label_studio_api_key else None)
        memories = memories or (Memories.of(settings) if settings.memory else None)
    metrics = Metrics()
    follower = None
    if champions and settings.follow:
        seconds, most = settings.follow_seconds, settings.project_models
        follower = ChampionFollower(champions, loader, metrics, seconds, most)
        load = partial(follower.first_model, load)
    model = ModelHolder(load, settings.model, timed=metrics.model_seconds.time)
    model.start()
    if follower:
        follower.follow(model)
    outbox = Outbox(connect) if connect and settings.learn else None
    if outbox:
        outbox.start()
    if watch:
        watch.start()
    if memories:
        memories.start()
    return Service(settings, model, photos, metrics, follower, outbox, watch, memories)


class ModelLoader:
    """Loads models that share one memory of encoded photos, and one backbone where theirs is the same."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._newest: Predictor | None = None
        self._encoded: EncodedPhotos | None = None
        self._lock = threading.Lock()

    def __call__(self, checkpoint: Path | None = None) -> Model:
        """Load a checkpoint, or the settings' model. Raises ConfigError or CheckpointError."""
        # Imported here, in the thread that loads: PyTorch takes seconds, and the server answers meanwhile.
        import torch

        from ebseg.engine import CACHE_BYTES, EncodedPhotos, Engine
        from ebseg.loading import load

        settings = self._settings
        if settings.torch_threads is not None:
            torch.set_num_threads(settings.torch_threads)
        with self._lock:
            name = checkpoint or settings.model
            self._newest = load(
                name, device=settings.device, beside=self._newest, precision=settings.precision
            )
            logger.info("%s encodes photos in %s", self._newest.version, self._newest.precision)
            # Now: the first project with a model of its own would wait for it (EBSeg-B: more than a second).
            logger.debug("its backbone is %s", self._newest.net.backbone.digest)
            self._encoded = self._encoded or EncodedPhotos(CACHE_BYTES)
            return Engine(self._newest, encoded=self._encoded)


def _triggers(settings: Settings) -> Sink:
    from training.queue.triggers import Triggers  # in the outbox's thread: RQ takes a while to import

    return Triggers(settings)


def _result(answer: _Answer, version: str) -> dict[str, Any]:
    """Make what Label Studio stores for a task; it stores nothing for ``{}``."""
    return prediction(answer.regions, version) if answer.is_whole else {}


def _parts(tasks: Iterable[Any], request: _Request) -> Iterator[_Part]:
    """Give the photos of all tasks, one task's after the other's."""
    for number, task in enumerate(tasks):
        for photo in request.pipeline.photos(task, request.asked):
            yield _Part(number, task, photo)


def _unfinished(tasks: Sequence[Any], answers: Sequence[_Answer]) -> list[int]:
    """List the ids of tasks that a request had no time for."""
    left = [
        task for task, answer in zip(tasks, answers, strict=True) if answer.outcome is TaskOutcome.SKIPPED
    ]
    return [number for task in left if (number := task_id(task)) is not None]
