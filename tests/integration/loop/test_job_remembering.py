"""Remembering corrections: what is encoded, what is unlearnt, what judges, and what is served."""

import logging

import numpy as np
import pytest

from ebseg.ask import Memory
from ebseg.label_studio.version import model_of, without_memory
from ebseg.predictor import Predictor
from tests.integration.loop.loop_world import LEFT, RIGHT
from training.jobs import remembering
from training.memory import files
from training.memory.files import Header, StoredMemory, Worth
from training.memory.fitting import Fitted
from training.queue import orders
from training.queue.outcomes import Topic, newest
from training.queue.plans import refresh
from training.queue.queues import QueueName, queue
from training.queue.remembering import is_requested, request_memory


@pytest.fixture
def model(world, random_tiny, monkeypatch):
    """Serve a real model of random weights; count what it encodes."""
    world.change(memory=True)
    world.encoded = []

    class Counting(Predictor):
        def encode(self, photo):
            world.encoded.append(photo.shape)
            return super().encode(photo)

    def load(path, device, precision):
        return Counting(random_tiny, version="base-0", device="cpu")

    monkeypatch.setattr(remembering, "load", load)


def remember(world):
    return world.ask(orders.remember(1))["outcome"]


def stored(world):
    return files.find(world.loop().storage, 1)


@pytest.mark.usefixtures("model")
def test_corrections_become_a_memory_and_are_encoded_once(world):
    world.annotate(2, 1)
    assert remember(world).startswith("2 labels of 2 photos; mIoU ")
    header = stored(world).header
    assert (header.model, header.labels, header.held_out) == ("base-0", ("sky", "Auto"), None)
    assert header.pixels == (40, 40)
    assert len(world.encoded) == 2  # not the held-out one, which is alone
    told = newest(world.connection)[1][Topic.MEMORY].words
    assert told == f"base-0+m{header.name}: {header.in_words()}"
    assert remember(world).startswith("nothing is new: 2 labels of 2 photos; mIoU ")
    world.fake.annotate(world.add_task(), [LEFT, RIGHT])
    assert remember(world).startswith("2 labels of 3 photos")
    assert len(world.encoded) == 3
    assert stored(world).header.name != header.name


@pytest.mark.usefixtures("model")
def test_what_is_changed_or_deleted_is_unlearnt(world):
    world.annotate(2, 0)
    remember(world)
    first, storage = stored(world).header, world.loop().storage
    world.fake.change(1, result=[LEFT])
    remember(world)
    assert stored(world).header.pixels == (40, 20)
    assert len(files.stored_samples(storage, 1)) == 2
    world.fake.change(1, result=[LEFT, RIGHT])
    remember(world)
    assert stored(world).header.name == first.name  # as before
    world.fake.change(1, was_cancelled=True)
    remember(world)
    assert stored(world).header.left_out.photos == 1
    world.fake.change(2, was_cancelled=True)
    assert "nothing can be told apart" in remember(world)
    assert stored(world) is None
    assert files.stored_samples(storage, 1) == set()


@pytest.mark.usefixtures("model")
def test_held_out_photos_judge_and_are_never_learnt(world, monkeypatch):
    world.annotate(2, 4)
    fitted: list[int] = []
    monkeypatch.setattr(remembering, "fit", _counting(remembering.fit, fitted))
    remember(world)
    assert fitted == [2]
    assert stored(world).header.held_out.photos == 4
    assert len(world.encoded) == 6


def _counting(fit, counts):
    def counting(photos, names, model) -> Fitted | None:
        counts.append(len(photos))
        return fit(photos, names, model)

    return counting


@pytest.mark.usefixtures("model")
@pytest.mark.parametrize(("text", "remembered", "used"), [(40, 39.9, False), (40, 40, True)])
def test_a_memory_that_is_worse_on_held_out_photos_is_not_used(world, monkeypatch, text, remembered, used):
    def helpful(photos, names, model):
        found = fit(photos, names, model)
        found.memory.share[:] = 1
        return found

    fit = remembering.fit
    monkeypatch.setattr(remembering, "fit", helpful)
    monkeypatch.setattr(remembering, "score", lambda *_: (text, remembered))
    world.annotate(2, 4)
    outcome = remember(world)
    assert ("not used" in outcome) is not used
    assert (files.used(world.loop().storage, 1) is not None) is used


@pytest.mark.usefixtures("model")
def test_requests_meanwhile_are_done_by_the_same_job(world, monkeypatch):
    world.annotate(1, 0)
    turn, turns = remembering._Remembering.turn, []

    def busy(self, found):
        turns.append(len(found.entries))
        if len(turns) == 1:  # somebody submits while the first is remembered
            world.fake.annotate(world.add_task(), [LEFT, RIGHT])
            request_memory(world.connection, world.settings, 1)
        return turn(self, found)

    monkeypatch.setattr(remembering._Remembering, "turn", busy)
    assert remember(world).startswith("2 labels of 2 photos")
    assert turns == [1, 2]
    assert not is_requested(world.connection, 1)


