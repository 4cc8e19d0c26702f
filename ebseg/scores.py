"""Class scores of a large photo, a few rows at a time, and of those labels alone that decide it.

Q masks, K labels; H x W: the photo's own size; h x w: the masks', which is the photo's at test size.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

STRIP_VALUES = 2**24
"""Numbers held at once: 64 MiB in float32, whatever the photo and the vocabulary."""

STRIP_ROWS = 32
"""Rows of a strip at most: interpolating rows costs the product of a strip's rows and its source's."""

FEW_LABELS = 64
"""So many labels are scored in less time than it takes to find out which of them decide."""

TILE = 8
"""Side of the squares, in pixels at test size, in each of which the labels' scores are bounded."""

_ROUNDING = 1e-6
"""By which share of the largest score sums of Q products are off in float32."""


@dataclass(frozen=True, eq=False)
class Contest:
    """The scores that decide which label is the best of each pixel, or which few are.

    ``scores``: (L, rows, W), of the labels that ``labels``, (L,), are the indices of, ascending. ``total``:
    (rows, W), of all K labels together.
    """

    scores: Tensor
    labels: Tensor
    total: Tensor

    @classmethod
    def of_all(cls, scores: Tensor) -> "Contest":
        """Let all labels take part: scores (K, rows, W)."""
        return cls(scores, torch.arange(len(scores), device=scores.device), scores.sum(dim=0))


def score_strips(masks: Tensor, classes: Tensor, size: tuple[int, int]) -> Iterator[Tensor]:
    """Yield class scores (K, rows, W), strip by strip from the top: together those of ``EBSeg.combine``.

    ``masks``: (Q, h, w) logits; ``classes``: (Q, K) probabilities; ``size``: (H, W). The scores of 1,000
    labels on a photo of 12 megapixels would take 48 GB at once.
    """
    for _, shares in _resized_strips(masks, size, classes.shape[1]):
        yield _scores(classes, shares)


def contests(masks: Tensor, classes: Tensor, size: tuple[int, int], best: int = 1) -> Iterator[Contest]:
    """Yield what decides each pixel's best label, or its ``best`` ones, strip by strip from the top.

    The arguments are those of ``score_strips``, and so are the scores; but of hundreds of labels few can win
    anywhere in a strip. In a tile no mask is more than the largest of the logits that it is interpolated
    from, nor less than the smallest; that bounds each label's score, and one that is less at its most than
    another is at its least wins nowhere in the tile.
    """
    labels = classes.shape[1]
    whole = classes.sum(dim=1, keepdim=True)  # (Q, 1)
    # What all labels have of a mask makes none of them better than another: bounds are of how a label differs
    # from the mean one, and so are close where labels are alike.
    own = (classes - whole / labels).T  # (K, Q)
    slack = _ROUNDING * classes.sum(dim=0).max()
    for source, shares in _resized_strips(masks, size, labels):
        if labels <= max(FEW_LABELS, best):
            yield Contest.of_all(_scores(classes, shares))
        else:
            chosen = _contenders(source, own, best, slack)
            yield Contest(_scores(classes[:, chosen], shares), chosen, _scores(whole, shares)[0])


def _scores(classes: Tensor, shares: Tensor) -> Tensor:
    return torch.einsum("qk,qhw->khw", classes, shares)


def _contenders(source: Tensor, own: Tensor, best: int, slack: Tensor) -> Tensor:
    """Give the indices, ascending, of labels that can be among the best in a tile of masks (Q, n, w).

    ``own``: (K, Q), by how much each label is above the mean. ``slack``: what scores are off by.
    """
    most, least = (
        _over_tiles(source, extreme).flatten(1).sigmoid() for extreme in (torch.amax, torch.amin)
    )  # (Q, tiles) each
    middle, spread = own @ (most + least), own.abs() @ (most - least)  # (K, tiles), twice the score's
    needed = (middle - spread).topk(best, dim=0).values[-1] - slack
    return (middle + spread >= needed).any(dim=1).nonzero()[:, 0]


def _over_tiles(source: Tensor, extreme: Callable[..., Tensor]) -> Tensor:
    """Largest or smallest of masks (Q, n, w) over each tile and the row and column that follow it.

    Two neighbours, between which something is interpolated, are both of one such window. Returns (Q, ., .).
    """
    rows, columns = (max(-(-(side - 1) // TILE), 1) * TILE + 1 for side in source.shape[1:])
    missing = (0, columns - source.shape[2], 0, rows - source.shape[1])
    windows = F.pad(source[None], missing, mode="replicate")[0]
    return extreme(extreme(windows.unfold(1, TILE + 1, TILE), dim=-1).unfold(2, TILE + 1, TILE), dim=-1)


def _resized_strips(masks: Tensor, size: tuple[int, int], labels: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield, strip by strip, the rows of masks (Q, n, w) that it comes of and its shares (Q, rows, W), 0..1.

    The strips are so low that scores of so many ``labels`` hold STRIP_VALUES numbers at most.
    """
    height, width = size
    rows = STRIP_VALUES // (width * (2 * len(masks) + labels))
    rows = min(max(rows, 1), STRIP_ROWS)
    for top in range(0, height, rows):
        source, weights = _rows(masks, top, min(top + rows, height), height)
        resized = source
        if source.shape[-1] != width:
            resized = F.interpolate(
                source[None], size=(source.shape[1], width), mode="bilinear", align_corners=False
            )[0]
        yield source, (weights @ resized).sigmoid_()


def _rows(masks: Tensor, top: int, bottom: int, height: int) -> tuple[Tensor, Tensor]:
    """Give the rows (Q, n, w) of masks that rows ``top`` to ``bottom`` of ``height`` are interpolated from.

    And the weights (bottom - top, n) to do so bilinearly; pixel centres are at half coordinates
    (``align_corners=False``).
    """
    source_height = masks.shape[-2]
    target = torch.arange(bottom - top, device=masks.device)
    centres = (((target + top + 0.5) * (source_height / height)) - 0.5).clamp(min=0)
    above = centres.long()
    below = (above + 1).clamp(max=source_height - 1)
    first, last = int(above[0]), int(below[-1]) + 1
    share = (centres - above).to(masks.dtype)
    weights = masks.new_zeros(bottom - top, last - first)
    weights[target, above - first] = 1 - share
    weights[target, below - first] += share
    return masks[:, first:last], weights
