"""What the kinds of regions share in drawing: numbers of other people's, outlines, alpha."""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ebseg.ask import Mask
from ebseg.errors import AnnotationError

DECIMALS = 6
"""Of a pixel, that count: what is on a pixel's centre in percent is there in pixels too."""

MOST_POINTS = 100_000
"""Corners of one outline. A polygon around a mask, pixel by pixel, has some thousands."""

_FARTHEST = 1_000_000.0
"""Percent; farther out, numbers run over and are no place any more."""

_MOST_PIXELS = 1 << 31


def solid(alpha: npt.NDArray[np.uint8]) -> Mask:
    """Tell which pixels belong to a painted region: from half of its own largest alpha on.

    The edges of a person's strokes are antialiased, so alpha 1 at a stroke's edge is not in it. But the
    editor shows every alpha above 0, and some write masks of another strength than 255: the SDK's conversion
    of contours writes 100. ``alpha``: (H, W) uint8.
    """
    largest = int(alpha.max(initial=0))
    return np.asarray(alpha >= max(-(-largest // 2), 1))


def share(percent: float) -> float:
    """Turn a coordinate in percent into a share. Raises ValueError for one that is nowhere near a photo."""
    if not -_FARTHEST <= percent <= _FARTHEST:  # NaN neither
        raise ValueError(f"{percent:g} percent is not a place")
    return percent / 100


def radians(degrees: float) -> float:
    """Read how far something is turned. Raises ValueError for what is no angle."""
    if not math.isfinite(degrees):
        raise ValueError(f"{degrees:g} degrees is not an angle")
    return math.radians(degrees)


def pixels(size: float | str) -> int:
    """Read a width or a height, which some write as text. Raises ValueError for one that no photo has."""
    number = float(size)
    if not (0 < number < _MOST_PIXELS and number.is_integer()):
        raise ValueError(f"{number:g} is not a photo's size")
    return int(number)


def fill(points: Sequence[tuple[float, float]], height: int, width: int) -> Mask:
    """Fill a closed outline, given as shares (x, y), by the nonzero rule: (height, width) bool.

    A pixel belongs if its centre is inside; a centre on the edge between two outlines belongs to the one on
    its right, or below. Along each row of centres, an edge that goes down across it adds one turn to all that
    lies right of the crossing, and an edge that goes up takes one away. Raises AnnotationError for an outline
    of more than ``MOST_POINTS``: each costs as much as the rows that it crosses.
    """
    if len(points) > MOST_POINTS:
        raise AnnotationError(
            f"its outline has {len(points)} points, more than {MOST_POINTS}; simplify it, or use a brush"
        )
    mask = np.zeros((height, width), dtype=bool)
    if len(points) < 3:
        return mask
    outline = np.round(np.array(points, dtype=np.float64) * (width, height), DECIMALS)
    left, top = np.clip(np.ceil(outline.min(axis=0) - 0.5), 0, (width, height)).astype(np.intp)
    right, bottom = np.clip(np.ceil(outline.max(axis=0) - 0.5), 0, (width, height)).astype(np.intp)
    turns = np.zeros((bottom - top, right - left + 1), dtype=np.int32)  # of the box that the outline is in
    for (x1, y1), (x2, y2) in zip(outline, np.roll(outline, -1, axis=0), strict=True):
        first, last = np.clip(np.ceil(np.sort((y1, y2)) - 0.5), top, bottom).astype(np.intp)
        rows = np.arange(first, last)
        if rows.size == 0:
            continue
        crossings = np.round(x1 + (rows + 0.5 - y1) * ((x2 - x1) / (y2 - y1)), DECIMALS)
        columns = np.clip(np.ceil(crossings - 0.5), left, right).astype(np.intp)
        turns[rows - top, columns - left] += 1 if y2 > y1 else -1
    mask[top:bottom, left:right] = np.cumsum(turns, axis=1, out=turns)[:, :-1] != 0
    return mask
