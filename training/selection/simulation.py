"""Replay the labelling of photos whose label maps are known, to see what an order of tasks is worth.

The learner is the project's memory of corrections, which takes seconds; the annotator leaves each photo's
label map. As in the loop, the photos that are left are put into order anew when twice as many are annotated
(1, 2, 4, ...). Photos are kept as samples of their pixels, which stand for all of them by their areas.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ebseg.ask import Memory
from ebseg.data.samples import Sample
from ebseg.evaluation.metrics import ConfusionMatrix, mean_percent
from ebseg.predictor import Predictor, best_labels
from ebseg.scores import Contest
from ebseg.vocabulary import Vocabulary
from training.memory.fitting import answered, fit
from training.memory.samples import Samples
from training.memory.sampling import sample
from training.selection.embeddings import embedding
from training.selection.strategies import Embedding, ahead, most_telling, score
from training.settings import Select

Labels = npt.NDArray[np.int16]
Shares = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Photo:
    """What is kept of a photo; ``embedding``: see ``strategies``; ``size``: its pixels."""

    samples: Samples
    embedding: Embedding
    size: int


@dataclass(frozen=True)
class Point:
    """How far a replay is.

    ``photos``: annotated so far; ``corrected``: pixels of them that their prediction had wrong or left
    unsure; ``miou``: in percent, of the photos that judge.
    """

    photos: int
    corrected: int
    miou: float


def look(predictor: Predictor, photo: Sample, vocabulary: Vocabulary) -> Photo:
    """Encode a photo, once, and keep of it what replays need."""
    encoded = predictor.encode(photo.image)
    samples = sample(predictor, encoded, photo.label_map, vocabulary)
    return Photo(samples, embedding(encoded.encoded), photo.label_map.size)


@dataclass(frozen=True, eq=False)
class Simulation:
    """A project: photos to annotate, ``pool``, and others that judge.

    ``names``: of the K labels; ``model``: its version; ``threshold``: share under which it leaves a pixel
    unsure. Memories are kept: orders that begin alike share them.
    """

    pool: Sequence[Photo]
    judges: Sequence[Photo]
    names: Sequence[str]
    model: str
    threshold: float
    _memories: dict[frozenset[int], Memory | None] = field(default_factory=dict)

    def replay(self, select: Select, seed: int, counts: Sequence[int]) -> Iterator[Point]:
        """Annotate as many photos as the last of ``counts`` says; tell of each of them how far that is.

        ``seed``: of what is random. The first photo is one by lot, the same for each order.
        """
        rng = np.random.default_rng(seed)
        left = rng.permutation(len(self.pool)).tolist()
        annotated: list[int] = []
        corrected, memory = 0, None
        while len(annotated) < counts[-1]:
            planned, batch = memory, max(len(annotated), 1)
            if annotated:
                left = self._ordered(select, annotated, left, planned)
            for index in left[:batch]:
                annotated.append(index)
                corrected += self._wrong(self.pool[index], planned)
                if len(annotated) in (*counts, 2 * batch, 1):
                    memory = self._learnt(annotated)
                if len(annotated) in counts:
                    yield Point(len(annotated), corrected, self._miou(memory))
            left = left[batch:]

    def _ordered(
        self, select: Select, annotated: Sequence[int], left: Sequence[int], memory: Memory | None
    ) -> list[int]:
        if select is Select.RANDOM:
            return list(left)
        embeddings = np.stack([photo.embedding for photo in self.pool])
        front = most_telling(embeddings, annotated, ahead(select, len(annotated)))
        certainties = {index: self._certainty(self.pool[index], memory) for index in left}
        return sorted(left, key=lambda index: score(select, index, certainties[index], front))

    def _scores(self, photo: Photo, memory: Memory | None) -> Tensor:
        """Score the labels at a photo's samples, (N, K), as the project's predictions do."""
        if memory is None:
            return torch.from_numpy(photo.samples.text).float()
        return answered(memory, [photo.samples], self.names)

    def _decided(self, photo: Photo, memory: Memory | None) -> tuple[Labels, Shares]:
        """Give the labels of a photo's samples, -1 where unsure, and the best labels' shares, (N,) each."""
        found, shares = best_labels(Contest.of_all(self._scores(photo, memory).T), self.threshold)
        return found.numpy(), shares.numpy()

    def _certainty(self, photo: Photo, memory: Memory | None) -> float:
        """Give the score that its prediction has: the mean share over what has a label."""
        found, shares = self._decided(photo, memory)
        weights = photo.samples.areas * (found >= 0)
        return float((shares * weights).sum() / weights.sum()) if weights.any() else 0.0

    def _wrong(self, photo: Photo, memory: Memory | None) -> int:
        """Count the pixels that a person corrects."""
        found, _ = self._decided(photo, memory)
        return round(photo.size * float(photo.samples.areas[found != photo.samples.labels].sum()))

    def _learnt(self, annotated: Sequence[int]) -> Memory | None:
        photos = frozenset(annotated)
        if photos not in self._memories:
            fitted = fit([self.pool[index].samples for index in sorted(photos)], self.names, self.model)
            self._memories[photos] = fitted.memory if fitted is not None else None
        return self._memories[photos]

    def _miou(self, memory: Memory | None) -> float:
        matrix = ConfusionMatrix(len(self.names))
        for photo in self.judges:
            found = self._scores(photo, memory).argmax(dim=1).numpy()
            pixels = np.rint(photo.size * photo.samples.areas).astype(np.int64)
            np.add.at(matrix.counts, (photo.samples.labels, found), pixels)
        return mean_percent(matrix.iou())
