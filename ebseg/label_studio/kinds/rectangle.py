"""Rectangles, which Label Studio turns around their top left corner, in pixels."""

import math
from collections.abc import Mapping
from typing import Any

from ebseg.ask import Mask
from ebseg.label_studio.drawing import fill, pixels, radians, share
from ebseg.label_studio.kinds.kind import Kind, Value, Written
from ebseg.label_studio.prompts import Box
from ebseg.parts import Part


def _draw(value: Value, height: int, width: int) -> Mask:
    return fill(_corners(value, height, width), height, width)


def _write(part: Part, _: float) -> Written:
    height, width = part.size
    h, w = part.mask.shape
    value = {
        "x": part.left / width * 100,
        "y": part.top / height * 100,
        "width": w / width * 100,
        "height": h / height * 100,
        "rotation": 0,
    }
    return Written(value, part.content)


def _prompt(region: Mapping[str, Any], positive: bool) -> Box:
    height, width = pixels(region["original_height"]), pixels(region["original_width"])
    return Box(_corners(region["value"], height, width), positive)


def _corners(value: Value, height: int, width: int) -> tuple[tuple[float, float], ...]:
    """Give the four corners (x, y) as shares."""
    left, top = share(value["x"]) * width, share(value["y"]) * height
    right, down = share(value["width"]) * width, share(value["height"]) * height
    turn = radians(value.get("rotation") or 0)
    cos, sin = math.cos(turn), math.sin(turn)
    offsets = ((0, 0), (right, 0), (right, down), (0, down))
    return tuple(((left + x * cos - y * sin) / width, (top + x * sin + y * cos) / height) for x, y in offsets)


RECTANGLE = Kind("Rectangle", key="height", draw=_draw, write=_write, connected=True, prompt=_prompt)
