import datetime as dt
import json
import types

import httpx
import jwt
import pytest

from ebseg.errors import Refused, TokenRefused
from tests.unit.training.fake_label_studio import FakeLabelStudio
from training.annotations import label_studio as module
from training.annotations.label_studio import (
    LabelStudioClient,
    LabelStudioPrediction,
    LabelStudioUnavailable,
    NotInLabelStudio,
)
from training.settings import Settings

ANSWER = {"result": [{"id": "a"}], "score": 0.25, "model_version": "v2"}


class Clock:
    """Time that passes only when somebody sleeps."""

    def __init__(self) -> None:
        self.pauses: list[float] = []

    def monotonic(self) -> float:
        return sum(self.pauses)

    def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", types.SimpleNamespace(monotonic=clock.monotonic, sleep=clock.sleep))
    return clock


@pytest.fixture
def fake() -> FakeLabelStudio:
    return FakeLabelStudio()


def connect(fake: FakeLabelStudio, **changes) -> LabelStudioClient:
    settings = {
        "label_studio_url": "http://studio",
        "label_studio_api_key": "key",
        "patience": 60.0,
    } | changes
    return LabelStudioClient(Settings(**settings), http=fake.http)


@pytest.fixture
def studio(fake: FakeLabelStudio, clock: Clock) -> LabelStudioClient:
    return connect(fake)


def test_a_project(fake, studio):
    project = studio.project(1)
    assert (project.id, project.title, project.label_config) == (1, "Streets", fake.config)
    assert project.model_version is None
    with pytest.raises(NotInLabelStudio, match="does not have project 2"):
        studio.project(2)


def test_tasks_come_page_by_page_each_once(fake, studio, monkeypatch):
    monkeypatch.setattr(module, "PAGE_SIZE", 3)
    numbers = [fake.add_task(image=f"/{n}.png") for n in range(10)]
    listed = list(studio.unlabelled(1))
    assert [task.id for task in listed] == numbers
    assert listed[4].data == {"image": "/4.png"}
    assert fake.requests("/api/tasks/") == 4
    assert list(studio.annotated(1)) == []


def test_a_server_may_send_smaller_pages_than_were_asked_for(fake, studio):
    numbers = [fake.add_task() for _ in range(5)]
    fake.largest_page = 2
    assert [task.id for task in studio.unlabelled(1)] == numbers


def test_a_listing_loads_no_more_than_it_has_come_to(fake, studio, monkeypatch):
    monkeypatch.setattr(module, "PAGE_SIZE", 2)
    for _ in range(10):
        fake.add_task()
    listing = studio.unlabelled(1)
    next(listing), next(listing)
    assert fake.requests("/api/tasks/") == 1
    next(listing)
    assert fake.requests("/api/tasks/") == 2


def test_no_task_is_missed_while_people_annotate(fake, studio, monkeypatch):
    """With numbered pages, tasks that leave the list would move others onto pages that were read."""
    monkeypatch.setattr(module, "PAGE_SIZE", 2)
    numbers = [fake.add_task() for _ in range(6)]
    listed = []
    for task in studio.unlabelled(1):
        listed.append(task.id)
        fake.annotate(task.id, [])
    assert listed == numbers


def test_cancelled_annotations_leave_a_task_unlabelled(fake, studio):
    skipped, annotated, both = (fake.add_task() for _ in range(3))
    fake.annotate(skipped, [], was_cancelled=True)
    fake.annotate(annotated, [])
    fake.annotate(both, [], was_cancelled=True)
    kept = fake.annotate(both, [{"id": "x"}], ground_truth=True, parent_prediction=7)
    assert [task.id for task in studio.unlabelled(1)] == [skipped]
    assert [task.id for task in studio.annotated(1)] == [annotated, both]
    (found,) = studio.annotations(both)
    assert (found.id, found.ground_truth, found.parent_prediction) == (kept, True, 7)
    assert found.result == [{"id": "x"}]
    with pytest.raises(NotInLabelStudio):
        studio.annotations(99)


