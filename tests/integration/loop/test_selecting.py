"""Plans put typical photos in front of the tasks to annotate."""

import pytest

from training.queue import orders
from training.queue.orders import Which
from training.selection import files, strategies
from training.settings import Select


@pytest.fixture
def seen(world):
    """Have a base; its photos' embeddings are the first colour of their places."""
    world.registry.ensure_base()
    return world


def test_a_plan_puts_typical_tasks_in_front_once_their_photos_were_seen(seen, monkeypatch):
    monkeypatch.setattr(strategies, "LEAST_AHEAD", 2)
    seen.change(select=Select.DIVERSE, label_chunk=2)
    tasks = [seen.add_task() for _ in range(4)]
    seen.ask(orders.plan(1, "base-0"))
    seen.work()
    assert {each["score"] for each in seen.fake.predictions.values()} == {1.0}  # the certainty
    seen.fake.annotate(tasks[0], [])
    seen.ask(orders.plan(1, "base-0", Which.ALL))
    seen.work()
    scores = {each["task"]: each["score"] for each in seen.fake.predictions.values()}
    front = files.front(seen.loop().storage, 1, "base-0")
    assert len(front) == 2 and tasks[0] not in front
    assert sorted(tasks[1:], key=lambda task: scores[task])[:2] == front
    assert {scores[task] for task in tasks[1:] if task not in front} == {1.0}


def test_an_order_is_made_of_all_tasks_and_those_with_a_prediction_get_no_job(seen):
    tasks = [seen.add_task() for _ in range(3)]
    seen.ask(orders.plan(1, "base-0"))
    seen.work()
    seen.fake.annotate(tasks[0], [])
    new = seen.add_task()
    planned = seen.ask(orders.plan(1, "base-0"))
    seen.work()
    assert sorted(files.front(seen.loop().storage, 1, "base-0")) == tasks[1:]
    assert planned["outcome"] == "1 unlabelled tasks in 1 jobs"
    assert [each["task"] for each in seen.fake.predictions.values()] == [*tasks, new]


def test_nothing_is_kept_for_an_order_that_needs_nothing(seen):
    seen.change(select=Select.UNCERTAIN)
    seen.add_task()
    seen.ask(orders.plan(1, "base-0"))
    seen.work()
    assert len(seen.fake.predictions) == 1 and seen.loop().storage.keys("selection") == []
