"""Label Studio's regions to label maps, to the pixel."""

import base64
import binascii
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL.PngImagePlugin import PngImageFile

from ebseg.errors import AnnotationError
from ebseg.label_studio import brush
from ebseg.label_studio.label_config import Control
from ebseg.label_studio.regions import STROKE_THRESHOLD, corners, share

_PNG_URL = "data:image/png;base64,"
_DECIMALS = 6  # of a pixel: what is on a pixel's centre in percent is there in pixels too

_WRONG = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError)
"""What reading a region that is no region raises."""


@dataclass(frozen=True, eq=False)
class Painted:
    """What regions show.

    ``label_map``: (H, W) int16, index into the control's labels, -1 where no region is. ``unknown``: labels
    of regions that the control does not have, "" for a region without a label; each once, in order.
    """

    label_map: npt.NDArray[np.int16]
    unknown: tuple[str, ...]


@dataclass
class _Region:
    """A region, put together from all that Label Studio says under its id."""

    name: str
    value: dict[str, Any] = field(default_factory=dict)
    sizes: set[tuple[Any, Any]] = field(default_factory=set)
    rotation: Any = 0

    @property
    def labels(self) -> list[str]:
        """Labels, from ``brushlabels``, ``labels`` and the like."""
        found = (value for key, value in self.value.items() if key.endswith("labels"))
        return [str(name) for names in found for name in names]


def paint(result: Sequence[Mapping[str, Any]], control: Control, height: int, width: int) -> Painted:
    """Turn an annotation's (or a prediction's) regions into a label map of a photo of this size.

    Regions come in order, and later ones paint over earlier ones: brush strokes (from alpha 128 on),
    bitmasks (likewise), polygons, rectangles and ellipses on the control's image, whichever control they are
    made with, so that ``<Labels>`` with ``<Brush>`` or ``<Polygon>`` count too. A pixel belongs to a shape
    if its centre is inside; a centre on the edge between two belongs to the one on its right, or below.
    Polygons are filled by the nonzero rule, as Label Studio's canvas does: what an outline goes around twice
    is filled. A region with several labels shows the first that the control has; the place of one whose label
    the control does not have becomes -1, as it shows none of them. Everything else is left out: key points,
    choices, relations, text.

    Raises AnnotationError, which names the region, for one that is damaged, made on a photo of another size
    or on a turned photo, and for a vector, which has no pixels.
    """
    label_map = np.full((height, width), -1, dtype=np.int16)
    unknown: dict[str, None] = {}
    keys = [label.key for label in control.labels]
    for region in _regions(result, control.to_name):
        try:
            mask = _mask(region, height, width)
            labels = region.labels
        except (AnnotationError, *_WRONG) as error:
            why = str(error) if isinstance(error, AnnotationError) else f"it cannot be read ({error!r})"
            raise AnnotationError(f'region "{region.name}": {why}') from error
        if mask is None:
            continue
        known = [label for label in map(control.label, labels) if label is not None]
        if not known:
            unknown[labels[0] if labels else ""] = None
        label_map[mask] = keys.index(known[0].key) if known else -1
    return Painted(label_map, tuple(unknown))


def _regions(result: Sequence[Mapping[str, Any]], to_name: str) -> list[_Region]:
    """Put together what belongs to one region.

    ``<Labels>`` with ``<Brush>`` makes two results of one id, and so do choices that belong to a region.
    Results of one id that contradict each other, which careless imports make, are regions of their own.
    """
    regions: list[_Region] = []
    newest: dict[str, _Region] = {}
    for position, item in enumerate(result):
        if not isinstance(item, Mapping):
            raise AnnotationError(
                f"result {position} is no region but {type(item).__name__}; annotate it again"
            )
        value = item.get("value")
        if item.get("to_name") != to_name or not isinstance(value, Mapping):
            continue
        name = str(item.get("id") or f"number {position + 1}")
        region = newest.get(name)
        if region is None or any(region.value.get(key, value[key]) != value[key] for key in value):
            region = newest[name] = _Region(name)
            regions.append(region)
        region.value |= value
        region.sizes.add((item.get("original_width"), item.get("original_height")))
        region.rotation = region.rotation or item.get("image_rotation")
    return regions


def _mask(region: _Region, height: int, width: int) -> npt.NDArray[np.bool_] | None:
    """Draw a region: (height, width) bool; None for what is no area."""
    value = region.value
    if "vertices" in value:
        raise AnnotationError("a vector has no pixels; draw it with a brush or as a polygon")
    draw = next((draw for key, draw in _DRAW.items() if key in value), None)
    if draw is None:
        return None
    if region.rotation:
        raise AnnotationError(
            f"it was made on a photo turned by {region.rotation} degrees, which is not supported; turn the "
            "photo back and annotate it again"
        )
    for made_on in region.sizes - {(None, None)}:
        if made_on != (width, height):
            raise AnnotationError(
                f"it was made on a photo of {made_on[0]} x {made_on[1]} pixels, but the photo has "
                f"{width} x {height}; was the photo replaced? Annotate it again"
            )
    return draw(value, height, width)


