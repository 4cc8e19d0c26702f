"""Connected parts of masks."""

from dataclasses import dataclass

import cv2
import numpy as np

from ebseg.ask import Mask


@dataclass(frozen=True, eq=False)
class Part:
    """Some pixels of a photo.

    ``mask``: (h, w) bool, a piece of the photo that holds all of them. ``top``, ``left``: its first row and
    column. ``size``: the photo's (H, W).
    """

    mask: Mask
    top: int
    left: int
    size: tuple[int, int]

    @property
    def box(self) -> tuple[slice, slice]:
        """Rows and columns of the photo that ``mask`` is."""
        height, width = self.mask.shape
        return slice(self.top, self.top + height), slice(self.left, self.left + width)

    @property
    def content(self) -> bytes:
        """Bytes that are others for other pixels of the same photo."""
        rows, columns = self.box
        return f"{rows} {columns} ".encode() + np.packbits(self.mask).tobytes()

    @property
    def whole(self) -> Mask:
        """Its pixels in the whole photo: (H, W) bool."""
        whole = np.zeros(self.size, dtype=bool)
        whole[self.box] = self.mask
        return whole


def whole(mask: Mask) -> Part:
    """Take a mask (H, W) bool as it is."""
    height, width = mask.shape
    return Part(mask, 0, 0, (height, width))


def connected(mask: Mask, *, least: float, most: int) -> list[Part]:
    """Take a mask (H, W) bool apart into its connected parts (8-connected), the largest first.

    Left out are those of fewer than ``least`` pixels, and all but the ``most`` largest.
    """
    height, width = mask.shape
    x, y, across, down = cv2.boundingRect(mask.view(np.uint8))
    if not across:
        return []
    around = mask[y : y + down, x : x + across]
    _, numbers, boxes, _ = cv2.connectedComponentsWithStats(around.view(np.uint8), connectivity=8)
    areas = boxes[1:, cv2.CC_STAT_AREA]
    order = np.argsort(-areas, kind="stable")[:most] + 1
    parts = []
    for number in order[areas[order - 1] >= least].tolist():
        left, top, w, h, _ = boxes[number].tolist()
        part = numbers[top : top + h, left : left + w] == number
        parts.append(Part(part, y + top, x + left, (height, width)))
    return parts


def touched(mask: Mask, seed: Mask) -> Mask:
    """Keep the parts (8-connected) of a mask that a seed touches; all (H, W) bool."""
    count, parts = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
    kept = np.zeros(count, dtype=bool)
    kept[parts[seed]] = True
    kept[0] = False  # what is in no part
    return np.asarray(kept[parts])
