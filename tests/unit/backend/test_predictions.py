"""/predict with the real model and photos from a real HTTP server."""

import io
import json
import logging
import re
import threading
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from backend.memories import Memories
from backend.metrics import TaskOutcome
from ebseg.ask import Ask, Pointed
from ebseg.label_studio import brush
from ebseg.label_studio.pipeline import Pipeline
from ebseg.label_studio.prompts import Point
from ebseg.vocabulary import Vocabulary
from tests.unit.backend.conftest import (
    MEMORY,
    Shelf,
    label_config,
    named,
    png,
    predict,
    results,
    task,
    upload,
)
from tests.unit.backend.test_time_and_failures import ScriptedModel
from tests.unit.label_studio.http_server import redirect, reply
from tests.unit.training.fake_label_studio import FakeLabelStudio
from training.annotations.label_studio import LabelStudioClient
from training.annotations.labelling import read_labelling
from training.annotations.photos import photo_fetcher
from training.jobs.labelling import label
from training.settings import Settings

LABELS = ["sky", "road"]


def label_map_of(regions: list[dict], shape: tuple[int, int], labels=LABELS) -> np.ndarray:
    """Paint regions into one label map, -1 where there is none."""
    painted = np.full(shape, -1)
    for region in regions:
        mask = brush.decode(region["value"]["rle"], *shape) > 0
        assert np.all(painted[mask] == -1), "regions overlap"
        painted[mask] = labels.index(region["value"]["brushlabels"][0])
    return painted


def test_regions_are_the_models_label_map_pixel_for_pixel(client, predictor, scenes):
    answers = results(predict(client, [task(number, upload(number)) for number in (2, 0, 1)]))
    assert [len(answer["result"]) for answer in answers] == [2, 2, 2]
    for number, answer in zip((2, 0, 1), answers, strict=True):
        expected = predictor.predict(scenes[number], [[label] for label in LABELS], threshold=0.0)
        assert np.array_equal(label_map_of(answer["result"], (60, 80)), expected.label_map)
        assert answer["model_version"] == named("tiny-untrained")
        assert answer["score"] == pytest.approx(expected.scores.mean(), rel=1e-5)


def test_a_region_has_all_that_label_studio_stores(client):
    [answer] = results(predict(client, [task(1, upload(0))]))
    region = answer["result"][0]
    assert len(region.pop("id")) == 10
    assert 0 <= region.pop("score") <= 1
    assert set(region["value"]) == {"format", "rle", "brushlabels"}
    del region["value"]
    assert region == {
        "from_name": "mask",
        "to_name": "photo",
        "type": "brushlabels",
        "original_width": 80,
        "original_height": 60,
        "image_rotation": 0,
    }


def test_results_carry_the_alias_and_the_model_is_asked_for_the_value(client, predictor, scenes):
    config = label_config().replace('value="sky"', 'value="sky" alias="s1"')
    [answer] = results(predict(client, [task(1, upload(0))], config))
    expected = predictor.predict(scenes[0], ["sky", "road"], threshold=0.0)
    painted = label_map_of(answer["result"], (60, 80), ["s1", "road"])
    assert np.array_equal(painted, expected.label_map)


def test_no_tasks_are_no_results(client):
    assert results(predict(client, [])) == []


@pytest.mark.parametrize(
    ("threshold", "expected"), [(None, 0), (0.0, 2)], ids=["all pixels are unsure", "none is"]
)
def test_the_threshold_is_the_settings_unless_the_control_has_its_own(make_client, threshold, expected):
    client = make_client(score_threshold=1.0)
    config = label_config()
    if threshold is None:
        config = config.replace('model_score_threshold="0"', "")
    [answer] = results(predict(client, [task(1, upload(0))], config))
    assert len(answer["result"]) == expected


@pytest.mark.parametrize(
    ("setting", "control", "expected"),
    [(0.0, "", 2), (0.5, "", 1), (0.5, 'model_min_area="0"', 2), (0.0, 'model_min_area="0.5"', 1)],
)
def test_the_least_area_is_the_settings_unless_the_control_has_its_own(
    make_client, setting, control, expected
):
    client = make_client(min_area=setting)
    [answer] = results(predict(client, [task(1, upload(0))], label_config(control=control)))
    assert len(answer["result"]) == expected


