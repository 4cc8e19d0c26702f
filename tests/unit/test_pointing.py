"""Clicks, strokes and boxes on a photo of four quarters, each of which a mask of the model has."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from ebseg.ask import Mask, Pointed
from ebseg.errors import AnnotationError
from ebseg.label_studio.prompts import Box, Point
from ebseg.model import Encoded
from ebseg.pointing import point

HEIGHT, WIDTH = 96, 128
PIXELS = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
PIXELS[:48, :64], PIXELS[:48, 64:], PIXELS[48:, :64], PIXELS[48:, 64:] = 40, 90, 150, 220
QUARTERS = [np.zeros((HEIGHT, WIDTH), bool) for _ in range(4)]
QUARTERS[0][:48, :64] = QUARTERS[1][:48, 64:] = QUARTERS[2][48:, :64] = QUARTERS[3][48:, 64:] = True


def encoded() -> Encoded:
    """The photo is larger than at test size (64 x 48), which is padded to 64 x 64; a mask's cell is 4 x 4."""
    masks = torch.full((1, 4, 16, 16), -8.0)
    masks[0, 0, :6, :8] = masks[0, 1, :6, 8:] = masks[0, 2, 6:12, :8] = masks[0, 3, 6:12, 8:] = 8.0
    nothing = torch.zeros(1, 4, 2)
    return Encoded(
        masks=masks, a=nothing, b=nothing, c=nothing, dense=torch.zeros(1, 2, 2, 2),
        features=torch.zeros(1, 2, 16, 16), sizes=((48, 64),), padded=(64, 64),
    )  # fmt: skip


def find(**pointed: tuple) -> tuple[Mask, np.ndarray]:
    return point(encoded(), torch.tensor([0.9, 0.0, 0.0, 0.0]), PIXELS, Pointed(0, **pointed))


def click(row: int, column: int, *, positive: bool = True) -> Point:
    return Point((column + 0.5) / WIDTH, (row + 0.5) / HEIGHT, 0.01, positive)


def box(top: int, left: int, bottom: int, right: int, *, positive: bool = True) -> Box:
    places = ((left, top), (right, top), (right, bottom), (left, bottom))
    return Box(tuple((x / WIDTH, y / HEIGHT) for x, y in places), positive)


@dataclass(frozen=True)
class Drawing:
    """A stroke."""

    mask: Mask

    def draw(self, height: int, width: int) -> Mask:
        return self.mask


def iou(one: Mask, other: Mask) -> float:
    return float((one & other).sum() / (one | other).sum())


@pytest.mark.parametrize(("place", "quarter"), [((10, 20), 0), ((10, 100), 1), ((80, 20), 2), ((80, 100), 3)])
def test_a_click_gives_what_is_there_whatever_the_model_takes_it_for(place, quarter):
    found, sure = find(positive=(click(*place),))
    assert iou(found, QUARTERS[quarter]) > 0.9 and found[place]
    assert found.dtype == bool and sure.dtype == np.float32
    assert sure[place] > 0.99 and sure.min() >= 0 and sure.max() <= 1


def test_a_stroke_is_as_a_click_on_all_that_it_paints():
    stroke = np.zeros((HEIGHT, WIDTH), bool)
    stroke[60:63, 10:40] = True
    found, _ = find(positive=(Drawing(stroke),))
    assert iou(found, QUARTERS[2]) > 0.9 and found[stroke].all()


