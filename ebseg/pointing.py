"""What a person points at: the part of a photo that the model's masks make of clicks, strokes and boxes.

The person says that the label is there, so nothing is asked of the labels beside it. Q masks; H x W: the
photo's own size. All is worked out at the masks' resolution, a quarter of the photo's at test size, but for
the last step. The numbers were chosen on 77 regions of ten CamVid photos, those of what a box spans on 109
of twelve others; docs/backend.md has the measures.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from ebseg.ask import Mask, Pointed, Shape
from ebseg.errors import AnnotationError
from ebseg.model import Encoded
from ebseg.parts import touched

LEAST_RESEMBLANCE = 0.7
"""Cosine between the masks that a pixel is in and those that the pixels pointed at are in."""

LEAST_IN_A_BOX = (0.3, 0.1)
"""Shares of the box's largest value from which a pixel likely belongs; the second where that is little."""

LEAST_SPAN = 0.6
"""Of the box's area, what the largest part spans: boxes are drawn around things, give or take a tenth."""

MOST_REFINED = 14_000
"""Pixels of a box's surroundings that grabCut looks at: a larger one is made smaller for it."""

MOST_PIXELS = 1_000_000
"""Of the photo that all is worked out on: a larger one is made smaller for it, and its mask is enlarged."""

_UNLIKELY = 0.02
"""Added to a mask's probability of the label: the person knows better than the model."""

_LABELS_WEIGHT = 0.25
"""Power to which that probability counts where masks are compared: the label is a hint, no more."""

_MARGIN = 0.1
"""Of a box's longer side, around it: what the box's inside is told apart from."""


def point(
    encoded: Encoded, classes: Tensor, pixels: npt.NDArray[np.uint8], pointed: Pointed
) -> tuple[Mask, npt.NDArray[np.float32]]:
    """Find what is pointed at in a photo; there is always something where a positive prompt is.

    ``classes``: (Q,), the masks' probabilities of the label. ``pixels``: (H, W, 3) uint8 RGB. Returns the
    mask (H, W) bool and how sure each pixel of it is, (H, W), 0..1. Raises
    AnnotationError where no positive prompt is on the photo, and what a prompt's ``draw`` raises.
    """
    height, width = pixels.shape[:2]
    shrink = (MOST_PIXELS / (height * width)) ** 0.5
    if shrink >= 1:
        return _point(encoded, classes, pixels, pointed)
    size = (max(round(width * shrink), 1), max(round(height * shrink), 1))
    smaller = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    found, sure = _point(encoded, classes, np.asarray(smaller, np.uint8), _on(pointed, (height, width)))
    large = cv2.resize(found.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR) >= 0.5
    if pointed.boxes and not pointed.positive:
        clipped = large & np.logical_or.reduce([box.draw(height, width) for box in pointed.boxes])
        large = clipped if clipped.any() else large  # of a box that is thinner than a pixel of the small one
    return large, np.asarray(cv2.resize(sure, (width, height), interpolation=cv2.INTER_LINEAR), np.float32)


@dataclass(frozen=True)
class _Reduced:
    """A shape that is drawn on a photo of its own size, and then made smaller."""

    shape: Shape
    size: tuple[int, int]

    def draw(self, height: int, width: int) -> Mask:
        mask = self.shape.draw(*self.size).astype(np.uint8) * 255
        return np.asarray(cv2.resize(mask, (width, height), interpolation=cv2.INTER_AREA) > 0)


def _on(pointed: Pointed, size: tuple[int, int]) -> Pointed:
    """Let all shapes be drawn on a photo of this size, (H, W), whatever the size that is asked for."""

    def reduced(shapes: Sequence[Shape]) -> tuple[Shape, ...]:
        return tuple(_Reduced(shape, size) for shape in shapes)

    return Pointed(
        pointed.label,
        positive=reduced(pointed.positive),
        negative=reduced(pointed.negative),
        boxes=reduced(pointed.boxes),
        negative_boxes=reduced(pointed.negative_boxes),
    )


