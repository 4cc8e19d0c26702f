"""The one model of the process: a thread that loads it and then serves one caller at a time."""

import logging
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from ebseg.errors import EBSegError
from ebseg.vocabulary import Vocabulary

logger = logging.getLogger(__name__)
T = TypeVar("T")


class Segmentation(Protocol):
    """What a model answers for a photo."""

    @property
    def label_map(self) -> npt.NDArray[np.int16]:
        """(H, W): index into the labels, -1 where unsure."""

    @property
    def scores(self) -> npt.NDArray[np.float32]:
        """(H, W): share of the chosen label at each pixel, 0..1."""


class Model(Protocol):
    """What the service needs of a model; ``ebseg.predictor.Predictor`` is one."""

    @property
    def version(self) -> str:
        """Changes whenever predictions may change."""

    def predict(
        self,
        image: npt.NDArray[np.uint8],
        labels: Vocabulary,
        threshold: float | None = None,
    ) -> Segmentation:
        """Segment one (H, W, 3) uint8 RGB photo."""


class ModelUnavailable(EBSegError):
    """The model could not be loaded; the message says why."""


class ModelHolder:
    """Loads a model in a thread of its own and lets callers use it there, in the order in which they come.

    One thread, rather than a lock that the callers share: it is fair, a caller can stop waiting while the
    model works, and PyTorch keeps one team of CPU threads instead of one for each caller.

    ``name`` stands for the version until the model is there: Label Studio asks for the version before every
    round of predictions and waits for 3 s, while loading may take minutes (a download).
    """

    def __init__(self, load: Callable[[], Model], name: str) -> None:
        self._load = load
        self._name = name
        self._loaded: Future[Model] = Future()
        self._jobs: queue.SimpleQueue[tuple[Future[Any], Callable[[Model], Any]]] = queue.SimpleQueue()

    def start(self) -> None:
        """Begin to load; to be called once, in the process that serves."""
        # A daemon: a process that is told to end does not wait for a download.
        threading.Thread(target=self._work, name="model", daemon=True).start()

    def run(self, job: Callable[[Model], T], timeout: float) -> T:
        """Call ``job`` with the model in the model's thread and return what it returns.

        Raises TimeoutError if it is not done within ``timeout`` seconds, be it because the model is still
        loading, works for others, or takes that long; ModelUnavailable if loading failed; and whatever
        ``job`` raises.
        """
        future: Future[T] = Future()
        self._jobs.put((future, job))
        try:
            return future.result(max(timeout, 0.0))
        except TimeoutError:
            future.cancel()
            raise

    def on_failure(self, call: Callable[[str], None]) -> None:
        """Have ``call`` called with the reason, in the model's thread, if loading fails or has failed."""

        def check(loaded: Future[Model]) -> None:
            if error := loaded.exception():
                call(str(error))

        self._loaded.add_done_callback(check)

    @property
    def ready(self) -> bool:
        """Whether the model can predict now."""
        return self._loaded.done() and self._loaded.exception() is None

    @property
    def failure(self) -> str | None:
        """Why loading failed, or None."""
        return str(self._loaded.exception()) if self._loaded.done() and not self.ready else None

    @property
    def version(self) -> str:
        """The model's version, or its name while it is not loaded."""
        return self._loaded.result().version if self.ready else self._name

    def _work(self) -> None:
        _settle(self._loaded, self._load_model)
        while True:
            future, job = self._jobs.get()
            if future.set_running_or_notify_cancel():
                _settle(future, lambda: job(self._loaded.result()))  # noqa: B023 - called before the next turn

    def _load_model(self) -> Model:
        try:
            model = self._load()
        except EBSegError as error:
            logger.error("the model %s could not be loaded: %s", self._name, error)
            raise ModelUnavailable(f"the model {self._name} could not be loaded: {error}") from error
        except Exception as error:
            logger.exception("the model %s could not be loaded", self._name)
            reason = f"{type(error).__name__}, see the service's log"
            raise ModelUnavailable(f"the model {self._name} could not be loaded: {reason}") from error
        logger.info("the model %s is ready, version %s", self._name, model.version)
        return model


def _settle(future: Future[T], call: Callable[[], T]) -> None:
    """Pass on what ``call`` returns or raises; the thread lives on."""
    try:
        result = call()
    except Exception as error:  # raised again where the result is asked for
        future.set_exception(error)
    else:
        future.set_result(result)
