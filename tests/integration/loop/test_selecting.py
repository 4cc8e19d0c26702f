"""Plans put typical photos in front of the tasks to annotate."""

from types import SimpleNamespace

import pytest
import torch

from tests.integration.loop.loop_world import Model
from training.queue import orders
from training.queue.orders import Which
from training.selection import files, strategies
from training.settings import Select


@pytest.fixture
def seen(world, monkeypatch):
    """Have the model see the first colour of a photo's places."""

    def encode(self, photo):
        features = torch.from_numpy(photo[..., 0].copy())[None, None].half() / 255
        sizes = ((4 * photo.shape[0], 4 * photo.shape[1]),)
        return SimpleNamespace(encoded=SimpleNamespace(features=features, sizes=sizes), nbytes=1)

    monkeypatch.setattr(Model, "encode", encode)
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


def test_nothing_is_kept_for_an_order_that_needs_nothing(seen):
    seen.add_task()
    seen.ask(orders.plan(1, "base-0"))
    seen.work()
    assert len(seen.fake.predictions) == 1 and seen.loop().storage.keys("selection") == []
