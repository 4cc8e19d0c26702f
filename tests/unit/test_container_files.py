import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml
from compose_spec import PyCompose, parse_duration

from backend.commands import COMMANDS as backend_commands
from backend.server import GRACEFUL_SECONDS
from training.commands import COMMANDS as training_commands
from training.settings import Settings

ROOT = Path(__file__).parents[2]
VARIABLES = {
    field.validation_alias or f"EBSEG_{name.upper()}" for name, field in Settings.model_fields.items()
}
OTHERS_OF_THE_IMAGE = {"PATH", "PYTHONUNBUFFERED", "PIP_NO_CACHE_DIR", "PIP_DISABLE_PIP_VERSION_CHECK",
                       "HF_HOME", "XDG_CACHE_HOME"}  # fmt: skip
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES = COMPOSE["services"]
OURS = ("backend", "worker", "trainer", "scheduler")


def dockerfile():
    text = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)
    lines = text.replace("\\\n", " ").splitlines()
    return [tuple(line.split(maxsplit=1)) for line in lines if line.strip()]


def values(instruction):
    return [value for name, value in dockerfile() if name == instruction]


@pytest.mark.parametrize("name", ["docker-compose.yml", "docker-compose.gpu.yml"])
def test_compose_files_hold_to_the_specification(name):
    merged = yaml.safe_load((ROOT / name).read_text())  # with its anchors and merge keys resolved
    PyCompose.from_json(json.dumps({key: part for key, part in merged.items() if not key.startswith("x-")}))


def test_gpu_file_changes_services_that_there_are_and_nothing_but_their_image_and_devices():
    changes = yaml.safe_load((ROOT / "docker-compose.gpu.yml").read_text())["services"]
    assert set(changes) == {name for name, service in SERVICES.items() if "build" in service}
    assert {key for service in changes.values() for key in service} == {"image", "build", "deploy"}


def test_dockerfile_has_no_finding_of_hadolint():
    linter = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([linter, ROOT / "Dockerfile"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_images_of_others_are_pinned_to_a_version():
    images = [service["image"] for service in SERVICES.values() if "build" not in service]
    bases = [value.split()[0] for value in values("FROM")]
    assert len(images) == 2
    assert [image for image in images + bases if not re.fullmatch(r"[\w/-]+:\d+\.\d+[\w.-]*", image)] == []


def test_build_sees_what_the_dockerfile_copies_and_nothing_else():
    copied = {source for value in values("COPY") if "--from" not in value for source in value.split()[:-1]}
    let_through = re.findall(r"^!(.+)$", (ROOT / ".dockerignore").read_text(), re.MULTILINE)
    assert set(let_through) == copied
    assert [name for name in copied if not (ROOT / name).exists()] == []


def test_image_runs_as_an_unprivileged_user_and_keeps_everything_in_its_volume():
    environment = dict(pair.split("=", 1) for value in values("ENV") for pair in shlex.split(value))
    assert set(environment) - VARIABLES == OTHERS_OF_THE_IMAGE
    assert values("USER") == ["1000"]
    assert values("VOLUME") == ["/data"]
    for variable in ("EBSEG_HOME", "HF_HOME", "XDG_CACHE_HOME"):
        assert Path(environment[variable]).is_relative_to("/data")
    assert f"127.0.0.1:{environment['EBSEG_PORT']}/health" in values("HEALTHCHECK")[0]


def test_processes_are_commands_of_ours():
    started = [json.loads(value) for value in values("CMD")]
    started += [SERVICES[name]["command"] for name in OURS if "command" in SERVICES[name]]
    assert [command for command in started if command[0] != "ebseg"] == []
    for _, name, *_ in started:
        assert name in {**training_commands, **backend_commands}


@pytest.mark.parametrize("name", OURS)
def test_our_services_are_given_settings_that_there_are(name):
    assert set(SERVICES[name]["environment"]) - VARIABLES == set()


def test_addresses_lead_to_services():
    for name in OURS:
        environment = SERVICES[name]["environment"]
        for variable in ("LABEL_STUDIO_URL", "REDIS_URL", "MLFLOW_TRACKING_URI"):
            assert urlsplit(environment[variable]).hostname in SERVICES


def test_label_studio_may_call_the_backend_by_a_name_that_it_takes_for_a_webhook():
    environment = SERVICES["label-studio"]["environment"]
    assert environment["ML_BLOCK_LOCAL_IP"] == environment["USE_DEFAULT_BANNED_SUBNETS"] == "false"
    (name,) = SERVICES["backend"]["networks"]["default"]["aliases"]
    assert "." in name
    assert f"http://{name}:9090" in (ROOT / "docs/docker.md").read_text()


def test_secrets_come_from_outside():
    for service in SERVICES.values():
        for name, value in service.get("environment", {}).items():
            if re.search("PASSWORD|KEY|TOKEN", name):
                assert re.fullmatch(r"\$\{[A-Z_]+:(\?.+|-)\}", value)


def test_services_that_others_wait_for_have_a_health_check():
    awaited = {name for service in SERVICES.values() for name in service.get("depends_on", ())}
    assert awaited == {"label-studio", "redis", "mlflow"}
    assert [name for name in awaited if "test" not in SERVICES[name].get("healthcheck", {})] == []


def test_backend_may_finish_its_photos_before_it_is_killed():
    assert parse_duration(SERVICES["backend"]["stop_grace_period"]) > GRACEFUL_SECONDS


def test_everything_that_is_kept_is_in_a_volume():
    for service in SERVICES.values():
        assert [volume.partition(":")[0] in COMPOSE["volumes"] for volume in service["volumes"]] == [True]
    assert {SERVICES[name]["volumes"][0] for name in OURS} == {"ebseg:/data"}
