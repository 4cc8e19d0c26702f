import base64
import io
import json

import cv2
import numpy as np
import pytest
from label_studio_sdk.converter import brush as sdk_brush
from PIL import Image, ImageDraw

from ebseg.errors import AnnotationError
from ebseg.label_studio import brush
from ebseg.label_studio.annotations import paint
from ebseg.label_studio.label_config import Control, Label
from ebseg.label_studio.regions import masks_to_regions

CONTROL = Control("brushlabels", "mask", "image", (Label("sky"), Label("Auto", alias="car"), Label("sea")))
HEIGHT, WIDTH = 4, 6


def region(kind, value, label="sky", *, name="r", size=(WIDTH, HEIGHT), **more):
    value = value | ({kind: [label]} if label else {})
    width, height = size
    return {
        "id": name, "from_name": "any", "to_name": "image", "type": kind, "value": value,
        "original_width": width, "original_height": height, "image_rotation": 0,
    } | more  # fmt: skip


def brush_region(alpha, label="sky", **more):
    alpha = np.asarray(alpha, dtype=np.uint8)
    value = {"format": "rle", "rle": brush.encode(alpha)}
    return region("brushlabels", value, label, **{"size": alpha.shape[::-1]} | more)


def points(*places):
    """Corners in pixels, as Label Studio writes them: in percent."""
    return {"points": [[x / WIDTH * 100, y / HEIGHT * 100] for x, y in places], "closed": True}


def box(x, y, width, height, rotation=0):
    return {
        "x": x / WIDTH * 100, "y": y / HEIGHT * 100,
        "width": width / WIDTH * 100, "height": height / HEIGHT * 100, "rotation": rotation,
    }  # fmt: skip


def ellipse(x, y, radius_x, radius_y, rotation=0, size=(WIDTH, HEIGHT)):
    width, height = size
    return {
        "x": x / width * 100, "y": y / height * 100,
        "radiusX": radius_x / width * 100, "radiusY": radius_y / height * 100, "rotation": rotation,
    }  # fmt: skip


def png_url(image):
    content = io.BytesIO()
    image.save(content, "PNG")
    return "data:image/png;base64," + base64.b64encode(content.getvalue()).decode()


def drawn(*regions, height=HEIGHT, width=WIDTH):
    """Write a label map as lines: "." for none, else the label's number."""
    label_map = paint(json.loads(json.dumps(regions)), CONTROL, height, width).label_map
    assert label_map.dtype == np.int16 and label_map.shape == (height, width)
    return ["".join("." if value < 0 else str(value) for value in row) for row in label_map.tolist()]


def test_nothing_is_nothing():
    assert drawn() == ["......"] * 4


def test_a_brush_stroke_counts_from_half_its_strength_on():
    alpha = np.array([[0, 1, 127, 128, 254, 255]] * 4)
    assert drawn(brush_region(alpha, "car")) == ["...111"] * 4


