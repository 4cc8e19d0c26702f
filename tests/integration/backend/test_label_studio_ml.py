"""Our service behind label-studio-ml's class: the real 1.0.9, and the signatures of the 2.x line."""

import importlib.util
import json
import sys
import time
from types import ModuleType

import numpy as np
import pytest

from backend import label_studio_ml as adapter
from ebseg.errors import ConfigError
from ebseg.label_studio import brush
from ebseg.label_studio.tasks import read_label_config
from tests.unit.backend.conftest import label_config, task, upload

CONFIG = label_config()


@pytest.fixture(autouse=True)
def _settings(monkeypatch, checkpoint, label_studio, home):
    monkeypatch.setenv("EBSEG_HOME", str(home))
    monkeypatch.setenv("EBSEG_MODEL", str(checkpoint))
    monkeypatch.setenv("EBSEG_MIN_AREA", "0")
    monkeypatch.setenv("LABEL_STUDIO_URL", label_studio.url)
    monkeypatch.setattr(adapter.EBSegBackend, "_service", None)
    yield
    if adapter.EBSegBackend._service:
        adapter.EBSegBackend._service.stop()


def load_adapter(monkeypatch, base: type | None) -> ModuleType:
    """Import the adapter anew, with ``base`` as label_studio_ml.model.LabelStudioMLBase, or without any."""
    package, module = ModuleType("label_studio_ml"), ModuleType("label_studio_ml.model")
    module.LabelStudioMLBase = base
    monkeypatch.setitem(sys.modules, "label_studio_ml", package)
    monkeypatch.setitem(sys.modules, "label_studio_ml.model", module if base else None)
    spec = importlib.util.spec_from_file_location("adapter_anew", adapter.__file__)
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


def assert_predicted(answer: dict, predictor, scene: np.ndarray) -> None:
    expected = predictor.predict(scene, ["sky", "road"], threshold=0.0).label_map
    assert [region["value"]["brushlabels"] for region in answer["result"]] == [["sky"], ["road"]]
    for index, region in enumerate(answer["result"]):
        assert np.array_equal(brush.decode(region["value"]["rle"], 60, 80) > 0, expected == index)
    assert answer["model_version"].startswith("ebseg-tiny-")


# 1.0.9


@pytest.fixture
def client(monkeypatch, tmp_path):
    from label_studio_ml import api

    monkeypatch.setattr(api._manager.__class__, "_current_model", {})
    return api.init_app(adapter.EBSegBackend, model_dir=str(tmp_path)).test_client()


def post(client, path: str, body: dict):
    return client.post(path, data=json.dumps(body), content_type="application/json")


def test_the_package_serves_our_predictions(client, predictor, scenes):
    assert client.get("/health").json["status"] == "UP"
    setup = post(client, "/setup", {"project": "1.1", "schema": CONFIG, "hostname": "http://localhost"})
    assert (setup.status_code, setup.json) == (200, {"model_version": "INITIAL"})
    body = {
        "tasks": [task(1, upload(0)), task(2, "ftp://none"), task(3, upload(1))],
        "project": "1.1",
        "label_config": CONFIG,
        "params": {"login": None, "password": None, "context": None},
    }
    first, empty, last = post(client, "/predict", body).json["results"]
    assert_predicted(first, predictor, scenes[0])
    assert_predicted(last, predictor, scenes[1])
    assert empty["result"] == []


CONFIGS = {
    "two controls": (
        label_config().replace(
            "</View>", '<BrushLabels name="b" toName="photo"><Label value="sea"/></BrushLabels></View>'
        ),
        {},
    ),
    "labels with a brush": (
        '<View><Image name="photo" value="$image"/><Labels name="l" toName="photo"><Label value="sky"/>'
        '</Labels><Brush name="b" toName="photo" model_score_threshold="0"/></View>',
        {},
    ),
    "labels of the task": (
        label_config().replace("model_score", 'value="$labels" model_score'),
        {"labels": ["sea", {"value": "Auto", "alias": "car"}]},
    ),
    "two images and pages": (
        '<View><Image name="photo" value="$image"/><Image name="doc" valueList="$pages"/>'
        '<BrushLabels name="a" toName="photo"><Label value="sky"/></BrushLabels>'
        '<BrushLabels name="b" toName="doc" model_score_threshold="0"><Label value="sky"/></BrushLabels>'
        "</View>",
        {"pages": [upload(1), upload(2)]},
    ),
}


