"""Training losses: Hungarian matching, the set criterion, and semantic structure consistency (SSC).

Paper, section 3.4. Matching and set criterion are Mask2Former's (Cheng et al., CVPR 2022) with its
importance-sampled points (Kirillov et al., "PointRend", CVPR 2020); random points are drawn in the
authors' order, so that equal generators give equal losses. With a generator a photo, a photo's points
do not depend on the photos beside it, so that a batch may be spread over processes.

B photos, Q masks, K labels, T label maps' segments (one a label present), M matched masks, P points,
E joint embedding size.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ebseg.config import LossConfig

_ENDLESS = 1e9
"""A matching cost that no finite one reaches."""


@dataclass(frozen=True)
class Target:
    """What a label map holds.

    ``labels``: (T,) int64, ascending; ``masks``: (T, H, W) float, 0 or 1; ``known``: (H, W) float, 0 where
    masks are not compared, or None where they are compared everywhere.
    """

    labels: Tensor
    masks: Tensor
    known: Tensor | None = None


@dataclass(frozen=True)
class Prediction:
    """One prediction of all masks, as the losses see it.

    ``masks``: (B, Q, h, w) logits; ``a``, ``b``: (B, Q, K + 1) class logits of the decoder's and
    of CLIP's recognition, background last; ``embeddings``: (B, Q, E), the A embeddings.
    """

    masks: Tensor
    a: Tensor
    b: Tensor
    embeddings: Tensor


Matching = list[tuple[Tensor, Tensor]]
"""Per photo: matched queries (ascending) and the targets they are matched with."""

Generators = Sequence[torch.Generator | None]
"""One a photo, for its random points; None is PyTorch's own."""


@dataclass(frozen=True)
class Totals:
    """What the terms are divided by, summed over the photos that share one step.

    ``masks``: targets. ``class_weight``: of all queries, by the classes they shall say. ``photos``: those
    with labels. Where a step is spread over batches and processes, the totals of all of them divided by
    the number of processes (whose gradients are averaged) give the gradients of one large batch. The
    authors count at least one mask a process, which two processes with one mask between them would feel.
    """

    masks: float
    class_weight: float
    photos: float

    @classmethod
    def of(cls, segments: Sequence[int], queries: int, config: LossConfig) -> "Totals":
        """Add up photos with so many targets each."""
        matched = sum(min(count, queries) for count in segments)
        return cls(
            masks=float(sum(segments)),
            class_weight=matched + (len(segments) * queries - matched) * config.background,
            photos=float(sum(count > 0 for count in segments)),
        )


def targets_of(label_maps: Tensor, config: LossConfig) -> list[Target]:
    """Split label maps (B, H, W), -1 unlabelled, into one mask a label. Unlabelled pixels are in no mask."""
    targets = []
    for label_map in label_maps:
        labels = label_map.unique()
        labels = labels[labels >= 0]
        known = (label_map >= 0).float() if config.unlabelled == "ignored" else None
        targets.append(Target(labels.long(), (label_map == labels[:, None, None]).float(), known))
    return targets


def criterion(
    predictions: Sequence[Prediction],
    targets: Sequence[Target],
    text: Tensor,
    config: LossConfig,
    *,
    generators: Generators | None = None,
    totals: Totals | None = None,
) -> dict[str, Tensor]:
    """All weighted loss terms, for predictions before the first decoder layer and after each one.

    ``text``: (K + 1, E) class embeddings, background last. ``generators``: see ``Generators``; PyTorch's
    own unless told otherwise. ``totals``: what terms are divided by; this batch's unless told otherwise.
    Terms of earlier predictions end in their number; SSC looks at the last prediction only. The
    authors' order: the last prediction draws its random points first.
    """
    generators = [None] * len(targets) if generators is None else generators
    if totals is None:
        totals = Totals.of([len(target.labels) for target in targets], predictions[0].a.shape[1], config)
    *earlier, last = predictions
    matching = match(last, targets, config, generators)
    losses = _set_losses(last, targets, matching, totals, config, generators)
    losses["ssc"] = config.ssc * ssc_loss(last.embeddings, targets, matching, text[:-1], totals)
    for number, prediction in enumerate(earlier):
        matching = match(prediction, targets, config, generators)
        terms = _set_losses(prediction, targets, matching, totals, config, generators)
        losses.update({f"{name}_{number}": term for name, term in terms.items()})
    return losses


