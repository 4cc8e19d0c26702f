"""Ellipses, which Label Studio turns around their centre, in pixels."""

import math

import cv2
import numpy as np

from ebseg.ask import Mask
from ebseg.label_studio.drawing import DECIMALS, radians, share
from ebseg.label_studio.kinds.kind import Kind, Value, Written
from ebseg.parts import Part

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


def _write(part: Part, _: float) -> Written:
    """Write the ellipse that lies and spreads as the part does: the one of the same moments, to the second.

    A filled ellipse's variance along a half-axis is a quarter of its square; a pixel's own is 1/12.
    """
    height, width = part.size
    moments = cv2.moments(part.mask.astype(np.uint8), binaryImage=True)
    area = moments["m00"]
    across, down, both = (moments[name] / area for name in ("mu20", "mu02", "mu11"))
    middle, apart = (across + down) / 2 + 1 / 12, math.hypot((across - down) / 2, both)
    value = {
        "x": (part.left + moments["m10"] / area + 0.5) / width * 100,
        "y": (part.top + moments["m01"] / area + 0.5) / height * 100,
        "radiusX": 2 * math.sqrt(middle + apart) / width * 100,
        "radiusY": 2 * math.sqrt(max(middle - apart, 1 / 12)) / height * 100,
        "rotation": math.degrees(math.atan2(2 * both, across - down)) / 2,
    }
    return Written(value, part.content)


ELLIPSE = Kind("Ellipse", key="radiusX", draw=_draw, write=_write, connected=True)
