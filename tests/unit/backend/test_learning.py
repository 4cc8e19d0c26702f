"""What the learning loop hears of the service: events, projects, unfinished tasks; and what it answers."""

import json
import multiprocessing
import threading

import pytest

from backend import label_studio_ml
from backend.app import create_app
from backend.webhook_events import PARSED_BYTES
from tests.unit.backend.conftest import label_config, named, predict, results, task, until, upload
from tests.unit.backend.test_predictions import click
from tests.unit.backend.test_swap import Versioned, service_of
from tests.unit.backend.test_time_and_failures import Gate, ScriptedModel, in_background
from training.settings import Settings


@pytest.fixture
def learning(make_client, sink):
    """Build a client whose hints reach the sink."""
    clients = []

    def make(load=ScriptedModel, **options):
        clients.append(make_client(load, connect=sink, **options))
        return clients[-1]

    yield make
    sink.away.clear()
    for client in clients:
        if service_of(client).outbox:
            service_of(client).outbox.close()


def told(client, sink) -> list[tuple]:
    """Give what the sink was told when nothing waits any more."""
    until(lambda: not service_of(client).outbox.waiting, "the hints are handed over")
    return sink.told


def webhook(client, body) -> dict:
    answer = client.post("/webhook", data=body if isinstance(body, bytes) else json.dumps(body))
    assert answer.status_code == 200
    return answer.json


# The webhook


def test_why_the_loop_pauses_shows_on_the_page_of_a_service_that_nobody_called(learning, monkeypatch):
    monkeypatch.setattr("backend.outbox.LOOK_SECONDS", 0.01)
    client = learning()
    until(lambda: service_of(client).outbox.paused, "the pause is heard of")
    page = client.get("/").get_data(as_text=True)
    assert "paused since 2026-01-31 10:00:00Z, until Label Studio is well: it answers 503" in page


@pytest.mark.parametrize(
    ("action", "expected"),
    [
        ("ANNOTATION_CREATED", [("event", 5, 1, False)]),
        ("ANNOTATIONS_DELETED", [("event", 5, 1, False)]),
        ("PROJECT_UPDATED", [("event", 5, 1, False)]),
        ("START_TRAINING", [("event", 5, 1, True)]),
        ("TASKS_CREATED", [("uploaded", 5, 1, False)]),
        ("NO_SUCH_ACTION", []),
    ],
)
def test_an_event_becomes_a_hint_and_only_an_order_is_answered_with_ok(learning, sink, action, expected):
    client = learning()
    answer = webhook(client, {"action": action, "project": {"id": 5, "title": "streets"}})
    assert answer == {"status": "ok" if action == "START_TRAINING" else "acknowledged"}
    assert told(client, sink) == expected


@pytest.mark.parametrize(
    "body",
    [b"", b"{not JSON", b"\x00" * 99_999, b"[]", b'{"action": "START_TRAINING"}', b'{"project": {"id": 5}}'],
)
def test_a_body_that_names_no_action_and_project_is_acknowledged_and_forgotten(learning, sink, body):
    client = learning()
    assert webhook(client, body) == {"status": "acknowledged"}
    assert told(client, sink) == []


def test_an_event_with_masks_of_many_megabytes_is_a_hint_too(learning, sink):
    client = learning()
    rle = b", ".join([b"255"] * 4_000_000)
    assert len(rle) > 10 * PARSED_BYTES
    body = b'{"action": "ANNOTATION_CREATED", "annotation": {"result": [' + rle + b']}, "project": {"id": 5}}'
    assert webhook(client, body) == {"status": "acknowledged"}
    assert told(client, sink) == [("event", 5, 1, False)]


def test_while_the_loop_is_away_webhooks_are_answered_and_counted(learning, sink):
    client = learning()
    sink.away.set()
    for _ in range(20):
        webhook(client, {"action": "ANNOTATION_UPDATED", "project": {"id": 5}})
    assert service_of(client).outbox.waiting == 1
    assert "ebseg_hints_waiting 1.0" in client.get("/metrics").get_data(as_text=True)
    assert "that wait</th><td>1" in client.get("/").get_data(as_text=True)
    sink.away.clear()
    assert sum(events for _, _, events, _ in told(client, sink)) == 20
    assert "ebseg_hints_waiting 0.0" in client.get("/metrics").get_data(as_text=True)


