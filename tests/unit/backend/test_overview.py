"""The page's rows, one a project: what the service knows of it, and what jobs told last."""

from dataclasses import replace

import pytest

from backend.memories import Memories
from backend.overview import overview
from tests.unit.backend.conftest import MEMORY, Shelf, predict, task, until, upload
from tests.unit.backend.test_swap import service_of
from training.queue.outcomes import Told, Topic

NAME = f"{MEMORY.model}+m{MEMORY.name}"
AT = "2026-01-31 10:00:00+00:00"


@pytest.fixture
def client(make_client, sink, monkeypatch):
    """A client whose service looks at what jobs told all the time."""
    monkeypatch.setattr("backend.outbox.LOOK_SECONDS", 0.01)
    shelf = Shelf(p1=MEMORY, p2=MEMORY, p3=replace(MEMORY, model="tiny-1"))
    client = make_client(connect=sink, memories=Memories(shelf))
    yield client
    service_of(client).outbox.close()


def row(client, project):
    return next(each for each in overview(service_of(client)) if each.project == project)


def test_a_row_has_what_jobs_told_escaped_and_the_champion(client, sink):
    lines = {Topic.TITLE: "<i>Streets", Topic.TRAINING: "3 <new>", Topic.DECISION: "version 2: reject"}
    sink.outcomes_of = {9: {topic: Told(AT, words) for topic, words in lines.items()}}
    until(lambda: overview(service_of(client)), "what jobs told is heard of")
    page = client.get("/").get_data(as_text=True)
    for part in (
        "<th>9 &lt;i&gt;Streets</th>",
        "<td>tiny-untrained (the base)</td>",
        '<td>3 &lt;new&gt; <span class="at">2026-01-31 10:00 UTC</span></td>',
        "<td>version 2: reject ",
        "nothing is remembered yet",
    ):
        assert part in page
    assert "<i>" not in page


def test_while_redis_is_away_the_page_says_so_and_shows_what_is_known(client, sink):
    sink.outcomes_of = {9: {Topic.LIVE: Told(AT, "fine")}}
    until(lambda: overview(service_of(client)), "what jobs told is heard of")
    sink.away.set()
    predict(client, [task(1, upload(0))])
    until(lambda: service_of(client).outbox.away, "the outage is noticed, whatever hints wait")
    page = client.get("/").get_data(as_text=True)
    assert "ConnectionError: Redis is away" in page
    assert "<td>fine " in page and f"this service uses {NAME}" in page
    sink.away.clear()
    until(lambda: not service_of(client).outbox.away, "and its end")


def test_whether_a_memory_is_used_here_is_said(client, sink):
    sink.outcomes_of = {1: {Topic.MEMORY: Told(AT, f"{NAME}: 2 labels of 5 photos")}}
    until(lambda: overview(service_of(client)), "what jobs told is heard of")
    for project in (1, 2, 3):
        predict(client, [task(1, upload(0))], project=project)
    assert row(client, 1).memory == "used by this service"
    assert row(client, 2).memory == f"this service uses {NAME}"
    assert row(client, 3).memory == "tiny-1+mabcdef is not used: it belongs to another version"
