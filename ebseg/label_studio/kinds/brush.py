"""Brush strokes: a mask as run-length coded alpha."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from ebseg.ask import Mask
from ebseg.label_studio.brush import check, decode, encode
from ebseg.label_studio.drawing import pixels, solid
from ebseg.label_studio.kinds.kind import Kind, Value, Written
from ebseg.label_studio.prompts import Stroke
from ebseg.parts import Part


def _draw(value: Value, height: int, width: int) -> Mask:
    if value["rle"] == []:  # a stroke of which nothing is left
        return np.zeros((height, width), dtype=bool)
    return solid(decode(value["rle"], height, width))


def _write(part: Part, _: float) -> Written:
    rle = encode(part.whole * np.uint8(255))
    return Written({"format": "rle", "rle": rle}, bytes(rle))


def _prompt(region: Mapping[str, Any], positive: bool) -> Stroke:
    height, width = pixels(region["original_height"]), pixels(region["original_width"])
    return Stroke(check(region["value"]["rle"], height, width), height, width, positive)


BRUSH = Kind("Brush", key="rle", draw=_draw, write=_write, prompt=_prompt)
