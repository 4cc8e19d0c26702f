"""What the kinds of regions share in drawing: percent, outlines, alpha."""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Mask = npt.NDArray[np.bool_]
"""(H, W): which pixels belong."""

DECIMALS = 6
"""Of a pixel, that count: what is on a pixel's centre in percent is there in pixels too."""

_SOLID = 128


def solid(alpha: npt.NDArray[np.uint8]) -> Mask:
    """Tell which pixels belong to a painted region, whose edges are antialiased: from half alpha on.

    ``alpha``: (H, W) uint8.
    """
    return np.asarray(alpha >= _SOLID)


def share(percent: float) -> float:
    """Turn a coordinate in percent into a share. Raises ValueError for one that is not finite."""
    if not math.isfinite(percent):
        raise ValueError(f"{percent} is not a place")
    return percent / 100


def fill(points: Sequence[tuple[float, float]], height: int, width: int) -> Mask:
    """Fill a closed outline, given as shares (x, y), by the nonzero rule: (height, width) bool.

    A pixel belongs if its centre is inside; a centre on the edge between two outlines belongs to the one on
    its right, or below. Along each row of centres, an edge that goes down across it adds one turn to all that
    lies right of the crossing, and an edge that goes up takes one away.
    """
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
    mask[top:bottom, left:right] = np.cumsum(turns, axis=1)[:, :-1] != 0
    return mask
