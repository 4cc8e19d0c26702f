"""Requests that Label Studio would not send: no status 500, no traceback in the log, hardly any memory."""

import tracemalloc

import numpy as np
import pytest

from backend.label_studio_routes import MOST_TASKS
from ebseg.label_studio import brush
from tests.unit.backend.conftest import predict, results, task, upload
from tests.unit.backend.test_predictions import click
from tests.unit.backend.test_time_and_failures import ScriptedModel
from tests.unit.label_studio.hostile import huge_rle


@pytest.fixture
def client(make_client, sink):
    return make_client(ScriptedModel, connect=sink)


def drawn(kind: str, **value) -> dict:
    value |= {kind: ["sky"]}
    return {"type": kind, "value": value, "original_width": 80, "original_height": 60, "is_positive": 1}


def stroke(width: int = 80, height: int = 60, rle: list[int] | None = None) -> dict:
    rle = rle or brush.encode(np.full((height, width), 255, np.uint8))
    return drawn("brushlabels", rle=rle) | {"original_width": width, "original_height": height}


SMART = {
    "result": [
        *click("sky", 50, 50)["result"],
        drawn("rectanglelabels", x=5, y=5, width=50, height=40, rotation=10),
        stroke(),
    ]
}


def test_a_request_of_too_many_tasks_is_refused_in_words(client):
    answer = predict(client, [None] * (MOST_TASKS + 1))
    assert answer.status.startswith(
        "400 10001 tasks in one request are more than 10000; select fewer tasks, or"
    )
    assert len(results(predict(client, [None] * 300))) == 300


BAD_STROKES = {
    "another photo's": (stroke(81, 60), "the stroke is 81 x 60 pixels but the photo is 80 x 60; reload"),
    "damaged": (stroke(rle=stroke()["value"]["rle"][:9]), "damaged: it ends early"),
    "an endless radius": (drawn("keypointlabels", x=1, y=1, width=1e308), "1e+308 percent is not a place"),
}


@pytest.mark.parametrize(("region", "reason"), BAD_STROKES.values(), ids=BAD_STROKES)
def test_a_bad_region_of_a_smart_tool_is_told_to_who_drew_it(client, region, reason):
    answer = predict(client, [task(1, upload(0))], context={"result": [region]})
    assert answer.status_code == 400
    assert reason in answer.json["error"]


def test_a_stroke_takes_no_more_memory_than_its_photo(client):
    """It claims 32768 x 32767 pixels, which as RGBA are 4 GB."""
    region = stroke(32768, 32767, huge_rle(32768 * 32767))
    tracemalloc.start()
    try:
        answer = predict(client, [task(1, upload(0))], context={"result": [region]})
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert answer.status.startswith("400 the stroke is 32768 x 32767 pixels but the photo is 80 x 60")
    assert peak < 20_000_000


@pytest.mark.parametrize("number", [10**30, -1, 2**63, True, "1/../2", [1], 1.5], ids=repr)
def test_an_id_that_is_none_stays_with_its_task(client, caplog, number):
    odd, good = results(predict(client, [task(number, "s3://a/b.png"), task(2, upload(0))]))
    assert odd["result"] == [] and good["result"]
    assert "task ? (s3://a/b.png) gets no regions" in caplog.text