@pytest.mark.usefixtures("model")
def test_what_is_not_encoded_in_time_joins_in_the_next_turn(world, monkeypatch):
    monkeypatch.setattr(remembering, "TURN_SECONDS", -1.0)
    encode, calls = remembering._Remembering._encode, []

    def once_late(self, found, missing):
        calls.append(len(missing))
        if len(calls) == 2:
            monkeypatch.setattr(remembering, "TURN_SECONDS", 60.0)
        return encode(self, found, missing)

    monkeypatch.setattr(remembering._Remembering, "_encode", once_late)
    world.annotate(3, 0)
    assert remember(world).startswith("2 labels of 3 photos")
    assert calls == [3, 3]


@pytest.mark.usefixtures("model")
def test_a_photo_that_cannot_be_read_costs_only_itself(world, caplog):
    world.annotate(2, 0)
    entry = world.read().entries[0]
    world.loop().storage.write(f"snapshots/project-1/photos/{entry.photo}", b"damaged")
    with caplog.at_level(logging.WARNING):
        assert remember(world).startswith("2 labels of 1 photos")
    assert f"task {entry.task}" in caplog.text


@pytest.mark.usefixtures("model")
def test_damaged_samples_are_taken_anew(world):
    world.annotate(2, 0)
    remember(world)
    storage = world.loop().storage
    [key, _] = files.stored_samples(storage, 1)
    storage.write(f"memory/project-1/samples/{key}.npz", b"damaged")
    world.fake.annotate(world.add_task(), [LEFT, RIGHT])
    remember(world)
    assert remember(world).startswith("2 labels of 3 photos")


@pytest.mark.usefixtures("model")
def test_a_project_that_is_gone_is_forgotten(world):
    world.annotate(2, 0)
    remember(world)
    world.fake.trouble = [404]
    assert remember(world) == "project 1 is not in Label Studio (any more)"
    assert world.loop().storage.keys("memory") == []


@pytest.mark.usefixtures("model")
def test_a_plan_predicts_with_the_memory_of_its_time_and_shows_it(world):
    keep(world, photos=1)
    task = world.add_task()
    world.ask(orders.plan(1, "base-0"))
    keep(world, photos=1, name="fedcba")  # somebody submits meanwhile
    world.work()
    version = f"base-0+mabcdef{world.version('base-0').removeprefix('base-0')}"
    assert (model_of(version), without_memory(version)) == ("base-0", world.version("base-0"))
    [prediction] = world.fake.predictions.values()
    assert (prediction["task"], prediction["model_version"]) == (task, version)
    assert world.fake.model_version == version


@pytest.mark.usefixtures("model")
def test_a_memory_that_has_outgrown_the_planned_one_is_planned_with(world, monkeypatch):
    monkeypatch.setattr(remembering._Remembering, "turn", lambda self, found: ("as kept", True))
    world.add_task()

    def planned(photos: int, **more) -> bool:
        keep(world, photos=photos, **more)
        remember(world)
        return "plan-1-base-0" in [job for job in world.work() if job.startswith("plan-")]

    made = [planned(1), planned(1, name="fedcba"), planned(2), planned(3), planned(4)]
    assert made == [True, False, True, False, True]
    assert planned(3)  # an annotation was deleted
    assert planned(3, labels=("road",))
    assert planned(3, used=False) and not planned(3, used=False)


def keep(world, photos, name="abcdef", labels=("sky",), used=True):
    """Let a memory of so many photos be the newest."""
    worth = Worth(photos, 10.0, 20.0)
    header = Header(name, "base-0", labels, (0.0,), (9,), "", worth, None, used)
    files.store(world.loop().storage, 1, StoredMemory(header, _memory()))


def _memory():
    nothing = np.zeros(1, np.float32)
    return Memory("abcdef", "base-0", ("sky",), np.zeros((2, 1), np.float32), nothing, nothing)


def test_nothing_is_remembered_where_that_is_switched_off(world):
    request_memory(world.connection, world.settings, 1)
    assert world.waiting() == [] and not is_requested(world.connection, 1)
    world.change(memory=True)
    request_memory(world.connection, world.settings, 1)
    assert is_requested(world.connection, 1)


def test_many_events_are_one_job(world):
    world.change(memory=True)
    for _ in range(3):
        request_memory(world.connection, world.settings, 1)
    scheduled = queue(world.connection, QueueName.CONTROL).scheduled_job_registry.get_job_ids()
    assert scheduled == ["remember-1"]


def test_another_champion_has_the_memories_made_anew(world):
    world.change(memory=True)
    refresh(world.connection, world.settings, "better-1")
    scheduled = queue(world.connection, QueueName.CONTROL).scheduled_job_registry.get_job_ids()
    assert scheduled == ["remember-1"]
