"""Tasks in, Label Studio predictions out: what both the Flask routes and the label-studio-ml adapter call."""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from backend.label_studio_input import Labelling, describe, photo_url, read_label_config, task_id
from backend.metrics import Metrics, Outcome
from backend.model_holder import Model, ModelHolder, ModelUnavailable, Segmentation
from ebseg.errors import EBSegError
from ebseg.images import read_image
from ebseg.label_studio.fetch import ImageFetcher
from ebseg.label_studio.regions import (
    InteractiveRequest,
    Region,
    masks_to_regions,
    parse_context,
    prediction,
    select_region,
)
from training.settings import RESERVED_THREADS, Settings

logger = logging.getLogger(__name__)
Item = TypeVar("Item")
Result = TypeVar("Result")

# Photos of one request that are fetched and decoded ahead of the model: enough to hide the fetching behind
# the model, few enough that decoded photos (150 MB at the pixel limit) do not fill the memory.
FETCH_AHEAD = 4


class Busy(EBSegError):
    """As many requests are predicting as there are threads for it."""


class _OutOfTime(Exception):
    """The budget of a request is spent, or the process is about to end."""


@dataclass(frozen=True)
class _Request:
    """What all tasks of one request have in common."""

    labelling: Labelling
    threshold: float | None
    min_area: float
    asked: InteractiveRequest | None
    deadline: float  # of time.monotonic()

    @property
    def seconds_left(self) -> float:
        return max(self.deadline - time.monotonic(), 0.0)


class Service:
    """Predicts for tasks with the one model of the process; may be called from many threads."""

    def __init__(
        self, settings: Settings, model: ModelHolder, photos: ImageFetcher, metrics: Metrics
    ) -> None:
        self.settings = settings
        self.model = model
        self.metrics = metrics
        self._photos = photos
        self._stopping = threading.Event()
        self._places = threading.BoundedSemaphore(settings.threads - RESERVED_THREADS)

    def stop(self) -> None:
        """Leave out every task that is not begun, so that the process can end soon and keep what is done."""
        self._stopping.set()

    def predict(
        self, tasks: Sequence[Any], label_config: str, context: Mapping[str, Any] | None = None
    ) -> list[dict[str, Any]]:
        """Give one prediction for each task, in order; ``{}`` for a task not finished within the budget.

        A bad task or photo gets an empty prediction, and the log the reason. ``context`` is that of a smart
        tool, which asks for one label. Raises LabelConfigError or AnnotationError for what no task can be
        predicted with, ModelUnavailable if the model could not be loaded, and Busy.
        """
        request = self._request(label_config, context)
        if self.model.failure:
            raise ModelUnavailable(self.model.failure)
        if not self._places.acquire(blocking=False):
            raise Busy("all threads that may predict are busy; ask again later, or raise EBSEG_THREADS")
        try:
            answers = self._predict(tasks, request)
        finally:
            self._places.release()
        used = self.settings.predict_budget - request.seconds_left
        logger.info("%d of %d tasks answered in %.1f s", sum(map(bool, answers)), len(tasks), used)
        return answers

    def _predict(self, tasks: Sequence[Any], request: _Request) -> list[dict[str, Any]]:
        # Not a "with" block: that would wait for photos that are still being fetched when time is over.
        pool = ThreadPoolExecutor(FETCH_AHEAD, thread_name_prefix="fetch")
        try:
            photos = _ahead(pool, partial(self._photo, request), tasks, FETCH_AHEAD)
            return [self._answer(task, photo, request) for task, photo in photos]
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def _request(self, label_config: str, context: Mapping[str, Any] | None) -> _Request:
        labelling = read_label_config(label_config)
        settings = self.settings
        return _Request(
            labelling=labelling,
            threshold=settings.score_threshold if labelling.threshold is None else labelling.threshold,
            min_area=settings.min_area if labelling.min_area is None else labelling.min_area,
            asked=parse_context(context, labelling.control),
            deadline=time.monotonic() + self.settings.predict_budget,
        )

    def _photo(self, request: _Request, task: Any) -> npt.NDArray[np.uint8]:
        """Fetch and decode a task's photo: (H, W, 3) uint8."""
        self._require_time(request)
        content = self._photos.fetch(photo_url(task, request.labelling.data_key), task_id=task_id(task))
        return read_image(content, max_pixels=self.settings.max_pixels, name="the photo")

    def _answer(self, task: Any, photo: Future[npt.NDArray[np.uint8]], request: _Request) -> dict[str, Any]:
        """Predict one task; whatever goes wrong with it stays with it."""
        name = describe(task, request.labelling.data_key)
        try:
            regions, version = self._regions(photo.result(request.seconds_left), request)
            answer, outcome = prediction(regions, version), Outcome.PREDICTED
        except ModelUnavailable:
            raise
        except (_OutOfTime, TimeoutError):
            logger.warning("%s is left out: out of time", name)
            answer, outcome = {}, Outcome.SKIPPED
        except EBSegError as error:
            logger.warning("%s gets an empty prediction: %s", name, error)
            answer, outcome = prediction([], self.model.version), Outcome.EMPTY
        except Exception:  # one task must not cost the others' finished masks; left out, it can be retried
            logger.exception("%s is left out: internal error", name)
            answer, outcome = {}, Outcome.SKIPPED
        self.metrics.tasks.labels(outcome).inc()
        return answer

    def _regions(self, image: npt.NDArray[np.uint8], request: _Request) -> tuple[list[Region], str]:
        """Regions of a photo and the version of the model that found them."""

        def segment(model: Model) -> tuple[Segmentation, str]:
            self._require_time(request)
            with self.metrics.model_seconds.time():
                found = model.predict(image, request.labelling.vocabulary, threshold=request.threshold)
            return found, model.version

        segmentation, version = self.model.run(segment, request.seconds_left)
        control, label_map, scores = request.labelling.control, segmentation.label_map, segmentation.scores
        if request.asked is None:
            return masks_to_regions(label_map, scores, control, min_area=request.min_area), version
        index = control.labels.index(request.asked.label)
        asked_for = select_region(label_map == index, request.asked)
        return masks_to_regions(np.where(asked_for, index, -1), scores, control), version

    def _require_time(self, request: _Request) -> None:
        if self._stopping.is_set() or not request.seconds_left:
            raise _OutOfTime