def test_without_learning_nothing_is_taken(learning, sink):
    client = learning(learn=False)
    assert webhook(client, {"action": "START_TRAINING", "project": {"id": 5}}) == {"status": "acknowledged"}
    assert client.post("/train", json={"project": "5.1"}).status_code == 501
    assert client.post("/job_status", json={"job": "train-1"}).status_code == 501
    assert service_of(client).outbox is None
    assert "hints" not in client.get("/").get_data(as_text=True)


# Projects that call


def test_a_project_that_calls_is_told(learning, sink):
    client = learning()
    client.post("/setup", json={"project": "5.1700000000", "schema": label_config()})
    assert told(client, sink) == [("project", 5, named("scripted"))]
    results(predict(client, [task(1, upload(0))]))
    assert told(client, sink) == [("project", 5, named("scripted")), ("project", 1, named("scripted"))]


def test_what_label_studio_calls_itself_is_told_to_the_workers(learning, sink):
    client = learning()
    body = {"project": "5.1700000000", "schema": label_config(), "hostname": "http://labels.example.com/ls/"}
    client.post("/setup", json=body)
    assert told(client, sink) == [
        ("project", 5, named("scripted")),
        ("hostname", "http://labels.example.com/ls"),
    ]


@pytest.mark.parametrize("hostname", [None, 7, {}, "labels.example.com", "http://", "x" * 5000])
def test_an_odd_name_is_nothing_to_be_told(learning, sink, hostname):
    client = learning()
    body = {"project": "5.1700000000", "schema": label_config(), "hostname": hostname}
    assert client.post("/setup", json=body).json == {"model_version": named("scripted")}
    assert told(client, sink) == [("project", 5, named("scripted"))]


def test_photos_at_the_name_that_setup_told_come_from_label_studio(learning):
    client = learning(learn=False)
    tasks = [task(1, "http://labels.example.com/ls" + upload(0)), task(2, "/ls" + upload(0))]
    assert not results(predict(client, tasks[:1]))[0].get("result")
    client.post("/setup", json={"hostname": "http://labels.example.com/ls"})
    assert all(answer["result"] for answer in results(predict(client, tasks)))
    assert client.get("/ready").json["hostname"] == "http://labels.example.com/ls"


def test_a_call_that_names_no_project_is_answered_and_not_told(learning, sink):
    client = learning()
    for project in (None, "", "x", {"id": []}, 0):
        answer = client.post("/setup", json={"project": project, "schema": label_config()})
        assert answer.json == {"model_version": named("scripted")}
        body = {"project": project, "tasks": [task(1, upload(0))], "label_config": label_config()}
        assert results(client.post("/predict", json=body))[0]["result"]
    assert told(client, sink) == []


# Tasks that a request had no time for


def test_tasks_left_out_for_want_of_time_are_told_and_no_others(learning, sink, label_studio):
    gate = Gate()
    label_studio.routes["/data/slow"] = lambda handler: gate()
    client = learning(predict_budget=1.0)
    nameless = {"data": {"image": upload(0)}}
    tasks = [
        task(11, upload(0)),
        task(12, "ftp://none"),
        task(13, "/data/slow"),
        task(14, upload(0)),
        nameless,
    ]
    first, empty, *others = results(predict(client, tasks))
    gate.open()
    assert first["result"] and empty["result"] == [] and others == [{}, {}, {}]
    assert told(client, sink) == [
        ("project", 1, named("scripted")),
        ("finish", 1, [13, 14], named("scripted")),
    ]


def test_they_are_told_with_the_version_that_served_the_request(learning, sink):
    gate = Gate()
    client = learning(lambda: Versioned("v1", gate))
    with in_background(lambda: predict(client, [task(number, upload(0)) for number in (1, 2, 3)])) as answer:
        gate.wait_until_reached()
        service_of(client).model.replace(lambda: Versioned("v2"), "v2")
        service_of(client).stop()
        gate.open()
        results(answer.result(20))
    assert told(client, sink) == [("project", 1, named("v1")), ("finish", 1, [2, 3], named("v1"))]


