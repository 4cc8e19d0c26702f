"""Vectors: lines and curves, which Label Studio does not fill."""

from ebseg.errors import AnnotationError
from ebseg.label_studio.drawing import Mask
from ebseg.label_studio.kinds.kind import Kind, Value


def _draw(value: Value, height: int, width: int) -> Mask:
    raise AnnotationError("a vector has no pixels; draw it with a brush or as a polygon")


VECTOR = Kind("Vector", key="vertices", draw=_draw)
