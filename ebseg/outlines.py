"""Outlines of masks, at the borders of their pixels."""

from collections.abc import Sequence
from typing import TypeVar

import cv2
import numpy as np
import numpy.typing as npt

from ebseg.ask import Mask

Ring = npt.NDArray[np.float64]
"""(points, 2): x and y in pixels from the upper left corner of the mask; the last joins the first."""

_Number = TypeVar("_Number", bound=np.generic)

DEFAULT_TOLERANCE = 0.6
"""Pixels; measured in docs/backend.md."""

MOST_POINTS = 200
"""Of a simplified outline: more are no help to who corrects it."""

MOST_EXACT_POINTS = 20_000
"""Of an outline that is not simplified; an editor is slow with a tenth of them."""

_LEAST_OF_A_HOLE = 5
"""Points that it has, at the least, with those of its bridge."""

_LEAST_TOLERANCE = 0.5
_GROWTH = 1.3


def outline(part: Mask, tolerance: float = DEFAULT_TOLERANCE) -> Ring:
    """Trace a part (8-connected) of a photo, (h, w) bool, of at least one pixel, as one closed outline.

    A hole is cut out by a bridge: the outline goes from its nearest point to the hole, around it the other
    way, and back, so that filling by the nonzero rule (``label_studio.drawing.fill``, a browser's canvas)
    leaves it out.

    ``tolerance``: pixels by which the outline may be off the border (Douglas and Peucker), in which steps of
    one pixel count as a slope. What is narrower becomes its smallest rectangle, and such a hole is filled.
    0: the border itself. Where there are more than ``MOST_POINTS`` (without tolerance ``MOST_EXACT_POINTS``),
    the tolerance grows; holes that would have more by themselves are filled, the smallest first.
    """
    most = MOST_POINTS if tolerance else MOST_EXACT_POINTS
    borders = _borders(part, most // _LEAST_OF_A_HOLE)
    outer, holes = _simplified(borders, tolerance)
    while len(outer) + sum(len(hole) + 2 for hole in holes) > most:
        tolerance = max(tolerance, _LEAST_TOLERANCE) * _GROWTH
        outer, holes = _simplified(borders, tolerance)
    for hole in holes:
        outer = _bridged(outer, hole)
    return outer


def _borders(part: Mask, most_holes: int) -> list[Ring]:
    """Trace the outer border and then those of the longest holes, which run the other way round.

    OpenCV goes from centre to centre of the pixels at a border. With four pixels for each, two on a side,
    those of even places are at its left or upper border, and those of odd places at its right or lower one.
    """
    fourfold = cv2.resize(part.view(np.uint8), None, fx=2, fy=2, interpolation=cv2.INTER_NEAREST)
    found, tree = cv2.findContours(fourfold, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    outer, holes = int((tree[0, :, 3] < 0).argmax()), np.flatnonzero(tree[0, :, 3] >= 0)  # in no other, in it
    longest = sorted(holes.tolist(), key=lambda hole: -len(found[hole]))[:most_holes]
    return [_corners((found[place][:, 0] + 1) // 2) for place in [outer, *longest]]


def _corners(ring: npt.NDArray[np.int32]) -> Ring:
    """Keep the points at which a walk in steps of one pixel, or none, turns."""
    ring = ring[(ring != _from_second(ring)).any(axis=1)]
    steps = _from_second(ring) - ring
    turns = (steps != _from_last(steps)).any(axis=1)
    return np.asarray(ring[turns], dtype=np.float64)


def _from_second(ring: npt.NDArray[_Number]) -> npt.NDArray[_Number]:
    """Give a ring's items from the second on, the first last; NumPy's roll takes several times as long."""
    return np.concatenate([ring[1:], ring[:1]])


def _from_last(ring: npt.NDArray[_Number]) -> npt.NDArray[_Number]:
    return np.concatenate([ring[-1:], ring[:-1]])


def _simplified(borders: Sequence[Ring], tolerance: float) -> tuple[Ring, list[Ring]]:
    """Simplify the outer border, and the holes that are still some then."""
    if not tolerance:
        return borders[0], list(borders[1:])
    outer, *holes = (_fewer(border, tolerance) for border in borders)
    if len(borders[0]) == 4:  # upright, and as simple as can be
        outer = borders[0]
    elif len(outer) < 3:
        outer = cv2.boxPoints(cv2.minAreaRect(borders[0].astype(np.float32))).astype(np.float64)
    return outer, [hole for hole in holes if len(hole) >= 3]


def _fewer(border: Ring, tolerance: float) -> Ring:
    fewer = cv2.approxPolyDP(_sloping(border).astype(np.float32), tolerance, True)
    return fewer[:, 0].astype(np.float64)


def _sloping(border: Ring) -> Ring:
    """Go through the middle of steps of one pixel, and so straight along a flight of them.

    Kept are corners between longer sides. Simplified through corners of steps, a slope would be half a step
    too far in or out. The same centres of pixels are inside as before.
    """
    sides = _from_second(border) - border
    lengths = np.abs(sides).sum(axis=1, keepdims=True)
    half = sides / lengths / 2
    long = lengths[:, 0] >= 2
    points = np.stack([border, border + half, border + sides - half], axis=1)
    kept = np.stack([long & _from_last(long), np.ones_like(long), long], axis=1)
    return np.asarray(points[kept])


def _bridged(ring: Ring, hole: Ring) -> Ring:
    """Put a hole into a ring, at the point that is nearest to the hole's first."""
    near = int(((ring - hole[0]) ** 2).sum(axis=1).argmin())
    return np.concatenate([ring[: near + 1], hole, hole[:1], ring[near:]])
