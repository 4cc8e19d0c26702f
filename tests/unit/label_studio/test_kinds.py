import base64
import io
import json
import math

import numpy as np
import pytest
from PIL import Image

from ebseg.errors import LabelConfigError
from ebseg.label_studio import brush, kinds
from ebseg.label_studio.annotations import paint
from ebseg.label_studio.kinds import KINDS, Kind, Written, kind_of_type, kind_of_value, writable_kind
from ebseg.label_studio.label_config import Control, Label
from ebseg.label_studio.prompts import Box
from ebseg.label_studio.regions import masks_to_regions
from ebseg.label_studio.smart_tools import parse_context
from ebseg.label_studio.tasks import read_label_config
from ebseg.parts import connected, whole

CONTROL = Control("brushlabels", "mask", "image", (Label("sky"), Label("sea")))
WRITABLE = [kind for kind in KINDS if kind.write]
EXACT = [kind for kind in WRITABLE if kind.tag not in ("Ellipse", "Rectangle")]
GUIDING = [kind for kind in KINDS if kind.draw and kind.prompt]


def random_masks(count=30, seed=0):
    """Masks of many sizes: noise, blocks, one pixel, all."""
    random = np.random.default_rng(seed)
    for _ in range(count):
        height, width = random.integers(1, 70, 2)
        mask = random.random((height, width)) < random.choice([0.01, 0.5, 0.99])
        if random.random() < 0.5:
            mask = mask.repeat(4, axis=0).repeat(3, axis=1)
        mask[tuple(random.integers(0, mask.shape))] = True
        yield mask


def box_of(random):
    """A rectangle of which at least a part is in the photo, as Label Studio writes it."""
    return {
        "x": random.uniform(-20, 100), "y": random.uniform(-20, 100),
        "width": random.uniform(0, 90), "height": random.uniform(0, 90),
        "rotation": random.choice([0, 0, 90, random.uniform(-180, 360)]),
    }  # fmt: skip


def drawn(kind, value, height, width, label="sky"):
    """What an annotation shows, and what the same region shows as a smart tool's prompt."""
    region = {
        "type": kind.types[1], "to_name": "image", "value": value | {kind.types[1]: [label]},
        "original_width": width, "original_height": height,
    }  # fmt: skip
    painted = paint([region], CONTROL, height, width).label_map == 0
    [prompt] = parse_context({"result": [region]}).prompts
    return painted, prompt.draw(height, width)


def test_a_kind_is_found_by_its_types_and_by_what_its_value_has():
    types = [name for kind in KINDS for name in kind.types]
    assert len(set(types)) == len(types)
    assert {name: kind_of_type(name) for name in types} == {name: k for k in KINDS for name in k.types}
    assert [kind_of_value({kind.key: None}) for kind in KINDS] == list(KINDS)
    assert kind_of_type("choices") is None and kind_of_value({"choices": ["day"]}) is None


def test_only_controls_whose_kind_is_written_are_offered():
    assert [kind.tag for kind in WRITABLE] == ["Brush", "Bitmask", "Polygon", "Ellipse", "Rectangle"]
    assert writable_kind("brushlabels") is writable_kind("brush") is WRITABLE[0]
    assert [writable_kind(name) for name in ("keypointlabels", "labels", "choices")] == [None] * 3


@pytest.mark.parametrize("kind", EXACT, ids=lambda kind: kind.tag)
def test_what_is_written_is_drawn_as_it_was(kind):
    for mask in random_masks():
        shown = np.zeros_like(mask)
        for part in connected(mask, least=0, most=mask.size) if kind.connected else [whole(mask)]:
            written = kind.write(part, 0)
            drawn = kind.draw(json.loads(json.dumps(written.value)), *mask.shape)
            np.testing.assert_array_equal(drawn, part.whole)
            assert kind_of_value(written.value) is kind
            shown |= drawn
        np.testing.assert_array_equal(shown, mask)


@pytest.mark.parametrize("kind", WRITABLE, ids=lambda kind: kind.tag)
def test_other_pixels_have_another_content(kind):
    """Ids are made of it; rectangles and ellipses of different pixels may well be the same."""
    mask = np.random.default_rng(5).random((40, 70)) < 0.2
    parts = connected(mask, least=0, most=mask.size)
    assert len({kind.write(part, 100).content for part in parts}) == len(parts) > 100


