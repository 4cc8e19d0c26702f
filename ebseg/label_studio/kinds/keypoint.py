"""Key points: clicks, which are no area."""

from collections.abc import Mapping
from typing import Any

from ebseg.label_studio.drawing import share
from ebseg.label_studio.kinds.kind import Kind
from ebseg.label_studio.prompts import Point


def _prompt(region: Mapping[str, Any], positive: bool) -> Point:
    value = region["value"]
    radius = share(value.get("width") or 0) / 2
    return Point(share(value["x"]), share(value["y"]), radius, positive)


KEYPOINT = Kind("KeyPoint", key="width", prompt=_prompt)
