"""What happens while the model loads, is slow, is shared, or fails: with models made for it."""

import logging
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest

from backend.service import FETCH_AHEAD, Busy
from ebseg.errors import CheckpointError
from tests.unit.backend.conftest import basic, label_config, named, png, predict, results, task, upload
from tests.unit.label_studio.http_server import reply
from tests.unit.one_by_one import OneByOne
from training.settings import RESERVED_THREADS

SETUP = {"project": "1.1", "schema": label_config(), "hostname": "http://localhost", "access_token": "x"}


class ScriptedModel(OneByOne):
    """Labels every pixel 0 and calls ``meanwhile`` with the photo first."""

    version = "scripted"

    def __init__(self, meanwhile=lambda image: None) -> None:
        self._meanwhile = meanwhile

    def predict(self, image, labels, threshold=None):
        self._meanwhile(image)
        shape = image.shape[:2]
        return SimpleNamespace(label_map=np.zeros(shape, np.int16), scores=np.full(shape, 0.5, np.float32))


class Gate:
    """Holds up whoever passes until it is opened."""

    def __init__(self) -> None:
        self.reached = threading.Semaphore(0)
        self._open = threading.Event()

    def __call__(self, image=None) -> None:
        self.reached.release()
        assert self._open.wait(20)

    def wait_until_reached(self) -> None:
        assert self.reached.acquire(timeout=20)

    def open(self) -> None:
        self._open.set()


@contextmanager
def in_background(call):
    with ThreadPoolExecutor(1) as pool:
        yield pool.submit(call)


# While the model loads


def test_while_the_model_loads_everything_but_predict_answers(make_client):
    gate = Gate()

    def load():
        gate()
        return ScriptedModel()

    client = make_client(load, wait=False, model="ebseg-tiny", predict_budget=0.1)
    assert client.get("/health").json == {"status": "UP"}
    assert client.post("/setup", json=SETUP).json == {"model_version": named("ebseg-tiny")}
    assert client.get("/versions").json == {"versions": ["ebseg-tiny"]}
    assert (client.get("/ready").status_code, client.get("/ready").json) == (503, {"status": "loading"})
    assert b"loading" in client.get("/").data
    assert results(predict(client, [task(1, upload(0)), task(2, upload(1))])) == [{}, {}]
    gate.open()


def test_predict_waits_for_the_model_within_its_budget(make_client):
    gate = Gate()

    def load():
        gate()
        return ScriptedModel()

    client = make_client(load, wait=False)
    with in_background(lambda: predict(client, [task(1, upload(0))])) as answer:
        gate.wait_until_reached()
        gate.open()
        [found] = results(answer.result(20))
    assert found["model_version"] == named("scripted")
    assert client.get("/ready").json == {"status": "ready", "model_version": "scripted"}


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (CheckpointError("model.pth is damaged: fetch it again"), "model.pth is damaged: fetch it again"),
        (RuntimeError("secret detail"), "RuntimeError, see the service's log"),
    ],
)
def test_a_model_that_cannot_be_loaded_is_a_reason_everywhere(make_client, caplog, error, reason):
    def load():
        raise error

    client = make_client(load, wait=False)
    while not client.application.extensions["ebseg"].model.failure:
        time.sleep(0.005)
    expected = f"the model ebseg-tiny could not be loaded: {reason}"
    assert client.get("/health").status_code == 200
    assert client.get("/ready").json == {"status": "failed", "error": expected}
    assert client.get("/ready").status_code == 503
    assert reason in client.get("/").get_data(as_text=True).replace("&#39;", "'")
    for answer in (client.post("/setup", json=SETUP), predict(client, [task(1, upload(0))])):
        assert answer.status == f"503 {expected}"
        assert answer.json == {"error": expected}
    assert str(error) in caplog.text


# The budget of 80 seconds


