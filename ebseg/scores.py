"""Class scores of a large photo, a few rows at a time.

Q masks, K labels; H x W: the photo's own size; h x w: the masks', which is the photo's at test size.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

STRIP_VALUES = 2**24
"""Numbers held at once: 64 MiB in float32, whatever the photo and the vocabulary."""

STRIP_ROWS = 32
"""Rows of a strip at most: interpolating rows costs the product of a strip's rows and its source's."""


def score_strips(masks: Tensor, classes: Tensor, size: tuple[int, int]) -> Iterator[Tensor]:
    """Yield class scores (K, rows, W), strip by strip from the top: together those of ``EBSeg.combine``.

    ``masks``: (Q, h, w) logits; ``classes``: (Q, K) probabilities; ``size``: (H, W). The scores of 1,000
    labels on a photo of 12 megapixels would take 48 GB at once.
    """
    height, width = size
    rows = STRIP_VALUES // (width * (2 * len(masks) + classes.shape[1]))
    rows = min(max(rows, 1), STRIP_ROWS)
    for top in range(0, height, rows):
        strip = _resized_rows(masks, top, min(top + rows, height), size)
        yield torch.einsum("qk,qhw->khw", classes, strip.sigmoid())


def _resized_rows(masks: Tensor, top: int, bottom: int, size: tuple[int, int]) -> Tensor:
    """Rows ``top`` to ``bottom`` of masks (Q, h, w) resized bilinearly to ``size``: (Q, bottom - top, W).

    Pixel centres are at half coordinates (``align_corners=False``).
    """
    height, width = size
    source_height = masks.shape[-2]
    target = torch.arange(bottom - top, device=masks.device)
    centres = (((target + top + 0.5) * (source_height / height)) - 0.5).clamp(min=0)
    above = centres.long()
    below = (above + 1).clamp(max=source_height - 1)
    first, last = int(above[0]), int(below[-1]) + 1
    needed = masks[:, first:last]
    if needed.shape[-1] != width:
        needed = F.interpolate(
            needed[None], size=(last - first, width), mode="bilinear", align_corners=False
        )[0]
    share = (centres - above).to(masks.dtype)
    weights = masks.new_zeros(bottom - top, last - first)
    weights[target, above - first] = 1 - share
    weights[target, below - first] += share
    return weights @ needed