# The same as the workers make


@pytest.mark.parametrize(
    ("control", "settings"),
    [
        ("", {}),
        ('model_min_area="0.4"', {}),
        ("", {"min_area": 0.5}),
        ("", {"score_threshold": 0.5}),
        ('model_min_area="0"', {"min_area": 0.5}),
    ],
)
@pytest.mark.parametrize(("threshold", "memory"), [(None, None), (0.0, None), (0.5, None), (0.0, MEMORY)])
def test_a_workers_prediction_of_a_task_is_the_same_byte_for_byte(
    make_client, label_studio, predictor, control, settings, threshold, memory
):
    own = "" if threshold is None else f'model_score_threshold="{threshold}"'
    config = label_config(control=control).replace('model_score_threshold="0"', own)
    settings = {"label_studio_url": label_studio.url, "label_studio_api_key": "key", **settings}
    studio = FakeLabelStudio()
    tasks = [studio.add_task(image=upload(number)) for number in range(2)]
    worker = Settings(**{"min_area": 0.0, **settings})
    label(
        LabelStudioClient(worker, http=studio.http),
        Pipeline(read_labelling(config, worker), photo_fetcher(worker), worker.max_pixels, memory), predictor,
        1, tasks, lambda task: True, lambda done: None,
    )  # fmt: skip
    pushed = [
        {key: stored[key] for key in ("result", "score", "model_version")}
        for stored in studio.predictions.values()
    ]
    client = make_client(memories=Memories(Shelf(p1=memory)), **settings)
    answers = results(predict(client, [studio.tasks[number] for number in tasks], config))
    assert [json.dumps(each) for each in pushed] == [
        json.dumps({key: each[key] for key in ("result", "score", "model_version")}) for each in answers
    ]
    assert threshold != 0.0 or any(each["result"] for each in answers)


# Tasks of several photos

SEVERAL = (
    '<View><Image name="front" value="$front"/><Image name="doc" valueList="$pages"/>'
    '<BrushLabels name="a" toName="front" model_score_threshold="0"><Label value="sky"/>'
    '<Label value="road"/></BrushLabels><BrushLabels name="b" toName="doc" model_score_threshold="0">'
    '<Label value="road"/><Label value="sky"/></BrushLabels></View>'
)


def several(number: int, front: object, *pages: object) -> dict[str, object]:
    return {"id": number, "data": {"front": front, "pages": list(pages)}}


def places(answer: dict) -> list[tuple[str, int | None]]:
    """Give the image and the page of each region, each once."""
    found = [(region["to_name"], region.get("item_index")) for region in answer["result"]]
    return list(dict.fromkeys(found))


def test_all_photos_of_a_task_are_in_one_prediction(client, predictor, scenes):
    tasks = [several(1, upload(0), upload(1), upload(2)), several(2, upload(2), upload(0))]
    first, second = results(predict(client, tasks, SEVERAL))
    assert places(first) == [("front", None), ("doc", 0), ("doc", 1)]
    assert places(second) == [("front", None), ("doc", 0)]
    for answer, page, scene in ((first, 0, 1), (first, 1, 2), (second, 0, 0)):
        expected = predictor.predict(scenes[scene], ["road", "sky"], threshold=0.0)
        shown = [region for region in answer["result"] if region.get("item_index") == page]
        painted = label_map_of(shown, (60, 80), ["road", "sky"])
        assert np.array_equal(painted, expected.label_map)
    assert outcomes(client) == {"predicted": 2}