def _brush(value: Mapping[str, Any], height: int, width: int) -> npt.NDArray[np.bool_]:
    return brush.decode(value["rle"], height, width) >= STROKE_THRESHOLD


def _bitmask(value: Mapping[str, Any], height: int, width: int) -> npt.NDArray[np.bool_]:
    url = value["imageDataURL"]
    if not url.startswith(_PNG_URL):
        raise AnnotationError(f"its bitmask must begin with {_PNG_URL}, not with {url[:30]!r}")
    try:
        image = PngImageFile(io.BytesIO(base64.b64decode(url[len(_PNG_URL) :], validate=True)))
        if image.size != (width, height):  # before it is decoded, which takes memory
            raise AnnotationError(
                f"its bitmask is {image.size[0]} x {image.size[1]} pixels, but the photo has "
                f"{width} x {height}; was the photo replaced? Annotate it again"
            )
        if not image.has_transparency_data:
            raise AnnotationError("its bitmask has no transparent pixels; it must be black on transparent")
        return np.asarray(image.convert("RGBA"))[..., 3] >= STROKE_THRESHOLD
    except (OSError, SyntaxError, binascii.Error) as error:
        raise AnnotationError(f"its bitmask is damaged ({error}); annotate it again") from error


def _polygon(value: Mapping[str, Any], height: int, width: int) -> npt.NDArray[np.bool_]:
    return _fill([(share(x), share(y)) for x, y in value["points"]], height, width)


def _rectangle(value: Mapping[str, Any], height: int, width: int) -> npt.NDArray[np.bool_]:
    return _fill(corners(value, width, height), height, width)


def _ellipse(value: Mapping[str, Any], height: int, width: int) -> npt.NDArray[np.bool_]:
    """Draw an ellipse, which is turned around its centre, in pixels."""
    x, y = share(value["x"]) * width, share(value["y"]) * height
    radius_x, radius_y = share(value["radiusX"]) * width, share(value["radiusY"]) * height
    if radius_x <= 0 or radius_y <= 0:
        return np.zeros((height, width), dtype=bool)
    turn = math.radians(value.get("rotation") or 0)
    right, down = np.arange(width) + 0.5 - x, (np.arange(height) + 0.5 - y)[:, None]
    along = (right * math.cos(turn) + down * math.sin(turn)) / radius_x
    across = (down * math.cos(turn) - right * math.sin(turn)) / radius_y
    return np.asarray(along**2 + across**2 <= 1 + 10.0**-_DECIMALS)


_DRAW = {
    "rle": _brush,
    "imageDataURL": _bitmask,
    "points": _polygon,
    "radiusX": _ellipse,
    "height": _rectangle,  # key points have a width too
}
"""How a region is drawn whose value has this key."""


def _fill(points: Sequence[tuple[float, float]], height: int, width: int) -> npt.NDArray[np.bool_]:
    """Fill a closed outline, given as shares (x, y), by the nonzero rule.

    Along each row of pixels' centres, an edge that goes down across it adds one turn to all that lies right
    of the crossing, and an edge that goes up takes one away.
    """
    mask = np.zeros((height, width), dtype=bool)
    if len(points) < 3:
        return mask
    outline = np.round(np.array(points, dtype=np.float64) * (width, height), _DECIMALS)
    left, top = np.clip(np.ceil(outline.min(axis=0) - 0.5), 0, (width, height)).astype(np.intp)
    right, bottom = np.clip(np.ceil(outline.max(axis=0) - 0.5), 0, (width, height)).astype(np.intp)
    turns = np.zeros((bottom - top, right - left + 1), dtype=np.int32)  # of the box that the outline is in
    for (x1, y1), (x2, y2) in zip(outline, np.roll(outline, -1, axis=0), strict=True):
        first, last = np.clip(np.ceil(np.sort((y1, y2)) - 0.5), top, bottom).astype(np.intp)
        rows = np.arange(first, last)
        if rows.size == 0:
            continue
        crossings = np.round(x1 + (rows + 0.5 - y1) * ((x2 - x1) / (y2 - y1)), _DECIMALS)
        columns = np.clip(np.ceil(crossings - 0.5), left, right).astype(np.intp)
        turns[rows - top, columns - left] += 1 if y2 > y1 else -1
    mask[top:bottom, left:right] = np.cumsum(turns, axis=1)[:, :-1] != 0
    return mask
