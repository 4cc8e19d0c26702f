"""Drawn scenes to train on and as a benchmark."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ebseg.data.drawn.phrases import renamed
from ebseg.data.drawn.synthetic import PHRASES, SEEN_PHRASES, draw_scene
from ebseg.data.samples import Sample
from ebseg.errors import ConfigError
from ebseg.vocabulary import Vocabulary

BENCHMARK_SEED = 2**31 - 1
"""Seed of the scenes that models are measured on; training refuses it."""

VALIDATION_SEED = BENCHMARK_SEED - 1
"""Seed of the scenes that exponents are chosen on, neither for training nor for results."""


def training_vocabulary() -> Vocabulary:
    """Return the phrases that training scenes show."""
    return Vocabulary(SEEN_PHRASES)


@dataclass(frozen=True)
class SceneSource:
    """The first ``count`` scenes of a seed, (height, width) pixels large, as labelled photos.

    Raises ConfigError for the benchmark's seed, no scenes, and scenes too small to draw.
    """

    seed: int
    count: int
    size: tuple[int, int] = (256, 256)

    def __post_init__(self) -> None:
        if self.seed == BENCHMARK_SEED:
            raise ConfigError(f"seed {BENCHMARK_SEED} draws the benchmark's scenes: train with another")
        if self.count < 1 or self.seed < 0 or min(self.size) < 32:
            raise ConfigError(
                f"cannot draw {self.count} scenes of seed {self.seed} and size {self.size}: "
                "give a count from 1, a seed from 0 and sides from 32 pixels"
            )

    @property
    def name(self) -> str:
        """What people know it by."""
        return f"drawn scenes of seed {self.seed}"

    @property
    def vocabulary(self) -> Vocabulary:
        """The phrases that training scenes show."""
        return training_vocabulary()

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Sample:
        """Draw one. Raises IndexError beyond the last."""
        if not 0 <= index < self.count:
            raise IndexError(f"scene {index} of {self.count}")
        scene = draw_scene(self.seed, index, size=self.size)
        return Sample(f"scene {index} of seed {self.seed}", scene.image, scene.label_map)

    def fingerprint(self) -> str:
        """Name the content: a hash of what defines it and of the first scene, which shows how it is drawn."""
        first = self[0]
        content = hashlib.sha256(f"{self} {self.vocabulary.to_json()}".encode())
        content.update(first.image.tobytes() + first.label_map.tobytes())
        return content.hexdigest()


@dataclass(frozen=True)
class BenchmarkScenes:
    """The first ``count`` scenes that models are measured on, as labelled photos.

    ``unseen``: with combinations that training never showed, besides the seen phrases.
    """

    count: int
    unseen: bool = True

    @property
    def name(self) -> str:
        """What people know it by."""
        return "drawn scenes"

    @property
    def vocabulary(self) -> Vocabulary:
        """All phrases of the benchmark."""
        return benchmark_vocabulary()

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Sample:
        """Draw one. Raises IndexError beyond the last."""
        if not 0 <= index < self.count:
            raise IndexError(f"scene {index} of {self.count}")
        scene = draw_scene(BENCHMARK_SEED, index, unseen=self.unseen)
        return Sample(f"scene {index}", scene.image, scene.label_map)

    def fingerprint(self) -> str:
        """Name the content: what defines it and a hash of the first scene, which shows how it is drawn."""
        first = self[0]
        content = hashlib.sha256(f"{self} {self.vocabulary.to_json()}".encode())
        content.update(first.image.tobytes() + first.label_map.tobytes())
        return content.hexdigest()


def benchmark_scenes(
    count: int, *, unseen: bool = True
) -> Iterator[tuple[npt.NDArray[np.uint8], npt.NDArray[np.int16]]]:
    """Draw held-out scenes with seen phrases and, unless told otherwise, unseen combinations.

    Yields images (H, W, 3) and label maps (H, W), indices into `benchmark_vocabulary`.
    """
    return _scenes(BENCHMARK_SEED, count, unseen)


def validation_scenes(count: int) -> Iterator[tuple[npt.NDArray[np.uint8], npt.NDArray[np.int16]]]:
    """Draw scenes like the benchmark's, with unseen combinations, that are none of the benchmark's."""
    return _scenes(VALIDATION_SEED, count, unseen=True)


def _scenes(
    seed: int, count: int, unseen: bool
) -> Iterator[tuple[npt.NDArray[np.uint8], npt.NDArray[np.int16]]]:
    for index in range(count):
        scene = draw_scene(seed, index, unseen=unseen)
        yield scene.image, scene.label_map


def benchmark_vocabulary() -> Vocabulary:
    """Return all phrases of the benchmark, the seen ones first."""
    return Vocabulary(PHRASES)


def renamed_vocabulary() -> Vocabulary:
    """Return the same labels in the same order by names that no training scene has ("crimson sphere")."""
    return Vocabulary([renamed(phrase) for phrase in PHRASES])
