"""Pre-training of the small spatial encoder: where masks end, and which pixels belong together.

A light head, thrown away afterwards, reads the four maps that EBSeg reads. It says of each cell of
2 x 2 pixels whether a mask's boundary runs through it, and gives it an embedding from which the mask
of any other cell follows: like segment-anything's own task, a mask from a point.

B pictures, h x w cells of 2 x 2 pixels, E embedding size, P points.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ebseg.config import SamConfig
from ebseg.data.drawn.synthetic import draw_scene
from ebseg.sam import SpatialEncoder
from training.tiny.pretrain_scenes import SCENE_SIDE

MEAN = (123.675, 116.28, 103.53)  # segment-anything's, of RGB 0..255
DEVIATION = (58.395, 57.12, 57.375)
BOUNDARY_WEIGHT = 8.0  # about one cell in twenty is a boundary
EMBEDDING = 16
POINTS = 24  # of a picture, for each of which a mask is asked


@dataclass(frozen=True)
class SamPhase:
    """Steps on whole scenes (`side` 256) or their quarters (`side` 128), so many scenes a step."""

    steps: int
    scenes: int
    side: int


class SpatialPair(nn.Module):
    """The spatial encoder and the head that teaches it."""

    def __init__(self, config: SamConfig) -> None:
        super().__init__()
        self.encoder = SpatialEncoder(config)
        self.head = nn.Sequential(
            nn.Conv2d(4 * config.width, 64, 1),
            nn.GELU(),
            nn.Conv2d(64, 64, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(64, 4 * (1 + EMBEDDING), 1),
            nn.PixelShuffle(2),
        )
        self.likeness = nn.Parameter(torch.tensor((10.0, -5.0)))  # slope and offset of a cosine

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Read images (B, 3, H, W), 0..255.

        Returns boundary logits (B, h, w) and embeddings (B, E, h, w) of length 1.
        """
        mean, deviation = (torch.tensor(values)[:, None, None] for values in (MEAN, DEVIATION))
        maps = self.encoder((images - mean) / deviation)
        size = [2 * side for side in maps[1].shape[-2:]]  # stride 4
        levels = [F.interpolate(level, size=size, mode="bilinear", align_corners=False) for level in maps]
        read = self.head(torch.cat(levels, dim=1))
        return read[:, 0], F.normalize(read[:, 1:], dim=1)

    def masks_of(self, embeddings: Tensor, points: Tensor) -> Tensor:
        """Mask logits (B, P, h w) of the cells `points` (B, P), counted row by row."""
        cells = embeddings.flatten(2)  # (B, E, h w)
        asked = cells.gather(2, points[:, None].expand(-1, cells.shape[1], -1))  # (B, E, P)
        return self.likeness[0] * asked.transpose(1, 2) @ cells + self.likeness[1]


class SamStage:
    """The second stage: `model` is trained on scenes of `seed` that are drawn as they are needed."""

    name = "sam"

    def __init__(self, config: SamConfig, seed: int, phases: tuple[SamPhase, ...]) -> None:
        self.model = SpatialPair(config)
        self.seed = seed
        self.phases = phases
        self.rounds: tuple[int, ...] = (sum(phase.steps for phase in phases),)

    def _place(self, step: int) -> tuple[SamPhase, int]:
        """Find the phase of a step and the first scene that the step reads."""
        first = 0
        for phase in self.phases:
            if step < phase.steps:
                return phase, first + step * phase.scenes
            step -= phase.steps
            first += phase.steps * phase.scenes
        raise ValueError(f"step {step} is beyond the last phase")

    def loss(self, step: int, rng: np.random.Generator) -> tuple[Tensor, dict[str, float]]:
        """Draw a batch and return its loss and what to log of it."""
        phase, first = self._place(step)
        images, labels = _pictures(self.seed, range(first, first + phase.scenes), phase.side, unseen=False)
        boundary, embeddings = self.model(images)
        weight = torch.tensor(BOUNDARY_WEIGHT)
        edges = F.binary_cross_entropy_with_logits(boundary, _boundaries(labels), pos_weight=weight)
        points = torch.from_numpy(rng.integers(0, boundary[0].numel(), (len(images), POINTS)))
        masks = F.binary_cross_entropy_with_logits(
            self.model.masks_of(embeddings, points), _same_label(labels, points).float()
        )
        return edges + masks, {"boundary": edges.item(), "mask": masks.item()}

    @torch.no_grad()
    def measure(self, seed: int, count: int) -> dict[str, float]:
        """Boundary F1 at one cell's tolerance and the IoU of masks from points, in held-out scenes."""
        found = np.zeros(4)
        overlaps = []
        rng = np.random.default_rng(seed)
        for first in range(0, count, 4):
            indices = range(first, min(first + 4, count))
            images, labels = _pictures(seed, indices, SCENE_SIDE, unseen=True)
            boundary, embeddings = self.model(images)
            truth, said = _boundaries(labels) > 0, boundary > 0
            found += [
                (said & _widened(truth)).sum(), said.sum(), (truth & _widened(said)).sum(), truth.sum()
            ]  # fmt: skip
            points = torch.from_numpy(rng.integers(0, boundary[0].numel(), (len(images), POINTS)))
            masks, same = self.model.masks_of(embeddings, points) > 0, _same_label(labels, points)
            overlaps.append((masks & same).sum(dim=2) / (masks | same).sum(dim=2))
        precision, recall = found[0] / max(found[1], 1), found[2] / max(found[3], 1)
        f1 = 2 * precision * recall / max(precision + recall, 1e-9)
        iou = torch.cat(overlaps).mean().item()
        return {"precision": precision, "recall": recall, "f1": f1, "mask_iou": iou}

    def export(self) -> dict[str, Tensor]:
        """Weights under the names `sam.`."""
        return {f"sam.{name}": value for name, value in self.model.encoder.encoder.state_dict().items()}


def _pictures(seed: int, indices: range, side: int, *, unseen: bool) -> tuple[Tensor, Tensor]:
    """Draw scenes and cut them into squares: images (B, 3, side, side) float, labels (B, side, side)."""
    scenes = [draw_scene(seed, index, size=(SCENE_SIDE, SCENE_SIDE), unseen=unseen) for index in indices]
    images = torch.from_numpy(np.stack([scene.image for scene in scenes])).permute(0, 3, 1, 2).float()
    labels = torch.from_numpy(np.stack([scene.label_map for scene in scenes])).long()
    squares = images.unfold(2, side, side).unfold(3, side, side).permute(0, 2, 3, 1, 4, 5)
    return squares.flatten(0, 2), labels.unfold(1, side, side).unfold(2, side, side).flatten(0, 2)


def _boundaries(labels: Tensor) -> Tensor:
    """Cells (B, h, w) in which a pixel differs from the next one to the right or below: 1, else 0."""
    edges = torch.zeros(labels.shape)
    edges[:, :, :-1] += labels[:, :, 1:] != labels[:, :, :-1]
    edges[:, :-1] += labels[:, 1:] != labels[:, :-1]
    return F.max_pool2d(edges.clamp(max=1), 2)


def _same_label(labels: Tensor, points: Tensor) -> Tensor:
    """Where cells have the label of the cell asked for: (B, P, h w) bool."""
    cells = labels[:, ::2, ::2].flatten(1)
    return cells.gather(1, points)[..., None] == cells[:, None]


def _widened(mask: Tensor) -> Tensor:
    """Grow a mask (B, h, w) by one cell."""
    return F.max_pool2d(mask.float(), 3, stride=1, padding=1) > 0