def test_a_bad_photo_costs_its_task_that_photo_and_one_that_may_come_back_the_task(client, label_studio):
    label_studio.routes["/data/bad"] = reply(b"no image at all")
    label_studio.routes["/data/busy"] = reply(b"", status=503)
    tasks = [
        several(1, "/data/bad", upload(0), "/data/bad"), several(2, upload(0), "/data/busy", upload(1)),
        several(3, "/data/bad", "/data/bad"), several(4, upload(1), 5), several(5, upload(0), upload(1)),
    ]  # fmt: skip
    whole, deferred, empty, without_pages, after = results(predict(client, tasks, SEVERAL))
    assert places(whole) == [("doc", 0)] and places(without_pages) == [("front", None)]
    assert deferred == {} and empty["result"] == [] and len(places(after)) == 2
    assert outcomes(client) == {"predicted": 3, "empty": 1, "deferred": 1}


# One bad task never costs the others


def truncated() -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(file, "JPEG")
    return file.getvalue()[:-500]


def hundred_megapixels() -> bytes:
    file = io.BytesIO()
    Image.new("1", (10_000, 10_000)).save(file, "PNG")
    return file.getvalue()


BAD_TASKS = {
    "not an object": (None, None, 'no "data"'),
    "a text": ("task", None, 'no "data"'),
    "without data": ({"id": 9}, None, 'no "data"'),
    "data is a list": ({"id": 9, "data": []}, None, 'no "data"'),
    "another key": ({"id": 9, "data": {"text": "hello"}}, None, 'its data has "text", but'),
    "a number": (task(9, 5), None, "must be the address of one photo"),
    "several photos": (task(9, [upload(0)]), None, "must be the address of one photo"),
    "an empty address": (task(9, ""), None, "must be the address of one photo"),
    "unknown scheme": (task(9, "ftp://host/a.png"), None, "cannot be fetched"),
    "no address at all": (task(9, "http://[::bad/a.png"), None, "not a valid address"),
    "not an image": (task(9, "/data/bad"), b"no image at all", "not an image"),
    "empty file": (task(9, "/data/bad"), b"", "the file is empty"),
    "truncated": (task(9, "/data/bad"), truncated(), "damaged or truncated"),
    "100 megapixels": (task(9, "/data/bad"), hundred_megapixels(), "100.0 megapixels"),
}


def outcomes(client) -> dict[str, int]:
    """Give how many tasks had each outcome, without those that none had."""
    metrics = client.application.extensions["ebseg"].metrics
    counts = {outcome.value: metrics.count(outcome) for outcome in TaskOutcome}
    return {outcome: count for outcome, count in counts.items() if count}


@pytest.mark.parametrize(("bad", "content", "reason"), BAD_TASKS.values(), ids=BAD_TASKS)
def test_a_bad_task_gets_an_empty_prediction_and_a_reason_in_the_log(
    client, label_studio, caplog, bad, content, reason
):
    if content is not None:
        label_studio.routes["/data/bad"] = reply(content)
    with caplog.at_level(logging.WARNING, "backend"):
        first, empty, last = results(predict(client, [task(1, upload(0)), bad, task(2, upload(1))]))
    assert empty == {"result": [], "score": 0.0, "model_version": named("tiny-untrained")}
    assert first["result"] and last["result"]
    assert outcomes(client) == {"predicted": 2, "empty": 1}
    [record] = caplog.records
    assert reason in record.getMessage()
    if isinstance(bad, dict):
        assert record.getMessage().startswith("task 9")


def test_a_photo_that_a_public_host_does_not_have_is_the_tasks_own_fault(make_client, label_studio, caplog):
    client = make_client(label_studio_url="http://localhost:1", allowed_hosts=label_studio.host)
    [empty] = results(predict(client, [task(9, f"{label_studio.url}/none.png")]))
    assert empty == {"result": [], "score": 0.0, "model_version": named("tiny-untrained")}
    assert "gets no regions" in caplog.text and "not found (404)" in caplog.text


# What passes or can be put right is no answer


