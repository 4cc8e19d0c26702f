"""Label Studio's regions to label maps, to the pixel."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ebseg.ask import Mask
from ebseg.errors import AnnotationError
from ebseg.label_studio.drawing import pixels
from ebseg.label_studio.kinds import kind_of_value
from ebseg.label_studio.shown import MOST_WORDS, shown

PAINTING = 2
"""Goes up whenever ``paint`` makes other pixels of the same regions: what it made before is made anew."""

MOST_RESULTS = 10_000
"""Regions, choices and the like of one annotation; each region takes as long as the photo has pixels."""

_WRONG = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError)
"""What reading a region that is no region raises."""


class Labels(Protocol):
    """An image's labels: a ``Question`` has those of all its controls, a ``Control`` its own."""

    @property
    def to_name(self) -> str:
        """The image's name, as regions carry it."""

    def place(self, name: str) -> int | None:
        """Find the place of the label that regions call so."""


@dataclass(frozen=True, eq=False)
class Painted:
    """What regions show.

    ``label_map``: (H, W) int16, places of labels, -1 where no region is. ``regions``: how many there are that
    are areas. ``unknown``: labels of regions that are none of those asked for, "" for a region without a
    label; each once, in order. ``blank``: names of regions that have no pixel.
    """

    label_map: npt.NDArray[np.int16]
    regions: int
    unknown: tuple[str, ...]
    blank: tuple[str, ...]


@dataclass
class _Region:
    """A region, put together from all that Label Studio says under its id."""

    name: str
    value: dict[str, Any] = field(default_factory=dict)
    sizes: list[tuple[Any, Any]] = field(default_factory=list)

    @property
    def labels(self) -> list[str]:
        """Labels, from ``brushlabels``, ``labels`` and the like."""
        found = (value for key, value in self.value.items() if key.endswith("labels"))
        return [str(name) for names in found for name in names]


def paint(
    result: Sequence[Mapping[str, Any]], labels: Labels, height: int, width: int, *, page: int = 0
) -> Painted:
    """Turn an annotation's (or a prediction's) regions into a label map of a photo of this size.

    Regions come in order, and later ones paint over earlier ones: those of every kind that is drawn
    (``ebseg.label_studio.kinds``) on the labels' image, whichever control they are made with, so that
    ``<Labels>`` with ``<Brush>`` or ``<Polygon>`` count too. A region with several labels shows the first
    that is one of ``labels``; the place of one whose label is not becomes -1, as it shows none of them.
    Everything else is left out: key points, choices, relations, text. So are the regions of other pages than
    ``page``, where an image has several (``item_index``).

    ``image_rotation`` says how a person had turned the photo on the screen, and nothing else. Coordinates,
    sizes and masks are those of the photo as it is: the editor turns its whole stage, asks the stage for
    places on the photo, and paints masks on a canvas of the photo's own size (1.23: ``ImageView``,
    ``Image.fixZoomedCoords``, ``exportRLE``). It writes the number with each region and never reads it; nor
    does the SDK.

    Raises AnnotationError for what is no list of regions, or too long; and, with the region's name, for a
    region that is damaged or made on a photo of another size, and for an open vector, which has no pixels.
    """
    label_map = np.full((height, width), -1, dtype=np.int16)
    count, unknown, blank = 0, dict[str, None](), []
    for region in _regions(result, labels.to_name, page):
        try:
            mask = _mask(region, height, width)
            names = region.labels
        except (AnnotationError, *_WRONG) as error:
            why = str(error) if isinstance(error, AnnotationError) else f"it cannot be read ({error!r})"
            raise AnnotationError(f'region "{region.name}": {shown(why, MOST_WORDS)}') from error
        if mask is None:
            continue
        count += 1
        known = next((place for name in names if (place := labels.place(name)) is not None), None)
        if known is None:
            unknown[shown(names[0]) if names else ""] = None
        if not mask.any():
            blank.append(region.name)
        label_map[mask] = -1 if known is None else known
    return Painted(label_map, count, tuple(unknown), tuple(blank))


def _regions(result: Sequence[Mapping[str, Any]], to_name: str, page: int) -> list[_Region]:
    """Put together what belongs to one region.

    ``<Labels>`` with ``<Brush>`` makes two results of one id, and so do choices that belong to a region.
    Results of one id that contradict each other, which careless imports make, are regions of their own.
    """
    if not isinstance(result, list):
        raise AnnotationError(
            f"its result is no list of regions but {type(result).__name__}; annotate it again"
        )
    if len(result) > MOST_RESULTS:
        raise AnnotationError(
            f"it has {len(result)} results, more than {MOST_RESULTS}; join regions of the same label"
        )
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
        if (item.get("item_index") or 0) != page:
            continue
        given = item.get("id")
        name = str(given) if given and isinstance(given, str | int) else f"number {position + 1}"
        region = newest.get(name)
        if region is None or any(region.value.get(key, value[key]) != value[key] for key in value):
            region = newest[name] = _Region(shown(name))
            regions.append(region)
        region.value |= value
        region.sizes.append((item.get("original_width"), item.get("original_height")))
    return regions


def _mask(region: _Region, height: int, width: int) -> Mask | None:
    """Draw a region: (height, width) bool; None for what is no area."""
    kind = kind_of_value(region.value)
    if kind is None or kind.draw is None:
        return None
    for made_on in region.sizes:
        if made_on == (None, None):
            continue
        made_width, made_height = map(pixels, made_on)
        if (made_width, made_height) != (width, height):
            raise AnnotationError(
                f"it was made on a photo of {made_width} x {made_height} pixels, but the photo has "
                f"{width} x {height}; was the photo replaced? Annotate it again"
            )
    return kind.draw(region.value, height, width)
