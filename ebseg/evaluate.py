"""Metrics of semantic segmentation as the field reports them, from a confusion matrix."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from ebseg.errors import VocabularyError
from ebseg.predictor import Predictor
from ebseg.vocabulary import Vocabulary


class ConfusionMatrix:
    """Pixel counts (K, K + 1): rows are the true labels, columns the predicted ones, the last "none"."""

    def __init__(self, labels: int) -> None:
        self.labels = labels
        self.counts = np.zeros((labels, labels + 1), dtype=np.int64)

    def add(self, predicted: npt.NDArray[np.integer], truth: npt.NDArray[np.integer]) -> None:
        """Count a photo: two (H, W) maps of label indices; -1 is "none", or ignored in the truth."""
        valid = truth >= 0
        columns = np.where(predicted < 0, self.labels, predicted)[valid].astype(np.int64)
        pairs = truth[valid].astype(np.int64) * (self.labels + 1) + columns
        self.counts += np.bincount(pairs, minlength=self.counts.size).reshape(self.counts.shape)

    def iou(self) -> npt.NDArray[np.float64]:
        """Intersection over union (K,) of each label, 0..1; NaN for labels that no truth shows."""
        hit = self.counts.diagonal().astype(np.float64)
        true = self.counts.sum(axis=1)
        union = true + self.counts[:, : self.labels].sum(axis=0) - hit
        return np.where(true > 0, hit / np.maximum(union, 1), np.nan)


@dataclass(frozen=True)
class Result:
    """Percent. ``miou`` over all labels present, then over the seen and the unseen ones of them.

    ``new_names``: over all labels present, asked for by other names; None where that was not asked.
    """

    miou: float
    seen: float
    unseen: float
    photos: int
    new_names: float | None = None

    @property
    def harmonic(self) -> float:
        """Harmonic mean of seen and unseen."""
        total = self.seen + self.unseen
        return 2 * self.seen * self.unseen / total if total else 0.0


def summarise(iou: npt.NDArray[np.float64], seen: Sequence[bool], photos: int) -> Result:
    """Mean IoU in percent over all labels, the seen and the unseen; absent labels do not count."""
    known = np.asarray(seen)
    return Result(
        miou=mean_percent(iou), seen=mean_percent(iou[known]), unseen=mean_percent(iou[~known]), photos=photos
    )


def mean_percent(iou: npt.NDArray[np.float64]) -> float:
    """Mean of the labels that are present (not NaN), in percent; NaN where none is."""
    present = iou[~np.isnan(iou)]
    return float(present.mean() * 100) if len(present) else float("nan")


def count_pixels(
    predictor: Predictor,
    photos: Iterable[tuple[npt.NDArray[np.uint8], npt.NDArray[np.integer]]],
    vocabularies: Sequence[Vocabulary],
) -> tuple[list[ConfusionMatrix], int]:
    """Predict every photo with each vocabulary, with no threshold as the benchmarks do.

    The truth's indices are those of every vocabulary. Returns a confusion matrix for each, and how many
    photos there were.
    """
    matrices = [ConfusionMatrix(len(labels)) for labels in vocabularies]
    count = 0
    for image, truth in photos:
        for matrix, labels in zip(matrices, vocabularies, strict=True):
            matrix.add(predictor.predict(image, labels, threshold=0.0).label_map, truth)
        count += 1
    return matrices, count


def evaluate(
    predictor: Predictor,
    photos: Iterable[tuple[npt.NDArray[np.uint8], npt.NDArray[np.integer]]],
    vocabulary: Vocabulary,
    *,
    renamed: Vocabulary | None = None,
) -> Result:
    """Predict every photo and compare with its label map.

    ``renamed``: the same labels in the same order by other names; each photo is then predicted a second
    time with these. Raises VocabularyError where it has not as many labels.
    """
    asked = [vocabulary] if renamed is None else [vocabulary, renamed]
    if len({len(labels) for labels in asked}) > 1:
        raise VocabularyError(f"{len(vocabulary)} labels cannot be renamed with {len(asked[-1])} names")
    matrices, count = count_pixels(predictor, photos, asked)
    result = summarise(matrices[0].iou(), predictor.net.seen(vocabulary), count)
    return result if renamed is None else replace(result, new_names=mean_percent(matrices[1].iou()))
