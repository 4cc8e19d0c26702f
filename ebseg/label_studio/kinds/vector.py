"""Vectors: lines and curves, which Label Studio fills where they are closed.

A point's ``prevPointId`` names the one before it; without it that is the one before it in the list. In a
closed vector the last point comes before the first one, or a straight line closes it. The way between two
points is a Bezier curve where one of them has a control point on its side.
The source is the editor's ``VectorShape``, 1.23.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ebseg.ask import Mask
from ebseg.errors import AnnotationError
from ebseg.label_studio.drawing import MOST_POINTS, fill, share
from ebseg.label_studio.kinds.kind import Kind, Value

Vertex = Mapping[str, Any]
Place = npt.NDArray[np.float64]
"""(2,): x and y as shares."""

_STEPS = 64
"""Straight lines that stand for a curve: half a pixel off at most, where it goes around a large photo."""

_PULL = 0.3
"""Where a curve has a control point at one end only, the other's is at this share of the way between them."""


def _draw(value: Value, height: int, width: int) -> Mask:
    if not value.get("closed"):
        raise AnnotationError("an open vector has no pixels; close it, or draw with a brush or a polygon")
    vertices = value["vertices"]
    if len(vertices) * _STEPS > MOST_POINTS:
        raise AnnotationError(
            f"it has {len(vertices)} points, more than {MOST_POINTS // _STEPS}; simplify it, or use a brush"
        )
    ring = _in_order(vertices)
    sides = [_side(start, end) for start, end in zip(ring[-1:] + ring[:-1], ring, strict=True)]
    return fill([(x, y) for side in sides for x, y in side.tolist()], height, width)


def _in_order(vertices: Sequence[Vertex]) -> list[Vertex]:
    """Put the points in the order of the outline."""
    names = [vertex.get("id") or f"number {position}" for position, vertex in enumerate(vertices)]
    listed = zip(vertices, [None, *names[:-1]], strict=True)
    before = [vertex.get("prevPointId") or name for vertex, name in listed]
    known = set(names)
    after = {name: place for place, name in enumerate(before) if name in known}
    order: list[int] = []
    place: int | None = next((place for place, name in enumerate(before) if name not in known), 0)
    while place is not None and len(order) < len(vertices):
        order.append(place)
        place = after.get(names[place])
    if len(set(order)) < len(vertices):
        raise AnnotationError("it branches or has several parts, and so no inside; draw it as one outline")
    return [vertices[place] for place in order]


def _side(start: Vertex, end: Vertex) -> npt.NDArray[np.float64]:
    """Draw the way from one point to the next, without the first point: (points, 2)."""
    first, last = _place(start), _place(end)
    leaving, arriving = _control(start, "controlPoint2"), _control(end, "controlPoint1")
    if leaving is None and arriving is None:
        return last[None]
    pull = _PULL * (last - first)
    leaving = first + pull if leaving is None else leaving
    arriving = last - pull if arriving is None else arriving
    t = np.linspace(0, 1, _STEPS + 1)[1:, None]
    s = 1 - t
    return np.asarray(s**3 * first + 3 * s**2 * t * leaving + 3 * s * t**2 * arriving + t**3 * last)


def _control(vertex: Vertex, name: str) -> Place | None:
    point = vertex.get(name)
    return _place(point) if vertex.get("isBezier") and point else None


def _place(point: Vertex) -> Place:
    return np.array([share(point["x"]), share(point["y"])])


VECTOR = Kind("Vector", key="vertices", draw=_draw)
