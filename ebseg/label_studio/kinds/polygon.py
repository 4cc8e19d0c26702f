"""Polygons, filled by the nonzero rule as Label Studio's canvas does: what is gone around twice is filled."""

from ebseg.ask import Mask
from ebseg.label_studio.drawing import fill, share
from ebseg.label_studio.kinds.kind import Kind, Value


def _draw(value: Value, height: int, width: int) -> Mask:
    return fill([(share(x), share(y)) for x, y in value["points"]], height, width)


POLYGON = Kind("Polygon", key="points", draw=_draw)
