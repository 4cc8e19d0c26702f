"""Metrics of semantic segmentation as the field reports them, and boundary IoU as its paper defines it.

K labels; H x W: a photo's size. Label maps are (H, W) of any integer type, -1 for "none" or, in the truth,
ignored. What is counted does not grow with the number of photos, and counts of several processes add up.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

Labels = npt.NDArray[np.integer]
Shares = npt.NDArray[np.float64]
"""A number for each label (K,), 0..1; NaN for labels that no truth shows."""

BAND = 0.02
"""Width of a boundary band as a share of the photo's diagonal: the boundary IoU's paper's."""

_OUTSIDE = -2
"""Label of what lies beyond a photo's edges."""


@dataclass(frozen=True, eq=False)
class Pairs:
    """Pixels of one photo by true and predicted label, the pairs that occur: three arrays (N,) int64.

    ``predicted`` is K for "none". Ignored pixels are left out.
    """

    truth: npt.NDArray[np.int64]
    predicted: npt.NDArray[np.int64]
    pixels: npt.NDArray[np.int64]

    def miou(self) -> float:
        """Mean IoU of the photo alone, in percent, over the labels that its truth shows; NaN without any."""
        labels = int(max(self.truth.max(initial=0), self.predicted.max(initial=0))) + 1
        hits = self.truth == self.predicted
        hit, true, predicted = (
            np.bincount(of, weights, minlength=labels)
            for of, weights in (
                (self.truth[hits], self.pixels[hits]),
                (self.truth, self.pixels),
                (self.predicted, self.pixels),
            )
        )
        return mean_percent(_shares(hit, true + predicted - hit, true))


def count_pairs(predicted: Labels, truth: Labels, labels: int) -> Pairs:
    """Count a photo's pixels by true and predicted label, of ``labels`` there are.

    One pass with a bin for each pair that could occur is faster than sorting, or than leaving out ignored
    pixels first.
    """
    codes = truth.astype(np.int64)
    codes += 1
    codes *= labels + 1
    codes += np.where(predicted < 0, labels, predicted)
    counts = np.bincount(codes.ravel())
    found = np.flatnonzero(counts)
    found = found[found > labels]  # the others' truth is ignored
    true, named = np.divmod(found, labels + 1)
    return Pairs(true - 1, named, counts[found])


class ConfusionMatrix:
    """Pixel counts (K, K + 1): rows are the true labels, columns the predicted ones, the last "none"."""

    def __init__(self, labels: int) -> None:
        self.labels = labels
        self.counts = np.zeros((labels, labels + 1), dtype=np.int64)

    def add(self, predicted: Labels, truth: Labels) -> None:
        """Count a photo."""
        self.add_pairs(count_pairs(predicted, truth, self.labels))

    def add_pairs(self, pairs: Pairs) -> None:
        """Add what was counted for a photo of as many labels."""
        self.counts[pairs.truth, pairs.predicted] += pairs.pixels

    def pixels(self) -> npt.NDArray[np.int64]:
        """Ground-truth pixels (K,) of each label."""
        return np.asarray(self.counts.sum(axis=1))

    def iou(self) -> Shares:
        """Intersection over union of each label."""
        hit, true = self.counts.diagonal(), self.pixels()
        return _shares(hit, true + self.counts[:, : self.labels].sum(axis=0) - hit, true)

    def accuracy(self) -> Shares:
        """Share of each label's pixels that were predicted as such: its recall."""
        true = self.pixels()
        return _shares(self.counts.diagonal(), true, true)

    def confused(self, count: int) -> list[tuple[int, int, int]]:
        """List the pairs that were confused most, as true label, predicted label and pixels.

        ``count`` at most; the predicted label is K for "none".
        """
        wrong = self.counts.copy()
        np.fill_diagonal(wrong, 0)
        order = np.argsort(-wrong, axis=None, kind="stable")[:count]
        rows, columns = (places.tolist() for places in np.unravel_index(order, wrong.shape))
        pairs = zip(rows, columns, strict=True)
        return [(row, column, int(wrong[row, column])) for row, column in pairs if wrong[row, column]]


