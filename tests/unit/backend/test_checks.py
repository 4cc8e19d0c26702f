"""``ebseg doctor`` against servers that answer as Label Studio 1.23 and the service were seen to."""

import hashlib
import json
import threading
import time
from urllib.parse import parse_qs, urlsplit

import jwt
import psutil
import pytest
from rq import Queue
from rq.serializers import JSONSerializer
from typer.testing import CliRunner

from backend import loop_checks
from backend.checks import examine
from backend.commands.doctor import app
from backend.loop_checks import free_memory
from tests.unit.backend.conftest import label_config, png, upload
from tests.unit.label_studio.http_server import Server, redirect, reply
from training.annotations.snapshot import is_held_out
from training.queue.embedded_redis import stop_embedded_redis
from training.queue.pause import pause
from training.queue.queues import connect
from training.queue.triggers import Triggers
from training.settings import Settings

TOKEN = "personal-7f3a"
USER = {"id": 1, "email": "admin@localhost.dev", "username": "admin", "last_activity": "2026-01-01T00:00:00Z"}
VERSION = "ebseg-tiny-1"


def as_json(body: object, status: int = 200):
    return reply(json.dumps(body).encode(), status=status, Content_Type="application/json")


def refusal(status: int, detail: str = "Validation error", **faults: object):
    return as_json({"detail": detail, "validation_errors": faults}, status)


NO_PROJECT = refusal(400, project=["Invalid pk"])
NO_ACTION = refusal(400, actions={"0": ["Not a choice"]})
NO_URL = refusal(400, url=["Enter a valid URL."], actions={"0": ["Not a choice"]})
BANNED = refusal(403, "URL resolves to a reserved network address (block: 127.0.0.0/8)")
UNRESOLVED = refusal(500, "Can't resolve hostname nosuch.invalid")


class World:
    """A Label Studio with one project, 5, whose model is the service."""

    def __init__(self, label_studio: Server, service: Server) -> None:
        self.label_studio, self.service = label_studio, service
        self.backend = {"id": 1, "project": 5, "url": service.url, "title": "EBSeg", "state": "CO"}
        self.backend |= {"model_version": VERSION, "error_message": None}
        self.backends = {5: [self.backend]}
        self.hooks = [{"id": 1, "project": 5, "url": f"{service.url}/webhook", "is_active": True}]
        self.project = {"id": 5, "title": "Streets", "label_config": label_config(), "model_version": VERSION}
        self.project |= {"total_predictions_number": 3}
        self.tasks = [{"id": 11 + number, "data": {"image": upload(number)}} for number in range(3)]
        self.may_call, self.may_hook = NO_PROJECT, NO_ACTION
        service.routes["/ready"] = as_json({"status": "ready", "model_version": VERSION})
        label_studio.routes |= {
            "/health": as_json({"status": "UP"}),
            "/api/current-user/whoami": as_json(USER),
            "/api/ml/": self._ml,
            "/api/webhooks/": self._webhooks,
            "/api/projects/": lambda handler: as_json(
                {"count": 9, "results": [{"id": n} for n in self.backends]}
            )(handler),
            "/api/projects/5/": lambda handler: as_json(self.project)(handler),
            "/api/tasks/": self._tasks,
        }

    def _ml(self, handler) -> None:
        number = parse_qs(urlsplit(handler.path).query).get("project", ["0"])[0]
        found = self.backends.get(int(number))
        listed = refusal(404, "Not found") if found is None else as_json(found)
        (self.may_call if handler.command == "POST" else listed)(handler)

    def _webhooks(self, handler) -> None:
        (self.may_hook if handler.command == "POST" else as_json(self.hooks))(handler)

    def _tasks(self, handler) -> None:
        rows = [
            {"updated_at": "2026-01-01T00:00:00Z", "total_annotations": 0, "cancelled_annotations": 0} | task
            for task in self.tasks
        ]
        as_json({"tasks": rows, "total": len(rows)})(handler)

    def findings(self, backend_url: str | None = None, **more: object) -> dict:
        given = {"label_studio_url": self.label_studio.url, "label_studio_api_key": TOKEN, "learn": False}
        given |= {"port": self.service.server_port, "model": "no-model"}
        found = examine(Settings(**given | more), backend_url)
        assert len({finding.check for finding in found}) == len(found)
        return {finding.check: finding for finding in found}

    def wrong(self, **more: object) -> dict:
        return {name: finding for name, finding in self.findings(**more).items() if not finding.ok}


