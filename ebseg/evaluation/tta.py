"""Test-time augmentation: the mean class scores of a photo at six sizes, each also mirrored.

Q masks, K labels; H x W: the photo's own size; h x w: the masks', a quarter of the padded view's.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ebseg.config import ModelConfig
from ebseg.model import EBSeg
from ebseg.scores import STRIP_ROWS, STRIP_VALUES
from ebseg.vocabulary import Vocabulary

FACTORS = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
"""Sizes of the views, by the model's test size: shorter edges of 320 to 1120 pixels where that is 640."""


def view_sizes(config: ModelConfig) -> tuple[tuple[int, int], ...]:
    """Give each view's shorter edge and the longest that its longer edge may be, in pixels."""
    longest = int(max(FACTORS) * config.test_max_size)
    return tuple((int(factor * config.test_size), longest) for factor in FACTORS)


@dataclass(frozen=True, eq=False)
class _View:
    """What the model says of one view, small: masks are kept as the decoder gives them.

    ``masks``: (Q, h, w) logits; ``classes``: (Q, K). ``rows`` (H, h) and ``columns`` (W, w) are the weights
    that bring a mask to the photo's size: padded, cropped, mirrored back, resized.
    """

    masks: Tensor
    classes: Tensor
    rows: Tensor
    columns: Tensor

    def scores(self, top: int, bottom: int) -> Tensor:
        """Class scores (K, bottom - top, W) of some rows of the photo."""
        rows = self.rows[top:bottom]
        used = rows.any(dim=0)
        masks = rows[:, used] @ self.masks[:, used] @ self.columns.T
        return torch.einsum("qk,qhw->khw", self.classes, masks.sigmoid())


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
    views = [
        _view(net, image, vocabulary, text, size, mirrored) for image in images for mirrored in (False, True)
    ]
    return _means(views, size)


def _means(views: Sequence[_View], size: tuple[int, int]) -> Iterator[Tensor]:
    height, width = size
    queries, labels = views[0].classes.shape
    rows = min(max(STRIP_VALUES // (width * (2 * queries + 2 * labels)), 1), STRIP_ROWS)
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        total = views[0].scores(top, bottom)
        for view in views[1:]:
            total += view.scores(top, bottom)
        yield total / len(views)


def _view(
    net: EBSeg, image: Tensor, vocabulary: Vocabulary, text: Tensor, size: tuple[int, int], mirrored: bool
) -> _View:
    found = net.encode([image.flip(-1) if mirrored else image])
    masks = found.masks[0]
    # Both resizings are bilinear, first to the padded view, then from the view to the photo: each is a
    # product with weights, along rows and along columns.
    rows, columns = (
        _weights(masks.shape[side], found.padded[side], masks.device)[: image.shape[side]]
        for side in (-2, -1)
    )
    if mirrored:
        columns = columns.flip(0)
    return _View(
        masks,
        net.classify(found, vocabulary, text=text)[0],
        _weights(image.shape[-2], size[0], masks.device) @ rows,
        _weights(image.shape[-1], size[1], masks.device) @ columns,
    )


def _weights(source: int, target: int, device: torch.device) -> Tensor:
    """Weights (target, source) of a bilinear resizing along one axis."""
    identity = torch.eye(source, device=device)[None]  # each source pixel is a channel of its own
    return F.interpolate(identity, size=target, mode="linear", align_corners=False)[0].T
