"""What a prediction is: a label for every pixel of a photo, and each label's part in it."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from ebseg.ask import Measure


@dataclass(frozen=True)
class LabelShare:
    """One label's part in a photo.

    ``index``: the label's value in the label map. ``area``: share of the photo's pixels, 0..1.
    ``confidence``: mean score of these pixels, 0..1, None where the label has none.
    """

    index: int
    label: str
    area: float
    confidence: float | None


@dataclass(frozen=True, eq=False)
class Segmentation:
    """A label for every pixel of a photo.

    ``label_map``: (H, W) int16, index into ``labels``, -1 where unsure. ``scores``: (H, W) float32, 0..1, the
    share of the best label at each pixel, also where it was not enough to label the pixel. ``measures``: what
    else was asked for of each pixel, (H, W) float32, 0 unsure to 1 sure, see ``ebseg.certainty``.
    """

    label_map: npt.NDArray[np.int16]
    scores: npt.NDArray[np.float32]
    labels: tuple[str, ...]
    measures: Mapping[Measure, npt.NDArray[np.float32]] = field(default_factory=dict)

    def table(self) -> list[LabelShare]:
        """List all labels, the largest area first."""
        counts, sums = (
            np.bincount(self.label_map.ravel() + 1, weights=weights, minlength=len(self.labels) + 1)[1:]
            for weights in (None, self.scores.ravel())
        )
        order = np.argsort(-counts, kind="stable")
        return [
            LabelShare(
                index=int(index),
                label=self.labels[index],
                area=float(counts[index] / self.label_map.size),
                confidence=float(sums[index] / counts[index]) if counts[index] else None,
            )
            for index in order
        ]

    @property
    def unlabelled(self) -> float:
        """Share of the photo's pixels without a label, 0..1."""
        return float((self.label_map < 0).mean())
