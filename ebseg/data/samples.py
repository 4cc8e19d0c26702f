"""What training and evaluation read: labelled photos, one at a time."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from ebseg.vocabulary import Vocabulary

LabelMap = npt.NDArray[np.int16]
"""(H, W): index into a vocabulary at each pixel, -1 where there is none."""


@dataclass(frozen=True, eq=False)
class Sample:
    """A photo and its truth.

    ``name``: what people find it by, such as its path. ``image``: (H, W, 3) uint8 RGB. ``label_map``:
    (H, W) int16, indices into the source's vocabulary, -1 ignored.
    """

    name: str
    image: npt.NDArray[np.uint8]
    label_map: LabelMap


class Source(Protocol):
    """Labelled photos of one vocabulary. Reading is repeatable and safe in several processes."""

    @property
    def name(self) -> str:
        """What people know it by."""

    @property
    def vocabulary(self) -> Vocabulary:
        """What the label maps' numbers mean."""

    def __len__(self) -> int:
        """How many photos there are."""

    def __getitem__(self, index: int) -> Sample:
        """Read one. Raises DataError that names the file for one that cannot be read."""

    def fingerprint(self) -> str:
        """Name the content: equal for equal photos and label maps."""