def _point(
    encoded: Encoded, classes: Tensor, pixels: npt.NDArray[np.uint8], pointed: Pointed
) -> tuple[Mask, npt.NDArray[np.float32]]:
    size = (pixels.shape[0], pixels.shape[1])
    proposals = _Proposals(encoded, classes, size)
    found: Mask = np.zeros(size, dtype=bool)
    boxes: Mask = found.copy()
    seeds: Mask = found.copy()
    sure: npt.NDArray[np.float32] = np.zeros(size, dtype=np.float32)
    resembling: npt.NDArray[np.float32] = sure.copy()
    for box in _drawn(pointed.boxes, size):
        likely = proposals.in_box(box)
        found |= _inside(likely, box, pixels)
        sure = np.maximum(sure, likely * box)
        boxes |= box
    for seed in _drawn(pointed.positive, size):
        resemblance = proposals.resemblance(seed)
        part = touched((resemblance > LEAST_RESEMBLANCE) | seed, seed)
        found |= part & boxes if (seed & boxes).any() else part
        resembling = np.maximum(resembling, resemblance)
        seeds |= seed
    pointed_at = seeds | boxes
    if not pointed_at.any():
        raise AnnotationError("what the smart tool points at is not on the photo; draw again")
    for seed in _drawn(pointed.negative, size):
        resemblance = proposals.resemblance(seed)
        other = touched((resemblance > LEAST_RESEMBLANCE) | seed, seed) & (resemblance >= resembling)
        found &= ~(other & (_distance(seed) < _distance(seeds))) if seeds.any() else ~other
        found &= ~seed
    for box in _drawn(pointed.negative_boxes, size):
        found &= ~box
    if not boxes.any():
        found = touched(found, seeds)
    return found if found.any() else pointed_at, np.clip(np.maximum(sure, resembling), 0, 1)


def _drawn(prompts: Sequence[Shape], size: tuple[int, int]) -> Iterator[Mask]:
    """Draw prompts, one at a time: so many masks of a large photo would take much memory."""
    return filter(np.any, (prompt.draw(*size) for prompt in prompts))


class _Proposals:
    """The masks of a photo, (Q, h, w) in 0..1, weighted by what speaks for the label."""

    def __init__(self, encoded: Encoded, classes: Tensor, size: tuple[int, int]) -> None:
        self._encoded, self._size = encoded, size
        self._masks = encoded.masks[0].float().sigmoid()
        self._classes = classes.float() + _UNLIKELY

    def resemblance(self, seed: Mask) -> npt.NDArray[np.float32]:
        """Tell how alike the masks are that each pixel and those of ``seed`` are in: (H, W), -1..1."""
        weights = self._classes**_LABELS_WEIGHT
        masks = self._masks * weights[:, None, None]
        there = torch.einsum("qhw,hw->q", masks, self._small(seed))
        lengths = masks.square().sum(dim=0).sqrt() * there.norm()
        return self._large(torch.einsum("qhw,q->hw", masks, there) / lengths.clamp(min=1e-9))

    def in_box(self, box: Mask) -> npt.NDArray[np.float32]:
        """Tell how likely each pixel is what the box is around: (H, W), 1 at the likeliest in the box.

        Two views in one, by their geometric mean: how much of the masks that a pixel is in lies in the box,
        and the masks that overlap with the box, by overlap and label.
        """
        small = self._small(box)
        areas, within = self._masks.sum(dim=(1, 2)), torch.einsum("qhw,hw->q", self._masks, small)
        share = within / areas.clamp(min=1e-6)
        overlap = within / (areas + small.sum() - within).clamp(min=1e-6)
        inward = torch.einsum("qhw,q->hw", self._masks, share) / self._masks.sum(dim=0).clamp(min=1e-6)
        chosen = torch.einsum("qhw,q->hw", self._masks, overlap * self._classes)
        views = [self._large(view) for view in (inward, chosen)]
        scaled = [np.maximum(view, 0) / max(float(view[box].max(initial=0)), 1e-9) for view in views]
        return np.asarray(np.sqrt(scaled[0] * scaled[1]), dtype=np.float32)

    def _small(self, mask: Mask) -> Tensor:
        """Give the share of each of the masks' cells, (h, w), that a mask (H, W) covers."""
        height, width = self._encoded.sizes[0]
        rows, columns = self._encoded.padded
        whole = torch.from_numpy(mask).to(self._masks)[None, None]
        there = F.interpolate(whole, size=(height, width), mode="area")
        padded = F.pad(there, (0, columns - width, 0, rows - height))
        return F.interpolate(padded, size=self._masks.shape[-2:], mode="area")[0, 0]

    def _large(self, values: Tensor) -> npt.NDArray[np.float32]:
        """Bring values of the masks' cells, (h, w), to the photo's size (H, W)."""
        height, width = self._encoded.sizes[0]
        padded = F.interpolate(
            values[None, None], size=self._encoded.padded, mode="bilinear", align_corners=False
        )
        photo = F.interpolate(
            padded[..., :height, :width], size=self._size, mode="bilinear", align_corners=False
        )
        large: npt.NDArray[np.float32] = photo[0, 0].cpu().numpy()
        return large


