import json
import math

import numpy as np
import pytest

from ebseg.errors import AnnotationError
from ebseg.label_studio import brush
from ebseg.label_studio.annotations import paint
from ebseg.label_studio.label_config import Control, Label
from ebseg.label_studio.prompts import Box, Point, Stroke
from ebseg.label_studio.regions import MOST_PARTS, masks_to_regions, prediction
from ebseg.label_studio.smart_tools import InteractiveRequest, less, parse_context

CONTROL = Control("brushlabels", "mask", "image", (Label("sky"), Label("Auto", alias="car"), Label("sea")))

LABEL_MAP = np.array(
    [
        [0, 0, 0, 0, -1],
        [0, 0, 0, 1, 1],
        [-1, 0, 0, 1, 1],
        [-1, -1, -1, -1, 1],
    ],
    dtype=np.int16,
)
SCORES = np.where(LABEL_MAP == 1, 0.25, 0.75).astype(np.float32)


def test_one_region_a_label_as_label_studio_stores_it():
    sky, car = masks_to_regions(LABEL_MAP, SCORES, CONTROL)
    assert car.result == {
        "id": car.result["id"],
        "from_name": "mask",
        "to_name": "image",
        "type": "brushlabels",
        "value": {"format": "rle", "rle": car.result["value"]["rle"], "brushlabels": ["car"]},
        "original_width": 5,
        "original_height": 4,
        "image_rotation": 0,
        "score": 0.25,
    }
    assert (sky.area, car.area) == (9, 5)
    assert sky.result["value"]["brushlabels"] == ["sky"]
    for index, region in enumerate((sky, car)):
        alpha = brush.decode(region.result["value"]["rle"], 4, 5)
        np.testing.assert_array_equal(alpha, np.equal(LABEL_MAP, index) * 255)
    assert json.loads(json.dumps(car.result)) == car.result


@pytest.mark.parametrize(
    ("min_area", "kept"),
    [(0.0, ["sky", "car"]), (0.25, ["sky", "car"]), (0.26, ["sky"]), (0.45, ["sky"]), (0.46, []), (1.0, [])],
)
def test_small_labels_are_dropped(min_area, kept):
    regions = masks_to_regions(LABEL_MAP, SCORES, CONTROL, min_area=min_area)
    assert [region.result["value"]["brushlabels"][0] for region in regions] == kept


def test_nothing_recognised_gives_no_regions():
    assert masks_to_regions(np.full((4, 5), -1, np.int16), SCORES, CONTROL) == []


def test_ids_follow_the_content():
    def ids(label_map: np.ndarray, control: Control = CONTROL) -> list[str]:
        regions = masks_to_regions(label_map, SCORES, control)
        return [region.result["id"] for region in regions]

    other_control = Control("brushlabels", "other", "image", CONTROL.labels)
    swapped = np.where(LABEL_MAP == 0, 2, LABEL_MAP).astype(np.int16)
    assert ids(LABEL_MAP) == ids(LABEL_MAP.copy())
    every = [*ids(LABEL_MAP), *ids(LABEL_MAP, other_control), ids(swapped)[1], *ids(LABEL_MAP[::-1])]
    assert len(set(every)) == len(every)
    assert all(len(identifier) == 10 for identifier in every)


def test_ids_and_masks_are_those_that_are_stored_already():
    """The values were written by this code before a kind of region was a row of a table."""
    assert [
        (region.result["id"], bytes(region.result["value"]["rle"]).hex())
        for region in masks_to_regions(LABEL_MAP, SCORES, CONTROL)
    ] == [
        ("bd8dad520f", "00000050391bfdfff8c02dffdb009fff0d8000"),
        ("6680b15137", "00000050391bfe1f009ffed804fff7c023ff00"),
    ]


def test_scores_outside_the_regions_do_not_matter():
    scores = np.where(LABEL_MAP < 0, np.nan, SCORES).astype(np.float32)
    assert [region.result["score"] for region in masks_to_regions(LABEL_MAP, scores, CONTROL)] == [0.75, 0.25]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_scores_that_are_not_finite_are_an_error(bad):
    scores = SCORES.copy()
    scores[1, 4] = bad
    with pytest.raises(AnnotationError, match='scores of "Auto" are not finite'):
        masks_to_regions(LABEL_MAP, scores, CONTROL)


