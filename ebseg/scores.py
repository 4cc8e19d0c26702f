"""Class scores of a large photo, a few rows at a time, and of those labels alone that decide it.

Q masks, K labels; H x W: the photo's own size; h x w: the masks'; height x width: the photo's at test size.
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
class Masks:
    """Masks of a photo, which are resized twice, bilinearly: to test size, then to the photo's own.

    ``logits``: (Q, h, w), small, as the decoder gives them. ``padded``: the (rows, columns) that they cover
    at test size, of which the photo has ``size``, (height, width). All masks in full would take 200 MB: rows
    are made where they are asked for, of the small ones at once, as two resizings of rows are one product
    with weights.
    """

    logits: Tensor
    padded: tuple[int, int]
    size: tuple[int, int]

    def at_test_size(self, top: int, bottom: int) -> Tensor:
        """Give rows ``top`` to ``bottom`` of the masks at test size: (Q, rows, width)."""
        first, weights = self._weights(top, bottom)
        return weights @ self._columns(first, weights)

    def resized(self, top: int, bottom: int, size: tuple[int, int]) -> Tensor:
        """Give rows ``top`` to ``bottom`` of the masks at a photo's own size (H, W): (Q, rows, W)."""
        start, weights = _row_weights(self.size[0], size[0], top, bottom, self.logits)
        first, inner = self._weights(start, start + weights.shape[1])
        return (weights @ inner) @ _to_width(self._columns(first, inner), size[1])

    def source(self, top: int, bottom: int, height: int) -> Tensor:
        """Give the rows at test size that some of a photo of ``height`` are interpolated from."""
        start, weights = _row_weights(self.size[0], height, top, bottom, self.logits)
        return self.at_test_size(start, start + weights.shape[1])

    def _weights(self, top: int, bottom: int) -> tuple[int, Tensor]:
        return _row_weights(self.logits.shape[1], self.padded[0], top, bottom, self.logits)

    def _columns(self, first: int, weights: Tensor) -> Tensor:
        """Give the small rows that the weights belong to, of the photo's width at test size."""
        rows = self.logits[:, first : first + weights.shape[1]]
        return _to_width(rows, self.padded[1])[..., : self.size[1]]


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


def score_strips(masks: Masks, classes: Tensor, size: tuple[int, int]) -> Iterator[Tensor]:
    """Yield class scores (K, rows, W), strip by strip from the top: together those of ``EBSeg.combine``.

    ``classes``: (Q, K) probabilities; ``size``: (H, W). The scores of 1,000 labels on a photo of 12
    megapixels would take 48 GB at once.
    """
    for top, bottom in strips(size, 2 * len(classes) + classes.shape[1]):
        yield scores_of(classes, masks.resized(top, bottom, size).sigmoid_())


def contests(masks: Masks, classes: Tensor, size: tuple[int, int], best: int = 1) -> Iterator[Contest]:
    """Yield what decides each pixel's best label, or its ``best`` ones, strip by strip from the top.

    The arguments are those of ``score_strips``, and so are the scores; but of hundreds of labels few can win
    anywhere in a strip. In a tile no mask is more than the largest of the logits that it is interpolated
    from, nor less than the smallest; that bounds each label's score, and one that is less at its most than
    another is at its least wins nowhere in the tile.
    """
    queries, labels = classes.shape
    if labels <= max(FEW_LABELS, best):
        yield from map(Contest.of_all, score_strips(masks, classes, size))
        return
    whole = classes.sum(dim=1, keepdim=True)  # (Q, 1)
    # What all labels have of a mask makes none of them better than another: bounds are of how a label differs
    # from the mean one, and so are close where labels are alike.
    own = (classes - whole / labels).T  # (K, Q)
    slack = _ROUNDING * classes.sum(dim=0).max()
    for top, bottom in strips(size, 2 * queries + FEW_LABELS):
        chosen = _contenders(masks.source(top, bottom, size[0]), own, best, slack)
        # Of labels that are alike many may be chosen: too many for so high a strip.
        for above, below in strips((bottom - top, size[1]), 2 * queries + len(chosen)):
            shares = masks.resized(top + above, top + below, size).sigmoid_()
            yield Contest(scores_of(classes[:, chosen], shares), chosen, scores_of(whole, shares)[0])


def scores_of(classes: Tensor, shares: Tensor) -> Tensor:
    """Give class scores (K, ., .) of probabilities (Q, K) and masks' shares (Q, ., .), 0..1."""
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


def strips(size: tuple[int, int], numbers: int) -> Iterator[tuple[int, int]]:
    """Yield the first row of each strip of a photo of (H, W), and that of the next one.

    ``numbers``: so many are held of a pixel. The strips are so low that these are STRIP_VALUES at most.
    """
    height, width = size
    rows = min(max(STRIP_VALUES // (width * numbers), 1), STRIP_ROWS)
    for top in range(0, height, rows):
        yield top, min(top + rows, height)


def _to_width(rows: Tensor, width: int) -> Tensor:
    """Resize (Q, n, w) along its rows."""
    if rows.shape[-1] == width:
        return rows
    return F.interpolate(rows[None], size=(rows.shape[1], width), mode="bilinear", align_corners=False)[0]


def _row_weights(source_height: int, height: int, top: int, bottom: int, like: Tensor) -> tuple[int, Tensor]:
    """Tell what rows ``top`` to ``bottom`` of ``height`` are interpolated from, bilinearly, and how.

    Gives the first of n rows of ``source_height``, and their weights (bottom - top, n), of the type and on
    the device of ``like``; pixel centres are at half coordinates (``align_corners=False``).
    """
    target = torch.arange(bottom - top, device=like.device)
    centres = (((target + top + 0.5) * (source_height / height)) - 0.5).clamp(min=0)
    above = centres.long()
    below = (above + 1).clamp(max=source_height - 1)
    first, last = int(above[0]), int(below[-1]) + 1
    share = (centres - above).to(like.dtype)
    weights = like.new_zeros(bottom - top, last - first)
    weights[target, above - first] = 1 - share
    weights[target, below - first] += share
    return first, weights
