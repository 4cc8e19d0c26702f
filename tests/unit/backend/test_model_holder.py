import gc
import logging
import threading
import time
import weakref
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest

from backend.model_holder import ModelHolder, ModelUnavailable
from ebseg.errors import CheckpointError, ConfigError
from tests.unit.backend.conftest import until

MODEL = SimpleNamespace(version="v1")


class Model:
    """Finds the same everywhere; ``shape`` and ``score`` are of its answers."""

    def __init__(self, version="v2", score=0.5, shape=None) -> None:
        self.version, self._score, self._shape = version, score, shape

    def predict(self, image, labels, threshold=None):
        assert image.dtype == np.uint8 and image.shape[2] == 3 and len(labels.names) == 2
        shape = self._shape or image.shape[:2]
        label_map, scores = np.zeros(shape, np.int16), np.full(shape, self._score, np.float32)
        return SimpleNamespace(label_map=label_map, scores=scores)


def started(load) -> ModelHolder:
    holder = ModelHolder(load, "name")
    holder.start()
    return holder


def failing():
    raise ConfigError("no such model")


def test_before_loading_the_name_stands_for_the_version():
    holder = ModelHolder(lambda: MODEL, "name")
    assert (holder.ready, holder.failure, holder.version) == (False, None, "name")


def test_a_loaded_model_is_handed_to_jobs():
    holder = started(lambda: MODEL)
    assert holder.current().run(lambda model: model.version, timeout=10) == "v1"
    assert (holder.ready, holder.failure, holder.version) == (True, None, "v1")


def test_jobs_run_one_after_the_other_in_their_order():
    holder = started(lambda: MODEL)
    begun = threading.Event()
    release = threading.Event()
    order: list[int] = []
    first = threading.Thread(
        target=holder.current().run, args=(lambda model: (begun.set(), release.wait(10)), 10)
    )
    first.start()
    assert begun.wait(10)
    others = []
    for number in range(5):
        others.append(
            threading.Thread(target=holder.current().run, args=(lambda model, n=number: order.append(n), 10))
        )
        others[-1].start()
        time.sleep(0.02)  # so that they ask in this order
    release.set()
    for thread in (first, *others):
        thread.join()
    assert order == [0, 1, 2, 3, 4]


def test_a_job_that_waited_too_long_is_not_done():
    holder = started(lambda: MODEL)
    release = threading.Event()
    done: list[str] = []
    with pytest.raises(TimeoutError):
        holder.current().run(lambda model: release.wait(10), timeout=0.05)
    with pytest.raises(TimeoutError):
        holder.current().run(lambda model: done.append("late"), timeout=0.05)
    release.set()
    holder.current().run(lambda model: done.append("in time"), timeout=10)
    assert done == ["in time"]


def test_what_a_job_raises_reaches_who_asked_and_the_thread_lives_on():
    holder = started(lambda: MODEL)
    with pytest.raises(ZeroDivisionError):
        holder.current().run(lambda model: 1 / 0, timeout=10)
    assert holder.current().run(lambda model: "fine", timeout=10) == "fine"


def test_a_failure_is_told_to_every_job_and_to_the_listener():
    told: list[str] = []
    holder = ModelHolder(failing, "name")
    holder.on_failure(told.append)
    holder.start()
    for _ in range(2):
        with pytest.raises(ModelUnavailable, match="name could not be loaded: no such model"):
            holder.current().run(lambda model: None, timeout=10)
    holder.on_failure(told.append)
    assert told == ["the model name could not be loaded: no such model"] * 2
    assert holder.failure == told[0]
    assert not holder.ready


def test_success_is_no_failure_to_the_listener():
    told: list[str] = []
    holder = ModelHolder(lambda: MODEL, "name")
    holder.on_failure(told.append)
    holder.start()
    holder.current().run(lambda model: None, timeout=10)
    assert told == []


# Another model


def test_a_new_model_serves_from_then_on_and_who_pinned_the_old_one_keeps_it():
    holder = started(lambda: MODEL)
    assert holder.current().run(lambda model: model.version, timeout=10) == "v1"
    pinned = holder.current()
    new = holder.replace(Model, "name of v2")
    assert new.version == holder.version == "v2"
    assert holder.current().run(lambda model: model is new, timeout=10)
    assert pinned.version == "v1"
    assert pinned.run(lambda model: model is MODEL, timeout=10)
    assert holder.current().since >= pinned.since


def test_while_the_new_model_is_loaded_and_warmed_up_the_old_one_predicts():
    holder = started(lambda: MODEL)
    seen: list[str] = []

    class Watching(Model):
        def predict(self, image, labels, threshold=None):
            seen.append(holder.current().run(lambda model: model.version, timeout=10))
            return super().predict(image, labels, threshold)

    def load():
        seen.append(holder.current().run(lambda model: model.version, timeout=10))
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
    "does not predict": (lambda: MODEL, "AttributeError"),
}


@pytest.mark.parametrize(("load", "reason"), BROKEN.values(), ids=BROKEN)
def test_a_broken_model_never_replaces_one_that_works(caplog, load, reason):
    holder = started(lambda: MODEL)
    assert holder.current().run(lambda model: model.version, timeout=10) == "v1"
    with pytest.raises(
        ModelUnavailable, match=f"the model v2 could not be loaded: .*{reason.split(': ')[-1]}"
    ):
        holder.replace(load, "v2")
    assert (holder.version, holder.ready, holder.failure) == ("v1", True, None)
    assert holder.current().run(lambda model: model is MODEL, timeout=10)
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


def failing_job(model):
    raise RuntimeError(f"{model.version} fails")


def told_by(call) -> str:
    """Give what is raised in words; pytest.raises would keep the error, whose traceback has the model."""
    try:
        call()
    except Exception as error:
        return str(error)
    raise AssertionError("nothing was raised")


@pytest.mark.usefixtures("_no_collector")
def test_the_old_model_is_dropped_with_its_last_request():
    holder = started(Model)
    pinned = holder.current()
    old = weakref.ref(pinned.run(lambda model: model, timeout=10))
    assert told_by(partial(pinned.run, failing_job, timeout=10)) == "v2 fails"
    holder.replace(lambda: Model("v3"), "v3")
    assert pinned.run(lambda model: model.version, timeout=10) == "v2"
    assert old() is not None
    del pinned
    until(lambda: old() is None, "the old model is dropped, though no other job has come")
    assert holder.current().run(lambda model: model.version, timeout=10) == "v3"


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
