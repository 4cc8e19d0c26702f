"""Read what a webhook is about: an action and a project. The rest of its body is nobody's business here.

A body may have 100 MB, as annotations carry their masks as lists of numbers. Parsing that would hold up every
other thread for seconds, so of a long body only the two values are looked for, as its bytes pass by. Nothing
is trusted: webhooks come without credentials. Whoever acts on one reads Label Studio itself.
"""

import json
import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol

PARSED_BYTES = 1 << 18
"""Bodies up to this size are parsed: a few milliseconds."""

_CHUNK_BYTES = 1 << 16
_OVERLAP_BYTES = 256
"""Kept of the last chunk, as what is looked for may lie across two."""

# A quote within a JSON string has a backslash before it, so what people wrote into their data cannot match.
_ACTION = re.compile(rb'"action"\s{0,9}:\s{0,9}"([A-Z_]{1,64})"')
_PROJECT = re.compile(rb'"project"\s{0,9}:\s{0,9}(?:\{\s{0,9}"id"\s{0,9}:\s{0,9}|")?(\d{1,10})[\s,.}"]')

_MOST_PROJECT_ID = 2**31 - 1


class Action(StrEnum):
    """What Label Studio tells that is reason to look at a project."""

    ANNOTATION_CREATED = "ANNOTATION_CREATED"
    ANNOTATIONS_CREATED = "ANNOTATIONS_CREATED"
    ANNOTATION_UPDATED = "ANNOTATION_UPDATED"
    ANNOTATIONS_DELETED = "ANNOTATIONS_DELETED"
    TASKS_CREATED = "TASKS_CREATED"  # photos to predict
    PROJECT_UPDATED = "PROJECT_UPDATED"  # its labels may have changed
    START_TRAINING = "START_TRAINING"


class Readable(Protocol):
    """A request's body."""

    def read(self, size: int, /) -> bytes:
        """Give the next bytes, at most ``size``; none at the end."""


@dataclass(frozen=True)
class Event:
    """What a body says; None for what it does not say, or not so that it could be read cheaply."""

    action: Action | None = None
    project: int | None = None

    @property
    def forced(self) -> bool:
        """Whether somebody asked for a training."""
        return self.action is Action.START_TRAINING

    @property
    def uploaded(self) -> bool:
        """Whether tasks were added."""
        return self.action is Action.TASKS_CREATED


def read_event(body: Readable) -> Event:
    """Read a body to its end, which the sender waits for, in memory of a fixed size."""
    head = bytearray()
    while chunk := body.read(_CHUNK_BYTES):
        head += chunk
        if len(head) > PARSED_BYTES:
            return _scan(bytes(head), body)
    return _parse(bytes(head))


def read_action(value: Any) -> Action | None:
    """Give the action, if it is one that matters here."""
    return Action(value) if isinstance(value, str) and value in Action.__members__ else None


def read_project(value: Any) -> int | None:
    """Give the number of a project from how Label Studio names it: 5, "5.1700000000" or {"id": 5}."""
    if isinstance(value, dict):
        value = value.get("id")
    if isinstance(value, str):
        digits = value.partition(".")[0]
        value = int(digits) if re.fullmatch(r"[0-9]{1,10}", digits) else None
    valid = isinstance(value, int) and not isinstance(value, bool) and 0 < value <= _MOST_PROJECT_ID
    return value if valid else None


def _parse(body: bytes) -> Event:
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        return Event()
    if not isinstance(content, dict):
        return Event()
    return Event(read_action(content.get("action")), read_project(content.get("project")))


def _scan(head: bytes, body: Readable) -> Event:
    """Look for the first action and the first project; Label Studio writes the action before all else."""
    action = project = None
    window = head
    while True:
        action = action or _ACTION.search(window)
        project = project or _PROJECT.search(window)
        chunk = body.read(_CHUNK_BYTES)
        if not chunk:
            break
        window = window[-_OVERLAP_BYTES:] + chunk
    return Event(
        read_action(action[1].decode()) if action else None,
        read_project(project[1].decode()) if project else None,
    )
