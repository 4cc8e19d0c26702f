"""The model that serves: a thread of its own for one caller at a time, and how another takes its place."""

import logging
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np

from ebseg.ask import Ask
from ebseg.errors import Curable, EBSegError
from ebseg.label_studio.pipeline import Model, Segmentation
from ebseg.vocabulary import Vocabulary

logger = logging.getLogger(__name__)

WARM_UP_SIZE = 64
"""Pixels of the edge of the photo that a new model predicts before it serves."""


class ModelUnavailable(Curable):
    """The model could not be loaded; the message says why."""


class PinnedModel:
    """One model, loaded or still loading. A request takes it once and keeps it, whatever serves by then.

    ``name`` stands for the version until the model is there; ``since``: when it was chosen to serve, in UTC.
    """

    def __init__(self, name: str, questions: "Questions") -> None:
        self.name = name
        self.since = datetime.now(UTC)
        self.loaded: Future[Model] = Future()
        self._questions = questions

    def answer(self, ask: Ask, timeout: float) -> Segmentation:
        """Have the model answer, in its thread and in its turn.

        Raises TimeoutError if it is not done within ``timeout`` seconds, be it because the model is still
        loading, works for others, or takes that long, and where the holder was told to stop; ModelUnavailable
        if loading failed; and whatever the model raises.
        """
        question = _Question(self, ask, time.monotonic() + timeout)
        self._questions.put(question)
        try:
            return question.answer.result(max(timeout, 0.0))
        except TimeoutError:
            question.answer.cancel()
            raise
        finally:
            del question  # it has the error whose traceback has this frame: a circle that keeps the model

    @property
    def ready(self) -> bool:
        """Whether the model can predict now."""
        return self.loaded.done() and self.loaded.exception() is None

    @property
    def photos_at_once(self) -> int:
        """How many questions it answers together."""
        return self.loaded.result().photos_at_once if self.ready else 1

    @property
    def failure(self) -> str | None:
        """Why loading failed, or None."""
        return str(self.loaded.exception()) if self.loaded.done() and not self.ready else None

    @property
    def version(self) -> str:
        """The model's version, or its name while it is not loaded."""
        return self.loaded.result().version if self.ready else self.name


@dataclass(eq=False)
class _Question:
    """What is asked of a model; ``deadline``: of time.monotonic(), after which nobody waits for it."""

    model: PinnedModel
    ask: Ask
    deadline: float
    answer: Future[Segmentation] = field(default_factory=Future)


Questions = queue.SimpleQueue[_Question]


