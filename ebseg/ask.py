"""What a model is asked about a photo; light, for those who ask without PyTorch."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from ebseg.vocabulary import Vocabulary

Photo = npt.NDArray[np.uint8] | Image.Image | str | Path
"""(H, W, 3) uint8 RGB, a PIL image, or a file's path."""


@dataclass(frozen=True, eq=False)
class Ask:
    """A question: the labels of a photo's pixels.

    ``threshold``: the share, 0..1, under which a pixel stays unlabelled; None: the predictor's own.
    """

    photo: Photo
    vocabulary: Vocabulary
    threshold: float | None = None