@pytest.fixture
def service():
    server = Server()
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def world(label_studio, service) -> World:
    return World(label_studio, service)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with a Redis of its own."""
    home = tmp_path_factory.mktemp("home")
    yield home
    stop_embedded_redis(home / "redis")


@pytest.fixture
def learning(home):
    """Settings of the learning loop; nothing is in its Redis."""
    settings = {"learn": True, "home": home, "min_held_out": 2}
    connect(Settings(**settings)).flushall()
    return settings


def test_all_is_well(world):
    found = world.findings()
    assert list(found) == [
        "service",
        "Label Studio",
        "access token",
        "backend address",
        "project 5, model",
        "project 5, labels",
        "project 5, photo",
        "project 5, scores",
        "disk",
        "memory",
    ]
    assert all(finding.ok for finding in found.values())
    assert found["service"].detail == f"answers at {world.service.url}, version {VERSION}"
    assert "admin@localhost.dev" in found["access token"].detail
    assert found["project 5, model"].detail == f'"Streets" gets {VERSION} from {world.service.url}'
    assert found["project 5, labels"].detail == '2 of BrushLabels "mask", on $image'
    assert "that of task 11 has 80x60 pixels" in found["project 5, photo"].detail


# The service


@pytest.mark.parametrize(
    ("answer", "detail", "remedy"),
    [
        (reply(b"", 401), "asks for another password", "EBSEG_BASIC_AUTH_PASSWORD"),
        (reply(b"<html>"), "is not ebseg", "--backend-url"),
        (as_json({"status": "UP"}), "is not ebseg", "--backend-url"),
        (as_json([]), "is not ebseg", "--backend-url"),
        (as_json({"status": "failed", "error": "no such file"}, 503), "without a model", "no such file"),
    ],
)
def test_a_service_that_cannot_predict_is_a_finding(world, answer, detail, remedy):
    world.service.routes["/ready"] = answer
    wrong = world.wrong()
    assert detail in wrong["service"].detail
    assert remedy in wrong["service"].remedy


def test_a_service_that_loads_its_model_is_none(world, checkpoint):
    world.service.routes["/ready"] = as_json({"status": "loading"}, 503)
    assert world.wrong(model=str(checkpoint)) == {}


def test_no_service_is_a_finding_and_then_the_model_is_tried(world, checkpoint):
    """Once all was ok while nothing ran."""
    world.service.shutdown()
    world.service.server_close()
    world.backend |= {"state": "DI"}
    found = world.findings(model=str(checkpoint))
    assert "nothing answers at http://127.0.0.1" in found["service"].detail
    assert "ebseg serve" in found["service"].remedy
    assert "loads, version ebseg-tiny-" in found["model"].detail
    assert "Label Studio does not reach" in found["project 5, model"].detail
    assert "known: ebseg-tiny" in world.wrong()["model"].remedy


def test_the_service_is_asked_with_its_password_where_label_studio_calls_it(world):
    world.findings(basic_auth_user="ls", basic_auth_password="secret", backend_url=f"{world.service.url}/")
    path, headers = world.service.seen[0]
    assert (path, headers["authorization"]) == ("/ready", "Basic bHM6c2VjcmV0")
    world.findings(host="0.0.0.0")
    assert len(world.service.seen) == 2


# Label Studio, and the token


def test_label_studio_below_a_sub_path_is_found(world):
    """A second client once stripped the slash, and the token's exchange went astray."""
    routes = world.label_studio.routes
    routes |= {f"/labels{path}": answer for path, answer in routes.items()}
    for path in list(routes):
        if not path.startswith("/labels"):
            del routes[path]
    key = jwt.encode({"token_type": "refresh", "exp": time.time() + 1e6}, "x" * 32, "HS256")
    access = jwt.encode({"token_type": "access", "exp": time.time() + 300}, "x" * 32, "HS256")
    routes["/labels/api/token/refresh/"] = as_json({"access": access})
    url = f"{world.label_studio.url}/labels"
    assert world.wrong(label_studio_url=url, label_studio_api_key=key) == {}
    assert all(path.startswith("/labels/") for path, _ in world.label_studio.seen)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (reply(status=502), "/health answers 502"),
        (
            redirect("https://labels.example.com/health"),
            "redirects to https://labels.example.com/: set LABEL",
        ),
    ],
)
def test_what_is_no_label_studio_is_a_finding(world, answer, said):
    world.label_studio.routes["/health"] = answer
    wrong = world.wrong()
    assert list(wrong) == ["Label Studio"]
    assert said in wrong["Label Studio"].detail + wrong["Label Studio"].remedy
    assert "LABEL_STUDIO_URL" in wrong["Label Studio"].remedy
    assert ("start it" in wrong["Label Studio"].remedy) == ("502" in said)