def test_prediction_scores_weigh_by_area():
    regions = masks_to_regions(LABEL_MAP, SCORES, CONTROL)
    made = prediction(regions, "ebseg-tiny-1")
    assert made["result"] == [region.result for region in regions]
    assert made["model_version"] == "ebseg-tiny-1"
    assert made["score"] == pytest.approx((9 * 0.75 + 5 * 0.25) / 14)


def test_an_empty_prediction_has_a_score():
    made = prediction([], "v")
    assert made == {"result": [], "score": 0.0, "model_version": "v"}
    assert type(made["score"]) is float


def polygons(label_map: np.ndarray, settings: dict | None = None, min_area: float = 0.0) -> list[dict]:
    labels = (Label("sky"), Label("Auto", alias="car"), Label("sea"))
    control = Control("polygonlabels", "outline", "image", labels, attributes=settings or {})
    scores = np.full(label_map.shape, 0.5, np.float32)
    return [each.result for each in masks_to_regions(label_map, scores, control, min_area=min_area)]


def test_each_connected_part_is_a_polygon_as_label_studio_stores_it():
    label_map = LABEL_MAP.copy()
    label_map[0, 4] = 2
    label_map[2] = label_map[3, 1:] = -1
    label_map[3, 0] = 0
    sky, speck, car, sea = polygons(label_map)
    for region, expected in [(speck, [[0, 75], [0, 100], [20, 100], [20, 75]]),
                             (sea, [[80, 0], [80, 25], [100, 25], [100, 0]])]:  # fmt: skip
        np.testing.assert_allclose(region["value"]["points"], expected)
    assert sea == {
        "id": sea["id"], "from_name": "outline", "to_name": "image", "type": "polygonlabels",
        "value": {"points": sea["value"]["points"], "closed": True, "polygonlabels": ["sea"]},
        "original_width": 5, "original_height": 4, "image_rotation": 0, "score": 0.5,
    }  # fmt: skip
    assert [each["value"]["polygonlabels"] for each in (sky, speck, car)] == [["sky"], ["sky"], ["car"]]
    assert json.loads(json.dumps(sky)) == sky
    assert len({each["id"] for each in (sky, speck, car, sea)}) == 4


def test_a_part_has_its_own_score():
    label_map = np.array([[0, 0, -1, 0]], np.int16)
    scores = np.array([[0.25, 0.5, 0, 1]], np.float32)
    control = Control("polygonlabels", "outline", "image", (Label("sky"),))
    regions = masks_to_regions(label_map, scores, control)
    assert [(each.result["score"], each.area) for each in regions] == [(0.375, 2), (1.0, 1)]


def test_small_parts_are_dropped_and_the_largest_kept():
    label_map = np.full((40, 60), -1, np.int16)
    label_map[::2, ::2] = 0  # 600 parts, 599 of them of a pixel
    label_map[20, 30:33] = 0
    regions = polygons(label_map)
    assert len(regions) == MOST_PARTS
    np.testing.assert_allclose(regions[0]["value"]["points"][0], [50, 50])
    assert len(polygons(label_map, min_area=3 / label_map.size)) == 1
    assert polygons(label_map, min_area=4 / label_map.size) == []


@pytest.mark.parametrize(
    ("threshold", "least", "kept"),
    [(None, None, 3), (None, 0.0, 3), (None, 0.5, 2), (None, 0.75, 1), (None, 1.0, 1), ("0.25", 1.0, 3),
     ("0.5", 0.0, 2), ("0.75", 0.0, 1), ("0", 0.9, 3), ("1", None, 3)],
)  # fmt: skip
def test_unsure_regions_are_left_out(threshold, least, kept):
    """Parts of "sky" with scores of 0.25 and 0.5, and one of "car" with 1; only "sky" has a threshold."""
    label_map = np.array([[0, 0, -1, 0, -1, 1]], np.int16)
    scores = np.array([[0.25, 0.25, 0, 0.5, 0, 1]], np.float32)
    sky = Label("sky", attributes={} if threshold is None else {"model_score_threshold": threshold})
    control = Control("polygonlabels", "c", "image", (sky, Label("car")))
    assert len(masks_to_regions(label_map, scores, control, min_confidence=least)) == kept