class BoundaryCounts:
    """Intersections and unions (K,) of the labels' boundary bands, in pixels, over all photos.

    Boundary IoU as Cheng, Girshick, Dollar, Berg and Kirillov define it ("Boundary IoU: improving
    object-centric image segmentation evaluation", CVPR 2021), for each label by itself: the band of a mask is
    those of its pixels that lie within d pixels of its contour; the IoU is that of the band of the true mask
    and the band of the predicted one. As in the paper's own code d is 2 % of the photo's diagonal, rounded,
    at least 1; distances are the larger of rows and columns (a mask less itself eroded d times by 3 x 3
    pixels); and the photo's edges are contours. Sums over all photos are divided, as for IoU.

    Pixels whose truth is ignored belong to no mask, true or predicted: both have the same contour there.

    The script that the field's papers share takes another band: it erodes the map of all labels at once, by
    which of two neighbours only the one with the larger number gets a band.
    """

    def __init__(self, labels: int) -> None:
        self.labels = labels
        self.intersection = np.zeros(labels, dtype=np.int64)
        self.union = np.zeros(labels, dtype=np.int64)

    def add(self, predicted: Labels, truth: Labels) -> None:
        """Count a photo."""
        width = max(1, round(BAND * math.hypot(*truth.shape)))
        named = np.where(truth < 0, -1, predicted)
        true_band, named_band = (band(label_map, width) for label_map in (truth, named))
        common = self._areas(truth, true_band & named_band & (truth == named))
        self.intersection += common
        self.union += self._areas(truth, true_band) + self._areas(named, named_band) - common

    def iou(self) -> Shares:
        """Boundary IoU of each label; NaN for labels of which neither truth nor prediction has a pixel."""
        return _shares(self.intersection, self.union, self.union)

    def _areas(self, label_map: Labels, mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
        labels = label_map[mask]
        return np.bincount(labels[labels >= 0], minlength=self.labels)


def band(label_map: Labels, width: int) -> npt.NDArray[np.bool_]:
    """Find the pixels (H, W) within ``width`` pixels of another label or of the photo's edges.

    These are the boundary bands of all labels' masks, found at once: a label's are those that it has.
    """
    labels = np.pad(label_map.astype(np.int16), 1, constant_values=_OUTSIDE)
    square = np.ones((3, 3), np.uint8)
    contour = (cv2.erode(labels, square) != cv2.dilate(labels, square))[1:-1, 1:-1].astype(np.uint8)
    # A pixel is within d of another label where one that touches another label is within d - 1: on the way
    # from the one to the other, the last pixel before the label changes touches the next.
    around = np.ones((2 * width - 1, 2 * width - 1), np.uint8)
    return np.asarray(cv2.dilate(contour, around) > 0)


@dataclass(frozen=True)
class Scores:
    """Percent; means are over the labels that the truth shows, NaN where there is none.

    ``miou``: mean IoU. ``fwiou``: IoU weighted by ground-truth frequency. ``macc``: mean share of a label's
    pixels that is right. ``pacc``: share of all pixels that is right. ``seen``, ``unseen``: mean IoU of the
    labels that the model was trained on, and of the others. ``boundary``: mean boundary IoU.
    """

    miou: float
    fwiou: float
    macc: float
    pacc: float
    seen: float
    unseen: float
    boundary: float

    @property
    def harmonic(self) -> float:
        """Harmonic mean of seen and unseen."""
        return harmonic_mean(self.seen, self.unseen)


def scores(matrix: ConfusionMatrix, boundary: BoundaryCounts, seen: Sequence[bool]) -> Scores:
    """Give the metrics of all photos counted; ``seen`` tells of each label whether the model knew it."""
    iou, true = matrix.iou(), matrix.pixels()
    known, present = np.asarray(seen, dtype=bool), true > 0
    frequency = true[present] / max(int(true.sum()), 1)
    return Scores(
        miou=mean_percent(iou),
        fwiou=float((iou[present] * frequency).sum() * 100) if present.any() else float("nan"),
        macc=mean_percent(matrix.accuracy()),
        pacc=float(matrix.counts.diagonal().sum() / true.sum() * 100) if present.any() else float("nan"),
        seen=mean_percent(iou[known]),
        unseen=mean_percent(iou[~known]),
        boundary=mean_percent(boundary.iou()[present]),
    )


def mean_percent(shares: Shares) -> float:
    """Mean of the labels that are present (not NaN), in percent; NaN where none is."""
    present = shares[~np.isnan(shares)]
    return float(present.mean() * 100) if len(present) else float("nan")


def harmonic_mean(first: float, second: float) -> float:
    """Harmonic mean of two percentages; 0 where both are 0."""
    total = first + second
    return 2 * first * second / total if total else 0.0


def _shares(
    part: npt.NDArray[np.number], whole: npt.NDArray[np.number], true: npt.NDArray[np.number]
) -> Shares:
    return np.where(true > 0, part / np.maximum(whole, 1), np.nan)
