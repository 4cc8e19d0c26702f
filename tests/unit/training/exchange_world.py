"""A project of Label Studio's from memory, whose photos and label maps are known."""

import hashlib
import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ebseg.label_studio.regions import masks_to_regions
from ebseg.label_studio.tasks import read_label_config
from tests.unit.training.fake_label_studio import FakeLabelStudio
from tests.unit.training.test_snapshot import Photos
from training.annotations.label_studio import LabelStudioClient
from training.annotations.snapshot import is_held_out
from training.settings import Settings
from training.storage import Storage

HEIGHT, WIDTH = 24, 40


class ExchangeWorld:
    """Project 1, a storage, and what people drew: ``truth``, a label map for each task."""

    def __init__(self, home: Path, **settings: Any) -> None:
        self.fake, self.photos = FakeLabelStudio(), Photos()
        self.settings = Settings(
            **{
                "home": home,
                "label_studio_url": "http://studio",
                "label_studio_api_key": "key",
                "patience": 0.0,
            }
            | settings
        )
        self.storage = Storage(self.settings.storage_url, home / "cache")
        self.truth: dict[int, np.ndarray] = {}

    @property
    def studio(self) -> LabelStudioClient:
        return LabelStudioClient(self.settings, http=self.fake.http)

    @property
    def given(self) -> tuple[Any, ...]:
        """What export and import begin with."""
        return self.studio, self.photos, self.storage, 1, self.settings

    def add(self, name: str, *, held_out: bool = False, size: tuple[int, int] = (HEIGHT, WIDTH)) -> int:
        """Add a task whose photo is, or is not, held out."""
        seed = 1000 * len(self.fake.tasks)
        while is_held_out(_hash(content := photo(seed, size)), self.settings.held_out_share) != held_out:
            seed += 1
        self.photos.files[name] = content
        return self.fake.add_task(image=name)

    def annotate(self, task: int, label_map: np.ndarray, **more: Any) -> int:
        self.truth[task] = label_map
        return self.fake.annotate(task, self.regions(label_map), **more)

    def regions(self, label_map: np.ndarray) -> list[dict[str, Any]]:
        scores = np.ones(label_map.shape, np.float32)
        return [
            region.result
            for served, own in read_label_config(self.fake.config).questions[0].parts(label_map)
            for region in masks_to_regions(own, scores, served.control)
        ]


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def photo(seed: int, size: tuple[int, int]) -> bytes:
    content = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(content, "PNG")
    return content.getvalue()


def blocks(seed: int, size: tuple[int, int] = (HEIGHT, WIDTH), labels: int = 2) -> np.ndarray:
    """Draw a label map of parts of some pixels' size, with holes, touching corners and unlabelled pixels."""
    coarse = np.random.default_rng(seed).integers(-1, labels, (-(-size[0] // 4), -(-size[1] // 4)))
    return np.kron(coarse, np.ones((4, 4))).astype(np.int16)[: size[0], : size[1]]
