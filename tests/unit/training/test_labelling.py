import threading

import httpx
import numpy as np
import pytest
from PIL import Image

from ebseg.errors import HostUnavailable, Refused, TokenRefused, Unreachable
from ebseg.label_studio.pipeline import Pipeline
from ebseg.label_studio.tasks import read_label_config
from ebseg.predictor import Segmentation
from tests.unit.one_by_one import OneByOne
from tests.unit.training.fake_label_studio import CONFIG, FakeLabelStudio
from tests.unit.training.test_snapshot import Photos
from training.annotations.label_studio import LabelStudioClient, LabelStudioUnavailable
from training.annotations.photos import PatientFetcher
from training.jobs import labelling
from training.jobs.labelling import Anew, label
from training.queue.orders import Which
from training.settings import Settings

VERSION = read_label_config(CONFIG).version("model-2")


class Model(OneByOne):
    """Says "sky" for the upper half of every photo."""

    version = "model-2"

    def predict(self, image, labels, threshold=None):
        height, width = image.shape[:2]
        label_map = np.full((height, width), -1, np.int16)
        label_map[: height // 2] = 0
        return Segmentation(label_map, np.full((height, width), 0.75, np.float32), labels.names)


class World:
    def __init__(self, tmp_path) -> None:
        self.fake, self.photos = FakeLabelStudio(), Photos()
        Image.new("RGB", (8, 6)).save(tmp_path / "photo.png")
        self.photos.files["/a.png"] = (tmp_path / "photo.png").read_bytes()
        self.settings = Settings(label_studio_url="http://studio", label_studio_api_key="key", patience=0.0)

    def label(self, tasks, claim=lambda task: True, which=Which.MISSING):
        studio = LabelStudioClient(self.settings, http=self.fake.http)
        photos = PatientFetcher(self.photos, lambda: studio.project(1), self.settings.patience)
        pipeline = Pipeline(read_label_config(CONFIG), photos, self.settings.max_pixels)
        return label(
            studio,
            pipeline,
            Model(),
            1,
            tasks,
            claim,
            print,
            Anew(which, {"model-1", "model-2"}),
        )


@pytest.fixture
def world(tmp_path):
    return World(tmp_path)


def test_predictions_are_pushed_with_their_version_and_score(world):
    tasks = [world.fake.add_task(image="/a.png") for _ in range(2)]
    done = world.label(tasks)
    assert (done.pushed, done.summary()) == (tasks, "2 predictions pushed")
    stored = list(world.fake.predictions.values())
    assert [(each["task"], each["model_version"], each["score"]) for each in stored] == [
        (task, VERSION, 0.75) for task in tasks
    ]
    assert stored[0]["result"][0]["value"]["brushlabels"] == ["sky"]


def test_no_task_is_predicted_twice_by_a_version(world):
    task = world.fake.add_task(image="/a.png")
    world.fake.predict(task, [], "model-1")
    assert world.label([task]).pushed == [task]
    again = world.label([task])
    assert (again.pushed, again.there) == ([], [task])
    assert len(world.fake.predictions) == 2


def test_tasks_of_a_job_are_read_at_once_and_looked_at_again_before_each_push(world):
    tasks = [world.fake.add_task(image="/a.png") for _ in range(4)]
    world.fake.predict(tasks[0], [], "model-1")
    world.fake.annotate(tasks[1], [])  # since the job was made, and it is predicted all the same
    world.fake.predict(tasks[2], [], VERSION)
    world.fake.predict(tasks[3], [], f"{VERSION}+more")  # of which the version's text is a part
    done = world.label(tasks)
    assert (done.pushed, done.there) == ([tasks[0], tasks[1], tasks[3]], [tasks[2]])
    listings = 1 + 2  # the second and the last by themselves, as they are in doubt
    assert world.fake.requests("/api/tasks/") == listings
    assert world.fake.requests("/api/predictions/") == 3 + 3  # in doubt; before each push


def test_a_job_of_tasks_far_apart_reads_no_more_than_a_page_ahead(world, monkeypatch):
    monkeypatch.setattr(labelling, "PAGE_SIZE", 2)
    world.fake.largest_page = 2
    tasks = [world.fake.add_task(image="/a.png") for _ in range(6)]
    assert world.label([tasks[0], tasks[5]]).pushed == [tasks[0], tasks[5]]
    assert world.fake.requests("/api/tasks/") == 1 + 1  # the page, and the last by itself


@pytest.mark.parametrize(("which", "pushed"), [(Which.MISSING, False), (Which.ALL, True)])
def test_what_the_service_stores_meanwhile_is_not_stored_twice(world, which, pushed):
    task = world.fake.add_task(image="/a.png")
    fetch = world.photos.fetch

    def fetch_while_somebody_retrieves(url, *, task_id=None):
        world.fake.predict(task_id, [], VERSION)
        return fetch(url, task_id=task_id)

    world.photos.fetch = fetch_while_somebody_retrieves
    done = world.label([task], which=which)
    assert (done.pushed, done.there) == (([task], []) if pushed else ([], [task]))
    assert [each["model_version"] for each in world.fake.predictions.values()] == [VERSION]


def test_a_task_that_another_job_has_claimed_is_left_to_it(world):
    tasks = [world.fake.add_task(image="/a.png") for _ in range(2)]
    done = world.label(tasks, claim=lambda task: task == tasks[1])
    assert (done.pushed, done.left_out) == ([tasks[1]], {tasks[0]: "another job is at it"})


def test_bad_and_deleted_tasks_cost_only_themselves(world):
    good = world.fake.add_task(image="/a.png")
    bad, empty = world.fake.add_task(image="/missing.png"), world.fake.add_task(text="no photo")
    done = world.label([bad, empty, 99, good])
    assert done.pushed == [good]
    assert done.left_out[99] == "it was deleted"
    assert "not found" in done.left_out[bad] and '"image"' in done.left_out[empty]


def test_a_photo_is_asked_for_again_when_label_studio_is_back(world):
    task = world.fake.add_task(image="/a.png")
    world.photos.trouble = [Unreachable("away")]
    assert world.label([task]).pushed == [task]
    world.photos.trouble = [Unreachable("away"), Unreachable("still away")]
    other = world.fake.add_task(image="/a.png")
    done = world.label([other])
    assert done.deferred == {other: "still away"}  # Label Studio is there, its storage is not


@pytest.mark.parametrize("error", [HostUnavailable, Refused, TokenRefused, Unreachable])
def test_a_photo_that_cannot_be_had_for_now_is_told_apart(world, error):
    tasks = [world.fake.add_task(image="/a.png") for _ in range(2)]
    world.photos.trouble = [error("mend it")] * (2 if error is Unreachable else 1)
    done = world.label(tasks)
    assert (done.deferred, done.left_out, done.pushed) == ({tasks[0]: "mend it"}, {}, [tasks[1]])
    assert done.summary() == "1 predictions pushed, 1 tasks deferred"
    assert world.label(tasks).pushed == [tasks[0]]


def test_the_next_photo_is_fetched_while_the_model_works(world, monkeypatch):
    tasks = [world.fake.add_task(image=f"/{name}.png") for name in "ab"]
    world.photos.files["/b.png"] = world.photos.files["/a.png"]
    fetch, predict, fetched = world.photos.fetch, Model.predict, threading.Event()

    def fetch_and_tell(url, *, task_id=None):
        if url == "/b.png":
            fetched.set()
        return fetch(url, task_id=task_id)

    def wait_and_predict(*arguments):
        assert fetched.wait(10)
        return predict(*arguments)

    world.photos.fetch = fetch_and_tell
    monkeypatch.setattr(Model, "predict", wait_and_predict)
    assert world.label(tasks).pushed == tasks


def test_what_was_pushed_stays_when_label_studio_goes_away(world):
    tasks = [world.fake.add_task(image="/a.png") for _ in range(3)]
    claims = []

    def claim(task):
        claims.append(task)
        if len(claims) == 3:  # it is read while the second is predicted
            world.fake.trouble = [httpx.ConnectError("gone")] * 9
        return True

    with pytest.raises(LabelStudioUnavailable):
        world.label(tasks, claim)
    world.fake.trouble = []
    again = world.label(tasks)
    assert (again.there, again.pushed) == (tasks[:1], tasks[1:])


# Predictions that are made anew


def versions(world):
    return sorted(
        (each["task"], each["model_version"], bool(each["result"]))
        for each in world.fake.predictions.values()
    )


def test_empty_predictions_are_made_anew_and_no_others(world):
    """A refused token left them; Label Studio keeps them, and skips their tasks."""
    left, older, full, bare, others = (world.fake.add_task(image="/a.png") for _ in range(5))
    world.fake.predict(left, [], VERSION)
    world.fake.predict(older, [], "model-1")  # of before versions had digests
    world.fake.predict(full, [{"id": "r"}], VERSION)
    world.fake.predict(others, [], "someone-elses-7")
    done = world.label([left, older, full, bare, others], which=Which.EMPTY)
    assert (done.pushed, done.there) == ([left, older, others], [full, bare])
    assert versions(world) == [
        (left, VERSION, True), (older, VERSION, True), (full, VERSION, True),
        (others, VERSION, True), (others, "someone-elses-7", False),
    ]  # fmt: skip
    again = world.label([left, older, full, bare, others], which=Which.EMPTY)
    assert again.pushed == []


def test_an_empty_prediction_beside_a_good_one_is_dropped(world):
    task = world.fake.add_task(image="/a.png")
    world.fake.predict(task, [], VERSION)
    world.fake.predict(task, [{"id": "r"}], VERSION)
    assert world.label([task], which=Which.EMPTY).there == [task]
    assert versions(world) == [(task, VERSION, True)]


def test_all_predictions_of_the_version_are_made_anew(world):
    one, two = (world.fake.add_task(image="/a.png") for _ in range(2))
    old = world.fake.predict(one, [{"id": "r"}], VERSION)
    world.fake.predict(one, [{"id": "r"}], "model-1")
    assert world.label([one, two], which=Which.ALL).pushed == [one, two]
    assert old not in world.fake.predictions
    assert versions(world) == [(one, "model-1", True), (one, VERSION, True), (two, VERSION, True)]


def test_what_there_is_stays_where_nothing_better_can_be_made(world):
    away, bad = world.fake.add_task(image="/a.png"), world.fake.add_task(text="no photo")
    for task in (away, bad):
        world.fake.predict(task, [], VERSION)
    world.photos.trouble = [TokenRefused("refused")]
    done = world.label([away, bad], which=Which.EMPTY)
    assert (list(done.deferred), list(done.left_out)) == ([away], [bad])
    assert versions(world) == [(away, VERSION, False), (bad, VERSION, False)]


def test_a_push_whose_answer_was_lost_is_told_from_what_it_replaces(world):
    world.settings = world.settings.model_copy(update={"patience": 5.0})
    task = world.fake.add_task(image="/a.png")
    world.fake.predict(task, [], VERSION)
    serve, lost = world.fake.serve, [httpx.ReadError("lost")]

    def lose(request):
        if request.method == "POST" and lost:
            raise lost.pop()
        return serve(request)

    world.fake.serve = lose
    assert world.label([task], which=Which.EMPTY).pushed == [task]
    assert versions(world) == [(task, VERSION, True)]