def _distance(seed: Mask) -> npt.NDArray[np.float32]:
    """Give each pixel's distance from a seed that is not empty, in pixels: (H, W)."""
    return cv2.distanceTransform((~seed).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5).astype(np.float32)


def _inside(likely: npt.NDArray[np.float32], box: Mask, pixels: npt.NDArray[np.uint8]) -> Mask:
    """Find what a box is around: along the photo's edges where that fills the box, else what is likely."""
    least_span = LEAST_SPAN * _span(box)
    roughs = [np.asarray(box & (likely > least)) for least in LEAST_IN_A_BOX]
    while len(roughs) > 1 and _span(roughs[0]) < least_span:
        del roughs[0]
    for rough in roughs:
        refined = _refined(rough, box, pixels)
        if _span(refined) >= least_span:
            return refined
    return roughs[0] if roughs[0].any() else box


def _span(mask: Mask) -> int:
    """Give the area of the upright box around a mask's largest part, in pixels."""
    count, _, boxes, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    if count == 1:
        return 0
    largest = boxes[1 + boxes[1:, cv2.CC_STAT_AREA].argmax()]
    return int(largest[cv2.CC_STAT_WIDTH]) * int(largest[cv2.CC_STAT_HEIGHT])


def _refined(rough: Mask, box: Mask, pixels: npt.NDArray[np.uint8]) -> Mask:
    """Follow the photo's own edges, by grabCut: what is likely in the box against all around it."""
    rows, columns = (np.flatnonzero(box.any(axis=axis)) for axis in (1, 0))
    margin = max(int(_MARGIN * max(np.ptp(rows), np.ptp(columns))), 4)
    top, left = (max(int(places[0]) - margin, 0) for places in (rows, columns))
    around = np.s_[top : rows[-1] + margin + 1, left : columns[-1] + margin + 1]
    guess = np.where(rough[around], cv2.GC_PR_FGD, cv2.GC_PR_BGD)
    guess = np.where(box[around], guess, cv2.GC_BGD).astype(np.uint8)
    shrink = min((MOST_REFINED / guess.size) ** 0.5, 1.0)
    height, width = (max(round(side * shrink), 1) for side in guess.shape)
    resized = cv2.resize(pixels[around], (width, height), interpolation=cv2.INTER_AREA)
    photo = _grainy(np.asarray(resized, np.uint8))
    small = cv2.resize(guess, (width, height), interpolation=cv2.INTER_NEAREST)
    likely_in = small == cv2.GC_PR_FGD
    if not likely_in.any() or likely_in.all():
        return rough
    cv2.setRNGSeed(0)  # the same question has the same answer
    colours = np.zeros((2, 1, 65))
    cv2.grabCut(photo, small, (0, 0, 0, 0), colours[0], colours[1], 1, cv2.GC_INIT_WITH_MASK)
    inside = np.isin(small, (cv2.GC_FGD, cv2.GC_PR_FGD)).astype(np.float32)
    full = cv2.resize(inside, guess.shape[::-1], interpolation=cv2.INTER_LINEAR)
    refined = np.zeros_like(box)
    refined[around] = (full >= 0.5) & box[around]
    return refined


def _grainy(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Add steps of one level, the same each time, to flat colours: on drawings grabCut would take seconds."""
    flat = cv2.morphologyEx(pixels, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) == 0
    steps = np.random.default_rng(0).integers(-1, 1, pixels.shape, np.int16, endpoint=True)
    return np.asarray(np.clip(pixels + steps * flat, 0, 255), np.uint8)