def test_label_studio_that_is_down_or_has_no_address_is_a_finding(world):
    world.label_studio.shutdown()
    world.label_studio.server_close()
    assert list(world.wrong()) == ["Label Studio"]
    for url in ("localhost:8080", "http://xn--", "http://nosuch.invalid:8080"):
        assert list(world.wrong(label_studio_url=url)) == ["Label Studio"]


def a_token(kind: str, seconds: float) -> str:
    return jwt.encode({"token_type": kind, "exp": int(time.time() + seconds)}, "x" * 32, "HS256")


@pytest.mark.parametrize(
    ("key", "detail"),
    [
        (None, "LABEL_STUDIO_API_KEY is not set"),
        (a_token("refresh", -100), "it is a personal access token that has expired"),
        (a_token("access", 1000), "it is a short-lived access token, good for minutes"),
    ],
)
def test_a_token_that_cannot_serve_is_a_finding(world, key, detail):
    wrong = world.wrong(label_studio_api_key=key)
    assert list(wrong) == ["access token"]
    assert detail in wrong["access token"].detail
    assert "Personal Access Token" in wrong["access token"].remedy


def test_a_refused_token_is_a_finding_with_its_kind(world):
    world.label_studio.routes["/api/current-user/whoami"] = as_json({"detail": "Invalid token."}, 401)
    wrong = world.wrong()
    assert "it is a legacy token, which cannot be used" in wrong["access token"].detail
    assert "refused the token (401)" in wrong["access token"].remedy
    assert TOKEN not in str(wrong)


def test_when_a_token_ends_is_told(world):
    access = a_token("access", 300)
    world.label_studio.routes["/api/token/refresh/"] = as_json({"access": access})
    found = world.findings(label_studio_api_key=a_token("refresh", 20 * 86400))
    assert "a personal access token of admin@localhost.dev, until 20" in found["access token"].detail
    assert "make a new one" not in found["access token"].detail
    found = world.findings(label_studio_api_key=a_token("refresh", 5 * 86400))
    assert "make a new one in time" in found["access token"].detail


# Addresses that Label Studio is to call


@pytest.mark.parametrize(
    ("what", "answer", "detail", "remedy"),
    [
        ("backend", BANNED, "reserved network", "ML_BLOCK_LOCAL_IP=false"),
        ("webhook", BANNED, "/webhook", "USE_DEFAULT_BANNED_SUBNETS=false"),
        ("webhook", BANNED, "reserved network", "SSRF_PROTECTION_ENABLED=false"),
        ("webhook", NO_URL, "it takes http", "with a dot"),
        ("backend", UNRESOLVED, "Can't resolve hostname", "does not find that name"),
        ("webhook", UNRESOLVED, "Can't resolve hostname", "does not find that name"),
        ("backend", refusal(500, "Oops"), "could not be checked", "it answers 500"),
    ],
)
def test_an_address_that_label_studio_would_not_call_is_a_finding(
    world, learning, what, answer, detail, remedy
):
    if what == "backend":
        world.may_call = answer
    else:
        world.may_hook = answer
    wrong = world.wrong(**learning)
    assert list(wrong) == [f"{what} address"]
    assert detail in wrong[f"{what} address"].detail
    assert remedy in wrong[f"{what} address"].remedy
    if remedy.startswith("does not"):
        assert "SSRF" not in wrong[f"{what} address"].remedy


