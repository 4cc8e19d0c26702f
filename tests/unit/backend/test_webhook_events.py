"""What is read of a webhook's body: little, cheaply, and never more than it says."""

import io
import json
import tracemalloc

import pytest

from backend.webhook_events import PARSED_BYTES, Action, Event, read_event, read_project

RLE = [{"value": {"format": "rle", "rle": [0, 255] * (PARSED_BYTES // 4), "brushlabels": ["sky"]}}]


class Slow:
    """A body that comes a few bytes at a time, as over a network."""

    def __init__(self, content: bytes, step: int) -> None:
        self._file, self._step = io.BytesIO(content), step

    def read(self, size: int, /) -> bytes:
        return self._file.read(min(size, self._step))


def annotated(result: list, project: int = 12) -> dict:
    """A body in the order in which Label Studio 1.23 writes it."""
    return {
        "action": "ANNOTATION_UPDATED",
        "annotation": {"id": 5, "result": result, "was_cancelled": False, "task": 3, "project": project},
        "project": {"id": project, "task_number": 40, "title": 'say "project": {"id": 99}'},
        "task": {"id": 3, "data": {"image": "/data/upload/1/a.png"}, "project": project},
    }


@pytest.mark.parametrize("step", [1000, 1 << 20], ids=["in pieces", "at once"])
@pytest.mark.parametrize("result", [[], RLE], ids=["short", "long"])
def test_the_action_and_the_project_of_an_annotation_are_read(result, step):
    body = json.dumps(annotated(result)).encode()
    assert (len(body) > PARSED_BYTES) == bool(result)
    assert read_event(Slow(body, step)) == Event(Action.ANNOTATION_UPDATED, 12)


@pytest.mark.parametrize("action", Action)
def test_every_action_that_matters_is_known(action):
    event = read_event(io.BytesIO(json.dumps({"action": action, "project": {"id": 3}}).encode()))
    assert event == Event(action, 3)
    assert event.forced == (action is Action.START_TRAINING)


NOTHING = {
    "empty": b"",
    "no JSON": b"{not JSON",
    "zeros": b"\x00" * 1000,
    "not UTF-8": b'{"action": "\xff"}',
    "a list": b'["action"]',
    "deep": b"[" * 100_000,
    "another action": b'{"action": "TASKS_DELETED"}',
    "an action that is no text": b'{"action": ["ANNOTATION_CREATED"], "project": [5]}',
    "a project that is none": b'{"action": "x", "project": {"id": {"id": 5}}}',
    "a huge number": b'{"action": "x", "project": ' + b"9" * 100_000 + b"}",
    "long zeros": b"\x00" * (PARSED_BYTES + 1),
    "long and deep": b"[" * (PARSED_BYTES + 1),
    "a long text that looks like an event": json.dumps(
        {"text": '{"action": "START_TRAINING", "project": {"id": 5}}' + " " * PARSED_BYTES}
    ).encode(),
}


@pytest.mark.parametrize("body", NOTHING.values(), ids=NOTHING)
def test_what_cannot_be_read_says_nothing(body):
    assert read_event(io.BytesIO(body)) == Event()


def test_a_long_bodys_project_is_found_wherever_the_pieces_end():
    for before in range(300):
        body = b'{"action": "PROJECT_UPDATED", "a": "' + b"x" * (PARSED_BYTES + (1 << 16) - 200 + before)
        body += b'", "project": {"id": 31}, "b": 0}'
        assert read_event(io.BytesIO(body)) == Event(Action.PROJECT_UPDATED, 31), before


def test_a_body_of_any_length_takes_little_memory_and_is_read_to_its_end():
    class Endless(io.RawIOBase):
        left = 40_000_000

        def readable(self):
            return True

        def read(self, size=-1):
            size = min(size, self.left)
            self.left -= size
            return b"1" * size

    body = Endless()
    tracemalloc.start()
    try:
        assert read_event(body) == Event()
        assert tracemalloc.get_traced_memory()[1] < 4_000_000
    finally:
        tracemalloc.stop()
    assert body.left == 0


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (5, 5),
        ("5", 5),
        ("5.1700000000", 5),
        ({"id": 5, "title": "5"}, 5),
        (2**31 - 1, 2**31 - 1),
        (0, None),
        (-1, None),
        (2**31, None),
        (True, None),
        (5.0, None),
        ("", None),
        ("5a", None),
        ("-5", None),
        ("٥", None),
        ("9" * 20, None),
        (None, None),
        ([], None),
        ({}, None),
    ],
)
def test_a_project_is_a_number_that_label_studio_could_have_given(value, expected):
    assert read_project(value) == expected