class ModelHolder:
    """Loads a model in a thread of its own, which answers there what callers ask, in the order they come in.

    On a GPU questions that wait already are answered together, up to ``photos_at_once`` of the model.

    One thread, rather than a lock that the callers share: it is fair, a caller can stop waiting while the
    model works, and PyTorch keeps one team of CPU threads instead of one for each caller.

    ``name`` stands for the version until the model is there: Label Studio asks for the version before every
    round of predictions and waits for 3 s, while loading may take minutes (a download). ``timed``: a context
    around each answer.
    """

    def __init__(
        self,
        load: Callable[[], Model],
        name: str,
        timed: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ) -> None:
        self._load = load
        self._timed = timed
        self._questions: Questions = queue.SimpleQueue()
        self._current = PinnedModel(name, self._questions)
        self._first: PinnedModel | None = self._current
        self._stopped = False

    def start(self) -> None:
        """Begin to load; to be called once, in the process that serves."""
        # A daemon: a process that is told to end does not wait for a download.
        threading.Thread(target=self._work, name="model", daemon=True).start()

    def stop(self) -> None:
        """Answer no question that is not begun: they raise TimeoutError. Takes no lock; see Service.stop."""
        self._stopped = True

    def current(self) -> PinnedModel:
        """Give the model that serves now. Whoever makes several calls that must agree keeps it meanwhile."""
        return self._current

    def replace(self, load: Callable[[], Model], name: str) -> Model:
        """Load another model beside the current one, in the caller's thread, and let it serve from then on.

        Requests that have begun are finished by the model they began with; it is dropped with the last.
        Raises ModelUnavailable, and changes nothing, if the model cannot be loaded or fails on a first photo.
        """
        model = load_warm(load, name)
        new = self.pin(name)
        new.loaded.set_result(model)
        self._current = new
        return model

    def pin(self, name: str) -> PinnedModel:
        """Give a model that somebody is about to load, and that answers in this one's thread, in its turn."""
        return PinnedModel(name, self._questions)

    def on_failure(self, call: Callable[[str], None]) -> None:
        """Have ``call`` called with the reason, in the model's thread, if loading fails or has failed."""

        def check(loaded: Future[Model]) -> None:
            if error := loaded.exception():
                call(str(error))

        self._current.loaded.add_done_callback(check)

    @property
    def ready(self) -> bool:
        """Whether the current model can predict now."""
        return self._current.ready

    @property
    def failure(self) -> str | None:
        """Why the current model could not be loaded, or None."""
        return self._current.failure

    @property
    def version(self) -> str:
        """The current model's version, or its name while it is not loaded."""
        return self._current.version

    def _work(self) -> None:
        self._load_first()
        while True:
            self._answer_all(self._gathered())  # in no variable: it would keep a model until the next one

    def _gathered(self) -> list[_Question]:
        """Wait for a question, and take as many of those that wait already as its model answers at once."""
        questions = [self._questions.get()]
        with suppress(queue.Empty):
            while len(questions) < questions[0].model.photos_at_once:
                questions.append(self._questions.get_nowait())
        return questions

    def _answer_all(self, questions: list[_Question]) -> None:
        """Answer questions, those to one model together."""
        by_model: dict[PinnedModel, list[_Question]] = {}
        while questions:
            question = questions.pop(0)
            if not question.answer.set_running_or_notify_cancel():
                continue
            if self._stopped or time.monotonic() >= question.deadline:
                question.answer.set_exception(TimeoutError())
            else:
                by_model.setdefault(question.model, []).append(question)
        del question  # as in PinnedModel.answer: here, too, an error's frames must hold no question
        while by_model:
            self._answer(by_model.pop(next(iter(by_model))))

    def _load_first(self) -> None:
        first, self._first = self._first, None  # nothing but its requests keeps a model that another replaces
        if first is not None:
            try:
                first.loaded.set_result(load_explained(self._load, first.name))
            except ModelUnavailable as error:  # raised again where an answer is asked for
                first.loaded.set_exception(error)

    def _answer(self, questions: list[_Question]) -> None:
        """Pass on what the model answers or raises; the thread lives on. A bad question costs no other."""
        try:
            with self._timed():
                found = questions[0].model.loaded.result().predict_many([each.ask for each in questions])
            for question, answer in list(zip(questions, found, strict=True)):
                question.answer.set_result(answer)
        except Exception as error:  # raised again where the answer is asked for
            if len(questions) == 1:
                questions[0].answer.set_exception(error)
            else:
                logger.warning("%d photos together: %r; they are answered one by one", len(questions), error)
                for each in questions:
                    self._answer([each])
        finally:
            questions.clear()  # as in PinnedModel.answer


def load_warm(load: Callable[[], Model], name: str) -> Model:
    """Load a model and let it predict a first photo.

    Raises ModelUnavailable, which is logged, if that fails or what it found cannot be an answer.
    """
    return load_explained(lambda: _warmed_up(load()), name)


def _warmed_up(model: Model) -> Model:
    rows, columns = np.indices((WARM_UP_SIZE, WARM_UP_SIZE), np.uint8)
    photo = np.stack([4 * rows, 4 * columns, 255 - 4 * rows], axis=-1)
    [found], shape = model.predict_many([Ask(photo, Vocabulary(["sky", "road"]))]), rows.shape
    if found.label_map.shape != shape or found.scores.shape != shape:
        raise ModelUnavailable(f"its answer for a photo of {shape} has the shape {found.scores.shape}")
    if not np.isfinite(found.scores).all():
        raise ModelUnavailable("its scores for a first photo are not finite")
    return model


def load_explained(load: Callable[[], Model], name: str) -> Model:
    """Load a model; whatever goes wrong is logged and raised as ModelUnavailable."""
    try:
        model = load()
    except EBSegError as error:
        logger.error("the model %s could not be loaded: %s", name, error)
        raise ModelUnavailable(f"the model {name} could not be loaded: {error}") from error
    except Exception as error:
        logger.exception("the model %s could not be loaded", name)
        reason = f"{type(error).__name__}, see the service's log"
        raise ModelUnavailable(f"the model {name} could not be loaded: {reason}") from error
    logger.info("the model %s is ready, version %s", name, model.version)
    return model
