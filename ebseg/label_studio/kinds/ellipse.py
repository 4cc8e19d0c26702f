"""Ellipses, which Label Studio turns around their centre, in pixels."""

import math

import numpy as np

from ebseg.ask import Mask
from ebseg.label_studio.drawing import DECIMALS, radians, share
from ebseg.label_studio.kinds.kind import Kind, Value

_EXACT = 10.0**-DECIMALS


def _draw(value: Value, height: int, width: int) -> Mask:
    x, y = share(value["x"]) * width, share(value["y"]) * height
    radius_x, radius_y = share(value["radiusX"]) * width, share(value["radiusY"]) * height
    if min(radius_x, radius_y) < _EXACT:
        return np.zeros((height, width), dtype=bool)
    turn = radians(value.get("rotation") or 0)
    right, down = np.arange(width) + 0.5 - x, (np.arange(height) + 0.5 - y)[:, None]
    along = (right * math.cos(turn) + down * math.sin(turn)) / radius_x
    across = (down * math.cos(turn) - right * math.sin(turn)) / radius_y
    return np.asarray(along**2 + across**2 <= 1 + _EXACT)


ELLIPSE = Kind("Ellipse", key="radiusX", draw=_draw)