def test_a_score_may_be_of_another_measure_than_what_is_left_out():
    regions = masks_to_regions(
        LABEL_MAP, SCORES, CONTROL, min_confidence=0.5, certainty=np.full(LABEL_MAP.shape, 0.125, np.float32)
    )
    assert [each.result["score"] for each in regions] == [0.125]  # "car" has 0.25 of ``SCORES``


@pytest.mark.parametrize("kind", ["brushlabels", "polygonlabels"])
@pytest.mark.parametrize(("score", "expected"), [("confidence", 0.8), ("rarest-label", 0.65)])
def test_a_rare_label_may_weigh_as_much_as_others_in_a_predictions_score(kind, score, expected):
    """16 pixels of "sky" in two parts, four of them less sure, and four of "car", less sure still."""
    label_map = np.array([[0] * 12 + [-1] + [0] * 4 + [-1] + [1] * 4], np.int16)
    scores = np.array([[1.0] * 12 + [0] + [0.6] * 4 + [0] + [0.4] * 4], np.float32)
    settings = {"model_score": score}
    control = Control(kind, "c", "image", (Label("sky"), Label("car")), attributes=settings)
    regions = masks_to_regions(label_map, scores, control)
    assert prediction(regions, "v")["score"] == pytest.approx(expected)
    assert sum(each.weight for each in regions) == pytest.approx(20)  # beside another control, as its area
    assert prediction(masks_to_regions(np.full_like(label_map, -1), scores, control), "v")["score"] == 0


@pytest.mark.parametrize("kind", ["brushlabels", "bitmasklabels"])
def test_a_mask_for_each_connected_part_where_the_control_says_so(kind):
    label_map = np.array([[0, -1, 0, 0], [-1, -1, -1, -1], [1, 1, -1, 0]], np.int16)
    scores = np.arange(12, dtype=np.float32).reshape(3, 4) / 12

    def made(settings: dict, min_area: float = 0.0) -> list:
        control = Control(kind, "mask", "image", (Label("sky"), Label("car")), attributes=settings)
        return masks_to_regions(label_map, scores, control, min_area=min_area)

    labels, parts = made({"model_regions": "label"}), made({"model_regions": "part"})
    assert [each.result["value"][kind] for each in parts] == [["sky"], ["sky"], ["sky"], ["car"]]
    assert [each.area for each in parts] == [2, 1, 1, 2] and [each.area for each in labels] == [4, 2]
    assert labels == made({})
    assert parts[0].result["score"] == pytest.approx(2.5 / 12)
    assert len({each.result["id"] for each in parts}) == 4
    of_control = Control(kind, "mask", "image", (Label("sky"), Label("car")))
    np.testing.assert_array_equal(
        paint([each.result for each in parts], of_control, 3, 4).label_map, label_map
    )
    assert [each.area for each in made({"model_regions": "part"}, min_area=2 / 12)] == [2, 2]
    assert [each.area for each in made({"model_regions": "label"}, min_area=2 / 12)] == [4, 2]


def test_the_tolerance_of_polygons_is_the_controls():
    label_map = np.tril(np.ones((30, 30), np.int16)) - 1
    [rough], [exact] = (polygons(label_map, settings) for settings in ({}, {"model_polygon_tolerance": "0"}))
    assert (len(rough["value"]["points"]), len(exact["value"]["points"])) == (4, 62)


# Interactive requests on a picture 20 wide and 10 high with three parts of one label:
PARTS = np.zeros((10, 20), bool)
PARTS[1:4, 1:6] = True  # "a", top left
PARTS[1:4, 12:19] = True  # "b", top right
PARTS[7:9, 1:19] = True  # "c", bottom
A, B, C = PARTS.copy(), PARTS.copy(), PARTS.copy()
A[:, 8:] = False
A[5:] = False
B[:, :8] = False
B[5:] = False
C[:5] = False


def keypoint(x: float, y: float, positive: object = None, width: float = 1.0, label: str = "sky") -> dict:
    region = {
        "type": "keypointlabels",
        "value": {"x": x, "y": y, "width": width, "keypointlabels": [label]},
        "original_width": 20,
        "original_height": 10,
    }
    return region if positive is None else {**region, "is_positive": positive}


