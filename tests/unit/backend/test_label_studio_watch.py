"""What the service sees of Label Studio by itself: a refused token, and whose scores projects show."""

import html
import time
from types import SimpleNamespace

import httpx
import pytest

from backend import label_studio_watch
from backend.label_studio_watch import MOST_PROJECTS, MOST_TRIES, LabelStudioWatch
from ebseg.errors import MlflowUnavailable
from tests.unit.backend.conftest import label_config, named, predict, results, task, until, upload
from tests.unit.label_studio.http_server import reply
from tests.unit.training.fake_label_studio import FakeLabelStudio
from training.annotations.label_studio import LabelStudioClient
from training.settings import Settings

SETUP = {"project": "1.1700000000", "schema": label_config()}
VERSION, OLDER, OTHERS = "street-2+aaaaaa", "street-1+bbbbbb", "someone-elses-7"


@pytest.fixture
def fake():
    return FakeLabelStudio()


@pytest.fixture
def clock(monkeypatch):
    clock = SimpleNamespace(now=1000.0, monotonic=lambda: clock.now, sleep=time.sleep)
    monkeypatch.setattr(label_studio_watch, "time", clock)
    return clock


@pytest.fixture
def hurry(monkeypatch):
    """Have the thread not rest for long."""
    monkeypatch.setattr(label_studio_watch, "LEAST_SECONDS", 0.01)
    monkeypatch.setattr(label_studio_watch, "FIRST_PAUSE", 0.01)


@pytest.fixture
def resting(watch, monkeypatch):
    """Watch when the test says so, without a thread."""
    monkeypatch.setattr(watch, "start", lambda: None)
    return watch


@pytest.fixture
def watch(fake):
    """Watch the fake one; its registry has street-1."""
    settings = Settings(label_studio_url="http://studio", label_studio_api_key="key", patience=0.0)
    return LabelStudioWatch(lambda: LabelStudioClient(settings, http=fake.http), lambda: {"street-1"})


def look_when_due(watch, clock):
    clock.now += label_studio_watch.FIRST_PAUSE + 0.1
    watch.look()


def stored(fake, *versions):
    """Have Label Studio hold predictions of some versions."""
    number = fake.add_task(image="/a.png")
    for version in versions:
        fake.predict(number, [], version)


# Trouble is told by /setup


TROUBLES = {
    "a token that is refused": (401, "503 http://studio/: Label Studio refused the token (401)"),
    "access denied": (403, "503 http://studio/: Label Studio denies access"),
    "busy": (429, "503 Label Studio at http://studio/ does not give the token's user: it answers 429"),
    "broken": (502, "503 Label Studio at http://studio/ does not give the token's user: it answers 502"),
    "something else": (404, "503 Label Studio at http://studio/ does not have the token's user"),
    "away": (httpx.ConnectError("nobody"), "503 Label Studio at http://studio/ does not give"),
    "silent": (httpx.ConnectTimeout("silence"), "503 Label Studio at http://studio/ does not give"),
}


@pytest.mark.parametrize(("trouble", "status"), TROUBLES.values(), ids=TROUBLES)
def test_setup_says_what_is_wrong_until_it_is_mended(make_client, fake, resting, trouble, status):
    watch = resting
    client = make_client(watch=watch)
    assert client.post("/setup", json=SETUP).status_code == 200
    fake.trouble = [trouble] * 4
    watch.look()
    answer = client.post("/setup", json=SETUP)
    assert answer.status.startswith(status)
    assert "LABEL_STUDIO_" in answer.status or trouble == 403  # what to set
    assert watch.trouble in html.unescape(client.get("/").get_data(as_text=True))
    fake.trouble = []
    watch.look()
    assert client.post("/setup", json=SETUP).json == {"model_version": named("tiny-untrained")}


def test_setup_asks_label_studio_nothing(make_client, fake, resting):
    client = make_client(watch=resting)
    resting.trouble = "the token is refused"
    assert client.post("/setup", json=SETUP).status == "503 the token is refused"
    assert fake.seen == []


def test_a_label_config_that_cannot_be_served_is_told_first(make_client, resting):
    client = make_client(watch=resting)
    resting.trouble = "the token is refused"
    assert client.post("/setup", json={"schema": "<View/>"}).status_code == 400


def test_a_token_that_stops_to_work_is_seen_with_the_first_photo(
    make_client, label_studio, fake, watch, hurry
):
    client = make_client(watch=watch, label_studio_api_key="token")
    until(lambda: fake.seen, "the first look")
    fake.trouble = [401] * 99
    label_studio.routes[upload(0)] = reply(status=401)
    assert results(predict(client, [task(1, upload(0))])) == [{}]
    until(lambda: watch.trouble, "the look that the photo was reason for")


def test_without_a_token_nothing_is_asked_and_public_photos_are_served(tmp_path, checkpoint):
    from backend.service import build_service

    settings = Settings(home=tmp_path, model=str(checkpoint), follow=False, learn=False)
    service = build_service(settings)
    assert service.watch is None
    assert service.setup(label_config(), 1)
    service.stop()


# Whose scores a project shows


def test_a_project_that_shows_nothing_shows_the_versions_scores(fake, watch, clock):
    stored(fake, VERSION)
    watch.show(1, VERSION)
    look_when_due(watch, clock)
    assert fake.model_version == VERSION