def test_a_tasks_revision_changes_with_its_annotations_and_predictions(fake, studio):
    task = fake.add_task(image="a")
    seen = {studio.task(1, task).revision}
    annotation = fake.annotate(task, [])
    seen.add(studio.task(1, task).revision)
    fake.change(annotation, result=[{}])
    seen.add(studio.task(1, task).revision)
    fake.predict(task, [], "v1")
    seen.add(studio.task(1, task).revision)
    assert len(seen) == 4
    assert studio.task(1, task).revision in seen
    fake.annotations.pop(annotation)  # some of Label Studio's own actions do not touch the task's time
    assert studio.task(1, task).revision not in seen


def test_times_are_told_in_utc_so_that_they_can_be_compared(fake, studio):
    task = fake.add_task()
    fake.annotate(task, [], updated_at="2026-10-25T02:30:00+02:00")
    fake.annotate(task, [], updated_at="2026-10-25T02:10:00+01:00")
    summer, winter = studio.annotations(task)
    assert dt.datetime.fromisoformat(summer.updated_at) < dt.datetime.fromisoformat(winter.updated_at)
    assert summer.updated_at < winter.updated_at


def test_a_task_is_looked_up_without_having_the_backend_predict_it(fake, studio):
    task = fake.add_task(image="a")
    assert studio.task(1, task).data == {"image": "a"}
    assert fake.seen == [("GET", "/api/tasks/")]  # never /api/tasks/ID/
    with pytest.raises(NotInLabelStudio, match="task 99 is not in project 1"):
        studio.task(1, 99)


def test_predictions(fake, studio):
    task = fake.add_task()
    first, second = fake.predict(task, [{"id": "r"}], "v1"), fake.predict(task, [], None)
    assert studio.predictions_of(task) == [
        LabelStudioPrediction(first, "v1", empty=False), LabelStudioPrediction(second, "", empty=True),
    ]  # fmt: skip
    assert studio.prediction(first) == {"result": [{"id": "r"}], "model_version": "v1"}
    with pytest.raises(NotInLabelStudio):
        studio.prediction(99)
    with pytest.raises(NotInLabelStudio):
        studio.predictions_of(99)


def test_a_prediction_is_deleted_once(fake, studio):
    task = fake.add_task()
    first, second = fake.predict(task, [], "v1"), fake.predict(task, [], "v1")
    for _ in range(2):
        studio.delete_prediction(first)
    assert list(fake.predictions) == [second]


def test_tasks_with_and_without_predictions(fake, studio):
    bare, predicted, annotated = (fake.add_task() for _ in range(3))
    fake.predict(predicted, [], "v1")
    fake.annotate(annotated, [])
    listed = {
        flag: [task.id for task in studio.unlabelled(1, predicted=flag)] for flag in (None, True, False)
    }
    assert listed == {None: [bare, predicted], True: [predicted], False: [bare]}
    assert [task.id for task in studio.unlabelled(1, without="v1")] == [bare]
    assert [task.id for task in studio.unlabelled(1, without="v2")] == [bare, predicted]


def test_pushing_a_prediction(fake, studio):
    task = fake.add_task()
    studio.push_prediction(task, ANSWER)
    assert fake.predictions == {1: {"id": 1, "task": task} | ANSWER}
    assert fake.seen == [("POST", "/api/predictions/")]  # nothing is looked up where nothing went wrong
    with pytest.raises(NotInLabelStudio, match="task 99"):
        studio.push_prediction(99, ANSWER)


def test_a_prediction_whose_answer_was_lost_is_not_pushed_twice(fake, studio):
    task = fake.add_task()

    def arrives_but_is_not_answered(request: httpx.Request) -> httpx.Response:
        fake.serve(request)
        raise httpx.ReadTimeout("too slow", request=request)

    fake.trouble = [arrives_but_is_not_answered, 502]
    studio.push_prediction(task, ANSWER)
    assert [each["model_version"] for each in fake.predictions.values()] == ["v2"]
    assert fake.requests("/api/predictions/", "POST") == 1


