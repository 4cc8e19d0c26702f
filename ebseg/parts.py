"""Connected parts of masks."""

import cv2
import numpy as np

from ebseg.ask import Mask


def touched(mask: Mask, seed: Mask) -> Mask:
    """Keep the parts (8-connected) of a mask that a seed touches; all (H, W) bool."""
    count, parts = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
    kept = np.zeros(count, dtype=bool)
    kept[parts[seed]] = True
    kept[0] = False  # what is in no part
    return np.asarray(kept[parts])
