"""Metrics of semantic segmentation as the field reports them, from a confusion matrix."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

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
    """Percent. ``miou`` over all labels present, then over the seen and the unseen ones of them."""

    miou: float
    seen: float
    unseen: float
    photos: int

    @property
    def harmonic(self) -> float:
        """Harmonic mean of seen and unseen."""
        total = self.seen + self.unseen
        return 2 * self.seen * self.unseen / total if total else 0.0


def summarise(iou: npt.NDArray[np.float64], seen: Sequence[bool], photos: int) -> Result:
    """Mean IoU in percent over all labels, the seen and the unseen; absent labels do not count."""

    def mean(values: npt.NDArray[np.float64]) -> float:
        present = values[~np.isnan(values)]
        return float(present.mean() * 100) if len(present) else float("nan")

    known = np.asarray(seen)
    return Result(miou=mean(iou), seen=mean(iou[known]), unseen=mean(iou[~known]), photos=photos)


def evaluate(
    predictor: Predictor,
    photos: Iterable[tuple[npt.NDArray[np.uint8], npt.NDArray[np.integer]]],
    vocabulary: Vocabulary,
) -> Result:
    """Predict every photo, with no threshold as the benchmarks do, and compare with its label map."""
    matrix, count = ConfusionMatrix(len(vocabulary)), 0
    for image, truth in photos:
        matrix.add(predictor.predict(image, vocabulary, threshold=0.0).label_map, truth)
        count += 1
    return summarise(matrix.iou(), predictor.net.seen(vocabulary), count)