def test_the_address_that_is_connected_is_the_one_that_is_asked_about(world):
    world.backend["url"] = "http://backend.internal:9090/"
    assert "may call http://backend.internal:9090" in world.findings()["backend address"].detail
    found = world.findings(backend_url=f"{world.service.url}/")
    assert f"may call {world.service.url}" in found["backend address"].detail


# Projects


def test_no_connected_project_is_a_finding(world):
    world.backends[5] = []
    wrong = world.wrong()
    assert list(wrong) == ["projects"]
    assert "Connect Model" in wrong["projects"].remedy


def test_projects_without_a_model_are_passed_over_unless_they_are_named(world):
    world.backends[6] = []
    assert world.wrong() == {}
    wrong = world.wrong(projects="6,7")
    assert "no model is connected" in wrong["project 6"].detail
    assert "is not in Label Studio" in wrong["project 7"].detail
    assert "EBSEG_PROJECTS" in wrong["project 7"].remedy


def test_projects_that_have_called_are_looked_at_too(world, learning):
    settings = Settings(**learning)
    Triggers(settings).note_project(6, "")
    Triggers(settings).note_project(7, "")  # was deleted meanwhile
    world.label_studio.routes["/api/projects/"] = as_json({"count": 0, "results": []})
    world.backends[6] = [world.backend]
    world.label_studio.routes["/api/projects/6/"] = as_json(world.project | {"id": 6})
    found = world.findings(**learning)
    assert "project 6, model" in found
    assert not any(name.startswith("project 7") for name in found)


@pytest.mark.parametrize(
    ("state", "message", "detail", "remedy"),
    [
        ("DI", None, "Label Studio does not reach http", "EBSEG_HOST=0.0.0.0"),
        ("ER", "400 the label config has no <Image>", "answered Label Studio with an error", "no <Image>"),
        ("ER", None, "Label Studio does not reach http", "EBSEG_HOST=0.0.0.0"),
    ],
)
def test_a_model_that_is_not_connected_is_a_finding(world, state, message, detail, remedy):
    world.backend |= {"state": state, "error_message": message}
    wrong = world.wrong()
    assert list(wrong) == ["project 5, model"]
    assert detail in wrong["project 5, model"].detail
    assert remedy in wrong["project 5, model"].remedy


def test_labels_that_are_not_english_are_hinted_at(world):
    world.project["label_config"] = label_config("道路", "sky")
    found = world.findings()["project 5, labels"]
    assert found.ok  # it works, if less well
    assert (
        "on $image; the model knows English best, and these labels have other letters: 道路;" in found.detail
    )
    assert 'predicted_values="road"' in found.detail


def test_a_photos_key_within_another_is_followed(world):
    world.project["label_config"] = label_config().replace("$image", "$meta.image")
    for task in world.tasks:
        task["data"] = {"meta": task["data"]}
    found = world.findings()
    assert found["project 5, photo"].ok and "$meta.image" in found["project 5, labels"].detail


def test_what_of_a_config_is_not_served_is_a_finding(world):
    world.project["label_config"] = label_config("sky", "Sky")
    wrong = world.wrong()
    assert list(wrong) == ["project 5, labels"]
    assert wrong["project 5, labels"].detail == '1 of BrushLabels "mask", on $image'
    assert 'both ask the model for "Sky"; rename one' in wrong["project 5, labels"].remedy


def test_a_config_that_cannot_be_served_is_a_finding(world):
    world.project["label_config"] = '<View><Image name="i" value="$i"/><Choices name="c" toName="i"/></View>'
    wrong = world.wrong()
    assert list(wrong) == ["project 5, labels"]
    assert "add <BrushLabels>" in wrong["project 5, labels"].remedy


