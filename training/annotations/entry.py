"""What a reading of a project's annotations is made of: plain values."""

from dataclasses import dataclass


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
    """An annotated task.

    ``annotation`` and ``time``: the annotation that was chosen, and when it was last changed. ``photo`` and
    ``label_map``: hashes of the content. ``pixels``: for each label that is shown, by its key. ``unknown``:
    labels of regions that the label config does not have. ``correction``: None where no prediction was
    corrected. ``revision``: of the task, and ``address``: a hash of its photo's address, as they were read.
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

    @property
    def content(self) -> tuple[str, str]:
        """What was annotated, and how."""
        return self.photo, self.label_map
