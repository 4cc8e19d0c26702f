"""Drawn scenes as training batches and as a benchmark."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ebseg.config import TrainConfig
from ebseg.data.synthetic import PHRASES, SEEN_PHRASES, draw_scene
from ebseg.vocabulary import Vocabulary

BENCHMARK_SEED = 2**31 - 1
"""Seed of the scenes that models are measured on; training refuses it."""


def training_vocabulary() -> Vocabulary:
    """Return the phrases that training scenes show."""
    return Vocabulary(SEEN_PHRASES)


class SceneBatches(Dataset[tuple[Tensor, Tensor]]):
    """One batch of training scenes a step, drawn from the run's seed and the step alone.

    Item ``step``: images (B, 3, side, side) uint8 RGB and label maps (B, side, side) int64, indices
    into ``training_vocabulary``, -1 ignored.
    """

    def __init__(self, config: TrainConfig) -> None:
        self.config = config

    def __len__(self) -> int:
        return self.config.steps

    def __getitem__(self, step: int) -> tuple[Tensor, Tensor]:
        rng = np.random.default_rng((self.config.seed, step))
        side = int(rng.choice(self.config.sizes))
        images, label_maps = [], []
        for number in range(self.config.batch):
            scene = draw_scene(self.config.seed, step * self.config.batch + number, size=(side, side))
            mirror = slice(None, None, -1) if rng.random() < 0.5 else slice(None)
            images.append(scene.image[:, mirror].transpose(2, 0, 1))
            label_maps.append(scene.label_map[:, mirror].astype(np.int64))
        return torch.from_numpy(np.stack(images)), torch.from_numpy(np.stack(label_maps))


def benchmark_scenes(
    count: int, *, unseen: bool = True
) -> Iterator[tuple[npt.NDArray[np.uint8], npt.NDArray[np.int16]]]:
    """Draw held-out scenes with seen phrases and, unless told otherwise, unseen combinations.

    Yields images (H, W, 3) and label maps (H, W).
    """
    for index in range(count):
        scene = draw_scene(BENCHMARK_SEED, index, unseen=unseen)
        yield scene.image, scene.label_map


def benchmark_vocabulary() -> Vocabulary:
    """Return all phrases of the benchmark, the seen ones first."""
    return Vocabulary(PHRASES)