@pytest.mark.parametrize(
    "pointed",
    [
        {"positive": (click(10, 20),)},
        {"positive": (click(10, 20), click(80, 100)), "negative": (click(90, 120, positive=False),)},
        {"boxes": (box(5, 10, 40, 55),)},
        {"boxes": (box(5, 10, 40, 55),), "positive": (click(80, 100),)},
    ],
    ids=["click", "clicks", "box", "box and click"],
)
def test_a_large_photo_is_looked_at_in_small(pointed, monkeypatch):
    pixels = np.repeat(np.repeat(PIXELS, 4, axis=0), 4, axis=1)
    classes = torch.tensor([0.9, 0.0, 0.0, 0.0])
    expected, _ = point(encoded(), classes, pixels, Pointed(0, **pointed))
    monkeypatch.setattr("ebseg.pointing.MOST_PIXELS", HEIGHT * WIDTH)
    found, sure = point(encoded(), classes, pixels, Pointed(0, **pointed))
    assert found.shape == sure.shape == pixels.shape[:2] and found.dtype == bool
    assert iou(found, expected) > 0.95
    if "positive" not in pointed:
        assert not found[~pointed["boxes"][0].draw(*found.shape)].any()


def test_several_clicks_are_one_region_each_and_a_negative_one_takes_its_part_away():
    both = (click(10, 20), click(80, 100))
    assert iou(find(positive=both)[0], QUARTERS[0] | QUARTERS[3]) > 0.9
    found, _ = find(positive=both, negative=(click(90, 120, positive=False),))
    assert iou(found, QUARTERS[0]) > 0.4 and not found[90, 120] and found[10, 20]


def test_a_box_is_clipped_and_follows_the_photo():
    found, sure = find(boxes=(box(44, 60, 96, 128),))
    assert iou(found, QUARTERS[3]) > 0.95
    assert not found[:44].any() and not found[:, :60].any()
    assert sure[found].min() > 0


def test_what_a_box_is_around_fills_it():
    halves = box(0, 0, 96, 64)
    found, _ = find(boxes=(halves,))  # the model takes the upper half alone for the label
    assert iou(found, QUARTERS[0] | QUARTERS[2]) > 0.95
    found, _ = find(boxes=(box(0, 0, 53, 70),))  # a tenth wider
    assert iou(found, QUARTERS[0]) > 0.9


def test_grabcut_is_given_no_flat_colours(monkeypatch):
    """It would take two seconds for this photo."""
    given = []
    monkeypatch.setattr("cv2.grabCut", lambda photo, *_: given.append(photo))
    find(boxes=(box(5, 10, 40, 55),))
    [photo] = given
    assert photo[10:20, 20:40].std(axis=(0, 1)).min() > 0.5
    assert abs(photo[10:20, 20:40].mean() - PIXELS[10, 20].mean()) < 0.5


def test_a_click_in_a_box_stays_in_it_and_one_outside_adds():
    found, _ = find(boxes=(box(0, 0, 40, 40),), positive=(click(10, 20),))
    assert found[10, 20] and not found[40:].any() and not found[:, 40:].any()
    found, _ = find(boxes=(box(0, 0, 40, 40),), positive=(click(80, 100),))
    assert found[80, 100] and found[20, 20]


def test_a_negative_box_is_left_out():
    found, _ = find(positive=(click(10, 20),), negative_boxes=(box(0, 40, 96, 128, positive=False),))
    assert found[10, 20] and not found[:, 40:].any()


def test_there_is_always_something():
    place = click(10, 20)
    found, _ = find(positive=(place,), negative=(click(10, 20, positive=False),))
    np.testing.assert_array_equal(found, place.draw(HEIGHT, WIDTH))
    whole = box(0, 0, HEIGHT, WIDTH)
    assert find(boxes=(whole,))[0].any()
    assert find(boxes=(box(10, 10, 10, 10),))[0].any()  # a box without a pixel is a click
    assert find(boxes=(whole,), negative_boxes=(box(0, 0, HEIGHT, WIDTH, positive=False),))[0].all()


def test_what_is_beside_the_photo_is_an_error():
    with pytest.raises(AnnotationError, match="not on the photo; draw again"):
        find(boxes=(box(-50, -50, -10, -10),))


def test_the_same_is_found_again():
    one, other = (find(boxes=(box(30, 30, 90, 120),))[0] for _ in range(2))
    np.testing.assert_array_equal(one, other)
