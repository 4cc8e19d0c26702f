"""What a model is asked about a photo; light, for those who ask without PyTorch."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image

from ebseg.vocabulary import Vocabulary

Photo = npt.NDArray[np.uint8] | Image.Image | str | Path
"""(H, W, 3) uint8 RGB, a PIL image, or a file's path."""


Mask = npt.NDArray[np.bool_]
"""(H, W): which pixels belong."""


Threshold = float | tuple[float | None, ...] | None
"""Share, 0..1, under which a pixel stays unlabelled: one, or each label's; None: the predictor's own."""


Measure = Literal["margin", "entropy"]
"""What else a model can tell of how sure it is, see ``ebseg.certainty``."""


class Shape(Protocol):
    """What a person draws on a photo: a click, a stroke or a box."""

    def draw(self, height: int, width: int) -> Mask:
        """Draw it on a photo of this size, (height, width) bool. Raises EBSegError where it does not fit."""


@dataclass(frozen=True, eq=False)
class Pointed:
    """What a person points at, of one label.

    ``label``: index into the vocabulary. ``positive``, ``negative``: clicks and strokes on pixels that are
    and that are not of it. ``boxes``: each around a thing; ``negative_boxes``: where there is none.
    """

    label: int
    positive: tuple[Shape, ...] = ()
    negative: tuple[Shape, ...] = ()
    boxes: tuple[Shape, ...] = ()
    negative_boxes: tuple[Shape, ...] = ()


@dataclass(frozen=True, eq=False)
class Memory:
    """What a project's corrections say of some labels' pixels: a linear classifier, see ``ebseg.memory``.

    D is the width of the pixel decoder's features, S the number of labels. ``name``: tells memories of one
    model apart, see ``ebseg.label_studio.version``. ``model``: the version of the model whose features it
    reads. ``labels``: S names, as a vocabulary has them. ``weight``: (2 D, S), of a pixel's own feature and
    then of what is around it; ``bias``: (S,). ``share``: (S,), 0..1, how much it counts in a label's score
    beside the text; 0: the label's score is the text's.
    """

    name: str
    model: str
    labels: tuple[str, ...]
    weight: npt.NDArray[np.float32]
    bias: npt.NDArray[np.float32]
    share: npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Ask:
    """A question: the labels of a photo's pixels, or the pixels of one label at which a person points.

    ``threshold``: the share under which a pixel stays unlabelled; where there is one for each label, that of
    the pixel's best one counts. ``measures``: what else to tell of each pixel of the whole photo. ``memory``:
    what was learnt of some of the labels; one of another model's features is not used.
    """

    photo: Photo
    vocabulary: Vocabulary
    threshold: Threshold = None
    pointed: Pointed | None = None
    measures: tuple[Measure, ...] = ()
    memory: Memory | None = None