@torch.no_grad()
def match(
    prediction: Prediction, targets: Sequence[Target], config: LossConfig, generators: Generators
) -> Matching:
    """Assign queries to targets at the least total cost, by the decoder's own class logits (A)."""
    from scipy.optimize import linear_sum_assignment  # slow to import, and no answer needs it

    matching = []
    for masks, logits, target, generator in zip(
        prediction.masks, prediction.a, targets, generators, strict=True
    ):
        points = torch.rand(1, config.points, 2, device=masks.device, generator=generator)
        predicted = sample_points(masks.float(), points.expand(len(masks), -1, -1))  # (Q, P)
        wanted = sample_points(target.masks, points.expand(len(target.masks), -1, -1))  # (T, P)
        known = _known_at(target, points)[0]  # (P,)
        cost = (
            -config.match_class * logits.float().softmax(dim=-1)[:, target.labels]
            + config.match_mask * _pairwise_cross_entropy(predicted, wanted, known)
            + config.match_dice * _pairwise_dice(predicted, wanted, known)
        )  # (Q, T)
        # SciPy refuses what is not finite; the loss terms will say so, and of which photos.
        cost = cost.nan_to_num(nan=_ENDLESS, posinf=_ENDLESS, neginf=-_ENDLESS)
        rows, columns = linear_sum_assignment(cost.cpu().numpy())
        device = masks.device
        matching.append((torch.as_tensor(rows, device=device), torch.as_tensor(columns, device=device)))
    return matching


def ssc_loss(
    embeddings: Tensor, targets: Sequence[Target], matching: Matching, labels: Tensor, totals: Totals
) -> Tensor:
    """Semantic structure consistency (paper, equations 7 and 8).

    The matched masks' embeddings (B, Q, E) shall have, photo by photo, the inner products that their
    labels' text embeddings (K, E) have. A photo without labels has no term (the authors' code makes it
    NaN and then the whole batch's term zero); the rest are averaged.
    """
    terms = []
    for x, target, (queries, segments) in zip(embeddings, targets, matching, strict=True):
        if len(queries):
            matched, names = x[queries].float(), labels[target.labels[segments]].float()
            terms.append(F.mse_loss(matched @ matched.T, names @ names.T))
    return torch.stack(terms).sum() / totals.photos if terms else embeddings.sum() * 0


def sample_points(maps: Tensor, points: Tensor) -> Tensor:
    """Bilinear samples (N, P) of maps (N, H, W) at points (N, P, 2), (x, y) in 0..1; zeros outside."""
    grid = 2 * points[:, None] - 1  # (N, 1, P, 2)
    return F.grid_sample(maps[:, None], grid, align_corners=False)[:, 0, 0]


def _set_losses(
    prediction: Prediction,
    targets: Sequence[Target],
    matching: Matching,
    totals: Totals,
    config: LossConfig,
    generators: Generators,
) -> dict[str, Tensor]:
    mask, dice = _mask_losses(prediction.masks, targets, matching, totals, config, generators)
    return {
        "class_a": config.cross_entropy * _class_loss(prediction.a, targets, matching, totals, config),
        "class_b": config.cross_entropy * _class_loss(prediction.b, targets, matching, totals, config),
        "mask": config.mask * mask,
        "dice": config.dice * dice,
    }


def _class_loss(
    logits: Tensor, targets: Sequence[Target], matching: Matching, totals: Totals, config: LossConfig
) -> Tensor:
    """Cross-entropy of (B, Q, K + 1) logits; queries without a target shall say background."""
    background = logits.shape[-1] - 1
    wanted = torch.full(logits.shape[:2], background, device=logits.device)
    for row, target, (queries, segments) in zip(wanted, targets, matching, strict=True):
        row[queries] = target.labels[segments]
    weights = logits.new_ones(background + 1, dtype=torch.float32)
    weights[background] = config.background
    summed = F.cross_entropy(logits.float().transpose(1, 2), wanted, weights, reduction="sum")
    return summed / totals.class_weight


