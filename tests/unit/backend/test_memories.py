"""What the service does with projects' memories: predictions, versions, and who is followed."""

import logging
from dataclasses import replace

import numpy as np
import pytest

from backend import memories as memories_module
from backend.memories import Memories, StoredMemories
from ebseg.label_studio.version import model_of, without_memory
from tests.unit.backend.conftest import (
    MEMORY,
    Shelf,
    label_config,
    named,
    predict,
    results,
    task,
    until,
    upload,
)
from tests.unit.backend.test_swap import masks
from training.memory import files
from training.memory.files import Header, StoredMemory, Worth
from training.storage import Storage


@pytest.fixture
def shelf():
    return Shelf(p1=MEMORY)


@pytest.fixture
def client(make_client, shelf):
    return make_client(memories=Memories(shelf))


def ask(client, project, number=0):
    [found] = results(predict(client, [task(1, upload(number))], project=project))
    return found


def test_a_projects_predictions_are_those_of_its_memory(client):
    with_memory, without = ask(client, 1), ask(client, 2)
    assert list(masks(with_memory)) == ["road"]
    assert masks(with_memory)["road"].all()
    assert sorted(masks(without)) == ["road", "sky"]
    version = with_memory["model_version"]
    assert without["model_version"] == named("tiny-untrained") == without_memory(version)
    assert "+mabcdef+" in version and model_of(version) == "tiny-untrained"


def test_setup_tells_the_version_that_predictions_have(client):
    for project in (1, 2):
        told = client.post("/setup", json={"project": f"{project}.17", "schema": label_config()}).get_json()
        assert told["model_version"] == ask(client, project)["model_version"]


def test_a_new_memory_is_used_and_shown_and_a_lost_one_is_not(client, shelf, monkeypatch):
    monkeypatch.setattr(memories_module, "LOOK_SECONDS", 0.01)
    service = client.application.extensions["ebseg"]
    before = ask(client, 1)["model_version"]
    shelf.memories[1] = replace(MEMORY, name="012345", bias=-MEMORY.bias)
    until(lambda: service.memories.known()[1].name == "012345", "the memory is read")
    after = ask(client, 1)
    assert list(masks(after)) == ["sky"]
    assert "+m012345+" in after["model_version"] != before
    assert b"this service uses tiny-untrained+m012345" in client.get("/").data
    del shelf.memories[1]
    until(lambda: service.memories.known() == {}, "it is forgotten")
    assert ask(client, 1)["model_version"] == named("tiny-untrained")


def test_another_models_memory_changes_nothing(make_client):
    shelf = Shelf(p1=replace(MEMORY, model="tiny-1"))
    found = ask(make_client(memories=Memories(shelf)), 1)
    assert found["model_version"] == named("tiny-untrained")
    assert sorted(masks(found)) == ["road", "sky"]


def test_a_storage_that_is_away_costs_nothing_but_what_is_new(shelf, caplog):
    followed = Memories(shelf)
    followed.start()
    assert followed.find(1) is MEMORY
    followed.stop()
    shelf.broken = True
    with caplog.at_level(logging.WARNING):
        followed.look()
        followed.look()
    assert followed.find(1) is MEMORY
    assert caplog.messages == ["the memory of project 1 cannot be read: the storage is away"]


def test_what_has_not_changed_is_not_read_again(shelf):
    followed = Memories(shelf)
    followed.start()
    followed.find(1)
    followed.stop()
    followed.look()
    followed.look()
    assert shelf.read == [1]


def test_strangers_projects_are_not_followed_without_end(shelf, monkeypatch):
    monkeypatch.setattr(memories_module, "FIRST_SECONDS", 0.0)
    followed = Memories(shelf)
    for project in range(1, 2000):
        followed.find(project)
    followed.look()
    assert len(shelf.read) == memories_module.MOST_PROJECTS
    assert followed.find(None) is None


def test_memories_are_those_of_the_storage(tmp_path):
    shelf = StoredMemories(Storage(str(tmp_path / "storage"), tmp_path / "cache"))
    assert (shelf.stamp(1), shelf.used(1)) == ("", None)
    worth = Worth(1, 10.0, 20.0)
    header = Header("abcdef", "tiny-untrained", ("sky", "road"), (1, 1), (9, 9), "", worth, None, used=True)
    files.store(shelf.storage, 1, StoredMemory(header, MEMORY))
    stamp = shelf.stamp(1)
    assert stamp and shelf.stamp(1) == stamp
    assert np.array_equal(shelf.used(1).bias, MEMORY.bias)
    files.store(shelf.storage, 1, StoredMemory(replace(header, used=False), MEMORY))
    assert shelf.stamp(1) != stamp
    assert shelf.used(1) is None
