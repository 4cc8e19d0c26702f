"""Fit a memory to samples of corrected photos, and find how much it should count: seconds on a CPU.

N samples, D width of the features, K labels of the vocabulary, S labels that are shown.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from ebseg.ask import Memory
from ebseg.memory import joined
from training.memory.samples import Samples

SHARES = (0.0, 0.5, 1.0)
"""How much a memory may count in a label's score."""

LEAST_GAIN = 4.0
"""Points of mIoU by which a memory of one photo must be better than the text alone; a quarter for 16 photos.

Measured on samples that it was not fitted to: one photo of CamVid gave 5 to 61 points over a text of 9, one
drawn scene -7 to -37 to a text of 78.
"""

LEAST_LABELS_GAIN = 25.0
"""Points of IoU for one label to count where the others do not, or less than they do, and ..."""

LEAST_LABELS_PHOTOS = 3
"""... photos that must show it to count alone: the best of many labels looks better than it is."""

STRIPS = 4
"""Into which a lone photo is cut: every other one is left out in turn."""

FOLDS = 5
"""Groups of photos at most that take turns in being left out."""

MOST_FITTED = 20_000
"""Samples that a fit looks at, a second or two for the small model's features; ..."""

MOST_TRIED = 4_000
"""... and one that is only to find how much it should count."""

PENALTY = 0.05
"""Of the squared weights, for all samples together. A twentyfold one costs a point of mIoU on CamVid."""

MOST_JUDGED = 10_000
"""Samples on which it is tried how much it should count."""

ITERATIONS = 60

Counts = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Fitted:
    """A memory and what it is worth.

    ``photos``: that it was fitted to. ``text``, ``remembered``: mIoU in percent of the labels shown, on
    samples of photos that were left out in turn, by the text alone and with the memory.
    """

    memory: Memory
    photos: int
    text: float
    remembered: float


def fit(photos: Sequence[Samples], names: Sequence[str], model: str) -> Fitted | None:
    """Fit a memory to photos' samples; None where these show fewer than two labels.

    ``names``: of the K labels of the vocabulary; ``model``: version of the model whose features they are.
    """
    labels = [each.labels for each in photos]
    shown = np.unique(np.concatenate(labels)) if labels else np.empty(0, np.int16)
    if len(shown) < 2:
        return None
    share, text, remembered = _choose(photos, shown)
    weight, bias = _classifier(photos, shown, MOST_FITTED)
    parts = weight.numpy(), bias.numpy(), np.array(share, np.float32)
    known = tuple(names[index] for index in shown)
    memory = Memory(_name(model, known, parts), model, known, *parts)
    return Fitted(memory, len(photos), text, remembered)


def _name(model: str, labels: Sequence[str], parts: Sequence[npt.NDArray[np.float32]]) -> str:
    digest = hashlib.sha256(repr((model, labels)).encode())
    for part in parts:
        digest.update(part.tobytes())
    return digest.hexdigest()[:6]


def score(memory: Memory, photos: Sequence[Samples], names: Sequence[str]) -> tuple[float, float]:
    """Measure on photos it was not fitted to: mIoU in percent by the text alone, and with the memory.

    Of the labels that the photos' samples show; NaN where they show none.
    """
    trial = _trial(memory, photos, names)
    return trial.miou([0.0] * len(memory.labels)), trial.miou(memory.share.tolist())


def answered(memory: Memory, photos: Sequence[Samples], names: Sequence[str]) -> Tensor:
    """Score each of the K labels at photos' samples as a prediction does: (N, K)."""
    return _trial(memory, photos, names).scores(memory.share.tolist())


def _trial(memory: Memory, photos: Sequence[Samples], names: Sequence[str]) -> "_Trial":
    place = {name: index for index, name in enumerate(names)}
    labels = np.array([place[label] for label in memory.labels])
    answers = _answers(torch.from_numpy(memory.weight), torch.from_numpy(memory.bias), photos)
    return _Trial(photos, labels, answers)


def _choose(photos: Sequence[Samples], shown: npt.NDArray[np.int16]) -> tuple[list[float], float, float]:
    """Find how much each label's memory should count, on samples that it was not fitted to.

    Gives the shares, and the mIoU in percent by the text alone and with them.
    """
    trial, labels = _Trial(*_left_out(photos, shown)), len(shown)
    least_gain = LEAST_GAIN / np.sqrt(len(photos))
    text = trial.miou([0.0] * labels)
    found, each = max((trial.miou([share] * labels), share) for share in SHARES[1:])
    shares = [each] * labels
    if found < text + least_gain:
        found, shares = text, [0.0] * labels
    shown_by = [sum(label in photo.labels for photo in photos) for label in shown]
    for place in range(labels):
        for share in SHARES:
            if share > shares[place] and shown_by[place] < LEAST_LABELS_PHOTOS:
                continue
            other = [*shares[:place], share, *shares[place + 1 :]]
            # With few photos it is chance whether the text looks better for one label.
            certainty = 1 if share > shares[place] else np.sqrt(len(photos))
            least = LEAST_LABELS_GAIN / certainty / labels
            if (miou := trial.miou(other)) > found + least:
                found, shares = miou, other
    return shares, text, found


