"""Polygons, filled by the nonzero rule as Label Studio's canvas does: what is gone around twice is filled."""

from ebseg.ask import Mask
from ebseg.label_studio.drawing import fill, share
from ebseg.label_studio.kinds.kind import Kind, Value, Written
from ebseg.outlines import outline
from ebseg.parts import Part


def _draw(value: Value, height: int, width: int) -> Mask:
    return fill([(share(x), share(y)) for x, y in value["points"]], height, width)


def _write(part: Part, tolerance: float) -> Written:
    height, width = part.size
    places = outline(part.mask, tolerance) + (part.left, part.top)
    return Written({"points": (places / (width, height) * 100).tolist(), "closed": True}, part.content)


POLYGON = Kind("Polygon", key="points", draw=_draw, write=_write, connected=True)
