"""What a reading of a project's annotations is made of: plain values."""

from dataclasses import dataclass
from functools import cache

from pydantic import TypeAdapter

PhotoKey = tuple[int, str, int]
"""A photo of a project: its task, its image in the label config ("" for the first one), its page."""


@dataclass(frozen=True)
class LabelEntry:
    """A label: the key that regions carry, and what the model is asked for."""

    key: str
    prompts: tuple[str, ...]


@dataclass(frozen=True)
class Correction:
    """What a person made of a prediction.

    ``version``: of the model that made it. ``iou``: mean over the labels that the person left, 0..1; where no
    label was left, 1 for a prediction without any and 0 for another. ``changed``: share of pixels whose label
    is another now, or none. ``untouched``: whether there is no such pixel.
    """

    version: str
    iou: float
    changed: float
    untouched: bool


@dataclass(frozen=True)
class Entry:
    """An annotated photo of a task.

    ``image``: the name of its image in the label config, "" for the first one; ``page``: its place in a list
    of pages. ``annotation`` and ``time``: the annotation that was chosen, and when it was last changed.
    ``photo`` and ``label_map``: hashes of the content. ``pixels``: for each label that is shown, by its key.
    ``unknown``: labels of regions that the label config does not have. ``correction``: None where no
    prediction was corrected. ``revision``: of the task, and ``address``: a hash of its photo's address, as
    they were read. ``regions``: how many areas were annotated. ``blank``: names of those that have no pixel.
    """

    task: int
    annotation: int
    time: str
    photo: str
    label_map: str
    held_out: bool
    pixels: dict[str, int]
    unknown: tuple[str, ...]
    correction: Correction | None
    revision: str
    address: str
    regions: int = 0
    blank: tuple[str, ...] = ()
    image: str = ""
    page: int = 0

    @property
    def key(self) -> PhotoKey:
        """Which photo it is."""
        return self.task, self.image, self.page

    @property
    def name(self) -> str:
        """What people know the photo by."""
        image = f", {self.image}" if self.image else ""
        return f"task {self.task}{image}{f', page {self.page + 1}' if self.page else ''}"

    @property
    def content(self) -> tuple[str, str]:
        """What was annotated, and how."""
        return self.photo, self.label_map

    @property
    def lost(self) -> str | None:
        """Why nothing is left of what was annotated; None where something is, or nothing was annotated."""
        if self.pixels or not self.regions:
            return None
        found = (("without a pixel", self.blank), ("unknown to the label config", self.unknown))
        reasons = [f"{what}: {', '.join(map(repr, names))}" for what, names in found if names]
        return f"none of its {self.regions} regions shows a label; {'; '.join(reasons)}"


@cache
def _entries() -> TypeAdapter[Entry]:
    return TypeAdapter(Entry)


def require_storable(entry: Entry) -> None:
    """Raise what pydantic raises for an entry that could not be written, or not be read again."""
    _entries().validate_json(_entries().dump_json(entry, warnings="error"))