def test_a_task_that_the_model_fails_on_is_not_told(learning, sink):
    client = learning(lambda: ScriptedModel(lambda image: 1 / 0))
    assert results(predict(client, [task(1, upload(0))])) == [{}]
    assert told(client, sink) == [("project", 1, named("scripted"))]
    assert 'ebseg_tasks_total{outcome="failed"} 1.0' in client.get("/metrics").get_data(as_text=True)


def test_what_a_smart_tool_had_no_time_for_is_not_told(learning, sink):
    gate = Gate()
    client = learning(lambda: ScriptedModel(gate), predict_budget=0.2)
    answer = predict(client, [task(1, upload(0))], context=click("sky", 50, 50))
    assert answer.status.startswith("503 there was no time for the smart tool; draw again")
    gate.open()
    assert told(client, sink) == []
    assert 'ebseg_tasks_total{outcome="told"} 1.0' in client.get("/metrics").get_data(as_text=True)


def test_what_a_smart_tool_is_told_is_no_news_to_the_loop(learning, sink):
    """Nor is it a bad photo: not one that is gone, nor a region or a label that cannot be asked for."""
    client = learning(ScriptedModel)
    damaged = {"result": [{"type": "keypointlabels", "value": {}}]}
    for photo, context in ((99, click("sky", 50, 50)), (0, click("sea", 50, 50)), (0, damaged)):
        answer = predict(client, [task(1, upload(photo))], context=context)
        assert answer.status_code in (400, 503)
    assert told(client, sink) == []
    metrics = client.get("/metrics").get_data(as_text=True)
    assert 'ebseg_tasks_total{outcome="told"} 3.0' in metrics
    assert 'ebseg_tasks_total{outcome="empty"} 0.0' in metrics
    assert "got a message instead of a mask</th><td>3<" in client.get("/").get_data(as_text=True)


def test_while_no_model_is_there_no_version_can_be_told(learning, sink):
    gate = Gate()

    def load():
        gate()
        return ScriptedModel()

    client = learning(load, wait=False, predict_budget=0.1)
    assert results(predict(client, [task(1, upload(0))])) == [{}]
    gate.open()
    assert told(client, sink) == [("project", 1, "")]


# Orders to train and the state of jobs


@pytest.mark.parametrize("annotations", [[], ["x" * 99] * 9_999], ids=["few", "many"])
def test_the_order_of_old_servers_is_a_hint(learning, sink, annotations):
    client = learning()
    body = {"annotations": annotations, "project": "5.1700000000", "label_config": label_config()}
    answer = client.post("/train", json=body)
    assert (answer.status_code, answer.json) == (200, {"status": "ok"})
    assert told(client, sink) == [("event", 5, 1, True)]


def test_an_order_for_no_project_is_declined_in_words(learning, sink):
    answer = learning().post("/train", json={"annotations": []})
    assert answer.status == "501 the request names no project to train for"


@pytest.mark.parametrize("method", ["get", "post"])
def test_the_state_of_a_job_is_told(learning, method):
    client = learning()

    def ask(job: str):
        return (
            client.get(f"/job_status?job={job}")
            if method == "get"
            else client.post("/job_status", json={"job": job})
        )

    assert ask("train-1").json == {"job": "train-1", "status": "started", "progress": {"step": 3}}
    assert ask("train-2").status == "404 no job train-2"
    for wrong in ("", "a:b", "x" * 201):
        assert ask(wrong).status_code == 400


def test_the_loop_is_connected_to_once_however_often_it_is_asked(learning, sink):
    client = learning()
    for _ in range(3):
        assert client.get("/job_status?job=train-1").status_code == 200
    webhook(client, {"action": "START_TRAINING", "project": {"id": 5}})
    assert told(client, sink) == [("event", 5, 1, True)]
    assert sink.connected == 1


@pytest.mark.parametrize("body", [b"{}", b"[]", b"x", b'{"job": 5}'])
def test_a_question_about_no_job_is_refused_in_words(learning, body):
    answer = learning().post("/job_status", data=body)
    assert answer.status_code == 400
    assert answer.json["error"].startswith("not a request of Label Studio: ")