def test_what_is_not_finished_in_time_is_left_out_and_the_rest_kept(make_client, monkeypatch):
    """By a clock that only the model moves: ten seconds a photo."""
    predicted = []
    clock = SimpleNamespace(monotonic=lambda: 10.0 * len(predicted))
    monkeypatch.setattr("backend.service.time", clock)
    client = make_client(lambda: ScriptedModel(predicted.append), predict_budget=45)
    answers = results(predict(client, [task(number, upload(0)) for number in range(50)]))
    assert len(predicted) == 5
    assert all(answer["result"] for answer in answers[:5])
    assert answers[5:] == [{}] * 45
    assert client.application.extensions["ebseg"].metrics.count("skipped") == 45


@pytest.mark.parametrize("count", [1, 3])
def test_a_photo_that_never_arrives_is_left_out_in_time(make_client, label_studio, count):
    gate = Gate()
    label_studio.routes["/data/slow"] = lambda handler: gate()
    client = make_client(ScriptedModel, predict_budget=0.3)
    assert results(predict(client, [task(number, "/data/slow") for number in range(count)])) == [{}] * count
    gate.open()  # only now


def test_a_model_that_hangs_is_not_waited_for(make_client):
    gate = Gate()
    client = make_client(lambda: ScriptedModel(gate), predict_budget=0.3)
    assert results(predict(client, [task(1, upload(0)), task(2, upload(1))])) == [{}, {}]
    gate.open()


def test_a_service_that_stops_finishes_what_is_begun(make_client):
    gate = Gate()
    client = make_client(lambda: ScriptedModel(gate))
    tasks = [task(number, upload(0)) for number in range(20)]
    with in_background(lambda: predict(client, tasks)) as answer:
        gate.wait_until_reached()
        client.application.extensions["ebseg"].stop()
        gate.open()
        first, *others = results(answer.result(20))
    assert first["result"]
    assert others == [{}] * 19


def test_a_second_signal_may_interrupt_the_stop_that_the_first_one_asked_for(make_client):
    service = make_client(ScriptedModel, champions=dict).application.extensions["ebseg"]

    def interrupt(frame, event, argument):  # before every line, as a signal's handler might
        service.stop()
        return interrupt

    def stop() -> None:
        sys.settrace(interrupt)
        service.stop()

    thread = threading.Thread(target=stop, daemon=True)
    thread.start()
    thread.join(20)
    assert not thread.is_alive(), "it waits for itself"


# Many requests at a time


def test_one_photo_at_a_time_is_in_the_model_whoever_asks(make_client):
    inside, most = [], []

    def meanwhile(image) -> None:
        inside.append(1)
        most.append(len(inside))
        time.sleep(0.01)
        inside.pop()

    client = make_client(lambda: ScriptedModel(meanwhile))
    tasks = [task(number, upload(number)) for number in range(3)]
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: results(predict(client, tasks)), range(4)))
    assert all(answer["result"] for each in answers for answer in each)
    assert most == [1] * 12


def test_health_and_setup_answer_while_predictions_run(make_client):
    gate = Gate()
    client = make_client(lambda: ScriptedModel(gate))
    with in_background(lambda: predict(client, [task(1, upload(0))])) as answer:
        gate.wait_until_reached()
        assert client.get("/health").status_code == 200
        assert client.post("/setup", json=SETUP).json == {"model_version": named("scripted")}
        assert client.post("/webhook", data=b"{}").status_code == 200
        assert not answer.done()
        gate.open()
        assert results(answer.result(20))[0]["result"]


def test_a_request_waits_until_another_predicts_no_more(make_client):
    gate = Gate()
    client = make_client(lambda: ScriptedModel(gate), threads=RESERVED_THREADS + 1)
    with in_background(lambda: predict(client, [task(1, upload(0))])) as first:
        gate.wait_until_reached()
        with in_background(lambda: predict(client, [task(2, upload(0))])) as second:
            time.sleep(0.1)
            assert not second.done()
            gate.open()
            assert all(results(answer.result(20))[0]["result"] for answer in (first, second))


