"""Which of a project's unlabelled tasks is to be annotated next: the one with the lowest score.

N tasks; E numbers of an embedding (``embeddings``), D of one of its ``GRID`` ** 2 parts.
"""

import hashlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy.cluster.vq import vq

from training.settings import Select

FEW = 8
"""Annotated tasks up to which ``mixed`` goes by diversity; then by lot, which by certainty is no better."""

LEAST_AHEAD, MOST_AHEAD = 8, 256
"""Tasks that ``diverse`` has in front, as many as are annotated: with twice those it is made anew."""

GRID = 4
"""Rows and columns of the parts of a photo whose mean features are its embedding."""

KINDS = 128
"""Groups into which parts of a project's photos fall by what they look like; with 32 replays gain less."""

MOST_GROUPED, ROUNDS = 10_000, 10
"""Parts that the groups are found by, and how often their centres move."""

FIRST = 0.01
"""Photos that each group is taken for known by before any shows it: without them what nobody has seen
would be worth infinitely much."""

Embedding = npt.NDArray[np.float16]
"""(E,)"""


def is_by_diversity(select: Select) -> bool:
    """Tell whether an order looks at embeddings."""
    return select in (Select.DIVERSE, Select.MIXED)


def ahead(select: Select, annotated: int) -> int:
    """Tell how many tasks a project's order puts in front for their diversity, of so many annotated ones."""
    if select is Select.DIVERSE:
        return min(max(annotated, LEAST_AHEAD), MOST_AHEAD)
    return max(FEW - annotated, 0) if select is Select.MIXED else 0


def most_typical(embeddings: npt.NDArray[np.floating], annotated: Sequence[int], count: int) -> list[int]:
    """Choose tasks that stand for as many others as possible that no annotated or chosen one stands for.

    Each brings the mean distance of all tasks (N, E) to the nearest one down as far as one can: neither what
    is like an annotated photo nor a lone odd one comes first. Gives their places in the order of choice.
    """
    points = np.asarray(embeddings, np.float32)
    squares = (points**2).sum(axis=1)
    distances = np.sqrt(np.maximum(squares[:, None] + squares - 2 * points @ points.T, 0))  # (N, N)
    nearest = distances[:, list(annotated)].min(axis=1, initial=distances.max(initial=0))
    chosen: list[int] = []
    left = np.ones(len(points), bool)
    left[list(annotated)] = False
    for _ in range(min(count, int(left.sum()))):
        gains = np.maximum(nearest - distances, 0).sum(axis=1)  # of each task
        best = int(np.where(left, gains, -1).argmax())
        chosen.append(best)
        left[best] = False
        nearest = np.minimum(nearest, distances[best])
    return chosen


def most_telling(embeddings: npt.NDArray[np.floating], annotated: Sequence[int], count: int) -> list[int]:
    """Choose tasks that show what few annotated or chosen ones show.

    The parts of photos fall into groups by what they look like. Of each group the logarithm of how much of it
    is annotated or chosen counts, so that a first meadow tells more than a tenth one. Where fewer than two
    tasks are annotated the most typical one comes first: groups tell little of so few. ``embeddings``:
    (N, E). Gives their places in the order of choice.
    """
    chosen = most_typical(embeddings, annotated, min(count, 1)) if len(annotated) < 2 else []
    shares = _shares_of_groups(embeddings)
    taken = {*annotated, *chosen}
    known = shares[list(taken)].sum(axis=0)
    left = [place for place in range(len(shares)) if place not in taken]
    while left and len(chosen) < count:
        gains = np.log(FIRST + known + shares[left]).sum(axis=1)
        chosen.append(left.pop(int(gains.argmax())))
        known += shares[chosen[-1]]
    return chosen


def _shares_of_groups(embeddings: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """Tell how much of each photo is of which group (k-means of its parts' directions): (N, groups)."""
    photos = np.asarray(embeddings, np.float32).reshape(len(embeddings), -1, GRID**2)  # (N, D, parts)
    parts = photos.transpose(0, 2, 1).reshape(-1, photos.shape[1])
    parts = parts / np.linalg.norm(parts, axis=1, keepdims=True).clip(min=1e-9)
    rng = np.random.default_rng(0)
    some = parts[rng.permutation(len(parts))[:MOST_GROUPED]]
    centres = some[:KINDS]
    for _ in range(ROUNDS):
        groups, _ = vq(some, centres)
        centres = np.stack([some[groups == group].mean(axis=0) for group in np.unique(groups)])
    groups, _ = vq(parts, centres)
    counts = [np.bincount(of_photo, minlength=len(centres)) for of_photo in groups.reshape(len(photos), -1)]
    return np.stack(counts) / GRID**2


def score(select: Select, task: int, certainty: float, front: Sequence[int]) -> float:
    """Score an unlabelled task's prediction, 0..1: the lower, the sooner it is to be annotated.

    ``certainty``: of the prediction, 0..1. ``front``: tasks that come first for their diversity, in order:
    they are below a half, the others above.
    """
    if task in front:
        return front.index(task) / (2 * len(front))
    behind = _lot(task) if select in (Select.RANDOM, Select.MIXED) else certainty
    return (1 + behind) / 2 if front else behind


def _lot(task: int) -> float:
    """Draw a number, 0..1, for a task: the same each time."""
    return int.from_bytes(hashlib.sha256(str(task).encode()).digest()[:4]) / 2**32