def rectangle(x: float, y: float, width: float, height: float, rotation: float = 0) -> dict:
    value = {
        "x": x,
        "y": y,
        "width": width,
        "height": height,
        "rotation": rotation,
        "rectanglelabels": ["sky"],
    }
    return {"type": "rectanglelabels", "value": value, "original_width": 20, "original_height": 10}


def stroke(mask: np.ndarray, alpha: int = 255) -> dict:
    rle = brush.encode(mask.astype(np.uint8) * alpha)
    return {
        "type": "brushlabels",
        "value": {"format": "rle", "rle": rle, "brushlabels": ["sky"]},
        "original_width": mask.shape[1],
        "original_height": mask.shape[0],
    }


def test_labels_with_a_brush_are_two_results_of_one_id_as_the_editor_stores_them():
    paired = Control("brush", "b", "image", CONTROL.labels, labels_name="l")
    label_map = np.random.default_rng(5).integers(-1, 3, (6, 8)).astype(np.int16)
    scores = np.random.default_rng(6).random((6, 8), np.float32)
    own = masks_to_regions(label_map, scores, CONTROL)
    regions = masks_to_regions(label_map, scores, paired)
    for plain, shape, labels in zip(own, regions[::2], regions[1::2], strict=True):
        value = {"format": "rle", "rle": plain.result["value"]["rle"]}
        assert shape.result == plain.result | {
            "id": shape.result["id"], "from_name": "b", "type": "brush", "value": value,
        }  # fmt: skip
        assert labels.result == shape.result | {
            "from_name": "l", "type": "labels",
            "value": value | {"labels": plain.result["value"]["brushlabels"]},
        }  # fmt: skip
        assert shape.area == labels.area == plain.area
    assert prediction(regions, "v")["score"] == pytest.approx(prediction(own, "v")["score"])
    assert len({shape.result["id"] for shape in regions}) == len(own)
    painted = paint([each.result for each in regions], paired, 6, 8)
    np.testing.assert_array_equal(painted.label_map, label_map)
    assert painted.regions == len(own)


@pytest.mark.parametrize("tag", ["Brush", "Bitmask", "Polygon", "Ellipse", "Rectangle"])
def test_labels_with_any_shape_show_what_the_control_with_its_own_labels_does(tag):
    label_map = np.full((40, 60), -1, np.int16)
    label_map[5:30, 8:25], label_map[20:38, 35:50] = 0, 2
    scores = np.ones(label_map.shape, np.float32)
    kind = tag.lower()
    paired = Control(kind, "shape", "image", CONTROL.labels, labels_name="l")
    own = Control(f"{kind}labels", "shape", "image", CONTROL.labels)
    stored = [each.result for each in masks_to_regions(label_map, scores, paired)]
    plain = [each.result for each in masks_to_regions(label_map, scores, own)]
    assert [each["type"] for each in stored] == [kind, "labels"] * len(plain)
    assert len({each["id"] for each in stored}) == len(plain) == 2
    painted, expected = (paint(result, paired, 40, 60) for result in (stored, plain))
    np.testing.assert_array_equal(painted.label_map, expected.label_map)
    assert painted.regions == 2 and painted.unknown == painted.blank == ()


def asked(*regions: dict) -> InteractiveRequest:
    request = parse_context({"result": list(regions)})
    assert request is not None
    return request


def test_prompts_are_told_apart():
    click, box, drawn = keypoint(15, 20), rectangle(0, 0, 40, 45), stroke(A)
    away = [{**region, "is_positive": False} for region in (click, box, drawn)]
    pointed = asked(click, box, drawn, *away).pointed(2)
    assert pointed.label == 2
    assert (
        [type(each) for each in pointed.positive]
        == [type(each) for each in pointed.negative]
        == [Point, Stroke]
    )
    assert [type(each) for each in pointed.boxes] == [type(each) for each in pointed.negative_boxes] == [Box]
    assert not any(each.positive for each in (*pointed.negative, *pointed.negative_boxes))


