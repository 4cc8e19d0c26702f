"""The outbox of hints: counted, kept while nobody takes them, bounded, handed over at the end."""

import logging
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from backend import outbox as module
from backend.outbox import Outbox
from tests.unit.backend.conftest import Sink, until
from tests.unit.backend.test_time_and_failures import Gate


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch):
    monkeypatch.setattr(module, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(module, "LONGEST_PAUSE", 0.04)


@pytest.fixture
def outbox(sink):
    made = Outbox(sink)
    made.start()
    yield made
    sink.away.clear()
    made.close()


def waiting(sink: Sink, outbox: Outbox) -> int:
    """Wait until what is taken at once is taken; give what waits."""
    until(lambda: outbox.waiting == 0 or sink.away.is_set(), "the hints are handed over")
    return outbox.waiting


def test_each_kind_of_hint_reaches_the_sink(sink, outbox):
    for tell in (
        lambda: outbox.called(1),
        lambda: outbox.changed(2, forced=False),
        lambda: outbox.changed(3, forced=True),
        lambda: outbox.unfinished(4, [9, 8, 9], "v1"),
        lambda: outbox.unfinished(5, [], "v1"),
        lambda: outbox.called(6, "http://labels"),
    ):
        tell()
        waiting(sink, outbox)
    assert sink.told == [
        ("project", 1, ""),
        ("event", 2, 1, False),
        ("event", 3, 1, True),
        ("project", 4, ""),
        ("finish", 4, [8, 9], "v1"),
        ("project", 6, ""),
        ("hostname", "http://labels"),
    ]


def test_a_thousand_events_while_the_sink_is_away_become_one_call(sink, outbox):
    sink.away.set()
    with ThreadPoolExecutor(8) as pool:
        for future in [pool.submit(outbox.changed, 7, forced=number == 500) for number in range(1000)]:
            future.result()
    assert outbox.waiting == 1
    sink.away.clear()
    until(lambda: not outbox.waiting, "the events are handed over")
    assert sink.told == [("event", 7, 1000, True)]


def test_unfinished_tasks_are_told_once_for_each_version(sink, outbox):
    sink.away.set()
    for tasks, version in (([1, 2], "v1"), ([2, 3], "v1"), ([3], "v2")):
        outbox.unfinished(7, tasks, version)
    sink.away.clear()
    until(lambda: not outbox.waiting, "the tasks are handed over")
    assert sink.told == [("project", 7, ""), ("finish", 7, [1, 2, 3], "v1"), ("finish", 7, [3], "v2")]


def test_what_was_taken_on_before_a_failure_is_not_told_again():
    class Halting(Sink):
        def finish(self, project_id, task_ids, version):
            if version == "v2" and "failed" not in self.told:
                self.told.append("failed")
                raise ConnectionError
            super().finish(project_id, task_ids, version)

    sink = Halting()
    outbox = Outbox(sink)
    outbox.changed(7, forced=False)
    outbox.unfinished(7, [1], "v1")
    outbox.unfinished(7, [2], "v2")
    outbox.start()
    until(lambda: not outbox.waiting, "the hint is handed over in the end")
    outbox.close()
    assert sink.told == [
        ("event", 7, 1, False),
        ("finish", 7, [1], "v1"),
        "failed",
        ("project", 7, ""),
        ("finish", 7, [2], "v2"),
    ]


def test_what_comes_during_an_attempt_that_fails_is_told_with_what_failed(sink):
    gate = Gate()

    def connect():
        if not sink.told:
            sink.told.append("asked")
            gate()
            raise ConnectionError
        return sink

    outbox = Outbox(connect)
    outbox.start()
    outbox.changed(7, forced=True)
    gate.wait_until_reached()
    outbox.changed(7, forced=False)
    outbox.unfinished(7, [1], "v1")
    gate.open()
    until(lambda: not outbox.waiting, "all is handed over")
    outbox.close()
    assert sink.told == ["asked", ("event", 7, 2, True), ("finish", 7, [1], "v1")]


def test_a_project_that_the_sink_chokes_on_does_not_hold_up_the_others(sink, outbox):
    note_event = sink.note_event

    def choking(project_id, events, forced, uploaded):
        if project_id == 1:
            raise ValueError("a fault")
        note_event(project_id, events, forced, uploaded)

    sink.note_event = choking
    for project in (1, 2, 3):
        outbox.changed(project, forced=False)
    until(lambda: len(sink.told) == 2, "the others are handed over")
    assert {told[1] for told in sink.told} == {2, 3}
    sink.note_event = note_event
    until(lambda: not outbox.waiting, "the first, too")


def test_an_outage_is_told_once_and_its_end_too(sink, outbox, caplog):
    sink.away.set()
    with caplog.at_level(logging.INFO, "backend.outbox"):
        for project in range(1, 5):
            outbox.changed(project, forced=False)
        threading.Event().wait(0.1)  # several attempts
        sink.away.clear()
        until(lambda: "again" in caplog.text, "the end of the outage")
    levels = [record.levelname for record in caplog.records]
    assert levels == ["ERROR", "INFO"]
    assert "ConnectionError: Redis is away" in caplog.text


def test_the_sink_is_made_by_the_first_hint_or_look_and_in_the_outboxs_thread(sink):
    made_in = []

    def connect():
        made_in.append(threading.current_thread().name)
        return sink()

    outbox = Outbox(connect)
    outbox.start()
    assert made_in == []
    sink.away.set()
    outbox.changed(1, forced=False)
    until(lambda: len(made_in) > 1, "it is tried again")
    sink.away.clear()
    until(lambda: sink.told, "the hint arrives")
    attempts = len(made_in)
    outbox.changed(2, forced=False)
    until(lambda: len(sink.told) == 2, "another arrives")
    assert len(made_in) == attempts
    assert set(made_in) == {"hints"}
    outbox.close()


def test_a_hint_is_taken_while_the_sink_hangs():
    gate = Gate()
    sink = Sink()

    def connect():
        gate()
        return sink

    outbox = Outbox(connect)
    outbox.start()
    outbox.changed(1, forced=False)
    gate.wait_until_reached()
    outbox.changed(1, forced=True)
    outbox.changed(2, forced=False)
    assert outbox.waiting == 3  # that in hand, and two
    gate.open()
    until(lambda: not outbox.waiting, "all are handed over")
    assert sink.told == [("event", 1, 1, False), ("event", 1, 1, True), ("event", 2, 1, False)]
    outbox.close()


# Bounds


def test_projects_beyond_the_bound_are_dropped_with_one_line(sink, caplog, monkeypatch):
    monkeypatch.setattr(module, "MOST_PROJECTS", 3)
    outbox = Outbox(sink)
    for project in (1, 2, 3, 4, 5, 3):
        outbox.changed(project, forced=False)
    assert outbox.waiting == 3
    assert [record.getMessage() for record in caplog.records] == [
        "hints of 3 projects wait to be taken on: further ones are dropped until some are"
    ]
    outbox.start()
    outbox.close()
    assert sink.told == [("event", 1, 1, False), ("event", 2, 1, False), ("event", 3, 2, False)]


def test_tasks_beyond_the_bound_are_dropped_and_room_is_made_by_handing_over(sink, monkeypatch):
    monkeypatch.setattr(module, "MOST_TASKS", 3)
    outbox = Outbox(sink)
    outbox.unfinished(1, [1, 2], "v1")
    outbox.unfinished(2, [3, 4], "v1")
    outbox.unfinished(2, [3], "v1")
    outbox.start()
    until(lambda: not outbox.waiting, "the hints are handed over")
    outbox.unfinished(3, [5, 6, 7], "v1")
    outbox.close()
    assert [told for told in sink.told if told[0] == "finish"] == [
        ("finish", 1, [1, 2], "v1"),
        ("finish", 2, [3], "v1"),
        ("finish", 3, [5, 6, 7], "v1"),
    ]


# The end


def test_at_the_end_what_is_left_is_tried_once_more(sink, caplog, monkeypatch):
    monkeypatch.setattr(module, "FIRST_PAUSE", 60.0)
    outbox = Outbox(sink)
    outbox.start()
    sink.away.set()
    for project in (1, 2):
        outbox.changed(project, forced=False)
    until(lambda: "ConnectionError" in caplog.text, "an attempt fails")
    sink.away.clear()
    outbox.close()
    assert outbox.waiting == 0
    assert {told[1] for told in sink.told} == {1, 2}


def test_what_cannot_be_handed_over_at_the_end_is_named_and_not_waited_for(sink, caplog, monkeypatch):
    monkeypatch.setattr(module, "STOP_SECONDS", 0.05)
    gate = Gate()
    outbox = Outbox(gate)  # hangs
    outbox.start()
    outbox.changed(1, forced=False)
    gate.wait_until_reached()
    outbox.changed(2, forced=False)
    outbox.close()
    assert "hints of 2 projects are lost" in caplog.text
    gate.open()


def test_an_outbox_that_is_empty_ends_at_once(sink):
    outbox = Outbox(sink)
    outbox.start()
    outbox.close()
    assert not outbox._thread.is_alive()
