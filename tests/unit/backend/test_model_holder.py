import gc
import logging
import threading
import weakref
from contextlib import nullcontext
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest

from backend.model_holder import ModelHolder, ModelUnavailable
from ebseg.ask import Ask
from ebseg.errors import CheckpointError, ConfigError
from ebseg.vocabulary import Vocabulary
from tests.unit.backend.conftest import until

ASK = Ask(np.zeros((4, 4, 3), np.uint8), Vocabulary(["sky", "road"]))


class Model:
    """Finds the same everywhere; ``shape`` and ``score`` are its answers', ``meanwhile`` is called first."""

    photos_at_once = 1

    def __init__(self, version="v2", score=0.5, shape=None, meanwhile=lambda ask: None) -> None:
        self.version, self._score, self._shape, self._meanwhile = version, score, shape, meanwhile

    def predict_many(self, asks):
        return [self._answer(ask) for ask in asks]

    def _answer(self, ask):
        assert ask.photo.dtype == np.uint8 and ask.photo.shape[2] == 3 and len(ask.vocabulary.names) == 2
        self._meanwhile(ask)
        shape = self._shape or ask.photo.shape[:2]
        label_map, scores = np.zeros(shape, np.int16), np.full(shape, self._score, np.float32)
        return SimpleNamespace(label_map=label_map, scores=scores, by=self.version)


MODEL = Model("v1")


def who_answers(model) -> str:
    """Give the version of the model that answers, whichever ``model`` names by then."""
    return model.answer(ASK, timeout=10).by


def started(load) -> ModelHolder:
    holder = ModelHolder(load, "name")
    holder.start()
    return holder


def failing():
    raise ConfigError("no such model")


def test_before_loading_the_name_stands_for_the_version():
    holder = ModelHolder(lambda: MODEL, "name")
    assert (holder.ready, holder.failure, holder.version) == (False, None, "name")


def test_a_loaded_model_answers():
    holder = started(lambda: MODEL)
    assert who_answers(holder.current()) == "v1"
    assert (holder.ready, holder.failure, holder.version) == (True, None, "v1")


class Gate:
    """Keeps a model at work on ASK until other questions wait; ``hold`` is the model's ``meanwhile``."""

    def __init__(self) -> None:
        self._begun, self._release = threading.Event(), threading.Event()

    def hold(self, ask):
        if ask is ASK:
            self._begun.set()
            assert self._release.wait(10)

    def answers(self, holder, questions) -> dict:
        """Ask for ASK, and for (model, threshold) behind it; give each threshold's answer or error."""
        found, threads = {}, []

        def ask_for(model, ask):
            try:
                found[ask.threshold] = model.answer(ask, timeout=10).by
            except AssertionError as error:
                found[ask.threshold] = str(error).partition("\n")[0]

        def begin(model, ask):
            threads.append(threading.Thread(target=ask_for, args=(model, ask)))
            threads[-1].start()

        begin(holder.current(), ASK)
        assert self._begun.wait(10)
        for number, (model, threshold) in enumerate(questions, start=1):
            begin(model, Ask(ASK.photo, ASK.vocabulary, threshold))
            until(lambda number=number: holder._questions.qsize() == number, "it asks")
        self._release.set()
        for thread in threads:
            thread.join()
        return found


class Recording(Model):
    """``asked``: the thresholds of what it was asked for, together."""

    def __init__(self, **settings) -> None:
        super().__init__(**settings)
        self.asked = []

    def predict_many(self, asks):
        self.asked.append([ask.threshold for ask in asks])
        return super().predict_many(asks)


class Together(Recording):
    photos_at_once = 3


def test_questions_are_answered_one_after_the_other_in_their_order():
    gate = Gate()
    model = Recording(meanwhile=gate.hold)
    holder = started(lambda: model)
    gate.answers(holder, [(holder.current(), number / 10) for number in range(5)])
    assert model.asked == [[None], [0.0], [0.1], [0.2], [0.3], [0.4]]