def test_a_bitmask_is_written_as_the_editor_writes_it():
    """Black on transparent in four channels of the photo's size, as its canvas' ``toDataURL`` gives it."""
    mask = np.array([[True, False, True], [False, False, True]])
    written = kind_of_type("bitmask").write(whole(mask), 0)
    head, png = written.value["imageDataURL"].split(",")
    assert list(written.value) == ["imageDataURL"] and head == "data:image/png;base64"
    image = Image.open(io.BytesIO(base64.b64decode(png)))
    assert (image.format, image.mode, image.size) == ("PNG", "RGBA", (3, 2))
    expected = np.zeros((2, 3, 4), np.uint8)
    expected[mask, 3] = 255
    np.testing.assert_array_equal(np.asarray(image), expected)


def test_a_rectangle_is_the_box_of_its_part():
    rectangle = kind_of_type("rectangle")
    for mask in random_masks(10):
        for part in connected(mask, least=0, most=20):
            value = rectangle.write(part, 0).value
            assert value["rotation"] == 0
            box = np.zeros_like(mask)
            box[part.box] = True
            np.testing.assert_array_equal(rectangle.draw(value, *mask.shape), box)
    part = connected(np.array([[0, 0, 0, 0], [0, 0, 0, 1]], bool), least=0, most=1)[0]
    assert rectangle.write(part, 0).value == {"x": 75, "y": 50, "width": 25, "height": 50, "rotation": 0}


@pytest.mark.parametrize("turn", [0, 30, 45, 90, 120, -60])
def test_an_ellipse_is_written_as_it_was_drawn(turn):
    ellipse = kind_of_type("ellipse")
    value = {"x": 50, "y": 40, "radiusX": 30, "radiusY": 10, "rotation": turn}
    mask = ellipse.draw(value, 200, 160)
    [part] = connected(mask, least=0, most=9)
    written = ellipse.write(part, 0).value
    assert (written["x"] * 1.6, written["y"] * 2) == pytest.approx((80, 80), abs=0.1)
    assert (written["radiusX"] * 1.6, written["radiusY"] * 2) == pytest.approx((48, 20), abs=0.2)
    assert math.remainder(written["rotation"] - turn, 180) == pytest.approx(0, abs=0.5)
    assert list(written) == list(value)
    drawn = ellipse.draw(written, 200, 160)
    assert np.count_nonzero(drawn ^ mask) < 0.02 * np.count_nonzero(mask)


def test_an_ellipse_shows_at_least_a_pixel():
    ellipse = kind_of_type("ellipse")
    masks = [np.ones((1, 7), bool), np.ones((9, 1), bool), np.eye(5, dtype=bool), np.ones((1, 1), bool)]
    for mask in [*masks, *random_masks(10)]:
        for part in connected(mask, least=0, most=5):
            assert ellipse.draw(ellipse.write(part, 0).value, *mask.shape).any()


def test_a_rectangle_is_the_same_pixels_to_an_annotation_and_to_a_smart_tool():
    random, compared = np.random.default_rng(1), 0
    for _ in range(300):
        height, width = random.integers(1, 70, 2).tolist()
        painted, pointed = drawn(kind_of_type("rectangle"), box_of(random), height, width)
        if painted.any():
            np.testing.assert_array_equal(painted, pointed)
            compared += 1
    assert compared > 200


def test_a_brush_stroke_is_the_same_pixels_to_an_annotation_and_to_a_smart_tool():
    alpha = np.random.default_rng(2).integers(0, 256, (31, 45), dtype=np.uint8)
    painted, pointed = drawn(kind_of_type("brush"), {"rle": brush.encode(alpha)}, 31, 45)
    np.testing.assert_array_equal(painted, pointed)
    assert painted.any() and not painted.all()