def _left_out(
    photos: Sequence[Samples], shown: npt.NDArray[np.int16]
) -> tuple[list[Samples], npt.NDArray[np.int16], Tensor]:
    """Answer each photo's samples by a classifier that was fitted without it."""
    parts = list(photos) if len(photos) > 1 else _sides(photos[0])
    step = -(-sum(map(len, parts)) // MOST_JUDGED)
    count = min(len(parts), FOLDS)
    asked: list[Samples] = []
    answers: list[Tensor] = []
    for fold in range(count):
        out = [_some(part, slice(None, None, step)) for part in parts[fold::count]]
        others = [part for number, part in enumerate(parts) if number % count != fold]
        weight, bias = _classifier(others, shown, MOST_TRIED)
        asked += out
        answers.append(_answers(weight, bias, out))
    return asked, shown, torch.cat(answers)


def _sides(photo: Samples) -> list[Samples]:
    """Split a photo's samples into those of its even and of its odd strips."""
    strip = np.arange(len(photo)) * STRIPS // len(photo)
    return [_some(photo, strip % 2 == side) for side in (0, 1)]


def _some(photo: Samples, which: slice | npt.NDArray[np.bool_]) -> Samples:
    return Samples(photo.features[which], photo.labels[which], photo.areas[which], photo.text[which])


class _Trial:
    """Samples with a memory's answers (N, S), to be scored with different shares."""

    def __init__(self, photos: Sequence[Samples], labels: npt.NDArray[np.int16], answers: Tensor) -> None:
        self._truth = np.concatenate([each.labels for each in photos]).astype(np.int64)
        self._areas = np.concatenate([each.areas for each in photos])
        self._text = torch.from_numpy(np.concatenate([each.text for each in photos])).float()  # (N, K)
        self._labels = torch.from_numpy(labels.astype(np.int64))
        self._answers = answers
        others = self._text.clone()
        others[:, self._labels] = 0
        self._others = others.sum(dim=1)

    def scores(self, shares: Sequence[float]) -> Tensor:
        """Score the samples, (N, K); ``shares``: S."""
        share = torch.tensor(shares)
        scores = self._text.clone()
        scores[:, self._labels] = joined(
            scores[:, self._labels].T, self._others, self._answers.T, share[:, None]
        ).T
        return scores

    def miou(self, shares: Sequence[float]) -> float:
        """Give the mIoU in percent of the labels that are the truth somewhere; ``shares``: S."""
        found = self.scores(shares).argmax(dim=1).numpy()
        count = self._text.shape[1]
        right, true, said = (
            np.bincount(which, self._areas * weight, count)
            for which, weight in ((self._truth, self._truth == found), (self._truth, 1), (found, 1))
        )
        there = true > 0
        return float(100 * (right[there] / (true + said - right)[there]).mean()) if there.any() else np.nan


def _answers(weight: Tensor, bias: Tensor, photos: Sequence[Samples]) -> Tensor:
    features = torch.from_numpy(np.concatenate([each.features for each in photos])).float()
    return (features @ weight + bias).softmax(dim=1)


def _classifier(photos: Sequence[Samples], shown: npt.NDArray[np.int16], most: int) -> tuple[Tensor, Tensor]:
    """Fit a logistic regression, each label counting the same: weight (2 D, S) and bias (S,)."""
    features = np.concatenate([each.features for each in photos])
    labels = np.searchsorted(shown, np.concatenate([each.labels for each in photos]))
    some = _up_to(most // len(shown), labels)
    inputs, truth = torch.from_numpy(features[some]).float(), torch.from_numpy(labels[some])
    counts = torch.bincount(truth, minlength=len(shown))
    each = (1 / (counts.clamp(min=1) * (counts > 0).sum()))[truth]  # (N,), one together
    absent = torch.where(counts > 0, 0.0, -1e4)  # labels that none of these photos shows get no answer
    weight = torch.zeros(features.shape[1], len(shown), requires_grad=True)
    bias = torch.zeros(len(shown), requires_grad=True)
    solver = torch.optim.LBFGS([weight, bias], max_iter=ITERATIONS, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        solver.zero_grad()
        logits = inputs @ weight + bias + absent
        found = (F.cross_entropy(logits, truth, reduction="none") * each).sum()
        found = found + PENALTY * weight.square().sum() / len(truth)
        found.backward()
        return found

    solver.step(loss)
    return weight.detach(), bias.detach() + absent


def _up_to(most: int, labels: npt.NDArray[np.intp]) -> npt.NDArray[np.intp]:
    """Choose up to so many samples of each label, by lot; give their places, in order."""
    rng = np.random.default_rng(0)
    there = (np.flatnonzero(labels == label) for label in np.unique(labels))
    return np.sort(np.concatenate([rng.permutation(places)[: max(most, 1)] for places in there]))
