"""Test-time augmentation: the mean class scores of a photo at six sizes, each also mirrored.

Q masks, K labels; H x W: the photo's own size.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ebseg.config import ModelConfig
from ebseg.model import EBSeg
from ebseg.scores import Masks, scores_of, strips
from ebseg.vocabulary import Vocabulary

FACTORS = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
"""Sizes of the views, by the model's test size: shorter edges of 320 to 1120 pixels where that is 640."""


def view_sizes(config: ModelConfig) -> tuple[tuple[int, int], ...]:
    """Give each view's shorter edge and the longest that its longer edge may be, in pixels."""
    longest = int(max(FACTORS) * config.test_max_size)
    return tuple((int(factor * config.test_size), longest) for factor in FACTORS)


@dataclass(frozen=True, eq=False)
class _View:
    """What the model says of a view. ``classes``: (Q, K). ``mirrored``: whether the masks' left is right."""

    masks: Masks
    classes: Tensor
    mirrored: bool

    def scores(self, top: int, bottom: int, size: tuple[int, int]) -> Tensor:
        """Class scores (K, bottom - top, W) of some rows of the photo, whose size is (H, W)."""
        masks = self.masks.resized(top, bottom, size)
        return scores_of(self.classes, (masks.flip(-1) if self.mirrored else masks).sigmoid())


@torch.inference_mode()
def score_strips(
    net: EBSeg,
    images: Sequence[Tensor],
    vocabulary: Vocabulary,
    size: tuple[int, int],
    *,
    text: Tensor | None = None,
) -> Iterator[Tensor]:
    """Look at all views; then yield class scores (K, rows, W), strip by strip from the top: the views' means.

    ``images``: a photo at several sizes, each (3, ., .) float RGB 0..255; each is looked at as it is and
    mirrored. ``size``: (H, W). ``text``: the labels' embeddings, as ``EBSeg`` takes them. The
    scores of a whole photo are never held: those of 847 labels at 6 megapixels would take 20 GB.
    """
    text = net.text.encode_labels(vocabulary) if text is None else text  # (K, E)
    views = [_view(net, image, vocabulary, text, mirrored) for image in images for mirrored in (False, True)]
    return _means(views, size)


def _means(views: Sequence[_View], size: tuple[int, int]) -> Iterator[Tensor]:
    queries, labels = views[0].classes.shape
    for top, bottom in strips(size, 2 * queries + 2 * labels):
        total = views[0].scores(top, bottom, size)
        for view in views[1:]:
            total += view.scores(top, bottom, size)
        yield total / len(views)


def _view(net: EBSeg, image: Tensor, vocabulary: Vocabulary, text: Tensor, mirrored: bool) -> _View:
    found = net.encode([image.flip(-1) if mirrored else image])
    return _View(found.resizable(), net.classify(found, vocabulary, text=text)[0], mirrored)
