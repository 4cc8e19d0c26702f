"""Label maps to Label Studio's regions and predictions, and what an interactive request asks for."""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy import ndimage

from ebseg.errors import AnnotationError
from ebseg.label_studio import brush
from ebseg.label_studio.label_config import Control, Label

_EIGHT_NEIGHBOURS = np.ones((3, 3), dtype=int)
STROKE_THRESHOLD = 128
"""Alpha from which a pixel belongs to a person's brush stroke, whose edges are antialiased."""


@dataclass(frozen=True)
class Region:
    """One region: ``result`` exactly as Label Studio stores it, and its area in pixels."""

    result: dict[str, Any]
    area: int


def masks_to_regions(
    label_map: NDArray[np.int16], scores: NDArray[np.float32], control: Control, *, min_area: float = 0.0
) -> list[Region]:
    """Turn a label map into regions, one for each label present, in the control's order.

    ``label_map``: (H, W) int, index into ``control.labels``, -1 where unsure. ``scores``: (H, W) float,
    0..1; a region's score is its mean over the region. ``min_area``: share of the photo's pixels,
    0..1, below which a label is dropped. A region's id is derived from its content, so the same prediction
    has the same ids. Raises AnnotationError if the scores of a region are not finite.
    """
    regions = []
    areas = np.bincount(label_map[label_map >= 0])
    for index in np.flatnonzero(areas).tolist():
        if areas[index] < min_area * label_map.size:
            continue
        mask = label_map == index
        label = control.labels[index]
        score = float(scores[mask].mean(dtype=np.float64))
        if not math.isfinite(score):
            raise AnnotationError(f'the scores of "{label.value}" are not finite: the model is damaged')
        regions.append(mask_region(mask, label, score, control))
    return regions


def mask_region(mask: NDArray[np.bool_], label: Label, score: float, control: Control) -> Region:
    """Make one region of a control from a mask (H, W) bool and a score 0..1."""
    height, width = mask.shape
    rle = brush.encode(mask.astype(np.uint8) * 255)
    content = f"{control.name}\n{label.key}\n{width}\n".encode() + bytes(rle)
    result = {
        "id": hashlib.sha256(content).hexdigest()[:10],
        "from_name": control.name,
        "to_name": control.to_name,
        "type": control.kind,
        "value": {"format": "rle", "rle": rle, control.kind: [label.key]},
        "original_width": width,
        "original_height": height,
        "image_rotation": 0,
        "score": score,
    }
    return Region(result, int(np.count_nonzero(mask)))


def prediction(regions: Sequence[Region], model_version: str) -> dict[str, Any]:
    """Make a task's prediction. Its score, 0.0 without regions, is their mean weighted by area."""
    total = sum(region.area for region in regions)
    weighted = sum(region.area * region.result["score"] for region in regions)
    return {
        "result": [region.result for region in regions],
        "score": float(weighted / total) if total else 0.0,
        "model_version": model_version,
    }


@dataclass(frozen=True)
class Point:
    """A click: place and radius as shares 0..1 of the photo's width and height (radius: of its width)."""

    x: float
    y: float
    radius: float
    positive: bool

    def draw(self, height: int, width: int) -> NDArray[np.bool_]:
        """Draw the disc in a photo of this size, at least one pixel: (height, width) bool."""
        x = min(max(int(self.x * width), 0), width - 1)
        y = min(max(int(self.y * height), 0), height - 1)
        rows, columns = np.ogrid[:height, :width]
        radius = self.radius * width
        return np.asarray((rows - y) ** 2 + (columns - x) ** 2 <= radius**2)


@dataclass(frozen=True)
class Box:
    """A rectangle, possibly turned: four corners (x, y) as shares 0..1 of width and height."""

    corners: tuple[tuple[float, float], ...]
    positive: bool

    def draw(self, height: int, width: int) -> NDArray[np.bool_]:
        """Draw the rectangle and its outline in a photo of this size: (height, width) bool."""
        canvas = Image.new("1", (width, height))
        ImageDraw.Draw(canvas).polygon([(x * width, y * height) for x, y in self.corners], fill=1, outline=1)
        return np.array(canvas)


@dataclass(frozen=True, eq=False)
class Stroke:
    """A brush stroke: (H, W) bool."""

    mask: NDArray[np.bool_]
    positive: bool

    def draw(self, height: int, width: int) -> NDArray[np.bool_]:
        """Return the stroke. Raises AnnotationError if it was drawn on a photo of another size."""
        if self.mask.shape != (height, width):
            raise AnnotationError(
                f"the stroke is {self.mask.shape[1]} x {self.mask.shape[0]} pixels but the photo is "
                f"{width} x {height}; reload the task"
            )
        return self.mask


