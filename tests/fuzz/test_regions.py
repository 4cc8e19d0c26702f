"""Random label maps to regions of each kind, as JSON, and back."""

import json

import cv2
import numpy as np
import pytest

from ebseg.label_studio.annotations import paint
from ebseg.label_studio.label_config import Control, Label
from ebseg.label_studio.regions import MOST_PARTS, masks_to_regions
from ebseg.outlines import MOST_POINTS
from ebseg.parts import connected

LABELS = tuple(Label(name) for name in ("sky", "road", "tree", "car"))


def rough(chance):
    """A label map of noise, blocks and stripes, with at most ``MOST_PARTS`` parts of a label."""
    height, width = chance.integers(1, 20, 2)
    share = chance.dirichlet(np.ones(5))
    label_map = chance.choice(np.arange(-1, 4), (height, width), p=share).astype(np.int16)
    return label_map.repeat(chance.integers(1, 4), axis=0).repeat(chance.integers(1, 4), axis=1)


def smooth(chance):
    """A label map of blobs with soft borders, and some pixels without a label."""
    height, width = chance.integers(150, 400, 2).tolist()
    fields = chance.normal(size=(4, height // 30, width // 30)).astype(np.float32)
    fields = np.stack([cv2.resize(each, (width, height), interpolation=cv2.INTER_CUBIC) for each in fields])
    return np.where(fields.max(axis=0) > 0, fields.argmax(axis=0), -1).astype(np.int16)


def regions(label_map, kind, **settings):
    control = Control(kind, "c", "image", LABELS, attributes=settings)
    made = masks_to_regions(label_map, np.full(label_map.shape, 0.5, np.float32), control)
    result = [json.loads(json.dumps(each.result)) for each in made]
    assert len({each["id"] for each in result}) == len(result)
    assert result == [
        each.result for each in masks_to_regions(label_map, np.full(label_map.shape, 0.5), control)
    ]
    return result, control


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("brushlabels", {}),
        ("brushlabels", {"model_regions": "part"}),
        ("bitmasklabels", {}),
        ("bitmasklabels", {"model_regions": "part"}),
        ("polygonlabels", {"model_polygon_tolerance": "0"}),
    ],
    ids=str,
)
def test_200_rough_label_maps_come_back_as_they_were(kind, settings):
    chance = np.random.default_rng(11)
    for _ in range(200):
        label_map = rough(chance)
        result, control = regions(label_map, kind, **settings)
        np.testing.assert_array_equal(paint(result, control, *label_map.shape).label_map, label_map)


def test_polygons_of_40_smooth_label_maps_show_the_same():
    """Each part of 1,500 pixels or more, and the whole map, where one outline covers another's."""
    chance, compared = np.random.default_rng(12), 0
    for _ in range(40):
        label_map = smooth(chance)
        result, control = regions(label_map, "polygonlabels")
        parts = [
            part for index in range(4) for part in connected(label_map == index, least=0, most=MOST_PARTS)
        ]
        for region, part in zip(result, parts, strict=True):
            assert len(region["value"]["points"]) <= MOST_POINTS
            area = np.count_nonzero(part.mask)
            if area >= 1500:
                drawn = paint([region], control, *label_map.shape).label_map >= 0
                whole = part.whole
                assert np.count_nonzero(drawn & whole) >= 0.98 * np.count_nonzero(drawn | whole)
                compared += 1
        painted = paint(result, control, *label_map.shape).label_map
        assert np.count_nonzero(painted == label_map) >= 0.98 * label_map.size
    assert compared > 200


@pytest.mark.parametrize(("kind", "least"), [("rectanglelabels", 1.0), ("ellipselabels", 0.5)])
def test_boxes_and_ellipses_of_200_rough_label_maps_cover_their_parts(kind, least):
    """A box holds all of its part; an ellipse most of one that fills half of its box."""
    chance = np.random.default_rng(13)
    for _ in range(200):
        label_map = rough(chance)
        result, control = regions(label_map, kind)
        parts = [
            part for index in range(4) for part in connected(label_map == index, least=0, most=MOST_PARTS)
        ]
        for region, part in zip(result, parts, strict=True):
            drawn = paint([region], control, *label_map.shape).label_map >= 0
            held = np.count_nonzero(drawn & part.whole) / np.count_nonzero(part.mask)
            assert held >= least or part.mask.mean() < 0.5