def test_questions_that_wait_are_answered_together_and_a_bad_one_fails_alone():
    gate = Gate()

    def meanwhile(ask):
        gate.hold(ask)
        assert ask.threshold != 0.1, "not this one"

    model = Together(meanwhile=meanwhile)
    holder = started(lambda: model)
    answers = gate.answers(holder, [(holder.current(), number / 10) for number in range(5)])
    assert model.asked == [[None], [0.0, 0.1, 0.2], [0.0], [0.1], [0.2], [0.3, 0.4]]
    assert answers == {None: "v2", 0.0: "v2", 0.1: "not this one", 0.2: "v2", 0.3: "v2", 0.4: "v2"}


def test_questions_to_two_models_are_answered_each_by_its_own():
    gate = Gate()
    first, second = Together(version="v1", meanwhile=gate.hold), Together(version="v2")
    holder = started(lambda: first)
    other = holder.pin("other")
    other.loaded.set_result(second)
    answers = gate.answers(holder, [(holder.current(), 0.1), (other, 0.2), (holder.current(), 0.3)])
    assert answers == {None: "v1", 0.1: "v1", 0.2: "v2", 0.3: "v1"}
    assert (first.asked, second.asked) == ([[None], [0.1, 0.3]], [[0.2]])


def test_a_question_that_waited_too_long_is_not_answered():
    release, answered = threading.Event(), []
    late, in_time = (Ask(ASK.photo, ASK.vocabulary, share) for share in (0.1, 0.2))

    def meanwhile(ask):
        answered.append(ask)
        assert ask is not ASK or release.wait(10)

    holder = started(lambda: Model(meanwhile=meanwhile))
    for ask in (ASK, late):
        with pytest.raises(TimeoutError):
            holder.current().answer(ask, timeout=0.05)
    release.set()
    holder.current().answer(in_time, timeout=10)
    assert late not in answered and answered[-1] is in_time


def test_no_question_is_begun_once_the_holder_is_told_to_stop():
    answered = []
    holder = started(lambda: Model(meanwhile=answered.append))
    until(lambda: holder.ready, "the model loads")
    holder.stop()
    with pytest.raises(TimeoutError):
        holder.current().answer(ASK, timeout=10)
    assert answered == []


def test_each_answer_is_timed():
    entered = []
    holder = ModelHolder(lambda: MODEL, "name", timed=lambda: nullcontext(entered.append(1)))
    holder.start()
    for _ in range(2):
        holder.current().answer(ASK, timeout=10)
    assert entered == [1, 1]


def test_what_a_model_raises_reaches_who_asked_and_the_thread_lives_on():
    def meanwhile(ask):
        assert ask is not ASK, "not this one"

    holder = started(lambda: Model(meanwhile=meanwhile))
    with pytest.raises(AssertionError, match="not this one"):
        holder.current().answer(ASK, timeout=10)
    assert holder.current().answer(Ask(ASK.photo, ASK.vocabulary), timeout=10).by == "v2"


def test_a_failure_is_told_to_every_job_and_to_the_listener():
    told: list[str] = []
    holder = ModelHolder(failing, "name")
    holder.on_failure(told.append)
    holder.start()
    for _ in range(2):
        with pytest.raises(ModelUnavailable, match="name could not be loaded: no such model"):
            holder.current().answer(ASK, timeout=10)
    holder.on_failure(told.append)
    assert told == ["the model name could not be loaded: no such model"] * 2
    assert holder.failure == told[0]
    assert not holder.ready


def test_success_is_no_failure_to_the_listener():
    told: list[str] = []
    holder = ModelHolder(lambda: MODEL, "name")
    holder.on_failure(told.append)
    holder.start()
    holder.current().answer(ASK, timeout=10)
    assert told == []


# Another model


