"""What people's corrections say of the versions whose predictions they corrected.

This is prequential evaluation, test and then train (Dawid, "Statistical theory: the prequential approach",
1984): each annotation first measures the model that it will later teach.
"""

import logging
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import asdict, dataclass

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


def correction(
    studio: LabelStudioClient, prediction: int | None, labels: Labels, corrected: npt.NDArray[np.int16]
) -> Correction | None:
    """Compare a prediction with what a person made of it, a label map (H, W) int16 with -1 for no label.

    None where none was corrected, and where the prediction was deleted, is damaged in whatever way, or does
    not say by which version it was made.
    """
    if not isinstance(prediction, int):
        return None
    try:
        found = studio.prediction(prediction)
        version = found["model_version"]
        if not isinstance(version, str) or not version:
            return None
        with one_task(f"prediction {prediction}"):
            return compare(version, paint(found["result"], labels, *corrected.shape).label_map, corrected)
    except NotInLabelStudio:
        return None
    except BadTask as error:
        _log.warning("prediction %d cannot be compared with its correction: %s", prediction, error)
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

    Each counts the same, whatever its photo's size.
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
