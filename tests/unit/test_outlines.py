import numpy as np
import pytest

from ebseg.label_studio.drawing import fill
from ebseg.outlines import DEFAULT_TOLERANCE, MOST_EXACT_POINTS, MOST_POINTS, outline
from ebseg.parts import connected


def mask_of(*rows):
    return np.array([[letter == "#" for letter in row] for row in rows])


def filled(ring, mask):
    height, width = mask.shape
    return fill([(x / width, y / height) for x, y in ring.tolist()], height, width)


def iou(ring, mask):
    drawn = filled(ring, mask)
    return np.count_nonzero(drawn & mask) / np.count_nonzero(drawn | mask)


def turned_area(ring):
    x, y = ring.T
    return float(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2


def disc(radius, size):
    row, column = np.ogrid[:size, :size]
    return (row - size / 2) ** 2 + (column - size / 2) ** 2 <= radius**2


def smooth_parts(seed, least, size=160):
    """Parts of random blobs, each of at least so many pixels."""
    noise = np.random.default_rng(seed).normal(size=(size // 20, size // 20)).repeat(20, 0).repeat(20, 1)
    kernel = np.hanning(41) / np.hanning(41).sum()
    for axis in (0, 1):
        noise = np.apply_along_axis(np.convolve, axis, noise, kernel, "same")
    return [part.mask for part in connected(noise > 0, least=least, most=100)]


@pytest.mark.parametrize("tolerance", [0, 0.1, DEFAULT_TOLERANCE, 3, 1000])
def test_a_pixel_is_a_unit_square(tolerance):
    ring = outline(np.ones((1, 1), bool), tolerance)
    np.testing.assert_allclose(np.array(sorted(ring.tolist())), [[0, 0], [0, 1], [1, 0], [1, 1]], atol=1e-6)


@pytest.mark.parametrize("tolerance", [0, DEFAULT_TOLERANCE])
@pytest.mark.parametrize(
    ("mask", "points"),
    [
        (mask_of("###", "###"), 4),
        (mask_of("###..", "###..", "#####", "#####"), 6),
        (mask_of("####", "#..#", "#..#", "####"), 4 + 4 + 2),
    ],
)
def test_corners_are_those_of_pixels(mask, points, tolerance):
    ring = outline(mask, tolerance)
    assert len(ring) == points
    np.testing.assert_array_equal(ring, np.round(ring))
    np.testing.assert_array_equal(filled(ring, mask), mask)


def test_without_tolerance_an_outline_is_the_border():
    random = np.random.default_rng(0)
    for _ in range(20):
        height, width = random.integers(1, 25, 2)
        mask = random.random((height, width)) < random.choice([0.3, 0.6, 0.9])
        for part in connected(mask, least=0, most=mask.size):
            ring = outline(part.mask, 0)
            np.testing.assert_array_equal(filled(ring, part.mask), part.mask)
            assert abs(turned_area(ring)) == np.count_nonzero(part.mask)  # a hole runs the other way round


def test_simplified_outlines_show_what_the_mask_does():
    parts = [part for seed in range(6) for part in smooth_parts(seed, least=800)]
    assert len(parts) > 10
    rings = [outline(part) for part in parts]
    assert min(iou(ring, part) for ring, part in zip(rings, parts, strict=True)) >= 0.98
    assert max(map(len, rings)) <= MOST_POINTS
    exact = [outline(part, 0) for part in parts]
    assert sum(map(len, rings)) < sum(map(len, exact)) / 2


def test_a_flight_of_steps_becomes_a_slope_through_their_middle():
    flight = np.tril(np.ones((40, 40), bool))
    [slope] = (ring[(ring > 2).all(axis=1) & (ring < 38).all(axis=1)] for ring in [outline(flight, 0.25)])
    assert len(slope) == 0
    assert turned_area(outline(flight, 0.25)) == pytest.approx(-np.count_nonzero(flight), rel=0.01)
    for seed in range(3):  # a small tolerance loses no pixel
        for part in smooth_parts(seed, least=800):
            np.testing.assert_array_equal(filled(outline(part, 0.1), part), part)


def test_a_hole_is_kept_and_two_and_one_at_the_border():
    mask = disc(30, 64)
    mask[20:30, 20:30] = mask[40:47, 33:45] = mask[:2, :] = False
    mask[10, 31] = False  # narrower than the tolerance
    ring = outline(mask)
    drawn = filled(ring, mask)
    assert not drawn[22:28, 22:28].any() and not drawn[42:45, 35:43].any() and drawn[10, 31]
    assert iou(ring, mask) >= 0.98


def test_there_are_at_most_so_many_points_however_rough_the_border_and_many_the_holes():
    random = np.random.default_rng(1)
    mask = random.random((200, 300)) < 0.9
    [largest, *_] = connected(mask, least=0, most=1)
    assert len(outline(largest.mask)) <= MOST_POINTS
    assert iou(outline(largest.mask), largest.mask) > 0.85  # what is left out are the holes
    comb = np.zeros((60, 801), bool)
    comb[30:] = comb[:, ::2] = True
    assert 4 <= len(outline(comb)) <= MOST_POINTS
    assert len(outline(comb, 0)) == 1604


def test_an_exact_outline_of_too_many_points_is_simplified(monkeypatch):
    comb = np.zeros((60, 801), bool)
    comb[30:] = comb[:, ::2] = True
    assert MOST_EXACT_POINTS > 1604
    monkeypatch.setattr("ebseg.outlines.MOST_EXACT_POINTS", 1000)
    assert 4 <= len(outline(comb, 0)) <= 1000


@pytest.mark.parametrize("tolerance", [0.75, 1, 2, 10])
@pytest.mark.parametrize("width", [1, 2])
def test_what_is_thin_stays(width, tolerance):
    for mask in (np.ones((width, 50), bool), np.ones((50, width), bool), np.eye(50, dtype=bool)):
        assert iou(outline(mask, tolerance), mask) > 0.4
