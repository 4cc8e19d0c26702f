"""Pixels of a corrected photo, with what the model says of each: what a memory is made of."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

PIXELS = 150
"""Of one label in one photo: more of them say the same."""


@dataclass(frozen=True, eq=False)
class Samples:
    """N pixels of one photo, ordered from left to right.

    D is the width of the pixel decoder's features, K the number of the vocabulary's labels.
    ``features``: (N, 2 D), of each pixel and of what is around it. ``labels``: (N,) int16, index into the
    vocabulary. ``areas``: (N,) float32, share of the photo's pixels that each stands for. ``text``: (N, K)
    float16, the text's scores.
    """

    features: npt.NDArray[np.float16]
    labels: npt.NDArray[np.int16]
    areas: npt.NDArray[np.float32]
    text: npt.NDArray[np.float16]

    def __len__(self) -> int:
        return len(self.labels)