def test_while_the_loop_is_away_the_state_of_a_job_is_not_known(learning, sink, caplog):
    client = learning()
    sink.away.set()
    answer = client.get("/job_status?job=train-1")
    assert answer.status_code == 503
    assert "Redis is away" in caplog.text and "Redis" not in answer.get_data(as_text=True)


# Behind label-studio-ml


@pytest.fixture
def adapter(learning, monkeypatch):
    monkeypatch.setattr(label_studio_ml.EBSegBackend, "_service", service_of(learning()))
    return label_studio_ml.EBSegBackend.__new__(label_studio_ml.EBSegBackend)


EVENTS = {
    "2.x": (("ANNOTATION_CREATED", {"project": {"id": 5}}), {"job_id": "1"}, [("event", 5, 1, False)]),
    "2.x, order": (("START_TRAINING", {"project": {"id": 5}}), {}, [("event", 5, 1, True)]),
    "1.0.9": (
        ((),),
        {"event": "START_TRAINING", "data": {"project": {"id": 5}}, "job_id": 1, "workdir": "/tmp"},
        [("event", 5, 1, True)],
    ),
    "1.0.9, old server": (([{"id": 1}],), {"workdir": "/tmp"}, []),
    "no project": (("START_TRAINING", {}), {}, []),
    "no data": (("START_TRAINING", None), {}, []),
    "tasks": (("TASKS_CREATED", {"project": {"id": 5}}), {}, [("uploaded", 5, 1, False)]),
    "another event": (("TASKS_DELETED", {"project": {"id": 5}}), {}, []),
    "nothing": ((), {}, []),
}


@pytest.mark.parametrize(("arguments", "options", "expected"), EVENTS.values(), ids=EVENTS)
def test_the_adapters_events_are_the_same_hints(adapter, sink, arguments, options, expected):
    assert adapter.fit(*arguments, **options) == {}
    until(lambda: not adapter.service().outbox.waiting, "the hints are handed over")
    assert sink.told == expected


def test_in_a_child_of_the_host_the_adapter_tells_the_sink_itself(adapter, sink, monkeypatch):
    """1.0.9 forks for each event: the child has the outbox, but not its thread."""
    monkeypatch.setattr(multiprocessing, "parent_process", lambda: object())
    threads = []
    monkeypatch.setattr(
        sink, "note_event", lambda *event: threads.append((threading.current_thread(), event))
    )
    assert adapter.fit("START_TRAINING", {"project": {"id": 5}}) == {}
    assert threads == [(threading.current_thread(), (5, 1, True, False))]


def test_the_adapter_tells_unfinished_tasks_of_the_project_that_2_x_names(
    learning, adapter, sink, monkeypatch
):
    gate = Gate()
    service = service_of(learning(lambda: ScriptedModel(gate), predict_budget=0.2))
    monkeypatch.setattr(label_studio_ml.EBSegBackend, "_service", service)
    monkeypatch.setattr(label_studio_ml.EBSegBackend, "label_config", label_config(), raising=False)
    adapter.project_id = "5"
    assert adapter.predict([task(1, upload(0))], context={}) == [{}]
    gate.open()
    until(lambda: not service.outbox.waiting, "the hints are handed over")
    assert sink.told == [("project", 5, named("scripted")), ("finish", 5, [1], named("scripted"))]


# With the settings' own parts


def test_the_queues_of_the_settings_are_opened_by_the_first_hint(tmp_path, checkpoint):
    from training.queue.embedded_redis import stop_embedded_redis
    from training.queue.projects import known_projects
    from training.queue.queues import connect

    settings = Settings(home=tmp_path / "home", model=str(checkpoint), debounce=3600)
    client = create_app(settings).test_client()
    client.post("/webhook", json={"action": "TASKS_DELETED", "project": {"id": 5}})
    assert not settings.home.exists()
    client.post("/webhook", json={"action": "ANNOTATION_CREATED", "project": {"id": 5}})
    service = service_of(client)
    until(lambda: not service.outbox.waiting and settings.home.exists(), "the hint is in Redis")
    assert known_projects(connect(settings), settings) == [5]
    assert client.get("/job_status?job=snapshot-5-0").json["status"] == "scheduled"
    assert client.get("/job_status?job=none").status_code == 404
    service.outbox.close()
    service.stop()
    stop_embedded_redis(settings.home / "redis")