@pytest.mark.parametrize(
    ("shown", "expected"),
    [("EBSeg", VERSION), (OLDER, VERSION), ("street-1", VERSION), ("street-2", VERSION), (OTHERS, OTHERS)],
    ids=["the model's title", "an older version", "one of before there were digests", "the model", "chosen"],
)
def test_a_version_that_a_person_chose_is_left_alone(fake, watch, clock, shown, expected):
    stored(fake, VERSION, OTHERS)
    fake.models, fake.model_version = ["EBSeg"], shown
    watch.show(1, VERSION)
    look_when_due(watch, clock)
    assert fake.model_version == expected


def test_label_studio_is_left_alone_while_it_stores_what_it_was_told(fake, watch, clock):
    """It calls /setup, or /predict for another version, amid a request of its own that writes."""
    stored(fake, VERSION)
    watch.show(1, VERSION)
    watch.look()
    assert fake.model_version is None
    assert fake.requests("/api/projects/1/", "GET") == fake.requests("/api/projects/1/", "PATCH") == 0


def test_it_is_tried_until_label_studio_has_stored_a_prediction(fake, watch, clock):
    watch.show(1, VERSION)
    look_when_due(watch, clock)
    assert fake.model_version is None
    stored(fake, VERSION)
    watch.look()
    assert fake.model_version is None  # not yet due
    clock.now += 1.1
    watch.look()
    assert fake.model_version == VERSION
    before = len(fake.seen)
    watch.look()
    assert len(fake.seen) == before + 1  # the token alone


def test_a_project_without_predictions_is_only_read(fake, watch, clock):
    """To list a project's models Label Studio calls and stores each one, beside what it stores just now."""
    fake.models, fake.model_version = ["EBSeg"], "EBSeg"
    watch.show(1, VERSION)
    look_when_due(watch, clock)
    assert fake.seen[1:] == [("GET", "/api/projects/1/")]  # after whose token it is


def test_a_project_without_predictions_of_ours_is_given_up_until_it_calls_again(fake, watch, clock):
    stored(fake, OTHERS)
    fake.models, fake.model_version = ["EBSeg"], "EBSeg"
    fake.calls_models = lambda: watch.show(1, VERSION)  # Label Studio calls /setup meanwhile
    watch.show(1, VERSION)
    for _ in range(3 * MOST_TRIES):
        clock.now += 200
        watch.look()
    assert fake.requests("/api/projects/1/", "PATCH") == MOST_TRIES
    stored(fake, VERSION)
    watch.show(1, VERSION)
    look_when_due(watch, clock)
    assert fake.model_version == VERSION


def test_predictions_that_are_about_to_be_stored_are_reason_to_try_soon(fake, watch, clock):
    watch.show(1, VERSION)
    for _ in range(5):
        clock.now += 30
        watch.look()
    watch.show(1, VERSION, stored=True)
    stored(fake, VERSION)
    clock.now += 1.1
    watch.look()
    assert fake.model_version == VERSION


def test_a_project_that_is_connected_anew_is_looked_at_again(fake, watch, clock):
    stored(fake, VERSION)
    watch.show(1, VERSION)
    look_when_due(watch, clock)
    fake.models, fake.model_version = ["EBSeg"], "EBSeg"
    watch.show(1, VERSION)
    look_when_due(watch, clock)
    assert fake.model_version == "EBSeg"  # it was right a moment ago
    clock.now += 100
    watch.show(1, VERSION)
    look_when_due(watch, clock)
    assert fake.model_version == VERSION


def test_one_project_costs_no_other_and_no_outage_loses_one(fake, watch, clock):
    stored(fake, VERSION)
    watch.show(2, VERSION)  # not in Label Studio
    watch.show(1, VERSION)
    fake.trouble = [503]
    look_when_due(watch, clock)
    assert watch.trouble and fake.model_version is None
    watch.look()
    assert watch.trouble is None and fake.model_version == VERSION


def test_while_the_registry_is_away_nobody_knows_what_was_chosen(fake, clock):
    def away():
        raise MlflowUnavailable("MLflow's store is away")

    settings = Settings(label_studio_url="http://studio", label_studio_api_key="key", patience=0.0)
    watch = LabelStudioWatch(lambda: LabelStudioClient(settings, http=fake.http), away)
    stored(fake, VERSION)
    fake.model_version = OLDER
    watch.show(1, VERSION)
    look_when_due(watch, clock)
    assert fake.model_version == OLDER
    watch._ours = lambda: {"street-1"}
    clock.now += 2
    watch.look()
    assert fake.model_version == VERSION


def test_strangers_cannot_fill_the_memory(watch):
    for project in range(MOST_PROJECTS + 10):
        watch.show(project, VERSION)
    assert len(watch._wishes) == MOST_PROJECTS


def test_whoever_retrieves_predictions_gets_a_score_column(make_client, fake, watch, hurry):
    client = make_client(watch=watch)
    client.post("/setup", json=SETUP)
    stored(fake, named("tiny-untrained"))
    results(predict(client, [task(1, upload(0))]))
    until(lambda: fake.model_version == named("tiny-untrained"), "the column is filled")