@pytest.mark.parametrize(
    ("regions", "expected"),
    [
        ([], PARTS),
        ([keypoint(15, 20, positive=0)], B | C),
        ([keypoint(15, 20, positive=False), keypoint(50, 80, positive=False)], B),
        ([keypoint(45, 50, positive=0)], PARTS),
        ([keypoint(45, 20, positive=0, width=40)], C),
        ([{**rectangle(0, 0, 100, 45), "is_positive": False}], C),
        ([{**stroke(A, alpha=100), "is_positive": False}], B | C),  # the editor shows every alpha above 0
    ],
)
def test_without_a_positive_prompt_the_mask_stays_but_for_the_parts_that_are_pointed_away(regions, expected):
    request = asked(*regions) if regions else InteractiveRequest("sky", ())
    assert request.is_unguided and request.pointed(0) is None
    np.testing.assert_array_equal(less(PARTS, request.prompts), expected)


def test_parts_are_connected_across_corners():
    assert not less(np.eye(6, dtype=bool), [Point(0.0, 0.0, 0.0, False)]).any()


@pytest.mark.parametrize("context", [None, {}, {"result": []}, {"result": None}, {"user": 1}])
def test_contexts_that_ask_nothing(context):
    assert parse_context(context) is None


@pytest.mark.parametrize("kind", ["keypoint", "rectangle", "brush"])
def test_a_smart_tool_of_labels_sends_two_results_of_one_id(kind):
    plain = {"keypoint": keypoint(15, 20), "rectangle": rectangle(1, 2, 3, 4), "brush": stroke(A)}[kind]
    value = without(plain["value"], f"{kind}labels")
    shape = plain | {"id": "a", "type": kind, "value": value}
    labels = plain | {"id": "a", "type": "labels", "value": value | {"labels": ["sky"]}}
    expected = parse_context({"result": [plain]})
    assert parse_context({"result": [shape, labels]}) == expected
    assert parse_context({"result": [shape | {"value": labels["value"]}, labels]}) == expected


def test_geometry_is_relative_to_the_photo():
    regions = [keypoint(50, 25, width=10, positive=0), rectangle(10, 20, 30, 40), stroke(A)]
    point, box, drawn = parse_context({"result": regions}).prompts
    assert point == Point(x=0.5, y=0.25, radius=0.05, positive=False)
    assert isinstance(box, Box)
    np.testing.assert_allclose(box.corners, [(0.1, 0.2), (0.4, 0.2), (0.4, 0.6), (0.1, 0.6)])
    assert isinstance(drawn, Stroke)
    np.testing.assert_array_equal(drawn.draw(10, 20), A)


def without(region: dict, key: str) -> dict:
    return {name: value for name, value in region.items() if name != key}


@pytest.mark.parametrize(
    ("context", "message"),
    [
        ({"result": [keypoint(1, 1), keypoint(1, 1, label="sea")]}, r"one label, got \['sea', 'sky'\]"),
        ({"result": [keypoint(1, 1) | {"to_name": name} for name in "ab"]}, "point at one image"),
        ({"result": [keypoint(1, 1) | {"to_name": []}]}, "cannot be read"),
        ({"result": [keypoint(math.nan, 1)]}, "cannot be read"),
        ({"result": [keypoint("left", 1)]}, "cannot be read"),
        ({"result": [{**rectangle(1, 1, 1, 1), "original_width": 0}]}, "cannot be read"),
        ({"result": [without(rectangle(1, 1, 1, 1), "original_width")]}, "cannot be read"),
        ({"result": [without(keypoint(1, 1), "value")]}, "cannot be read"),
        ({"result": [without(keypoint(1, 1), "type")]}, "cannot be read"),
        ({"result": ["x"]}, "cannot be read"),
        ({"result": 5}, "cannot be read"),
        (["x"], "cannot be read"),
        ({"result": [{**stroke(A), "original_width": 19}]}, "another size"),
        (
            {"result": [{"type": "ellipselabels", "value": {"x": 1, "ellipselabels": ["sky"]}}]},
            '"ellipselabels" cannot guide a mask; use a smart KeyPointLabels',
        ),
        (
            {"result": [{"type": "keypointlabels", "value": {"x": 1, "y": 1, "keypointlabels": []}}]},
            "cannot be read|one label",
        ),
    ],
)
def test_contexts_that_cannot_be_served(context, message):
    with pytest.raises(AnnotationError, match=message):
        parse_context(context)


def test_a_stroke_of_another_size_is_refused():
    request = parse_context({"result": [stroke(A)]})
    with pytest.raises(AnnotationError, match="20 x 10 pixels but the photo is 8 x 6; reload"):
        request.prompts[0].draw(6, 8)
