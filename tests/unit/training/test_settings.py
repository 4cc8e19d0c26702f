import ast
import re
from pathlib import Path

import pytest
from pydantic_core import PydanticUndefined

from ebseg.errors import ConfigError
from training.settings import Settings, load_settings

ROOT = Path(__file__).parents[3]
SECRET = "secret-7f3a"


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch):
    for name in Settings.model_fields:
        monkeypatch.delenv(f"EBSEG_{name.upper()}", raising=False)
    for name in ("LABEL_STUDIO_URL", "LABEL_STUDIO_API_KEY", "REDIS_URL", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)


def test_every_field_is_read_somewhere():
    read = {
        node.attr
        for folder in ("backend", "training")
        for file in (ROOT / folder).rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name | ast.Attribute)
        and (node.value.id if isinstance(node.value, ast.Name) else node.value.attr).strip("_")
        in ("settings", "self" if file.name == "settings.py" else "settings")
    }
    assert set(Settings.model_fields) - read == set()


def test_every_field_is_documented():
    assert [name for name, field in Settings.model_fields.items() if not field.description] == []


def test_every_field_and_its_default_are_in_the_docs():
    text = "".join((ROOT / "docs" / page).read_text() for page in ("backend.md", "loop.md"))
    rows = dict(re.findall(r"^\| `([A-Z_]+)` \| `?(.+?)`? \|", text, re.MULTILINE))
    for name, field in Settings.model_fields.items():
        documented = rows.pop(field.validation_alias or f"EBSEG_{name.upper()}")
        default = f"{field.default:g}" if isinstance(field.default, float) else str(field.default)
        assert field.default in (None, (), PydanticUndefined) or documented == default
    assert rows == {}


def test_defaults_are_those_of_a_service_on_this_machine():
    settings = load_settings()
    assert (settings.model, settings.host, settings.port) == ("ebseg-tiny", "127.0.0.1", 9090)
    assert settings.label_studio_url == "http://localhost:8080"
    assert settings.predict_budget == 80
    assert settings.basic_auth_user is None


@pytest.mark.parametrize(
    ("variable", "value", "field", "expected"),
    [
        ("EBSEG_MODEL", "ebseg-base", "model", "ebseg-base"),
        ("EBSEG_PORT", "0", "port", 0),
        ("EBSEG_TORCH_THREADS", "2", "torch_threads", 2),
        ("EBSEG_TORCH_THREADS", "", "torch_threads", None),
        ("EBSEG_MIN_AREA", "0", "min_area", 0.0),
        ("EBSEG_MIN_REGION_CONFIDENCE", "0.4", "min_region_confidence", 0.4),
        ("EBSEG_ALLOWED_HOSTS", "minio:9000, photos.lan ,", "allowed_hosts", ("minio:9000", "photos.lan")),
        (
            "LABEL_STUDIO_URL",
            "https://studio.example/prefix",
            "label_studio_url",
            "https://studio.example/prefix",
        ),
    ],
)
def test_the_environment_is_read(monkeypatch, variable, value, field, expected):
    monkeypatch.setenv(variable, value)
    assert getattr(load_settings(), field) == expected


def test_an_override_wins_unless_it_is_none(monkeypatch):
    monkeypatch.setenv("EBSEG_PORT", "1234")
    monkeypatch.setenv("EBSEG_HOST", "0.0.0.0")
    settings = load_settings(port=5678, host=None)
    assert (settings.port, settings.host) == (5678, "0.0.0.0")


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("EBSEG_PORT", "many"),
        ("EBSEG_PORT", "65536"),
        ("EBSEG_THREADS", "4"),
        ("EBSEG_TORCH_THREADS", "0"),
        ("EBSEG_FETCH_TIMEOUT", "0"),
        ("EBSEG_PREDICT_BUDGET", "-1"),
        ("EBSEG_MIN_AREA", "1"),
        ("EBSEG_SCORE_THRESHOLD", "1.5"),
        ("EBSEG_MAX_PIXELS", "0"),
        ("EBSEG_REGISTERED_MODEL", "a/b"),
        ("EBSEG_REGISTERED_MODEL", "a:c"),
        ("EBSEG_REGISTERED_MODEL", " "),
        ("EBSEG_REGISTERED_MODEL", ".."),
    ],
)
def test_a_wrong_value_is_an_error_that_names_the_variable(monkeypatch, variable, value):
    monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigError, match=f"^{variable}: "):
        load_settings()


def test_a_home_that_cannot_be_made_is_named(tmp_path):
    Settings(home=tmp_path / "a" / "b").make_home()
    assert (tmp_path / "a" / "b").is_dir()
    (tmp_path / "file").touch()
    for home in (tmp_path / "file", tmp_path / "file" / "home"):
        with pytest.raises(
            ConfigError, match=f"^EBSEG_HOME: {home} cannot be used .*: set it to a writable folder"
        ):
            Settings(home=home).make_home()


@pytest.mark.parametrize("alone", ["EBSEG_BASIC_AUTH_USER", "EBSEG_BASIC_AUTH_PASSWORD"])
def test_user_and_password_come_in_pairs(monkeypatch, alone):
    monkeypatch.setenv(alone, SECRET)
    with pytest.raises(ConfigError, match="both") as caught:
        load_settings()
    assert SECRET not in str(caught.value)


def test_secrets_are_not_shown(monkeypatch):
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", SECRET)
    monkeypatch.setenv("EBSEG_BASIC_AUTH_USER", "user")
    monkeypatch.setenv("EBSEG_BASIC_AUTH_PASSWORD", SECRET)
    settings = load_settings()
    assert settings.label_studio_api_key.get_secret_value() == SECRET
    assert SECRET not in repr(settings) + str(settings) + settings.model_dump_json()


def test_a_model_s_file_has_one_name_wherever_a_process_runs(tmp_path, monkeypatch):
    (tmp_path / "model.safetensors").touch()
    monkeypatch.chdir(tmp_path)
    assert Settings(model="model.safetensors").base_model == str(tmp_path / "model.safetensors")
    assert Settings(model="ebseg-tiny").base_model == "ebseg-tiny"
