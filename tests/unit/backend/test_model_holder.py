import threading
import time
from types import SimpleNamespace

import pytest

from backend.model_holder import ModelHolder, ModelUnavailable
from ebseg.errors import ConfigError

MODEL = SimpleNamespace(version="v1")


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
    assert holder.run(lambda model: model.version, timeout=10) == "v1"
    assert (holder.ready, holder.failure, holder.version) == (True, None, "v1")


def test_jobs_run_one_after_the_other_in_their_order():
    holder = started(lambda: MODEL)
    begun = threading.Event()
    release = threading.Event()
    order: list[int] = []
    first = threading.Thread(target=holder.run, args=(lambda model: (begun.set(), release.wait(10)), 10))
    first.start()
    assert begun.wait(10)
    others = []
    for number in range(5):
        others.append(threading.Thread(target=holder.run, args=(lambda model, n=number: order.append(n), 10)))
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
        holder.run(lambda model: release.wait(10), timeout=0.05)
    with pytest.raises(TimeoutError):
        holder.run(lambda model: done.append("late"), timeout=0.05)
    release.set()
    holder.run(lambda model: done.append("in time"), timeout=10)
    assert done == ["in time"]


def test_what_a_job_raises_reaches_who_asked_and_the_thread_lives_on():
    holder = started(lambda: MODEL)
    with pytest.raises(ZeroDivisionError):
        holder.run(lambda model: 1 / 0, timeout=10)
    assert holder.run(lambda model: "fine", timeout=10) == "fine"


def test_a_failure_is_told_to_every_job_and_to_the_listener():
    told: list[str] = []
    holder = ModelHolder(failing, "name")
    holder.on_failure(told.append)
    holder.start()
    for _ in range(2):
        with pytest.raises(ModelUnavailable, match="name could not be loaded: no such model"):
            holder.run(lambda model: None, timeout=10)
    holder.on_failure(told.append)
    assert told == ["the model name could not be loaded: no such model"] * 2
    assert holder.failure == told[0]
    assert not holder.ready


def test_success_is_no_failure_to_the_listener():
    told: list[str] = []
    holder = ModelHolder(lambda: MODEL, "name")
    holder.on_failure(told.append)
    holder.start()
    holder.run(lambda model: None, timeout=10)
    assert told == []