@pytest.mark.parametrize(("config", "data"), CONFIGS.values(), ids=CONFIGS)
def test_whatever_is_served_is_served_by_the_package_too(monkeypatch, client, config, data):
    asked = {"id": 1, "data": {"image": upload(0), **data}}
    assert post(client, "/setup", {"project": "1.1", "schema": config}).status_code == 200
    answer = post(client, "/predict", {"tasks": [asked], "project": "1.1", "label_config": config})
    expected = adapter.EBSegBackend.service().predict([asked], config)
    assert expected[0]["result"] and answer.json["results"] == json.loads(json.dumps(expected))
    backend = load_adapter(monkeypatch, Base2).EBSegBackend
    monkeypatch.setattr(backend, "_service", adapter.EBSegBackend.service())
    assert backend(project_id="1", label_config=config).predict([asked]) == expected


def test_what_is_not_served_is_told_by_the_package_too(monkeypatch, caplog):
    backend = load_adapter(monkeypatch, Base2).EBSegBackend(
        project_id="7", label_config=label_config("a", "a")
    )
    assert 'project 7: BrushLabels "mask": the label "a" is given twice' in caplog.text
    assert "given twice" in backend.service().hints.all()[7]
    backend.service().stop()


def test_a_smart_tools_context_arrives(client, predictor, scenes):
    post(client, "/setup", {"project": "1.1", "schema": CONFIG})
    row, column = np.argwhere(predictor.predict(scenes[0], ["sky", "road"], threshold=0.0).label_map == 1)[0]
    value = {"x": column / 0.8, "y": row / 0.6, "width": 0.1, "keypointlabels": ["road"]}
    click = {"type": "keypointlabels", "value": value, "original_width": 80, "original_height": 60}
    params = {"login": None, "password": None, "context": {"result": [click]}}
    body = {"tasks": [task(1, upload(0))], "project": "1.1", "label_config": CONFIG, "params": params}
    [answer] = post(client, "/predict", body).json["results"]
    assert [region["value"]["brushlabels"] for region in answer["result"]] == [["road"]]


def test_a_label_config_that_cannot_be_served_is_named(client):
    config = '<View><Image name="i" value="$image"/><Choices name="c" toName="i"/></View>'
    post(client, "/setup", {"project": "1.1", "schema": config})
    answer = post(client, "/predict", {"tasks": [task(1, upload(0))], "project": "1.1"})
    assert answer.status_code == 500
    assert answer.json["detail"].startswith("LabelConfigError: ")


def test_all_projects_share_one_model(client, monkeypatch):
    built = []
    build = adapter.build_service
    monkeypatch.setattr(adapter, "build_service", lambda settings: built.append(1) or build(settings))
    for project in ("1.1", "2.2"):
        post(client, "/setup", {"project": project, "schema": CONFIG, "force_reload": True})
    assert built == [1]


def test_training_calls_are_accepted(client, tmp_path):
    backend = adapter.EBSegBackend(label_config=CONFIG, train_output=None)
    assert backend.fit((), workdir=str(tmp_path)) == {}
    assert backend.fit((), event="ANNOTATION_CREATED", data={}, job_id="1") == {}


# 2.x: not on PyPI, so its signatures and the order of its calls are written down here


class Base2:
    def __init__(self, project_id=None, label_config=None):
        self.project_id = project_id or ""
        self.cache = {}
        if label_config is not None:
            self.set("label_config", label_config)
        self.setup()

    def setup(self):
        raise AssertionError("the adapter has its own")

    def get(self, key):
        return self.cache.get(key)

    def set(self, key, value):
        self.cache[key] = value

    @property
    def label_config(self):
        return self.get("label_config")


def test_the_signatures_of_2_x_work_unchanged(monkeypatch, predictor, scenes):
    backend_class = load_adapter(monkeypatch, Base2).EBSegBackend
    backend = backend_class(project_id="1", label_config=CONFIG)
    model = backend.service().model
    end = time.monotonic() + 20
    while not model.ready and time.monotonic() < end:
        time.sleep(0.01)
    backend = backend_class(project_id="1", label_config=CONFIG)
    assert backend.get("model_version") == read_label_config(CONFIG).version(model.version)
    [answer] = backend.predict([task(1, upload(0))], context={}, login=None, password=None)
    assert_predicted(answer, predictor, scenes[0])
    assert backend.fit("ANNOTATION_CREATED", {"project": {"id": 1}}, job_id="1") == {}


# Without the package


def test_without_the_package_the_module_imports_and_its_use_says_what_to_do(monkeypatch):
    found = load_adapter(monkeypatch, None)
    with pytest.raises(ConfigError, match=r"docs/label-studio-ml\.md"):
        found.EBSegBackend(label_config=CONFIG)
