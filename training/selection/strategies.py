"""Which of a project's unlabelled tasks is to be annotated next: the one with the lowest score.

N tasks; E numbers of an embedding (``embeddings``).
"""

import hashlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from training.settings import Select

FEW = 8
"""Annotated tasks up to which ``mixed`` goes by diversity; then by lot, which by certainty is no better."""

LEAST_AHEAD, MOST_AHEAD = 8, 256
"""Tasks that ``diverse`` has in front, as many as are annotated: with twice those it is made anew."""

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