def test_a_prediction_that_did_not_arrive_is_pushed_again(fake, studio):
    task = fake.add_task()
    fake.predict(task, [], "v1")  # another version's does not count
    fake.trouble = [httpx.ConnectError("refused"), 503]
    studio.push_prediction(task, ANSWER)
    assert [each["model_version"] for each in fake.predictions.values()] == ["v1", "v2"]


def test_the_project_shows_a_versions_scores_if_it_has_such_predictions(fake, studio):
    assert not studio.set_model_version(1, "v2")
    studio.push_prediction(fake.add_task(), ANSWER)
    assert studio.set_model_version(1, "v2")
    assert fake.model_version == "v2" and studio.project(1).model_version == "v2"


TROUBLE = [
    httpx.ConnectError("refused"),
    httpx.ReadTimeout("slow"),
    httpx.ReadError("reset"),
    httpx.RemoteProtocolError("cut off"),
    408,
    429,
    500,
    502,
    503,
]


@pytest.mark.parametrize("trouble", TROUBLE, ids=repr)
def test_an_absence_is_waited_out_with_growing_pauses(fake, studio, clock, trouble):
    fake.trouble = [trouble] * 6
    assert studio.project(1).title == "Streets"
    assert clock.pauses == [0.5, 1.0, 2.0, 4.0, 8.0, 15.0]
    assert len(fake.seen) == 7  # the SDK must not try by itself as well


def test_patience_ends(fake, studio, clock):
    fake.trouble = [httpx.ConnectError("refused")] * 100
    with pytest.raises(
        LabelStudioUnavailable, match=r"http://studio/ does not give project 1: refused, for 60 s"
    ):
        studio.project(1)
    assert sum(clock.pauses) == 60.0
    assert max(clock.pauses) == 15.0


def test_without_patience_one_try_is_all(fake, clock):
    fake.trouble = [503] * 2
    with pytest.raises(LabelStudioUnavailable, match="it answers 503"):
        connect(fake, patience=0.0).project(1)
    assert len(fake.seen) == 1


def test_each_page_has_patience_of_its_own(fake, studio, clock, monkeypatch):
    monkeypatch.setattr(module, "PAGE_SIZE", 1)
    numbers = [fake.add_task() for _ in range(3)]
    listed = []
    for task in studio.unlabelled(1):
        listed.append(task.id)
        fake.trouble = [503] * 7
    assert listed == numbers
    assert sum(clock.pauses) > 60.0


REFUSALS = [
    (401, TokenRefused, "refused the token.*create a personal access token"),
    (403, Refused, r"denies access to project 1 \(403\).*create a personal access token"),
    (400, Refused, "is refused"),
    (405, Refused, "is refused"),
]


@pytest.mark.parametrize(("status", "kind", "message"), REFUSALS)
def test_a_refusal_is_told_at_once_and_without_what_is_secret(fake, studio, clock, status, kind, message):
    def refuse(request: httpx.Request) -> httpx.Response:
        headers = {"Set-Cookie": "sessionid=SECRET"}
        return httpx.Response(status, json={"detail": "No."}, headers=headers)

    fake.trouble = [refuse] * 3
    with pytest.raises(Refused, match=message) as caught:
        studio.project(1)
    assert type(caught.value) is kind
    assert clock.pauses == []
    assert "SECRET" not in str(caught.value) and "key" not in str(caught.value).lower().split()


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_server_that_has_moved_says_where_it_is(fake, studio, clock, status):
    """httpx would follow with a GET and without the token: a 401 or a 405 that says nothing."""

    def moved(request: httpx.Request) -> httpx.Response:
        there = str(request.url.copy_with(scheme="https", host="labels.example.com"))
        return httpx.Response(status, headers={"Location": there})

    fake.trouble = [moved] * 2
    with pytest.raises(
        Refused, match="redirects to https://labels.example.com/: set LABEL_STUDIO_URL to that"
    ):
        studio.project(1)
    with pytest.raises(Refused, match="redirects to https://labels.example.com/: set"):
        studio.push_prediction(1, ANSWER)
    fake.trouble = [lambda request: httpx.Response(302, headers={"Location": "https://sso.test/login"})]
    with pytest.raises(
        Refused, match="redirects to https://sso.test/login, which is no call of Label Studio's"
    ):
        studio.project(1)
    assert clock.pauses == []