def test_a_new_model_serves_from_then_on_and_who_pinned_the_old_one_keeps_it():
    holder = started(lambda: MODEL)
    assert who_answers(holder.current()) == "v1"
    pinned = holder.current()
    new = holder.replace(Model, "name of v2")
    assert new.version == holder.version == "v2"
    assert who_answers(holder.current()) == "v2"
    assert pinned.version == "v1"
    assert who_answers(pinned) == "v1"
    assert holder.current().since >= pinned.since


def test_while_the_new_model_is_loaded_and_warmed_up_the_old_one_predicts():
    holder = started(lambda: MODEL)
    seen: list[str] = []

    class Watching(Model):
        def predict_many(self, asks):
            seen.append(who_answers(holder.current()))
            return super().predict_many(asks)

    def load():
        seen.append(who_answers(holder.current()))
        return Watching()

    holder.replace(load, "v2")
    assert seen == ["v1", "v1"]


def damaged():
    raise CheckpointError("v2.safetensors is damaged")


def unforeseen():
    raise RuntimeError("secret detail")


BROKEN = {
    "cannot be loaded": (damaged, "could not be loaded: v2.safetensors is damaged"),
    "unforeseen": (unforeseen, "could not be loaded: RuntimeError, see the service's log"),
    "predicts no numbers": (lambda: Model(score=np.nan), "not finite"),
    "predicts infinity": (lambda: Model(score=np.inf), "not finite"),
    "predicts another size": (lambda: Model(shape=(3, 4)), r"shape \(3, 4\)"),
    "does not predict": (lambda: SimpleNamespace(version="v2"), "AttributeError"),
}


@pytest.mark.parametrize(("load", "reason"), BROKEN.values(), ids=BROKEN)
def test_a_broken_model_never_replaces_one_that_works(caplog, load, reason):
    holder = started(lambda: MODEL)
    assert who_answers(holder.current()) == "v1"
    with pytest.raises(
        ModelUnavailable, match=f"the model v2 could not be loaded: .*{reason.split(': ')[-1]}"
    ):
        holder.replace(load, "v2")
    assert (holder.version, holder.ready, holder.failure) == ("v1", True, None)
    assert who_answers(holder.current()) == "v1"
    [record] = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert "v2" in record.getMessage()


@pytest.fixture
def _no_collector():
    """References alone decide when a model is dropped, as its memory is wanted for the next one."""
    log = logging.getLogger("backend.model_holder")
    log.disabled = True  # pytest keeps what is logged, and with an error its traceback and the model in it
    gc.collect()
    gc.disable()
    yield
    gc.enable()
    log.disabled = False


def told_by(call) -> str:
    """Give what is raised in words; pytest.raises would keep the error, whose traceback has the model."""
    try:
        call()
    except Exception as error:
        return str(error)
    raise AssertionError("nothing was raised")


@pytest.mark.usefixtures("_no_collector")
def test_the_old_model_is_dropped_with_its_last_request():
    failing_ask = Ask(ASK.photo, ASK.vocabulary)

    def meanwhile(ask):
        if ask is failing_ask:
            raise RuntimeError("it fails")

    holder = started(lambda: Model(meanwhile=meanwhile))
    pinned = holder.current()
    assert who_answers(pinned) == "v2"
    old = weakref.ref(pinned.loaded.result())
    assert told_by(partial(pinned.answer, failing_ask, timeout=10)) == "it fails"
    holder.replace(lambda: Model("v3"), "v3")
    assert who_answers(pinned) == "v2"
    assert old() is not None
    del pinned
    until(lambda: old() is None, "the old model is dropped, though no other job has come")
    assert who_answers(holder.current()) == "v3"


@pytest.mark.usefixtures("_no_collector")
def test_a_broken_model_is_dropped_at_once():
    holder = started(lambda: MODEL)
    models = []

    def load():
        model = Model(score=np.nan)
        models.append(weakref.ref(model))
        return model

    assert "not finite" in told_by(lambda: holder.replace(load, "v2"))
    assert [model() for model in models] == [None]
