"""COCO's masks, run-length coded or as polygons, read with care.

pycocotools writes them. Its own ``decode`` leaves the rest of a mask as the memory happened to be where the
runs end early, and warns with NumPy 2.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco_mask

_LONGEST = 5_000_000
"""Pixels of an outline; pycocotools takes 40 bytes for each."""


def decode(counts: str | Sequence[int], size: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """Decode a mask (H, W).

    ``counts``: COCO's compressed text or plain run lengths; outside and inside by turns, down the columns.
    ``size``: height, width. Raises ValueError for a mask that is damaged or of another size.
    """
    height, width = size
    runs = _decompress(counts) if isinstance(counts, str) else np.array(counts, np.int64)
    if (runs < 0).any() or runs.sum() != height * width:
        raise ValueError(f"its runs do not make {width} x {height} pixels")
    inside = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    return inside.reshape(width, height).T


def fill(polygons: Sequence[Sequence[float]], size: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """Fill polygons, as pycocotools does, into a mask (H, W); those of fewer than three corners are nothing.

    ``polygons``: x, y, x, y, ... in pixels, of at most a million each. ``size``: height, width. Raises
    ValueError for an x without its y, and for outlines whose length no photo's object has.
    """
    height, width = size
    areas = [polygon for polygon in polygons if len(polygon) >= 6]
    if any(len(polygon) % 2 for polygon in areas):
        raise ValueError("a polygon has an x without its y")
    if sum(map(_length, areas)) > _LONGEST:
        raise ValueError(f"its polygons' outlines are longer than {_LONGEST} pixels")
    if not areas:
        return np.zeros(size, np.bool_)
    filled = coco_mask.merge(coco_mask.frPyObjects(areas, height, width))
    return decode(filled["counts"].decode(), size)


def _length(polygon: Sequence[float]) -> float:
    """Measure an outline along the longer of its sides' extents, as pycocotools steps."""
    corners = np.reshape(polygon, (-1, 2))
    return float(np.abs(corners - np.roll(corners, 1, axis=0)).max(axis=1).sum())


def _decompress(text: str) -> npt.NDArray[np.int64]:
    """Read run lengths from text.

    A letter minus 48 holds 5 bits of a number, the lowest first, and 32 where more follow; 16 in a number's
    last letter is the sign. From the fourth on, a number is the difference to the run before the last.
    """
    letters = np.frombuffer(text.encode(), np.uint8).astype(np.int64) - 48
    if not len(letters) or letters.min() < 0 or letters.max() > 63 or letters[-1] & 32:
        raise ValueError("not COCO's run-length code")
    ends = np.flatnonzero(letters & 32 == 0)
    starts = np.append(0, ends[:-1] + 1)
    places = np.arange(len(letters)) - np.repeat(starts, ends + 1 - starts)
    if places.max() > 6:  # 35 bits are more than any mask has pixels
        raise ValueError("not COCO's run-length code")
    runs = np.add.reduceat((letters & 31) << 5 * places, starts)
    runs -= np.where(letters[ends] & 16, 32 << 5 * places[ends], 0)
    for first in (1, 2):
        runs[first::2] = runs[first::2].cumsum()
    return runs
