"""Label Studio's regions to label maps, to the pixel."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from ebseg.errors import AnnotationError
from ebseg.label_studio.drawing import Mask
from ebseg.label_studio.kinds import kind_of_value
from ebseg.label_studio.label_config import Control

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

    Regions come in order, and later ones paint over earlier ones: those of every kind that is drawn
    (``ebseg.label_studio.kinds``) on the control's image, whichever control they are made with, so that
    ``<Labels>`` with ``<Brush>`` or ``<Polygon>`` count too. A region with several labels shows the first
    that the control has; the place of one whose label the control does not have becomes -1, as it shows none
    of them. Everything else is left out: key points, choices, relations, text.

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


def _mask(region: _Region, height: int, width: int) -> Mask | None:
    """Draw a region: (height, width) bool; None for what is no area."""
    kind = kind_of_value(region.value)
    if kind is None or kind.draw is None:
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
    return kind.draw(region.value, height, width)
