"""Drawn scenes as pre-training reads them: cached as arrays, cropped at random, cut into regions."""

from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from ebseg.data.drawn.synthetic import draw_scene
from ebseg.files import whole

SCENE_SIDE = 256
HELD_OUT_SEED = 1_000_000  # added to the seed of training scenes for those that measure

Arrays = tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]


@dataclass(frozen=True)
class Scenes:
    """Pictures (S, 3, h, w) and label maps (S, h, w), both uint8."""

    images: Tensor
    labels: Tensor


def _halved(seed: int, unseen: bool, index: int) -> Arrays:
    """Draw a scene and halve it as CLIP's copy of a photo is halved: every two pixels averaged."""
    scene = draw_scene(seed, index, size=(SCENE_SIDE, SCENE_SIDE), unseen=unseen)
    half = SCENE_SIDE // 2
    image = scene.image.reshape(half, 2, half, 2, 3).mean(axis=(1, 3))
    return np.rint(image).astype(np.uint8), scene.label_map[1::2, 1::2].astype(np.uint8)


def half_size_scenes(seed: int, count: int, *, unseen: bool = False, workers: int = 0) -> Scenes:
    """Draw `count` scenes at half size, with so many worker processes (0: in this one)."""
    draw = partial(_halved, seed, unseen)
    if workers:
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
            return _stacked(pool.map(draw, range(count), chunksize=64))
    return _stacked(map(draw, range(count)))


def _stacked(drawn: Iterable[Arrays]) -> Scenes:
    images, labels = zip(*drawn, strict=True)
    return Scenes(torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2), torch.from_numpy(np.stack(labels)))


def cached_scenes(folder: Path, seed: int, count: int, *, workers: int) -> Scenes:
    """Read the half-size training scenes from `folder`, drawing them the first time."""
    path = folder / f"scenes-{seed}-{count}.npz"
    if path.exists():
        with np.load(path) as stored:
            return Scenes(torch.from_numpy(stored["images"]), torch.from_numpy(stored["labels"]))
    scenes = half_size_scenes(seed, count, workers=workers)
    with whole(path) as unfinished, unfinished.open("wb") as file:
        np.savez(file, images=scenes.images.numpy(), labels=scenes.labels.numpy())
    return scenes


def random_crops(
    scenes: Scenes, rng: np.random.Generator, *, batch: int, side: int, zoom: tuple[float, float]
) -> tuple[Tensor, Tensor]:
    """Cut crops out of random scenes, mirrored half of the time, with a little more or less light.

    A crop covers `side` x z pixels of its scene, z from the range `zoom`, cut short at the scene's
    own size. Returns images (B, 3, side, side) float, 0..255, and labels (B, side, side) int64.
    """
    chosen = torch.from_numpy(rng.integers(0, len(scenes.images), batch))
    extent = scenes.images.shape[-1]
    share = np.minimum(side * rng.uniform(*zoom, batch) / extent, 1)
    centre = rng.uniform(-1, 1, (batch, 2)) * (1 - share)[:, None]
    theta = np.zeros((batch, 2, 3), dtype=np.float32)
    theta[:, 0, 0] = share * rng.choice((-1, 1), batch)
    theta[:, 1, 1] = share
    theta[:, :, 2] = centre
    grid = F.affine_grid(torch.from_numpy(theta), [batch, 3, side, side], align_corners=False)
    images = F.grid_sample(scenes.images[chosen].float(), grid, padding_mode="border", align_corners=False)
    labels = F.grid_sample(
        scenes.labels[chosen, None].float(), grid, mode="nearest", padding_mode="border", align_corners=False
    )
    light = torch.from_numpy(rng.uniform(0.9, 1.1, (batch, 1, 1, 1)).astype(np.float32))
    return (images * light).clamp(0, 255), labels[:, 0].long()


@dataclass(frozen=True)
class Regions:
    """The labels visible in each crop, the largest first, on the grid of patches.

    `labels` (B, Q) int64; `masks` (B, Q, N) bool; `areas` (B, Q) in patches, 0 where a crop has fewer
    than Q labels.
    """

    labels: Tensor
    masks: Tensor
    areas: Tensor


def find_regions(labels: Tensor, *, patch: int, phrases: int, most: int, threshold: float) -> Regions:
    """Cut label maps (B, h, w) into at most `most` regions each, of patches covered by `threshold`.

    A region that covers no patch so far gets the patch that it covers most.
    """
    batch, height, width = labels.shape
    patches = (height // patch) * (width // patch)
    cells = labels.view(batch, height // patch, patch, width // patch, patch).transpose(2, 3)
    cells = cells.reshape(batch * patches, patch * patch)
    keys = cells + phrases * torch.arange(batch * patches)[:, None]
    counts = torch.bincount(keys.flatten(), minlength=batch * patches * phrases)
    coverage = counts.view(batch, patches, phrases) / patch**2  # (B, N, K)
    areas, found = coverage.sum(dim=1).topk(most, dim=1)  # (B, Q)
    shares = coverage.transpose(1, 2).gather(1, found[..., None].expand(-1, -1, patches))  # (B, Q, N)
    masks = shares >= shares.amax(dim=2, keepdim=True).clamp(max=threshold)
    return Regions(found, masks, areas)
