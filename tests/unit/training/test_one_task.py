"""One task is one task: what is wrong with its photo, annotation or prediction costs no other anything."""

import json
import re
import uuid

import httpx
import idna
import pytest
from redis.exceptions import ConnectionError as RedisConnectionError
from rq.timeouts import JobTimeoutException

from ebseg.errors import FetchError
from ebseg.label_studio import tasks as label_studio_tasks
from tests.unit.training import test_labelling, test_snapshot
from tests.unit.training.test_snapshot import entry_of, rectangle, tasks
from training.annotations import corrections, snapshot
from training.annotations.label_studio import LabelStudioUnavailable
from training.storage import Storage

UNFORESEEN = [
    idna.IDNAError("Empty Label"), RuntimeError("odd"), KeyError("x"), MemoryError(), RecursionError("deep"),
    AssertionError(), OSError(5, "strange file"), StopIteration("x"),
    UnicodeEncodeError("idna", "\ud800", 0, 1, "x"),
]  # fmt: skip


@pytest.fixture
def world(tmp_path) -> test_snapshot.World:
    return test_snapshot.World(Storage(f"memory://{uuid.uuid4()}", tmp_path / "cache"))


@pytest.fixture
def labelling(tmp_path) -> test_labelling.World:
    return test_labelling.World(tmp_path)


def raising(error, when=lambda *args, **more: True, otherwise=None):
    def call(*args, **more):
        if when(*args, **more):
            raise error
        return otherwise(*args, **more)

    return call


def require_traceback(caplog, error):
    logged = [record for record in caplog.records if record.exc_info]
    assert [type(record.exc_info[1]) for record in logged] == [type(error)], caplog.text
    assert "task 1" in logged[0].getMessage()


# What nobody foresaw


@pytest.mark.parametrize("error", UNFORESEEN, ids=repr)
def test_whatever_fetching_a_photo_raises_stays_with_its_task(world, labelling, caplog, error):
    bad, good = world.annotated(1), world.annotated(2)
    world.photos.trouble = [error]
    manifest = world.take()
    assert tasks(manifest) == [good]
    assert type(error).__name__ in manifest.skipped[bad] and "report" in manifest.skipped[bad]
    require_traceback(caplog, error)
    assert tasks(world.take()) == [bad, good]  # it is tried again

    caplog.clear()
    bad, good = (labelling.fake.add_task(image="/a.png") for _ in range(2))
    labelling.photos.trouble = [error]
    done = labelling.label([bad, good])
    assert done.pushed == [good] and type(error).__name__ in done.left_out[bad]
    require_traceback(caplog, error)


@pytest.mark.parametrize(
    ("module", "part"),
    [
        (label_studio_tasks, "photo_urls"),
        (snapshot, "choose"),
        (snapshot, "read_image"),
        (snapshot, "paint"),
        (snapshot, "require_storable"),
    ],
)
@pytest.mark.parametrize("error", UNFORESEEN[:3], ids=repr)
def test_whatever_reading_an_annotation_raises_stays_with_its_task(
    world, caplog, monkeypatch, module, part, error
):
    bad, good = world.annotated(1), world.annotated(2)
    first = iter([True])
    call = raising(error, lambda *args, **more: next(first, False), getattr(module, part))
    monkeypatch.setattr(module, part, call)
    manifest = world.take()
    assert tasks(manifest) == [good] and type(error).__name__ in manifest.skipped[bad]
    require_traceback(caplog, error)


def test_an_annotation_of_which_a_file_cannot_be_written_stays_with_its_task(world):
    bad, good = world.annotated(1), world.task(2)
    for task in (bad, good):
        prediction = world.fake.predict(
            task, [rectangle()], "half a character: \ud800" if task == bad else "v1"
        )
        world.fake.annotate(task, [rectangle("car")], parent_prediction=prediction)
    manifest = world.take()
    assert tasks(manifest) == [good] and "surrogates not allowed" in manifest.skipped[bad]


def test_whatever_comparing_with_a_prediction_raises_costs_the_comparison(world, caplog, monkeypatch):
    prediction = world.fake.predict(world.task(1), [rectangle()], "v1")
    world.fake.annotate(1, [rectangle("car")], parent_prediction=prediction)
    monkeypatch.setattr(corrections, "paint", raising(RuntimeError("odd")))
    assert entry_of(world.take(), 1).correction is None
    assert "prediction 1 cannot be used, and nobody foresaw why" in caplog.text and "Traceback" in caplog.text


def test_whatever_the_model_raises_stays_with_its_task(labelling, caplog, monkeypatch):
    bad, good = (labelling.fake.add_task(image="/a.png") for _ in range(2))
    first = iter([True])
    predict = test_labelling.Model.predict
    call = raising(RuntimeError("out of memory"), lambda *args, **more: next(first, False), predict)
    monkeypatch.setattr(test_labelling.Model, "predict", call)
    done = labelling.label([bad, good])
    assert done.pushed == [good] and "out of memory" in done.left_out[bad]
    require_traceback(caplog, RuntimeError())


def test_a_prediction_that_label_studio_will_not_have_is_left_out(labelling):
    bad, good = (labelling.fake.add_task(image="/a.png") for _ in range(2))
    refused = httpx.Response(
        400, json={"detail": "Validation error", "validation_errors": {"result": ["bad"]}}
    )

    def answer(request):
        is_bad = request.method == "POST" and json.loads(request.content).get("task") == bad
        return refused if is_bad else labelling.fake.serve(request)

    labelling.fake.trouble = [answer] * 20
    done = labelling.label([bad, good])
    assert done.pushed == [good] and "is refused (400" in done.left_out[bad]


# What is no task's


@pytest.mark.parametrize(
    "error", [JobTimeoutException("an hour"), KeyboardInterrupt(), SystemExit(1)], ids=repr
)
def test_the_end_of_a_job_is_no_fault_of_a_task(world, labelling, error):
    world.annotated(1)
    world.photos.trouble = [error]
    with pytest.raises(type(error)):
        world.take()
    task = labelling.fake.add_task(image="/a.png")
    labelling.photos.trouble = [error]
    with pytest.raises(type(error)):
        labelling.label([task])


@pytest.mark.parametrize(
    "error", [OSError(28, "no space left"), RuntimeError("a bucket's own error")], ids=repr
)
@pytest.mark.parametrize("what", ["photos/", "label_maps/", "index.json", "manifests/"])
def test_a_storage_that_fails_fails_the_job(world, monkeypatch, error, what):
    world.annotated(1), world.annotated(2)
    write = raising(error, lambda storage, key, content: what in key, Storage.write)
    monkeypatch.setattr(Storage, "write", write)
    with pytest.raises(type(error), match=re.escape(str(error))):
        world.take()


def test_label_studio_that_is_away_fails_the_job(world, labelling):
    world.annotated(1), world.annotated(2)
    fine = world.fake.serve
    world.fake.trouble = [fine, fine, httpx.ConnectError("gone"), httpx.ConnectError("gone")]
    with pytest.raises(LabelStudioUnavailable):
        world.take()
    task = labelling.fake.add_task(image="/a.png")
    labelling.fake.trouble = [503] * 9
    with pytest.raises(LabelStudioUnavailable):
        labelling.label([task])
    labelling.fake.trouble = [401] * 2  # the SDK's client is renewed once
    with pytest.raises(FetchError, match="refused the token"):
        labelling.label([task])


def test_a_redis_that_is_away_fails_the_job(labelling):
    task = labelling.fake.add_task(image="/a.png")
    with pytest.raises(RedisConnectionError):
        labelling.label([task], claim=raising(RedisConnectionError("away")))
