"""Outlines of masks, at the borders of their pixels."""

from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt

from ebseg.ask import Mask

Ring = npt.NDArray[np.float64]
"""(points, 2): x and y in pixels from the upper left corner of the mask; the last joins the first."""

DEFAULT_TOLERANCE = 0.75
"""Pixels; measured in docs/backend.md. A slanting edge, a flight of steps, becomes straight from 0.71 on."""

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
    leaves it out. ``tolerance``: pixels by which a point of the border may be off (Douglas and Peucker); what
    is narrower becomes its smallest rectangle, and such a hole is filled. 0: the border itself. Where there
    are more than ``MOST_POINTS`` (without tolerance ``MOST_EXACT_POINTS``), the tolerance grows; holes that
    would have more by themselves are filled, the smallest first.
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
    fourfold = part.astype(np.uint8).repeat(2, axis=0).repeat(2, axis=1)
    found, tree = cv2.findContours(fourfold, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    outer, holes = int((tree[0, :, 3] < 0).argmax()), np.flatnonzero(tree[0, :, 3] >= 0)  # in no other, in it
    longest = sorted(holes.tolist(), key=lambda hole: -len(found[hole]))[:most_holes]
    return [_corners((found[place][:, 0] + 1) // 2) for place in [outer, *longest]]


def _corners(ring: npt.NDArray[np.int32]) -> Ring:
    """Keep the points at which a walk in steps of one pixel, or none, turns."""
    ring = ring[(ring != np.roll(ring, -1, axis=0)).any(axis=1)]
    steps = np.roll(ring, -1, axis=0) - ring
    turns = (steps != np.roll(steps, 1, axis=0)).any(axis=1)
    return np.asarray(ring[turns], dtype=np.float64)


def _simplified(borders: Sequence[Ring], tolerance: float) -> tuple[Ring, list[Ring]]:
    """Simplify the outer border, and the holes that are still some then."""
    if not tolerance:
        return borders[0], list(borders[1:])
    outer, *holes = (cv2.approxPolyDP(ring.astype(np.float32), tolerance, True)[:, 0] for ring in borders)
    if len(outer) < 3:
        outer = _smallest_rectangle(borders[0])
    return outer.astype(np.float64), [hole.astype(np.float64) for hole in holes if len(hole) >= 3]


def _smallest_rectangle(ring: Ring) -> npt.NDArray[np.floating]:
    if len(ring) == 4:
        return ring
    return np.asarray(cv2.boxPoints(cv2.minAreaRect(ring.astype(np.float32))))


def _bridged(ring: Ring, hole: Ring) -> Ring:
    """Put a hole into a ring, at the point that is nearest to the hole's first."""
    near = int(((ring - hole[0]) ** 2).sum(axis=1).argmin())
    return np.concatenate([ring[: near + 1], hole, hole[:1], ring[near:]])