def test_what_is_no_label_studio_is_told(fake, studio):
    def page(request):
        return httpx.Response(200, text="<html>welcome</html>")

    fake.trouble = [page]  # a proxy's, while Label Studio starts
    assert studio.project(1).id == 1
    fake.trouble = [page] * 100
    with pytest.raises(LabelStudioUnavailable, match="what answers there is not Label Studio"):
        studio.project(1)


def test_without_a_token_the_remedy_is_told(fake):
    with pytest.raises(Refused, match="LABEL_STUDIO_API_KEY is not set; create a personal access token"):
        connect(fake, label_studio_api_key=None)


def test_an_address_that_is_none_is_told(fake):
    with pytest.raises(Refused, match="it must look like http://localhost:8080"):
        connect(fake, label_studio_url="localhost:8080")


class Tokens:
    """Exchanges a personal access token for short-lived ones, below a path as proxies have it."""

    def __init__(self, lifetimes: list[int]) -> None:
        self.lifetimes, self.issued, self.seen = lifetimes, [], []
        expiry = dt.datetime.now(dt.UTC) + dt.timedelta(days=1)
        self.personal = jwt.encode({"exp": expiry, "token_type": "refresh"}, "x" * 32)
        self.http = httpx.Client(transport=httpx.MockTransport(self._answer))

    def _answer(self, request: httpx.Request) -> httpx.Response:
        self.seen.append(request.url.path)
        if request.url.path.endswith("/token/refresh/"):
            assert json.loads(request.content) == {"refresh": self.personal}
            expiry = dt.datetime.now(dt.UTC) + dt.timedelta(seconds=self.lifetimes.pop(0))
            self.issued.append(jwt.encode({"exp": expiry, "number": len(self.issued)}, "x" * 32))
            return httpx.Response(200, json={"access": self.issued[-1]})
        if request.headers["Authorization"] != f"Bearer {self.issued[-1]}":
            return httpx.Response(401, json={"detail": "Invalid token."})
        return httpx.Response(200, json={"id": 1, "title": "Streets", "label_config": ""})

    def studio(self) -> LabelStudioClient:
        settings = Settings(
            label_studio_url="http://studio/labels", label_studio_api_key=self.personal, patience=60.0
        )
        return LabelStudioClient(settings, http=self.http)


def test_a_personal_token_is_exchanged_below_the_servers_path(clock):
    tokens = Tokens([300])
    studio = tokens.studio()
    assert studio.project(1).title == studio.project(1).title == "Streets"
    assert tokens.seen == ["/labels/api/token/refresh/", "/labels/api/projects/1/", "/labels/api/projects/1/"]


def test_a_short_lived_token_that_was_revoked_is_renewed_once(clock):
    tokens = Tokens([300, 300])
    studio = tokens.studio()
    studio.project(1)
    tokens.issued.append("another")  # the server forgets the one that we hold
    assert studio.project(1).title == "Streets"
    assert len(tokens.issued) == 3
    assert clock.pauses == []


def test_an_exchange_that_a_proxy_breaks_is_tried_again(clock):
    tokens = Tokens([300])
    broken = [httpx.Response(502, text="<html>bad gateway</html>"), httpx.Response(502, json={"detail": "x"})]

    def answer(request: httpx.Request) -> httpx.Response:
        return broken.pop() if broken else tokens._answer(request)

    tokens.http = httpx.Client(transport=httpx.MockTransport(answer))
    assert tokens.studio().project(1).title == "Streets"
    assert len(clock.pauses) == 2