def test_a_request_does_not_wait_longer_than_it_may_take(make_client):
    client = make_client(ScriptedModel, threads=RESERVED_THREADS + 1)
    service = client.application.extensions["ebseg"]
    with service._place(time.monotonic()), pytest.raises(Busy), service._place(time.monotonic() + 0.05):
        pass
    assert results(predict(client, [task(3, upload(0))]))[0]["result"]


def test_more_requests_than_may_wait_are_refused_at_once(make_client, monkeypatch):
    monkeypatch.setattr("backend.service.WAITING_THREADS", 0)
    gate = Gate()
    client = make_client(lambda: ScriptedModel(gate), threads=RESERVED_THREADS + 1)
    with in_background(lambda: predict(client, [task(1, upload(0))])) as answer:
        gate.wait_until_reached()
        refused = predict(client, [task(2, upload(0))])
        gate.open()
        assert results(answer.result(20))[0]["result"]
    assert refused.status_code == 503 and int(refused.headers["Retry-After"]) > 0
    assert "EBSEG_THREADS" in refused.json["error"]
    assert results(predict(client, [task(3, upload(0))]))[0]["result"]


def test_only_a_few_photos_are_fetched_ahead_of_the_model(make_client, label_studio, scenes):
    gate = Gate()
    label_studio.routes["/data/photo"] = reply(png(scenes[0]))
    client = make_client(lambda: ScriptedModel(gate))
    with in_background(
        lambda: predict(client, [task(number, "/data/photo") for number in range(30)])
    ) as answer:
        gate.wait_until_reached()
        end = time.monotonic() + 20
        while len(label_studio.seen) < FETCH_AHEAD and time.monotonic() < end:
            time.sleep(0.005)
        time.sleep(0.1)
        assert len(label_studio.seen) == FETCH_AHEAD
        gate.open()
        assert all(found["result"] for found in results(answer.result(20)))
    assert len(label_studio.seen) == 30


# A model that fails


def test_a_photo_that_breaks_the_model_is_left_out_alone(make_client, label_studio, caplog):
    label_studio.routes["/data/wide"] = reply(png(np.zeros((10, 99, 3), np.uint8)))

    def meanwhile(image) -> None:
        if image.shape[1] == 99:
            raise RuntimeError("CUDA out of memory")

    client = make_client(lambda: ScriptedModel(meanwhile))
    response = predict(client, [task(1, upload(0)), task(2, "/data/wide"), task(3, upload(1))])
    first, broken, last = results(response)
    assert first["result"] and last["result"]
    assert broken == {}
    assert b"Traceback" not in response.data
    [record] = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert "task 2" in record.getMessage()
    assert "CUDA out of memory" in record.exc_text


def test_scores_that_are_not_numbers_spoil_one_task_only(make_client, label_studio, caplog):
    class Damaged(ScriptedModel):
        def predict(self, image, labels, threshold=None):
            found = super().predict(image, labels, threshold)
            if not image.any():
                found.scores[:] = np.nan
            return found

    label_studio.routes["/data/black"] = reply(png(np.zeros((60, 80, 3), np.uint8)))
    spoilt, good = results(predict(make_client(Damaged), [task(1, "/data/black"), task(2, upload(0))]))
    assert spoilt == {}  # it is the model's fault
    assert good["result"]
    assert "not finite" in caplog.text


def test_an_unforeseen_error_shows_no_traceback(make_client, monkeypatch):
    client = make_client(ScriptedModel, basic_auth_user="user", basic_auth_password="password")
    service = client.application.extensions["ebseg"]
    monkeypatch.setattr(service, "predict", lambda *arguments: 1 / 0)
    response = predict(client, [], headers=basic("user", "password"))
    assert response.status_code == 500
    assert list(response.json) == ["error"]
    assert "ZeroDivisionError" not in response.get_data(as_text=True)
