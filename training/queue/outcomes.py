"""What jobs leave in Redis for people to see of a project: a line on each topic, with its time.

Each topic has a key of its own, so that jobs of two kinds never take back what the other one told.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter, ValidationError

if TYPE_CHECKING:
    from redis import Redis  # the service knows these values before it imports that

NEWEST_KEY = "ebseg:told"
"""The projects, by the time when something was told of them; zero for those that have only called."""

MOST_PROJECTS = 100
"""That are shown; those that something was told of last."""

LONGEST = 600
"""Characters of a line that are kept: labels and tasks are named in it, of which there may be many."""


class Topic(StrEnum):
    """What is told of a project; the value is its heading."""

    TITLE = "title"
    MEMORY = "memory of corrections"
    TRAINING = "next training"
    DECISION = "last decision"
    LIVE = "live"


@dataclass(frozen=True)
class Told:
    """What was told, in words, and when: ISO 8601, UTC."""

    at: str
    words: str


Outcomes = Mapping[Topic, Told]
"""What is known of a project, as far as jobs have told it."""

_TOLD = TypeAdapter(Told)


def tell(connection: "Redis", project: int, topic: Topic, words: str) -> None:
    """Leave a line on a project, in the place of what was told on that topic before."""
    now = datetime.now(UTC)
    kept = words if len(words) <= LONGEST else f"{words[: LONGEST - 1]}…"
    told = Told(now.isoformat(sep=" ", timespec="seconds"), kept)
    with connection.pipeline() as pipeline:
        pipeline.set(_key(project, topic), _TOLD.dump_json(told))
        pipeline.zadd(NEWEST_KEY, {str(project): now.timestamp()})
        pipeline.execute()


def called(connection: "Redis", project: int) -> None:
    """Note that there is a project, of which nothing may have been told yet."""
    connection.zadd(NEWEST_KEY, {str(project): 0}, nx=True)


def newest(connection: "Redis") -> dict[int, Outcomes]:
    """Give what was told of projects, of which something was told last; those that only called come last."""
    members: list[Any] = connection.zrevrange(NEWEST_KEY, 0, MOST_PROJECTS - 1)
    return outcomes(connection, [int(member) for member in members if member.isdigit()])


def outcomes(connection: "Redis", projects: Sequence[int]) -> dict[int, Outcomes]:
    """Give what was told of each of these projects; a damaged line is none, the next job writes it anew."""
    keys = [(project, topic) for project in projects for topic in Topic]
    values = connection.mget([_key(*each) for each in keys]) if keys else []
    found: dict[int, dict[Topic, Told]] = {project: {} for project in projects}
    for (project, topic), value in zip(keys, values, strict=True):
        with suppress(ValidationError):
            found[project] |= {topic: _TOLD.validate_json(value)} if value else {}
    return dict(found)


def forget(connection: "Redis", project: int) -> None:
    """Drop what was told of a project."""
    connection.zrem(NEWEST_KEY, str(project))
    connection.delete(*(_key(project, topic) for topic in Topic))


def _key(project: int, topic: Topic) -> str:
    return f"{NEWEST_KEY}:{project}:{topic.name.lower()}"
