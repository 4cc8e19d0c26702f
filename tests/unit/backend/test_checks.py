"""``ebseg doctor`` against a server that answers as Label Studio 1.23 was seen to."""

import json

import pytest
from typer.testing import CliRunner

from backend.checks import examine
from backend.commands.doctor import app
from tests.unit.label_studio.http_server import reply
from training.queue.embedded_redis import stop_embedded_redis
from training.settings import Settings

TOKEN = "personal-7f3a"
USER = {"id": 1, "email": "admin@localhost.dev", "username": "admin", "last_activity": "2026-01-01T00:00:00Z"}
BACKEND = "http://127.0.0.1:9090"


def as_json(body: object, status: int = 200):
    return reply(json.dumps(body).encode(), status=status, Content_Type="application/json")


NO_PROJECT = as_json({"detail": "Validation error", "validation_errors": {"project": ["Invalid pk"]}}, 400)
NO_ACTION = as_json({"detail": "Validation error", "validation_errors": {"actions": ["Not a choice"]}}, 400)
BANNED = as_json({"detail": "URL resolves to a reserved network address (block: 127.0.0.0/8)"}, 403)


@pytest.fixture
def server(label_studio):
    label_studio.routes |= {
        "/health": as_json({"status": "UP"}),
        "/api/current-user/whoami": as_json(USER),
        "/api/ml/": NO_PROJECT,
        "/api/webhooks/": NO_ACTION,
    }
    return label_studio


def findings(server, token: str | None = TOKEN, model: str = "no-model", **more: object) -> dict:
    given = {"label_studio_url": server.url, "label_studio_api_key": token, "model": model, "learn": False}
    settings = Settings(**given | more)
    return {finding.check: finding for finding in examine(settings, BACKEND)}


def test_all_is_well(server, checkpoint):
    found = findings(server, model=str(checkpoint))
    assert list(found) == ["Label Studio", "access token", "backend address", "webhook address", "model"]
    assert all(finding.ok for finding in found.values())
    assert "admin@localhost.dev" in found["access token"].detail
    assert "loads, version ebseg-tiny-" in found["model"].detail


@pytest.mark.parametrize(
    ("path", "answer", "check", "detail", "remedy"),
    [
        ("/health", reply(status=502), "Label Studio", "answers 502", "LABEL_STUDIO_URL"),
        (
            "/api/current-user/whoami",
            as_json({}, 401),
            "access token",
            "refuses it (401)",
            "LABEL_STUDIO_API_KEY",
        ),
        ("/api/ml/", BANNED, "backend address", "reserved network", "ML_BLOCK_LOCAL_IP=false"),
        ("/api/webhooks/", BANNED, "webhook address", "/webhook", "USE_DEFAULT_BANNED_SUBNETS=false"),
        ("/api/webhooks/", BANNED, "webhook address", "403", "SSRF_PROTECTION_ENABLED=false"),
    ],
)
def test_what_is_wrong_is_said_with_its_remedy(server, path, answer, check, detail, remedy):
    server.routes[path] = answer
    found = findings(server)
    assert [name for name, finding in found.items() if not finding.ok] == [check, "model"]
    assert detail in found[check].detail
    assert remedy in found[check].remedy


def test_a_host_name_without_a_dot_gets_no_webhook(server):
    server.routes["/api/webhooks/"] = as_json(
        {
            "detail": "Validation error",
            "validation_errors": {"url": ["Enter a valid URL."], "actions": ["No"]},
        },
        400,
    )
    found = findings(server)["webhook address"]
    assert not found.ok
    assert "with a dot" in found.remedy


def test_label_studio_that_is_down_is_one_finding(server):
    server.shutdown()
    server.server_close()
    found = findings(server)
    assert list(found) == ["Label Studio", "model"]
    assert server.url in found["Label Studio"].detail
    assert "LABEL_STUDIO_URL" in found["Label Studio"].remedy


def test_a_missing_token_is_one_finding(server):
    found = findings(server, token=None)
    assert list(found) == ["Label Studio", "access token", "model"]
    assert "LABEL_STUDIO_API_KEY" in found["access token"].remedy


def test_a_model_that_cannot_be_loaded_is_one_finding(server):
    found = findings(server)
    assert [name for name, finding in found.items() if not finding.ok] == ["model"]
    assert "known: ebseg-tiny" in found["model"].remedy


def test_the_loop_s_parts_are_looked_at(server, checkpoint, tmp_path):
    found = findings(server, model=str(checkpoint), learn=True, home=tmp_path)
    assert list(found)[-2:] == ["jobs", "registry"]
    assert all(found[check].ok for check in ("jobs", "registry"))
    assert "ebseg worker" in found["jobs"].detail
    stop_embedded_redis(tmp_path / "redis")


def test_a_redis_or_mlflow_that_is_away_is_a_finding(server, tmp_path):
    away = {"redis_url": "redis://127.0.0.1:1", "mlflow_tracking_uri": "http://127.0.0.1:1"}
    found = findings(server, learn=True, home=tmp_path, **away)
    assert "REDIS_URL cannot be used" in found["jobs"].remedy
    assert "MLFLOW_TRACKING_URI" in found["registry"].remedy


def test_nothing_is_made_in_label_studio(server):
    findings(server)
    asked = [path for path, _ in server.seen]
    assert sorted(asked) == ["/api/current-user/whoami", "/api/ml/", "/api/webhooks/", "/health"]


@pytest.mark.parametrize(("token", "status"), [(TOKEN, 0), ("", 1)])
def test_the_command_says_it_in_lines_and_by_its_exit_status(server, monkeypatch, checkpoint, token, status):
    monkeypatch.setenv("LABEL_STUDIO_URL", server.url)
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", token)
    monkeypatch.setenv("EBSEG_MODEL", str(checkpoint))
    monkeypatch.setenv("EBSEG_LEARN", "false")
    result = CliRunner().invoke(app, ["--backend-url", BACKEND])
    assert result.exit_code == status
    assert ("FAIL  access token" in result.output) == bool(status)
    assert TOKEN not in result.output
    report = CliRunner().invoke(app, ["--backend-url", BACKEND, "--json"])
    assert all(finding["ok"] for finding in json.loads(report.output)) == (not status)