@dataclass(frozen=True)
class InteractiveRequest:
    """What a smart tool asks: the mask of one label, near the prompts if there are any."""

    label: Label
    prompts: tuple[Point | Box | Stroke, ...]


def parse_context(context: Mapping[str, Any] | None, control: Control) -> InteractiveRequest | None:
    """Read ``params.context`` of a /predict call; None where it asks nothing interactive.

    The prompts' label is looked up in ``control``, by key or value: keypoints and rectangles come from
    controls of their own whose labels repeat the mask control's. Raises AnnotationError for damaged
    regions, for tools other than keypoint, rectangle and brush, and for a label that ``control`` lacks.
    """
    try:
        regions = (context or {}).get("result")
        if not regions:
            return None
        names = {name for region in regions for name in _label_names(region)}
        prompts = tuple(_prompt(region) for region in regions)
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise AnnotationError(f"the smart tool's regions cannot be read ({error!r}); draw again") from error
    if len(names) != 1:
        raise AnnotationError(
            f"a smart tool must ask for one label, got {sorted(names)}; choose one and draw again"
        )
    name = names.pop()
    label = control.label(name)
    if label is None:
        known = ", ".join(f'"{label.key}"' for label in control.labels)
        raise AnnotationError(
            f'the smart tool asks for "{name}", but {control.kind} "{control.name}" has {known}; '
            "give both tags the same labels"
        )
    return InteractiveRequest(label, prompts)


def select_region(mask: NDArray[np.bool_], request: InteractiveRequest) -> NDArray[np.bool_]:
    """Keep the connected parts of a label's mask that the prompts ask for.

    ``mask``: (H, W) bool. Parts (8-connected) touched by a positive prompt stay, all of them if no prompt is
    positive; parts touched by a negative prompt go. Returns (H, W) bool, possibly empty.
    """
    parts, _ = ndimage.label(mask, structure=_EIGHT_NEIGHBOURS)
    wanted: set[int] = set()
    unwanted: set[int] = set()
    for prompt in request.prompts:
        touched = set(np.unique(parts[prompt.draw(*mask.shape)]).tolist())
        (wanted if prompt.positive else unwanted).update(touched)
    if any(prompt.positive for prompt in request.prompts):
        kept = wanted - unwanted
    else:
        kept = set(range(1, int(parts.max()) + 1)) - unwanted
    return np.isin(parts, sorted(kept - {0}))


def _label_names(region: Mapping[str, Any]) -> list[str]:
    return list(region["value"].get(region["type"]) or region["value"]["labels"])


def _prompt(region: Mapping[str, Any]) -> Point | Box | Stroke:
    kind, value = region["type"].removesuffix("labels"), region["value"]
    positive = bool(region.get("is_positive", True))
    if kind == "keypoint":
        radius = share(value.get("width") or 0) / 2
        return Point(share(value["x"]), share(value["y"]), radius, positive)
    if kind == "rectangle":
        return Box(corners(value, region["original_width"], region["original_height"]), positive)
    if kind == "brush":
        alpha = brush.decode(value["rle"], region["original_height"], region["original_width"])
        return Stroke(alpha >= STROKE_THRESHOLD, positive)
    raise AnnotationError(
        f'"{region["type"]}" cannot guide a mask; use a smart KeyPointLabels, RectangleLabels or BrushLabels'
    )


def share(percent: float) -> float:
    """Turn a coordinate in percent into a share. Raises ValueError for one that is not finite."""
    if not math.isfinite(percent):
        raise ValueError(f"{percent} is not a place")
    return percent / 100


def corners(value: Mapping[str, Any], width: int, height: int) -> tuple[tuple[float, float], ...]:
    """Give a rectangle's corners (x, y) as shares; Label Studio turns it around its top left, in pixels."""
    left, top = share(value["x"]) * width, share(value["y"]) * height
    right, down = share(value["width"]) * width, share(value["height"]) * height
    turn = math.radians(value.get("rotation") or 0)
    cos, sin = math.cos(turn), math.sin(turn)
    offsets = ((0, 0), (right, 0), (right, down), (0, down))
    return tuple(((left + x * cos - y * sin) / width, (top + x * sin + y * cos) / height) for x, y in offsets)