def _mask_losses(
    masks: Tensor,
    targets: Sequence[Target],
    matching: Matching,
    totals: Totals,
    config: LossConfig,
    generators: Generators,
) -> tuple[Tensor, Tensor]:
    """Binary cross-entropy and dice of the matched masks, at points where they are least sure."""
    predicted = torch.cat([x[queries] for x, (queries, _) in zip(masks, matching, strict=True)]).float()
    wanted = torch.cat(
        [target.masks[segments] for target, (_, segments) in zip(targets, matching, strict=True)]
    )
    if not len(predicted):
        return predicted.sum(), predicted.sum()
    with torch.no_grad():
        counts = [len(queries) for queries, _ in matching]
        points = _uncertain_points(predicted.detach(), counts, config, generators)
        labels = sample_points(wanted, points)  # (M, P)
        known = torch.cat(
            [_known_at(target, part) for target, part in zip(targets, points.split(counts), strict=True)]
        )  # (M, P)
    logits = sample_points(predicted, points)
    cross_entropy = F.binary_cross_entropy_with_logits(logits, labels, weight=known, reduction="none")
    cross_entropy = cross_entropy.sum(dim=1) / known.sum(dim=1).clamp(min=1)
    shares, labels = logits.sigmoid() * known, labels * known
    dice = 1 - (2 * (shares * labels).sum(dim=1) + 1) / (shares.sum(dim=1) + labels.sum(dim=1) + 1)
    return cross_entropy.sum() / totals.masks, dice.sum() / totals.masks


def _uncertain_points(
    masks: Tensor, counts: Sequence[int], config: LossConfig, generators: Generators
) -> Tensor:
    """Points (M, P, 2): most where the logits (M, h, w) are nearest to zero, the rest anywhere.

    ``counts``: masks of each photo; together M.
    """

    def drawn_by_photo(points: int) -> Tensor:
        return torch.cat(
            [
                torch.rand(count, points, 2, device=masks.device, generator=generator)
                for count, generator in zip(counts, generators, strict=True)
            ]
        )

    drawn = int(config.points * config.oversampling)
    certain = int(config.points * config.uncertain_share)
    candidates = drawn_by_photo(drawn)
    uncertainty = -sample_points(masks, candidates).abs()
    chosen = uncertainty.topk(certain, dim=1).indices
    picked = candidates.gather(1, chosen[..., None].expand(-1, -1, 2))
    anywhere = drawn_by_photo(config.points - certain)
    return torch.cat([picked, anywhere], dim=1)


def _known_at(target: Target, points: Tensor) -> Tensor:
    """Tell whether masks are compared (N, P) at a photo's points (N, P, 2): 1, or 0 where little is known."""
    if target.known is None:
        return points.new_ones(points.shape[:2])
    return (sample_points(target.known.expand(len(points), -1, -1), points) > 0.5).float()


def _pairwise_cross_entropy(logits: Tensor, wanted: Tensor, known: Tensor) -> Tensor:
    """Mean binary cross-entropy (Q, T) of logits (Q, P) against wanted (T, P), at known points (P,)."""
    positive, negative = F.softplus(-logits) * known, F.softplus(logits) * known
    return (positive @ wanted.T + negative @ (1 - wanted).T) / known.sum().clamp(min=1)


def _pairwise_dice(logits: Tensor, wanted: Tensor, known: Tensor) -> Tensor:
    """Dice loss (Q, T) of each pair, at known points (P,)."""
    shares, wanted = logits.sigmoid() * known, wanted * known
    overlap = 2 * shares @ wanted.T
    total = shares.sum(dim=1)[:, None] + wanted.sum(dim=1)[None]
    return 1 - (overlap + 1) / (total + 1)
