"""What jobs leave in Redis for people to see: a line on each topic of a project; with a real Redis."""

from training.queue import outcomes as module
from training.queue.outcomes import LONGEST, NEWEST_KEY, Topic, called, forget, newest, outcomes, tell
from training.queue.projects import forget_project
from training.queue.triggers import Triggers
from training.settings import Settings


def words(connection, project):
    return {topic: told.words for topic, told in outcomes(connection, [project])[project].items()}


def test_topics_keep_apart_and_the_newest_line_on_each_counts(connection):
    for topic, line in ((Topic.MEMORY, "one"), (Topic.LIVE, "<b>"), (Topic.MEMORY, "x" * 2 * LONGEST)):
        tell(connection, 7, topic, line)
    told = words(connection, 7)
    assert told == {Topic.MEMORY: "x" * (LONGEST - 1) + "…", Topic.LIVE: "<b>"}
    forget_project(connection, 7)
    assert words(connection, 7) == {} and newest(connection) == {}


def test_projects_of_which_something_was_told_last_are_shown(connection, redis_url, monkeypatch):
    monkeypatch.setattr(module, "MOST_PROJECTS", 3)
    for project in (5, 6, 7):
        tell(connection, project, Topic.TITLE, str(project))
    Triggers(Settings(redis_url=redis_url)).note_project(4, "")
    tell(connection, 5, Topic.LIVE, "again")
    assert list(newest(connection)) == [5, 7, 6]
    called(connection, 7)  # and is not as good as forgotten for that
    forget(connection, 6)
    assert list(newest(connection)) == [5, 7, 4]


def test_what_is_damaged_is_left_out_until_it_is_told_anew(connection):
    tell(connection, 7, Topic.LIVE, "fine")
    connection.set(f"{NEWEST_KEY}:7:memory", b"\xff")
    connection.lpush(f"{NEWEST_KEY}:7:title", "a list")
    connection.zadd(NEWEST_KEY, {"seven": 9e9})
    assert list(newest(connection)) == [7] and words(connection, 7) == {Topic.LIVE: "fine"}
    tell(connection, 7, Topic.TITLE, "Streets")
    assert words(connection, 7) == {Topic.LIVE: "fine", Topic.TITLE: "Streets"}
