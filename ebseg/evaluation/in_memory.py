"""mIoU of a model on photos in memory: what training, fine-tuning and `ebseg evaluate` on scenes look at."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from ebseg.errors import VocabularyError
from ebseg.evaluation.metrics import ConfusionMatrix, harmonic_mean, mean_percent
from ebseg.predictor import Predictor
from ebseg.vocabulary import Vocabulary


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
        return harmonic_mean(self.seen, self.unseen)


def summarise(iou: npt.NDArray[np.float64], seen: Sequence[bool], photos: int) -> Result:
    """Mean IoU in percent over all labels, the seen and the unseen; absent labels do not count."""
    known = np.asarray(seen)
    return Result(
        miou=mean_percent(iou), seen=mean_percent(iou[known]), unseen=mean_percent(iou[~known]), photos=photos
    )


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