UNDER = "/data/upload/1/away.png"
CURABLE = {
    "401": (task(9, UNDER), reply(status=401), "needs a token (401)"),
    "403": (task(9, UNDER), reply(status=403), "needs a token (403)"),
    "404 of Label Studio": (task(9, UNDER), None, "not found (404)"),
    "429": (task(9, UNDER), reply(status=429), "answered 429"),
    "500": (task(9, UNDER), reply(status=500), "answered 500"),
    "503": (task(9, UNDER), reply(status=503), "answered 503"),
    "its login page": (task(9, UNDER), redirect("/user/login/?next=/"), "needs a token"),
    "a proxy's page": (task(9, UNDER), reply(b"<html>Log in</html>"), "a web page"),
    "a refused address": (task(9, "http://127.0.0.1:9/a.png"), None, "not a public address"),
    "a storage that is not connected": (task(9, "s3://bucket/a.png"), None, "is its storage connected"),
}


@pytest.mark.parametrize(("away", "answer", "reason"), CURABLE.values(), ids=CURABLE)
def test_a_photo_that_cannot_be_had_for_now_gets_no_prediction(
    client, label_studio, caplog, scenes, away, answer, reason
):
    if answer:
        label_studio.routes[UNDER] = answer
    first, nothing, last = results(predict(client, [task(1, upload(0)), away, task(2, upload(1))]))
    assert nothing == {}  # Label Studio stores nothing, and asks again at the next retrieval
    assert first["result"] and last["result"]
    assert outcomes(client) == {"predicted": 2, "deferred": 1}
    assert "task 9" in caplog.text and "is left out" in caplog.text and reason in caplog.text
    page = client.get("/").get_data(as_text=True)
    assert "could not be had for now</th><td>1<" in page and "bad photo or data</th><td>0<" in page
    label_studio.routes[UNDER] = reply(png(scenes[0]))
    if away["data"]["image"] == UNDER:
        assert results(predict(client, [away]))[0]["result"]


def test_a_photo_that_does_not_arrive_in_time_gets_no_prediction(make_client, label_studio, caplog):
    release = threading.Event()
    label_studio.routes[UNDER] = lambda handler: release.wait(20)
    client = make_client(fetch_timeout=0.05)
    assert results(predict(client, [task(9, UNDER)])) == [{}]
    release.set()
    assert outcomes(client) == {"deferred": 1}


def test_a_smart_tools_user_is_told_what_is_in_the_way(client, label_studio):
    label_studio.routes[UNDER] = reply(status=401)
    answer = predict(client, [task(9, UNDER)], context=click("sky", 50, 50))
    assert answer.status_code == 503
    assert "Label Studio needs a token (401)" in answer.status and "LABEL_STUDIO_API_KEY" in answer.status


@pytest.mark.parametrize(
    ("photo", "reason"),
    [
        (upload(99), "503 .*not found .404.*was the photo deleted or moved"),
        (None, "400 its data has .*takes the photo from"),
    ],
    ids=["a photo that is not there", "a task without a photo"],
)
def test_a_smart_tool_is_told_why_it_gets_nothing(client, photo, reason):
    """An empty answer would look like a click that was lost."""
    answer = predict(client, [task(1, photo)], context=click("sky", 50, 50))
    assert re.match(reason, answer.status)


def test_a_smart_tool_is_told_of_a_fault_of_ours(make_client):
    client = make_client(load=lambda: ScriptedModel(lambda image: 1 / 0))
    assert predict(client, [task(1, upload(0))], context=click("sky", 50, 50)).status_code == 500


def test_the_log_holds_no_secrets(client, caplog):
    url = "http://user:password1@127.0.0.1:9/photo.png?signature=password2#password3"
    with caplog.at_level(logging.DEBUG):
        assert results(predict(client, [task(9, url)])) == [{}]
    assert "task 9 (http://127.0.0.1:9/photo.png?...)" in caplog.text
    assert not re.search("password[123]", caplog.text)


def test_only_a_number_is_taken_as_a_tasks_id_in_an_address(client, label_studio):
    bad = {"id": "1/../../api/users", "data": {"image": "s3://bucket/photo.png"}}
    [answer] = results(predict(client, [bad]))
    assert answer["result"] == []
    assert label_studio.seen == []


