"""What people's corrections say of the versions whose predictions they corrected.

This is prequential evaluation, test and then train (Dawid, "Statistical theory: the prequential approach",
1984): each annotation first measures the model that it will later teach.
"""

import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ebseg.label_studio.annotations import Labels, paint
from ebseg.label_studio.version import has_memory, model_of
from training.annotations.entry import Correction, Entry
from training.annotations.label_studio import LabelStudioClient, NotInLabelStudio
from training.annotations.one_task import BadTask, one_task

_log = logging.getLogger(__name__)


_WORDS = {
    "corrections": "predictions that people went over: {:.0f}",
    "mean_iou": "mean IoU with what they made of them {:.1%}",
    "changed": "{:.1%} of the pixels changed",
    "untouched_share": "{:.1%} of the predictions left as they were",
}
_WORDS_OF_MEMORY = {
    "memory_corrections": "{:.0f} of them with the memory of corrections",
    "memory_iou": "mean IoU {:.1%} with it",
    "text_iou": "{:.1%} by the text alone",
}


@dataclass(frozen=True)
class Live:
    """A version's corrections: their number, their means, and the share of those that changed nothing.

    ``memory_corrections``: of how many predictions the version names a memory of corrections.
    ``memory_iou``: the mean IoU of these, ``text_iou``: of the others; None for none.
    """

    corrections: int
    mean_iou: float
    changed: float
    untouched_share: float
    memory_corrections: int = 0
    memory_iou: float | None = None
    text_iou: float | None = None

    def numbers(self) -> dict[str, float]:
        """Give the numbers that there are by their names."""
        return {name: value for name, value in asdict(self).items() if value is not None}


def in_words(numbers: Mapping[str, float]) -> str:
    """Say ``Live``'s numbers, as far as they are there, in a line; empty for none."""
    words = dict(_WORDS)
    memory = numbers.get("memory_corrections", 0)
    if memory:
        words |= _WORDS_OF_MEMORY
    if memory == numbers.get("corrections"):  # a text's number is one of before
        words.pop("text_iou", None)
    return ", ".join(each.format(numbers[name]) for name, each in words.items() if name in numbers)


def corrected_prediction(studio: LabelStudioClient, prediction: int | None) -> dict[str, Any] | None:
    """Read the prediction that a person corrected; None where none was, or where it was deleted."""
    if not isinstance(prediction, int):
        return None
    try:
        return {"id": prediction, **studio.prediction(prediction)}
    except NotInLabelStudio:
        return None


def correction(
    predicted: Mapping[str, Any] | None, labels: Labels, corrected: npt.NDArray[np.int16], *, page: int = 0
) -> Correction | None:
    """Compare a prediction with what a person made of one of its photos.

    ``corrected``: a label map (H, W) int16 with -1 for no label. None without a prediction, and where it is
    damaged in whatever way, or does not say by which version it was made.
    """
    if predicted is None:
        return None
    version = predicted["model_version"]
    if not isinstance(version, str) or not version:
        return None
    try:
        with one_task(f"prediction {predicted['id']}"):
            painted = paint(predicted["result"], labels, *corrected.shape, page=page)
            return compare(version, painted.label_map, corrected)
    except BadTask as error:
        _log.warning("prediction %d cannot be compared with its correction: %s", predicted["id"], error)
        return None


def compare(version: str, predicted: npt.NDArray[np.int16], corrected: npt.NDArray[np.int16]) -> Correction:
    """Compare two label maps (H, W) int16, -1 for no label; pixels that only one of them labels count."""
    same = predicted == corrected
    labels = max(predicted.max(), corrected.max()) + 1
    left, made, both = (
        np.bincount(label_map[label_map >= 0], minlength=labels)
        for label_map in (corrected, predicted, corrected[same])
    )
    shown = left > 0
    ious = both[shown] / (left + made - both)[shown]
    empty = 1.0 if (predicted < 0).all() else 0.0
    return Correction(
        version=version,
        iou=float(ious.mean()) if ious.size else empty,
        changed=1.0 - float(same.mean()),
        untouched=bool(same.all()),
    )


def summarise(entries: Iterable[Entry]) -> dict[str, Live]:
    """Sum a snapshot's corrections up by the model's version, whatever else the predictions' version names.

    Each photo counts the same, whatever its size.
    """
    by_version: dict[str, list[Correction]] = defaultdict(list)
    for entry in entries:
        if entry.correction is not None:
            by_version[model_of(entry.correction.version)].append(entry.correction)
    return {version: _live(corrections) for version, corrections in sorted(by_version.items())}


def _live(corrections: Sequence[Correction]) -> Live:
    with_memory = [each for each in corrections if has_memory(each.version)]
    by_text = [each for each in corrections if not has_memory(each.version)]
    return Live(
        corrections=len(corrections),
        mean_iou=_mean_iou(corrections),
        changed=float(np.mean([each.changed for each in corrections])),
        untouched_share=float(np.mean([each.untouched for each in corrections])),
        memory_corrections=len(with_memory),
        memory_iou=_mean_iou(with_memory) if with_memory else None,
        text_iou=_mean_iou(by_text) if by_text else None,
    )


def _mean_iou(corrections: Iterable[Correction]) -> float:
    return float(np.mean([each.iou for each in corrections]))
