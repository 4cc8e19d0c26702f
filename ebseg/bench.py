"""Times of the model, side by side with segment-anything's own encoder as the yardstick.

Machines differ and are noisy: seconds mean little, ratios measured in one run mean something. The
authors' code needs 5.3 times the encoder's time for a photo of 640x640 with EBSeg-B (9.84 s to 1.87 s
on two cores), without the class embeddings, which both compute once a vocabulary.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from ebseg.config import ModelConfig
from ebseg.model import EBSeg
from ebseg.vocabulary import Vocabulary

SIDE = 640


@dataclass(frozen=True)
class Times:
    """Median seconds of a whole photo, and of segment-anything's encoder alone."""

    photo: float
    encoder: float

    @property
    def ratio(self) -> float:
        """How many times the encoder's time a photo takes."""
        return self.photo / self.encoder


def time_model(config: ModelConfig, vocabulary: Vocabulary, rounds: int) -> Times:
    """Time ``EBSeg.segment`` on a 640x640 photo, taking turns with segment-anything's encoder.

    The encoder is segment-anything's own code, blocks and all but its neck, on the same photo.
    """
    net = EBSeg(config)
    names = net.encode_names(vocabulary.names)
    net.encode_names = lambda _names: names
    image = torch.rand(3, SIDE, SIDE) * 255
    _, sam_images = net.preprocess([image])
    photo, encoder = [], []
    for _ in range(rounds + 1):
        encoder.append(_seconds(lambda: _original_encoder(net, sam_images)))
        photo.append(_seconds(lambda: net.segment(image, vocabulary, (SIDE, SIDE))))
    return Times(photo=statistics.median(photo[1:]), encoder=statistics.median(encoder[1:]))  # first: warm-up


@torch.inference_mode()
def _original_encoder(net: EBSeg, images: torch.Tensor) -> None:
    encoder = net.sam.encoder
    x = encoder.patch_embed(images)
    x = x + net.sam.positions(x.shape[1], x.shape[2])
    for block in encoder.blocks:
        x = block(x)


def _seconds(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started