def test_bitmasks_and_brush_strokes_begin_at_the_same_alpha():
    alpha = np.arange(256, dtype=np.uint8).reshape(16, 16)
    rgba, content = np.zeros((16, 16, 4), np.uint8), io.BytesIO()
    rgba[..., 3] = alpha
    Image.fromarray(rgba).save(content, "PNG")
    url = "data:image/png;base64," + base64.b64encode(content.getvalue()).decode()
    bitmask = kind_of_type("bitmask").draw({"imageDataURL": url}, 16, 16)
    np.testing.assert_array_equal(bitmask, kind_of_type("brush").draw({"rle": brush.encode(alpha)}, 16, 16))
    assert np.count_nonzero(bitmask) == 128


# A smart tool's box that holds no pixel's centre


def small_box(x, y, width, height):
    """A box in pixels on a photo of 20 x 10; the pixels (row, column) that it touches."""
    corners = ((x, y), (x + width, y), (x + width, y + height), (x, y + height))
    box = Box(tuple((x / 20, y / 10) for x, y in corners), positive=True)
    return [tuple(place) for place in np.argwhere(box.draw(10, 20)).tolist()]


@pytest.mark.parametrize(
    ("box", "touched"),
    [
        ((3, 4, 0, 0), [(4, 3)]),
        ((3.9, 4.9, 0, 0), [(4, 3)]),
        ((3.6, 4.1, 0.3, 0.3), [(4, 3)]),
        ((0, 0, 0, 0), [(0, 0)]),
        ((20, 10, 0, 0), [(9, 19)]),  # dragged at the photo's lower right corner
        ((2.2, 3.6, 3, 0.2), [(3, 2), (3, 3), (3, 4), (3, 5)]),  # a line
        ((3.6, 1.2, 0.2, 2), [(1, 3), (2, 3), (3, 3)]),
        ((-3, 3.6, 5, 0), [(3, 0), (3, 1), (3, 2)]),  # begins beyond the photo
        ((3, 4.4, 0, 0.2), [(4, 3)]),
        ((2, 4.4, 2, 0.2), [(4, 2), (4, 3)]),  # thin, but it holds centres
        ((22, 4, 0, 0), []),
        ((22, 4, 5, 5), []),
    ],
)
def test_a_box_as_small_as_a_click_touches_a_pixel(box, touched):
    assert small_box(*box) == touched


def test_every_box_that_begins_in_the_photo_touches_a_pixel():
    random = np.random.default_rng(3)
    for _ in range(200):
        x, y = random.uniform((0, 0), (20, 10))
        width, height = random.choice([0, 1e-9, 0.1, 0.7, 5], 2)
        assert small_box(x, y, width, height)


# A new kind


def test_a_new_row_is_painted_written_and_offered(monkeypatch):
    """A made-up control whose regions are lists of connected pixels."""

    def draw(value, height, width):
        mask = np.zeros((height, width), bool)
        mask.ravel()[value["dots"]] = True
        return mask

    def write(part, _):
        dots = np.flatnonzero(part.whole).tolist()
        return Written({"dots": dots}, repr(dots).encode())

    config = (
        '<View><Image name="image" value="$image"/><DotsLabels name="d" toName="image">'
        '<Label value="sky"/><Label value="sea"/></DotsLabels></View>'
    )
    with pytest.raises(LabelConfigError, match="<DotsLabels>, which hold no labelled masks"):
        read_label_config(config)
    monkeypatch.setattr(
        kinds, "KINDS", (*KINDS, Kind("Dots", key="dots", draw=draw, write=write, connected=True))
    )
    [question] = read_label_config(config).questions
    [control] = [served.control for served in question.controls]
    assert (control.kind, control.name) == ("dotslabels", "d")
    label_map = np.random.default_rng(4).integers(-1, 2, (6, 8)).astype(np.int16)
    scores = np.arange(48, dtype=np.float32).reshape(6, 8) / 48
    regions = masks_to_regions(label_map, scores, control)
    assert [len(each.result["value"]["dots"]) for each in regions] == [each.area for each in regions]
    first = regions[0].result
    assert first["type"] == "dotslabels" and first["value"]["dotslabels"] == ["sky"]
    assert first["score"] == pytest.approx(scores.ravel()[first["value"]["dots"]].mean())
    painted = paint([each.result for each in regions], control, 6, 8)
    np.testing.assert_array_equal(painted.label_map, label_map)
