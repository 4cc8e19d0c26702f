"""Brush strokes: a mask as run-length coded alpha."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from ebseg.label_studio.brush import decode, encode
from ebseg.label_studio.drawing import Mask, solid
from ebseg.label_studio.kinds.kind import Kind, Value, Written
from ebseg.label_studio.prompts import Stroke


def _draw(value: Value, height: int, width: int) -> Mask:
    return solid(decode(value["rle"], height, width))


def _write(mask: Mask) -> list[Written]:
    rle = encode(mask.astype(np.uint8) * 255)
    return [Written({"format": "rle", "rle": rle}, mask, bytes(rle))]


def _prompt(region: Mapping[str, Any], positive: bool) -> Stroke:
    return Stroke(_draw(region["value"], region["original_height"], region["original_width"]), positive)


BRUSH = Kind("Brush", key="rle", draw=_draw, write=_write, prompt=_prompt)