@pytest.mark.parametrize("strength", [1, 2, 99, 100, 127, 254, 255])
def test_a_faint_brush_region_counts_from_half_its_own_strength_on(strength):
    """The SDK's conversion of contours writes alpha 100, and the editor shows every alpha above 0."""
    alpha = np.array([[0, 0, (strength - 1) // 2, (strength + 1) // 2, strength, strength]] * 4)
    assert drawn(brush_region(alpha, "car")) == ["...111"] * 4
    rgba = np.zeros((4, 6, 4), np.uint8)
    rgba[..., 3] = alpha
    bitmask = region("bitmasklabels", {"imageDataURL": png_url(Image.fromarray(rgba))}, "car")
    assert drawn(bitmask) == ["...111"] * 4


def test_a_mask_that_the_sdk_made_of_contours_is_painted():
    mask = np.zeros((40, 60), np.uint8)
    mask[10:30, 20:50] = 255
    contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    rle = sdk_brush.contour2rle(contours, 0, 40, 60)  # its width is the height
    label_map = paint([region("brushlabels", {"rle": rle}, size=(60, 40))], CONTROL, 40, 60).label_map
    np.testing.assert_array_equal(label_map == 0, mask > 0)


def test_regions_that_show_nothing_are_named_and_cost_no_other():
    good = region("rectanglelabels", box(0, 0, 3, 4), "car", name="good")
    empty = region("brushlabels", {"format": "rle", "rle": []}, name="empty")
    erased = brush_region(np.zeros((4, 6)), name="erased")
    thin = region("rectanglelabels", box(3, 1.6, 2, 0.3), name="thin")
    assert drawn(empty, good, erased, thin) == ["111..."] * 4
    painted = paint([empty, good, erased, thin], CONTROL, HEIGHT, WIDTH)
    assert painted.blank == ("empty", "erased", "thin")
    assert (painted.regions, painted.unknown) == (4, ())
    assert paint([good], CONTROL, HEIGHT, WIDTH).blank == ()


@pytest.mark.parametrize("size", [("6", "4"), (6.0, "4.0"), (None, None)])
def test_sizes_may_be_text(size):
    assert drawn(region("rectanglelabels", box(0, 0, 3, 4), size=size)) == ["000..."] * 4


@pytest.mark.parametrize("rotation", [90, 180, 270, None, "90"])
def test_regions_of_a_turned_photo_are_where_they_are_on_the_photo(rotation):
    """The editor turns its stage, and stores places and masks of the photo as it is; see ``paint``."""
    alpha = np.zeros((4, 6))
    alpha[0, 5] = 255
    regions = [
        region("rectanglelabels", box(0, 0, 2, 1), "sky", name="a", image_rotation=rotation),
        brush_region(alpha, "car", name="b", image_rotation=rotation),
    ]
    assert drawn(*regions) == ["00...1", "......", "......", "......"]


def test_brush_regions_are_read_as_the_sdk_reads_them():
    antialiased = np.random.default_rng(3).integers(0, 256, (37, 53), dtype=np.uint8)
    antialiased[10:30, 5:40] = 255  # long runs too
    rle, *_ = sdk_brush.image2rle(_saved(antialiased))
    label_map = paint([region("brushlabels", {"rle": rle}, size=(53, 37))], CONTROL, 37, 53).label_map
    theirs = sdk_brush.decode_rle(rle).reshape(37, 53, 4)[..., 3]
    np.testing.assert_array_equal(label_map, np.where(theirs >= 128, 0, -1))


def _saved(alpha):
    content = io.BytesIO()
    Image.fromarray(alpha).save(content, "PNG")
    content.seek(0)
    return content


def test_label_maps_come_back_from_regions_as_they_were():
    label_map = np.random.default_rng(0).integers(-1, 3, (31, 45)).astype(np.int16)
    regions = masks_to_regions(label_map, np.full(label_map.shape, 0.5, np.float32), CONTROL)
    painted = paint([each.result for each in regions], CONTROL, 31, 45)
    np.testing.assert_array_equal(painted.label_map, label_map)
    assert painted.unknown == ()


@pytest.mark.parametrize(
    ("corners", "expected"),
    [
        ([(1, 1), (4, 1), (4, 3), (1, 3)], ["......", ".000..", ".000..", "......"]),
        ([(1, 3), (4, 3), (4, 1), (1, 1)], ["......", ".000..", ".000..", "......"]),  # the other way around
        ([(1.49, 0), (3.51, 0), (3.51, 4), (1.49, 4)], [".000.."] * 4),
        ([(1.51, 0), (3.49, 0), (3.49, 4), (1.51, 4)], ["..0..."] * 4),  # centres alone decide
        ([(1.5, 0.5), (3.5, 0.5), (3.5, 2.5), (1.5, 2.5)], [".00...", ".00...", "......", "......"]),
        ([(0, 0), (4, 0), (0, 4)], ["000...", "00....", "0.....", "......"]),
        ([(0, 0), (6, 4), (0, 4)], ["0.....", "00....", "0000..", "00000."]),
        ([(-3, -2), (9, -2), (9, 2), (-3, 2)], ["000000", "000000", "......", "......"]),  # beyond the photo
        ([(2, 2), (2, 2), (2, 2)], ["......"] * 4),
        ([(0, 0), (6, 4)], ["......"] * 4),
        ([(1, 0), (1, 4), (5, 4), (5, 2), (3, 2), (3, 0)], [".00...", ".00...", ".0000.", ".0000."]),
    ],
)
def test_a_pixel_belongs_to_the_polygon_that_has_its_centre(corners, expected):
    assert drawn(region("polygonlabels", points(*corners))) == expected


def test_neighbouring_polygons_share_no_pixel_and_leave_none_out():
    left, right = [(0, 0), (3.5, 0), (1.5, 4), (0, 4)], [(3.5, 0), (6, 0), (6, 4), (1.5, 4)]
    alone = [drawn(region("polygonlabels", points(*corners))) for corners in (left, right)]
    for row_of_left, row_of_right in zip(*alone, strict=True):
        assert all((a == ".") != (b == ".") for a, b in zip(row_of_left, row_of_right, strict=True))


def test_what_an_outline_goes_around_twice_is_filled():
    twice = [(0, 0), (6, 0), (6, 4), (0, 4)] * 2
    assert drawn(region("polygonlabels", points(*twice))) == ["000000"] * 4
    loops = [(0, 0), (6, 0), (6, 4), (0, 4), (0, 1), (4, 1), (4, 3), (0, 3)]  # even-odd would leave a hole
    assert drawn(region("polygonlabels", points(*loops))) == ["000000"] * 4


def test_polygons_agree_with_their_winding_number():
    rng = np.random.default_rng(1)
    for _ in range(20):
        corners = rng.uniform(-20, 120, (7, 2))
        outline = {"points": corners.tolist(), "closed": True}  # the photo has 100 x 100 pixels
        ours = paint([region("polygonlabels", outline, size=(100, 100))], CONTROL, 100, 100).label_map == 0
        np.testing.assert_array_equal(ours, _winding(corners))
        assert ours.any() and not ours.all()


def _winding(corners):
    """Count turns around each centre by angles, an independent definition of the nonzero rule."""
    y, x = np.mgrid[:100, :100] + 0.5
    turns = np.zeros((100, 100))
    for (x1, y1), (x2, y2) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        step = np.arctan2(y2 - y, x2 - x) - np.arctan2(y1 - y, x1 - x)
        turns += (step + np.pi) % (2 * np.pi) - np.pi
    return np.abs(turns) > np.pi


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (box(1, 1, 3, 2), ["......", ".000..", ".000..", "......"]),
        (box(3, 0, 2, 3, 90), ["000...", "000...", "......", "......"]),  # clockwise
        (box(3, 3, 2, 1, 180), ["......", "......", ".00...", "......"]),
        (box(1, 3, 2, 3, -90), ["......", ".000..", ".000..", "......"]),
    ],
)  # fmt: skip
def test_rectangles_turn_around_their_top_left_corner(value, expected):
    assert drawn(region("rectanglelabels", value)) == expected


def test_a_turned_rectangle_keeps_its_shape_in_pixels():
    """A square in a wide photo is turned by 45 degrees: in percent it would become a parallelogram."""
    value = {"x": 50.2, "y": 0.0, "width": 20.0, "height": 40.0, "rotation": 45}  # 20 x 20 pixels
    label_map = paint([region("rectanglelabels", value, size=(100, 50))], CONTROL, 50, 100).label_map
    y, x = np.mgrid[:50, :100] + 0.5
    reach = 20 * np.sqrt(2) / 2
    diamond = np.abs(x - 50.2) + np.abs(y - reach) < reach
    np.testing.assert_array_equal(label_map == 0, diamond)


def test_ellipses():
    assert drawn(region("ellipselabels", ellipse(3, 2, 3, 2))) == [".0000.", "000000", "000000", ".0000."]
    assert drawn(region("ellipselabels", ellipse(3, 2, 0.1, 9))) == ["......"] * 4
    assert drawn(region("ellipselabels", ellipse(3, 2, 0, 1))) == ["......"] * 4


def test_ellipses_turn_around_their_centre():
    turned = region("ellipselabels", ellipse(3, 2, 2.6, 0.9, 90))
    upright = region("ellipselabels", ellipse(3, 2, 0.9, 2.6))
    assert drawn(turned) == drawn(upright) == ["..00..", "..00..", "..00..", "..00.."]
    value = ellipse(50, 25, 30, 8, 30, size=(100, 50))
    label_map = paint([region("ellipselabels", value, size=(100, 50))], CONTROL, 50, 100).label_map
    corners = cv2.ellipse2Poly((5000, 2500), (3000, 800), 30, 0, 360, 1) / 100
    np.testing.assert_array_equal(label_map == 0, _winding_in(corners, 50, 100))


def _winding_in(corners, height, width):
    outline = {"points": (corners / (width, height) * 100).tolist()}
    return (
        paint([region("polygonlabels", outline, size=(width, height))], CONTROL, height, width).label_map == 0
    )


def test_bitmasks_are_black_on_transparent():
    alpha = np.array([[0, 127, 128, 255, 0, 0]] * 4, dtype=np.uint8)
    rgba = np.zeros((4, 6, 4), np.uint8)
    rgba[..., 3] = alpha
    value = {"imageDataURL": png_url(Image.fromarray(rgba))}
    assert drawn(region("bitmasklabels", value, "sea")) == ["..22.."] * 4
    palette = Image.fromarray((alpha > 200).astype(np.uint8)).convert("P")
    content = io.BytesIO()
    palette.save(content, "PNG", transparency=0)
    url = "data:image/png;base64," + base64.b64encode(content.getvalue()).decode()
    assert drawn(region("bitmasklabels", {"imageDataURL": url}, "sea")) == ["...2.."] * 4


def test_later_regions_paint_over_earlier_ones():
    below = region("rectanglelabels", box(0, 0, 4, 4), "sky", name="a")
    above = region("polygonlabels", points((2, 1), (6, 1), (6, 3), (2, 3)), "car", name="b")
    assert drawn(below, above) == ["0000..", "001111", "001111", "0000.."]
    assert drawn(above, below) == ["0000..", "000011", "000011", "0000.."]


def test_a_region_of_an_unknown_label_shows_none_of_the_labels_and_is_told():
    below = region("rectanglelabels", box(0, 0, 6, 4), name="a")
    above = region("rectanglelabels", box(1, 1, 2, 2), "moon", name="b")
    nameless = region("rectangle", box(5, 0, 1, 4), None, name="c")
    again = region("rectanglelabels", box(0, 3, 1, 1), "moon", name="d")
    painted = paint([below, above, nameless, again], CONTROL, HEIGHT, WIDTH)
    assert painted.unknown == ("moon", "")
    assert drawn(below, above, nameless, again) == ["00000.", "0..00.", "0..00.", ".0000."]


def test_labels_are_found_by_key_and_by_value():
    assert drawn(region("rectanglelabels", box(0, 0, 6, 4), "car"))[0] == "111111"
    assert drawn(region("rectanglelabels", box(0, 0, 6, 4), "Auto"))[0] == "111111"


def test_of_several_labels_the_first_known_one_counts():
    both = region("rectanglelabels", box(0, 0, 6, 4), None)
    both["value"]["rectanglelabels"] = ["moon", "sea", "sky"]
    painted = paint([both], CONTROL, HEIGHT, WIDTH)
    assert (painted.label_map == 2).all() and painted.unknown == ()


def test_labels_and_shape_may_be_two_results_of_one_region():
    """``<Labels>`` with ``<Brush>``, ``<Polygon>``: both carry the shape, or only one of them."""
    stroke = {"format": "rle", "rle": brush.encode(np.full((4, 6), 255, np.uint8))}
    corners = points((0, 0), (3, 0), (3, 4), (0, 4))
    assert (
        drawn(
            region("brush", stroke, None, name="a"),
            region("labels", stroke, "sky", name="a"),
            region("polygon", corners, None, name="b"),
            region("labels", corners, "car", name="b"),
        )
        == ["111000"] * 4
    )
    assert drawn(
        region("labels", {}, "sea", name="b"), region("polygon", corners, None, name="b")
    ) == ["222..."] * 4  # fmt: skip


def test_every_kind_of_shape_may_have_its_labels_in_a_result_of_their_own():
    rgba = np.zeros((4, 6, 4), np.uint8)
    rgba[:, :3, 3] = 255
    corners = [corner(None, *place) for place in [(0, 0), (3, 0), (3, 4), (0, 4)]]
    shapes = {
        "bitmask": {"imageDataURL": png_url(Image.fromarray(rgba))},
        "vector": {"vertices": corners, "closed": True},
        "rectangle": box(0, 0, 3, 4),
        "ellipse": ellipse(1.5, 2, 1.6, 30),
    }
    for kind, value in shapes.items():
        assert drawn(region(kind, value, None), region("labels", value, "sea")) == ["222..."] * 4


def test_regions_that_were_imported_under_one_id_are_all_painted():
    left, right = (
        region("rectanglelabels", box(0, 0, 3, 4)),
        region("rectanglelabels", box(3, 0, 3, 4), "car"),
    )
    assert drawn(left, right) == ["000111"] * 4
    relabelled = region("rectanglelabels", box(0, 0, 3, 4), "sea")
    assert drawn(left, relabelled) == ["222..."] * 4


def test_choices_for_a_region_leave_it_as_it_is():
    shape = box(0, 0, 2, 4)
    assert (
        drawn(
            region("rectanglelabels", shape, "car", name="a"),
            region("choices", shape | {"choices": ["blurred"]}, None, name="a"),
        )
        == ["11...."] * 4
    )


@pytest.mark.parametrize(
    "other",
    [
        {"type": "relation", "from_id": "a", "to_id": "b", "direction": "right"},
        {"id": "x", "type": "choices", "to_name": "image", "from_name": "c", "value": {"choices": ["day"]}},
        {"id": "x", "type": "textarea", "to_name": "image", "from_name": "t", "value": {"text": ["hello"]}},
        region("keypointlabels", {"x": 50, "y": 50, "width": 1}, "sky"),
        region("rectanglelabels", box(0, 0, 6, 4), to_name="other image"),
        region("rectanglelabels", box(0, 0, 6, 4), to_name="other image", image_rotation=90, size=(1, 1)),
    ],
)
def test_what_is_no_area_of_the_image_is_left_out(other):
    assert drawn(other) == ["......"] * 4


def test_regions_without_a_size_are_in_percent_of_the_photo():
    bare = region("rectanglelabels", box(0, 0, 3, 4))
    del bare["original_width"], bare["original_height"], bare["image_rotation"]
    assert drawn(bare) == ["000..."] * 4


# Closed vectors


def vector(*corners, **more):
    return region("vectorlabels", {"vertices": list(corners), "closed": True}, **more)


def test_a_closed_vector_is_filled_as_the_polygon_is():
    places = [(1, 0), (5, 1), (4, 4), (0, 3)]
    expected = drawn(region("polygonlabels", points(*places)))
    unlinked = [corner(None, *place) for place in places]
    opened = [corner(str(n), *place, previous=str(n - 1) if n else None) for n, place in enumerate(places)]
    ring = [corner(str(n), *place, previous=str((n - 1) % 4)) for n, place in enumerate(places)]
    shuffled = [ring[place] for place in (2, 0, 3, 1)]
    for corners in (unlinked, opened, ring, shuffled):
        assert drawn(vector(*corners)) == expected
    assert sum(row.count("0") for row in expected) == 13


def test_the_curves_of_a_vector_are_bezier_curves():
    """Four of them that are a circle to a thousandth, as drawing programs make it."""
    reach = 30 * 0.5522847498

    def around(number, x, y):
        along = np.array([50 - y, x - 50]) / 30 * reach
        return {
            "id": str(number), "prevPointId": str((number - 1) % 4), "x": x, "y": y, "isBezier": True,
            "controlPoint1": {"x": x - along[0], "y": y - along[1]},
            "controlPoint2": {"x": x + along[0], "y": y + along[1]},
        }  # fmt: skip

    places = [(80, 50), (50, 80), (20, 50), (50, 20)]
    corners = [around(number, *place) for number, place in enumerate(places)]
    painted = paint([vector(*corners, size=(100, 100))], CONTROL, 100, 100).label_map
    y, x = np.mgrid[:100, :100] + 0.5
    np.testing.assert_array_equal(painted == 0, (x - 50) ** 2 + (y - 50) ** 2 <= 30**2)


def test_a_curve_that_ends_without_a_control_point_gets_the_editors():
    def drawn_with(**more):
        corners = [corner("a", previous="c"), corner("b", 6, 0, "a"), corner("c", 6, 4, "b")]
        corners[0] |= {"isBezier": True, "controlPoint2": {"x": 20, "y": 80}}
        corners[1] |= more
        return paint([vector(*corners, size=(60, 40))], CONTROL, 40, 60).label_map

    theirs = drawn_with(isBezier=True, controlPoint1={"x": 100 - 0.3 * 100, "y": 0})
    np.testing.assert_array_equal(drawn_with(), theirs)
    assert not np.array_equal(theirs, drawn_with(isBezier=True, controlPoint1={"x": 90, "y": 0}))


def corner(name, x=0.0, y=0.0, previous=None, **more):
    return {"id": name, "x": x / WIDTH * 100, "y": y / HEIGHT * 100, "prevPointId": previous, **more}


DAMAGED = [
    (brush_region(np.zeros((4, 6)), size=(6, 5)), "6 x 5 pixels, but the photo has 6 x 4"),
    (brush_region(np.zeros((5, 6)), size=(6, 4)), "another size"),
    (region("brushlabels", {"rle": [1, 2, 3]}), "no complete header"),
    (region("brushlabels", {"rle": None}), "list of integers"),
    (region("brushlabels", {"rle": 10**9}), "list of integers"),
    (region("rectanglelabels", box(0, 0, 1, 1), size=([6], 4)), "cannot be read"),
    (region("rectanglelabels", box(0, 0, 1, 1), size=("wide", 4)), "cannot be read"),
    (region("rectanglelabels", box(0, 0, 1, 1), size=("6.5", 4)), "cannot be read"),
    (region("rectanglelabels", box(0, 0, 1, 1), size=(6, None)), "cannot be read"),
    (region("rectanglelabels", box(0, 0, 1, 1), size=("7", "4")), "7 x 4 pixels, but the photo has 6 x 4"),
    (region("rectanglelabels", box(0, 0, 1, 1, rotation=float("nan"))), "cannot be read"),
    (region("rectanglelabels", box(0, 0, 1e300, 1)), "cannot be read"),
    (region("polygonlabels", {"points": [[0, 0]] * 100_001}), "100001 points"),
    (region("polygonlabels", {"points": [[0, 0], [1, float("nan")], [2, 2]]}), "cannot be read"),
    (region("polygonlabels", {"points": [[0, 0], [1], [2, 2]]}), "cannot be read"),
    (region("polygonlabels", {"points": None}), "cannot be read"),
    (region("rectanglelabels", {"x": "a", "y": 0, "width": 1, "height": 1}), "cannot be read"),
    (region("ellipselabels", {"x": 1, "radiusX": 2}), "cannot be read"),
    (region("bitmasklabels", {"imageDataURL": "data:image/jpeg;base64,AA"}), "must begin with"),
    (region("bitmasklabels", {"imageDataURL": "data:image/png;base64,AAAA"}), "damaged"),
    (region("bitmasklabels", {"imageDataURL": "data:image/png;base64,%"}), "damaged"),
    (region("bitmasklabels", {"imageDataURL": png_url(Image.new("RGBA", (5, 4)))}), "5 x 4 pixels"),
    (region("bitmasklabels", {"imageDataURL": png_url(Image.new("RGB", (6, 4)))}), "transparent"),
    (region("vectorlabels", {"vertices": [], "closed": False}), "open vector has no pixels; close it"),
    (region("vectorlabels", {"vertices": 5, "closed": True}), "cannot be read"),
    (region("vectorlabels", {"vertices": [{"x": 1, "y": 1}] * 1563, "closed": True}), "1563 points"),
    (region("vectorlabels", {"vertices": [corner(place) for place in "aab"], "closed": True}), "branches"),
]


@pytest.mark.parametrize(("bad", "why"), DAMAGED)
def test_damage_names_the_region(bad, why):
    good = region("rectanglelabels", box(0, 0, 1, 1), name="good one")
    with pytest.raises(AnnotationError, match=why) as caught:
        paint([good, bad | {"id": "bad one"}], CONTROL, HEIGHT, WIDTH)
    assert str(caught.value).startswith('region "bad one": ')


def test_a_truncated_bitmask_is_damage():
    image = Image.new("RGBA", (WIDTH, HEIGHT))
    ImageDraw.Draw(image).rectangle((0, 0, 3, 3), fill=(0, 0, 0, 255))
    url = png_url(image)
    for end in range(len("data:image/png;base64,"), len(url) - 24, 4):
        with pytest.raises(AnnotationError):
            paint([region("bitmasklabels", {"imageDataURL": url[:end]})], CONTROL, HEIGHT, WIDTH)


def test_a_result_that_is_no_list_of_regions_is_told():
    with pytest.raises(AnnotationError, match="result 0 is no region but str"):
        paint(["nothing"], CONTROL, HEIGHT, WIDTH)