def build_service(settings: Settings, load: Callable[[], Model] | None = None) -> Service:
    """Build the service that ``settings`` describe and begin to load its model in the background.

    ``load`` gives another model than the one that the settings name. Raises FetchError for an address in the
    settings that cannot be one.
    """
    photos = ImageFetcher(
        label_studio_url=settings.label_studio_url,
        api_key=settings.label_studio_api_key,
        allowed_hosts=settings.allowed_hosts,
        timeout_s=settings.fetch_timeout,
        max_bytes=settings.max_bytes,
    )
    model = ModelHolder(load or partial(load_model, settings), settings.model)
    model.start()
    return Service(settings, model, photos, Metrics())


def load_model(settings: Settings) -> Model:
    """Load the model that the settings name. Raises ConfigError or CheckpointError."""
    # Imported here, in the model's thread: PyTorch takes seconds, and the server answers meanwhile.
    import torch

    import ebseg

    if settings.torch_threads is not None:
        torch.set_num_threads(settings.torch_threads)
    return ebseg.load(settings.model, device=settings.device)


def _ahead(
    pool: ThreadPoolExecutor, function: Callable[[Item], Result], items: Iterable[Item], count: int
) -> Iterator[tuple[Item, Future[Result]]]:
    """Yield each item with its future result, in order, with at most ``count`` begun and not yielded."""
    begun: deque[tuple[Item, Future[Result]]] = deque()
    for item in items:
        begun.append((item, pool.submit(function, item)))
        if len(begun) == count:
            yield begun.popleft()
    yield from begun