@pytest.mark.parametrize(
    ("limit", "reason"),
    [
        ({"max_bytes": 100}, "limit of 0.0001 MB"),
        ({"max_pixels": 100}, "limit of 0.0 megapixels; make it smaller or raise EBSEG_MAX_PIXELS"),
    ],
)
def test_limits_are_the_settings(make_client, caplog, limit, reason):
    [answer] = results(predict(make_client(**limit), [task(1, upload(0))]))
    assert answer["result"] == []
    assert reason in caplog.text


def test_allowed_hosts_may_be_private(make_client, label_studio):
    settings = {"label_studio_url": "http://localhost:1"}
    [refused] = results(predict(make_client(**settings), [task(1, label_studio.url + upload(0))]))
    settings["allowed_hosts"] = label_studio.host
    [allowed] = results(predict(make_client(**settings), [task(1, label_studio.url + upload(0))]))
    assert (refused, len(allowed["result"])) == ({}, 2)


# Kinds of files; how each is read is tested with ebseg.images


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def turned() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright: width and height are exchanged
    return encoded(Image.new("RGB", (40, 20), "red"), "JPEG", exif=exif)


FILES = {
    "CMYK": (encoded(Image.new("CMYK", (40, 20)), "JPEG"), (40, 20)),
    "16 bits": (encoded(Image.new("I;16", (40, 20)), "PNG"), (40, 20)),
    "palette": (encoded(Image.new("P", (40, 20)), "PNG"), (40, 20)),
    "animated": (
        encoded(
            Image.new("RGB", (40, 20), "red"),
            "GIF",
            save_all=True,
            append_images=[Image.new("RGB", (40, 20), "blue")],
        ),
        (40, 20),
    ),
    "EXIF-turned": (turned(), (20, 40)),
}


@pytest.mark.parametrize(("content", "size"), FILES.values(), ids=FILES)
def test_unusual_files_are_predicted_as_a_browser_shows_them(client, label_studio, content, size):
    label_studio.routes["/data/photo"] = reply(content)
    [answer] = results(predict(client, [task(1, "/data/photo")]))
    region = answer["result"][0]
    assert (region["original_width"], region["original_height"]) == size


# Tokens


def test_uploads_are_fetched_with_the_token_of_the_settings(make_client, label_studio, scenes):
    def protected(handler) -> None:
        allowed = handler.headers["Authorization"] == "Token token-7f3a"
        reply(png(scenes[0]) if allowed else b"", status=200 if allowed else 401)(handler)

    label_studio.routes[upload(0)] = protected
    [answer] = results(predict(make_client(label_studio_api_key="token-7f3a"), [task(1, upload(0))]))
    assert len(answer["result"]) == 2


@pytest.mark.parametrize(
    ("token", "reason"), [(None, "needs a token (401)"), ("token-7f3a", "refused the token (401)")]
)
def test_a_missing_or_expired_token_is_named(make_client, label_studio, caplog, token, reason):
    label_studio.routes[upload(0)] = reply(b"", status=401)
    assert results(predict(make_client(label_studio_api_key=token), [task(1, upload(0))])) == [{}]
    assert reason in caplog.text
    assert "LABEL_STUDIO_API_KEY" in caplog.text
    assert "token-7f3a" not in caplog.text


def test_label_studio_that_is_down_is_named(make_client, label_studio, caplog):
    label_studio.shutdown()
    label_studio.server_close()
    assert results(predict(make_client(), [task(1, upload(0))])) == [{}]
    assert f"is Label Studio running at {label_studio.url}" in caplog.text


# Smart tools


def click(label: str, x: float, y: float) -> dict:
    value = {"x": x, "y": y, "width": 0.5, "keypointlabels": [label]}
    region = {"type": "keypointlabels", "value": value, "original_width": 80, "original_height": 60}
    return {"result": [{**region, "is_positive": True}]}


