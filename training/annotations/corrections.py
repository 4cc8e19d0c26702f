"""What people's corrections say of the versions whose predictions they corrected.

This is prequential evaluation, test and then train (Dawid, "Statistical theory: the prequential approach",
1984): each annotation first measures the model that it will later teach.
"""

import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ebseg.label_studio.annotations import Labels, paint
from ebseg.label_studio.version import model_of
from training.annotations.entry import Correction, Entry
from training.annotations.label_studio import LabelStudioClient, NotInLabelStudio
from training.annotations.one_task import BadTask, one_task

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Live:
    """A version's corrections: their number, their means, and the share of those that changed nothing."""

    corrections: int
    mean_iou: float
    changed: float
    untouched_share: float

    def numbers(self) -> dict[str, float]:
        """Give the numbers by their names."""
        return asdict(self)


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
    return {
        version: Live(
            corrections=len(corrections),
            mean_iou=float(np.mean([each.iou for each in corrections])),
            changed=float(np.mean([each.changed for each in corrections])),
            untouched_share=float(np.mean([each.untouched for each in corrections])),
        )
        for version, corrections in sorted(by_version.items())
    }