@pytest.mark.parametrize(
    ("image", "remedy"),
    [
        ("/data/upload/1/none.png", "not found (404) on Label Studio"),
        ("http://127.0.0.1:1/a.png", "EBSEG_ALLOWED_HOSTS"),
        ("http://xn--/a.png", "is not a valid address"),
        (7, "must be the address of one photo"),
        ("/data/text.png", "not an image"),
    ],
)
def test_a_photo_that_cannot_be_had_is_a_finding(world, image, remedy):
    world.label_studio.routes["/data/text.png"] = reply(b"no image at all")
    world.tasks[0]["data"]["image"] = image
    wrong = world.wrong()
    assert list(wrong) == ["project 5, photo"]
    assert "that of task 11 cannot be had" in wrong["project 5, photo"].detail
    assert remedy in wrong["project 5, photo"].remedy


def test_a_photo_at_the_public_address_is_fetched_as_the_service_does(world):
    told = {"status": "ready", "model_version": VERSION, "hostname": "http://labels.example.com/ls"}
    world.service.routes["/ready"] = as_json(told)
    world.tasks[0]["data"]["image"] = f"http://labels.example.com/ls{upload(0)}"
    assert world.wrong() == {}


def test_a_project_without_tasks_is_well(world):
    world.tasks = []
    assert "there are no tasks yet" in world.findings()["project 5, photo"].detail


@pytest.mark.parametrize(
    ("shown", "predictions", "ok", "detail"),
    [
        (VERSION, 3, True, f"those of {VERSION} are shown"),
        ("EBSeg", 3, False, 'asks for those of "EBSeg"'),
        ("", 3, False, 'asks for those of ""'),
        (None, 3, False, "none are shown"),
        ("EBSeg", 0, True, "no predictions yet"),
        ("another-model", 3, True, "those of another-model are shown, which somebody chose"),
    ],
)
def test_whose_scores_the_data_manager_shows(world, shown, predictions, ok, detail):
    world.project |= {"model_version": shown, "total_predictions_number": predictions}
    found = world.findings()["project 5, scores"]
    assert (found.ok, detail in found.detail) == (ok, True)
    assert (VERSION in found.remedy) is not ok


def test_a_missing_webhook_is_a_finding_where_something_is_learnt(world, learning):
    for hooks in ([], [world.hooks[0] | {"is_active": False}], [world.hooks[0] | {"url": "http://other"}]):
        world.hooks = hooks
        assert world.wrong() == {}
        wrong = world.wrong(**learning)
        assert list(wrong) == ["project 5, webhook"]
        assert f"does not call {world.service.url}/webhook" in wrong["project 5, webhook"].detail


def test_tasks_that_would_judge_are_named(world, learning, scenes):
    photos = [hashlib.sha256(png(scene)).hexdigest() for scene in scenes]
    share = sorted(int(photo[:13], 16) / 16**13 for photo in photos)[1] + 1e-6  # two of the three
    expected = [11 + number for number, photo in enumerate(photos) if is_held_out(photo, share)]
    assert len(expected) == 2
    learning |= {"held_out_share": share, "min_held_out": 3}
    found = world.findings(**learning)["project 5, held-out tasks"]
    assert (
        f"0 of 3 are annotated, so no model is judged yet; annotate tasks {expected[0]}, {expected[1]} next"
        in (found.detail)
    )
    world.tasks = []
    assert "add some" in world.findings(**learning)["project 5, held-out tasks"].detail


# The learning loop, and this machine


def test_the_loop_s_parts_are_looked_at(world, learning):
    found = world.findings(**learning)
    assert list(found)[-4:] == ["jobs", "registry", "disk", "memory"]
    assert all(finding.ok for finding in found.values())
    assert "ebseg worker" in found["jobs"].detail