@pytest.mark.parametrize("label", LABELS)
@pytest.mark.parametrize(("row", "column"), [(5, 7), (30, 40), (59, 79)])
def test_a_click_gets_a_mask_wherever_it_is(client, predictor, scenes, label, row, column):
    context = click(label, 100 * (column + 0.5) / 80, 100 * (row + 0.5) / 60)
    [answer] = results(predict(client, [task(1, upload(0))], context=context))
    [region] = answer["result"]
    assert region["value"]["brushlabels"] == [label] and 0 <= region["score"] <= 1
    mask = brush.decode(region["value"]["rle"], 60, 80) > 0
    pointed = Pointed(
        LABELS.index(label), positive=(Point((column + 0.5) / 80, (row + 0.5) / 60, 0.005, True),)
    )
    [expected] = predictor.predict_many([Ask(scenes[0], Vocabulary(LABELS), pointed=pointed)])
    np.testing.assert_array_equal(mask, expected.label_map == LABELS.index(label))
    assert mask[row, column]


def test_a_click_beside_the_photo_is_told(client):
    value = {"x": 120, "y": 20, "width": 5, "height": 5, "rotation": 0, "rectanglelabels": ["sky"]}
    box = {"type": "rectanglelabels", "value": value, "original_width": 80, "original_height": 60}
    answer = predict(client, [task(1, upload(0))], context={"result": [box]})
    assert answer.status_code == 400 and "is not on the photo; draw again" in answer.status


def test_without_a_positive_prompt_the_labels_mask_is_given(client, predictor, scenes):
    context = click("sky", 50, 50)
    context["result"][0]["is_positive"] = False
    [answer] = results(predict(client, [task(1, upload(0))], context=context))
    sky = predictor.predict(scenes[0], LABELS, threshold=0.0).label_map == 0
    [region] = answer["result"]
    mask = brush.decode(region["value"]["rle"], 60, 80) > 0
    assert mask.any() and not mask[30, 40] and np.all(sky[mask])


def test_a_negative_click_alone_that_leaves_nothing_is_told(make_client):
    context = click("sky", 50, 50)
    context["result"][0]["is_positive"] = False
    client = make_client(load=ScriptedModel)  # all is sky
    answer = predict(client, [task(1, upload(0))], context=context)
    assert answer.status.startswith('400 the model finds no "sky" there by itself; point at it')


@pytest.mark.parametrize(
    ("x", "y"), [(0, 0), (100, 100), (250, -40)], ids=["a corner", "the other", "beside the photo"]
)
def test_a_click_counts_at_the_nearest_pixel_of_the_photo(client, x, y):
    [answer] = results(predict(client, [task(1, upload(0))], context=click("sky", x, y)))
    [region] = answer["result"]
    mask = brush.decode(region["value"]["rle"], 60, 80) > 0
    assert mask[min(max(int(y / 100 * 60), 0), 59), min(int(x / 100 * 80), 79)]


def test_a_box_gives_a_polygon_without_specks(make_client):
    """They are no objects, and the person would have to delete each."""

    def two_parts(image):
        label_map = np.full(image.shape[:2], -1, np.int16)
        label_map[10:40, 10:40] = 0  # 900 pixels
        label_map[50:52, 50:53] = 0
        return SimpleNamespace(label_map=label_map, scores=np.full(image.shape[:2], 0.5, np.float32))

    model = ScriptedModel()
    model.predict = lambda image, labels, threshold=None: two_parts(image)
    box = {"x": 0, "y": 0, "width": 100, "height": 100, "rotation": 0, "rectanglelabels": ["sky"]}
    sizes = {"original_width": 80, "original_height": 60}
    context = {"result": [{"type": "rectanglelabels", "to_name": "photo", "value": box, **sizes}]}
    config = label_config().replace("BrushLabels", "PolygonLabels")
    [answer] = results(predict(make_client(load=lambda: model), [task(1, upload(0))], config, context))
    assert len(answer["result"]) == 1


@pytest.mark.parametrize("context", [None, {}, {"result": []}])
def test_an_empty_context_asks_for_all_labels(client, context):
    [answer] = results(predict(client, [task(1, upload(0))], context=context))
    assert len(answer["result"]) == 2


def test_a_click_for_a_label_that_the_masks_lack_says_so(client):
    response = predict(client, [task(1, upload(0))], context=click("boat", 50, 50))
    assert response.status_code == 400
    assert 'asks for "boat"' in response.json["error"]
    assert 'asks for "boat"' in response.status
