"""What requests see of a change of the model: with real models, and with one that can be held up."""

import numpy as np

from ebseg.label_studio import brush
from tests.unit.backend.conftest import label_config, named, predict, results, task, upload
from tests.unit.backend.test_time_and_failures import Gate, ScriptedModel, in_background

LABELS = ["sky", "road"]


def service_of(client):
    return client.application.extensions["ebseg"]


def masks(answer: dict) -> dict[str, np.ndarray]:
    return {
        region["value"]["brushlabels"][0]: brush.decode(region["value"]["rle"], 60, 80) > 0
        for region in answer["result"]
    }


def test_the_two_models_of_these_tests_disagree(predictor, successor, scenes):
    for scene in scenes:
        one, other = (
            model.predict(scene, LABELS, threshold=0.0).label_map for model in (predictor, successor)
        )
        assert (one != other).mean() > 0.05


class Versioned(ScriptedModel):
    """Labels every pixel ``label``."""

    def __init__(self, version: str, meanwhile=lambda image: None, label: int = 0) -> None:
        super().__init__(meanwhile)
        self.version, self._label = version, label

    def predict(self, image, labels, threshold=None):
        found = super().predict(image, labels, threshold)
        found.label_map[:] = self._label
        return found


def test_a_request_that_a_swap_overtakes_is_finished_by_its_own_model(make_client):
    gate = Gate()
    client = make_client(lambda: Versioned("v1", gate))
    tasks = [task(1, upload(0)), task(2, "ftp://none"), task(3, upload(1)), None, task(5, upload(2))]
    with in_background(lambda: predict(client, tasks)) as answer:
        gate.wait_until_reached()
        service_of(client).model.replace(lambda: Versioned("v2", label=1), "v2")
        gate.open()
        found = results(answer.result(20))
    assert [each["model_version"] for each in found] == [named("v1")] * 5
    assert [list(masks(each)) for each in found] == [["sky"], [], ["sky"], [], ["sky"]]
    [after] = results(predict(client, [task(6, upload(0))]))
    assert (after["model_version"], list(masks(after))) == (named("v2"), ["road"])


def test_setup_versions_and_ready_tell_the_new_version_at_once(make_client):
    client = make_client(lambda: Versioned("v1"))
    service_of(client).model.replace(lambda: Versioned("v2"), "v2")
    assert client.post("/setup", json={"schema": label_config()}).json == {"model_version": named("v2")}
    assert client.get("/versions").json == {"versions": ["v2"]}
    assert client.get("/ready").json == {"status": "ready", "model_version": "v2"}


def test_empty_predictions_of_a_request_that_waited_for_the_model_carry_its_version(make_client):
    gate = Gate()

    def load():
        gate()
        return Versioned("v1")

    client = make_client(load, wait=False, model="ebseg-tiny")
    with in_background(lambda: predict(client, [None, task(1, upload(0))])) as answer:
        gate.wait_until_reached()
        gate.open()
        empty, found = results(answer.result(20))
    assert (empty["model_version"], found["model_version"]) == (named("v1"), named("v1"))