def test_jobs_that_wait_for_no_worker_are_a_finding(world, learning):
    queue = Queue("ebseg-train", connection=connect(Settings(**learning)), serializer=JSONSerializer)
    queue.enqueue("operator.add", 1, 2)
    wrong = world.wrong(**learning)
    assert "no worker does the jobs that wait (1 in ebseg-train)" in wrong["jobs"].detail
    assert "ebseg worker --queue ebseg-train" in wrong["jobs"].remedy


def test_a_loop_that_pauses_is_a_finding(world, learning):
    pause(connect(Settings(**learning)), "it answers 503")
    wrong = world.wrong(**learning)
    assert "the loop is paused since" in wrong["jobs"].remedy and "it answers 503" in wrong["jobs"].remedy


def test_a_redis_or_mlflow_that_is_away_is_a_finding(world, tmp_path):
    away = {"redis_url": "redis://127.0.0.1:1", "mlflow_tracking_uri": "http://127.0.0.1:1"}
    wrong = world.wrong(learn=True, home=tmp_path, **away)
    assert list(wrong) == ["jobs", "registry"]
    assert "REDIS_URL cannot be used" in wrong["jobs"].remedy
    assert "MLFLOW_TRACKING_URI" in wrong["registry"].remedy


def test_too_little_room_is_a_finding(world, monkeypatch, tmp_path):
    monkeypatch.setattr(loop_checks, "LEAST_DISK_BYTES", 1e18)
    monkeypatch.setattr(loop_checks, "LEAST_MEMORY_BYTES", 1e18)
    wrong = world.wrong(home=tmp_path / "new")
    assert "EBSEG_HOME" in wrong["disk"].remedy
    assert "EBSEG_MAX_PIXELS" in wrong["memory"].remedy
    (tmp_path / "file").touch()
    assert "cannot be used" in world.wrong(home=tmp_path / "file" / "x")["disk"].remedy


@pytest.mark.parametrize(
    ("limit", "used", "free"),
    [("1000", "300", 700), ("1000", "1300", 0), ("max", "3", None), (None, None, None)],
)
def test_a_containers_memory_is_what_counts(tmp_path, limit, used, free, monkeypatch):
    machine = psutil.virtual_memory()
    monkeypatch.setattr(psutil, "virtual_memory", lambda: machine)
    for name, value in (("memory.max", limit), ("memory.current", used)):
        if value is not None:
            (tmp_path / name).write_text(f"{value}\n")
    assert free_memory(tmp_path) == (machine.available if free is None else free)


# The command


def test_nothing_is_made_in_label_studio(world, learning):
    posted = []
    for path in ("/api/ml/", "/api/webhooks/"):
        answer = world.label_studio.routes[path]
        world.label_studio.routes[path] = lambda handler, answer=answer: (
            posted.append(handler.path) if handler.command != "GET" else None,
            answer(handler),
        )
    world.findings(**learning)
    assert posted == ["/api/ml/", "/api/webhooks/"]  # which ask for what must be refused


@pytest.mark.parametrize(("token", "status"), [(TOKEN, 0), ("", 1)])
def test_the_command_says_it_in_lines_and_by_its_exit_status(world, monkeypatch, token, status):
    monkeypatch.setenv("LABEL_STUDIO_URL", world.label_studio.url)
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", token)
    monkeypatch.setenv("EBSEG_LEARN", "false")
    result = CliRunner().invoke(app, ["--backend-url", world.service.url])
    assert result.exit_code == status
    lines = result.output.splitlines()
    assert all(line.startswith(("ok    ", "FAIL  ")) for line in lines)
    wrong = [line for line in lines if line.startswith("FAIL")]
    assert len(wrong) == status
    assert all("access token" in line and "Remedy: create a personal access token" in line for line in wrong)
    assert TOKEN not in result.output
    report = CliRunner().invoke(app, ["--backend-url", world.service.url, "--json"])
    assert report.exit_code == status
    found = json.loads(report.output)
    assert len(found) == len(lines)
    assert all(set(finding) == {"ok", "check", "detail", "remedy"} for finding in found)
    assert all(finding["ok"] for finding in found) == (not status)
