"""Costs of the model, side by side with segment-anything's own encoder as the yardstick.

Machines differ and are noisy: seconds mean little, ratios measured in one run mean something. The
authors' code needs 5.3 times the encoder's time for a photo of 640x640 with EBSeg-B (9.84 s to 1.87 s
on two cores), without the class embeddings, which both compute once a vocabulary. Their training
step takes 15.6 times the encoder's time (29.1 s) and 12.5 GiB.
"""

import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import psutil
import torch
from torch import nn

from ebseg.checkpoint import save_checkpoint, save_head
from ebseg.config import RECIPES, InferencePrecision, ModelConfig
from ebseg.data.drawn.scenes import BENCHMARK_SEED
from ebseg.data.drawn.synthetic import PHRASES, draw_scene
from ebseg.evaluation.metrics import ConfusionMatrix
from ebseg.fresh_process import fresh_process
from ebseg.loading import load
from ebseg.model import EBSeg
from ebseg.predictor import Predictor
from ebseg.progress import count, doing
from ebseg.runs.memory import peak_bytes
from ebseg.vocabulary import Vocabulary

SIDE = 640
SEGMENTS = 10
"""Labels in the label map of the training step: about what a photo of COCO-Stuff holds."""


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
    with doing("A new model, and its labels' texts"):
        net = EBSeg(config)
        text = net.text.encode_labels(vocabulary)
    image = torch.rand(3, SIDE, SIDE) * 255
    _, sam_images = net.preprocess([image])
    photo, encoder = [], []
    for _ in count(rounds + 1, "Photos"):
        encoder.append(seconds_of(lambda: original_encoder(net, sam_images)))
        photo.append(seconds_of(lambda: net.segment(image, vocabulary, (SIDE, SIDE), text=text)))
    return Times(photo=statistics.median(photo[1:]), encoder=statistics.median(encoder[1:]))  # first: warm-up


@dataclass(frozen=True)
class PrecisionCost:
    """What a precision takes and answers.

    ``seconds``: median, of a photo's encoding. ``agreement``: share of pixels whose label is that of float32,
    and ``miou``: in percent, both of drawn scenes; None for random weights, which answer nothing.
    """

    seconds: float
    agreement: float | None
    miou: float | None


def compare_precisions(model: str, rounds: int, scenes: int) -> dict[InferencePrecision, PrecisionCost]:
    """Encode a 640x640 photo in each precision in turns; then compare the labels of so many drawn scenes.

    ``model``: what ``load`` takes; it runs on the CPU. Without scenes only the time is measured.
    """
    predictors: dict[InferencePrecision, Predictor] = {}
    for precision in (InferencePrecision.FLOAT32, InferencePrecision.BF16, InferencePrecision.INT8):
        beside = next(iter(predictors.values()), None)
        predictors[precision] = load(model, device="cpu", beside=beside, precision=precision)
    photo = np.random.default_rng(0).integers(256, size=(SIDE, SIDE, 3), dtype=np.uint8)
    seconds: dict[InferencePrecision, list[float]] = {precision: [] for precision in predictors}
    for _ in count(rounds + 1, "Photos in each precision"):
        for precision, predictor in predictors.items():
            seconds[precision].append(seconds_of(partial(predictor.encode, photo)))
    vocabulary = Vocabulary(PHRASES)
    matrices = {precision: ConfusionMatrix(len(vocabulary)) for precision in predictors}
    same: dict[InferencePrecision, list[float]] = {precision: [] for precision in predictors}
    for number in count(scenes, "Drawn scenes in each precision"):
        scene = draw_scene(BENCHMARK_SEED, number)
        found = {precision: p.predict(scene.image, vocabulary, 0.0) for precision, p in predictors.items()}
        for precision, answer in found.items():
            matrices[precision].add(answer.label_map, scene.label_map)
            whole = found[InferencePrecision.FLOAT32].label_map
            same[precision].append(float((answer.label_map == whole).mean()))
    return {
        precision: PrecisionCost(
            seconds=statistics.median(seconds[precision][1:]),  # the first is a warm-up
            agreement=statistics.fmean(same[precision]) if scenes else None,
            miou=100 * float(np.nanmean(matrices[precision].iou())) if scenes else None,
        )
        for precision in predictors
    }


def time_batches(
    config: ModelConfig, sizes: Sequence[int], rounds: int, precision: InferencePrecision
) -> dict[int, float]:
    """Time ``EBSeg.encode`` of so many 640x640 photos at once, in turns, on a GPU where there is one.

    Gives the median seconds a photo, by the number at once.
    """
    with doing("A new model"):
        predictor = Predictor(EBSeg(config), version="random", precision=precision)
    device = predictor.device
    images = list(torch.rand(max(sizes), 3, SIDE, SIDE, device=device) * 255)
    seconds: dict[int, list[float]] = {size: [] for size in sizes}
    for _ in count(rounds + 1, "Batches"):
        for size in sizes:
            seconds[size].append(seconds_of(partial(_encoded, predictor, images[:size])) / size)
    return {size: statistics.median(taken[1:]) for size, taken in seconds.items()}  # the first: warm-up


def _encoded(predictor: Predictor, images: Sequence[torch.Tensor]) -> None:
    predictor.encode_batch(images)
    if predictor.device.type == "cuda":
        torch.cuda.synchronize(predictor.device)


@dataclass(frozen=True)
class TrainingCost:
    """Median seconds of a training step and of segment-anything's encoder; GiB of memory at most."""

    step: float
    encoder: float
    peak_gib: float

    @property
    def ratio(self) -> float:
        """How many times the encoder's time a step takes."""
        return self.step / self.encoder


def time_training_step(
    config: ModelConfig, vocabulary: Vocabulary, rounds: int, side: int = SIDE, *, bf16: bool = False
) -> TrainingCost:
    """Time a training step on one photo of ``side`` pixels, taking turns with segment-anything's encoder.

    A step is forward pass, losses, backward pass, clipping and AdamW's update; not the text embeddings, which
    training computes once. ``bf16``: in the mixed precision that a training with it has; the encoder's turns
    stay in float32. All runs in a new process, whose largest resident memory is
    the peak: Python and PyTorch, all weights (frozen ones and the text tower's too), the optimiser's state,
    and the encoder's turns, which keep no activations and so take less.
    """
    with fresh_process() as fresh:
        return fresh.submit(_training_cost, config, vocabulary, rounds, side, bf16).result()


def _training_cost(
    config: ModelConfig, vocabulary: Vocabulary, rounds: int, side: int, bf16: bool
) -> TrainingCost:
    with doing("A new model, and its labels' texts"):
        net = EBSeg(config).train()
        text = net.text.encode_labels(vocabulary)
    trained = list(net.head.values())
    optimiser = torch.optim.AdamW(trained)
    image = torch.rand(1, 3, side, side) * 255
    label_map = (torch.arange(side) * SEGMENTS // side).expand(1, side, side)  # upright stripes
    _, sam_images = net.preprocess(list(image))

    def train() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            losses = net.losses(image, label_map, vocabulary, text=text, config=RECIPES[config.name].losses)
        optimiser.zero_grad()
        sum(losses.values(), torch.zeros(())).backward()
        nn.utils.clip_grad_norm_(trained, max_norm=0.01)
        optimiser.step()

    step, encoder = [], []
    for _ in count(rounds + 1, "Training steps"):
        encoder.append(seconds_of(lambda: original_encoder(net, sam_images)))
        step.append(seconds_of(train))
    return TrainingCost(  # first: warm-up
        step=statistics.median(step[1:]),
        encoder=statistics.median(encoder[1:]),
        peak_gib=peak_bytes(torch.device("cpu")) / 2**30,
    )


@dataclass(frozen=True)
class ProjectsCost:
    """What models of projects take beside one that is loaded.

    ``file``, ``head``: bytes of the files of a whole model and of a head. ``base``: resident bytes that the
    loaded model took, ``others``: that the heads took together. ``named``: seconds that naming the backbone
    by its content took, once a process; ``first``: that loading the first head took; ``seconds``: the median
    of the others.
    """

    projects: int
    file: int
    head: int
    base: int
    others: int
    named: float
    first: float
    seconds: float


def measure_projects(config: ModelConfig, vocabulary: Vocabulary, projects: int) -> ProjectsCost:
    """Load a model of random weights in a new process, and so many heads beside it, each from a file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        with fresh_process() as fresh:
            fresh.submit(_write_models, path, config, vocabulary).result()
        with fresh_process() as fresh:  # without what wrote them
            return fresh.submit(_projects_cost, path, projects).result()


def write_random_model(path: Path, config: ModelConfig, vocabulary: Vocabulary) -> EBSeg:
    """Write a checkpoint of random weights: it answers nothing well, in the time of a real one."""
    net = EBSeg(config, training_vocabulary=vocabulary)
    save_checkpoint(net, path)
    return net


def _write_models(folder: Path, config: ModelConfig, vocabulary: Vocabulary) -> None:
    whole = folder / "whole.safetensors"
    with doing("Writing a model and a head"):
        net = write_random_model(whole, config, vocabulary)
        save_head(net, folder / "head.safetensors", backbone=str(whole))


def _projects_cost(folder: Path, projects: int) -> ProjectsCost:
    whole, head = folder / "whole.safetensors", folder / "head.safetensors"
    before, seconds = _resident(), list[float]()
    with doing("Loading the model"):
        base = load(whole, device="cpu")
    named = seconds_of(lambda: base.net.backbone.digest)  # as the service does when it starts
    one, others = _resident(), []
    for _ in count(projects, "Models of projects"):
        seconds.append(seconds_of(lambda: others.append(load(head, device="cpu", beside=base))))
    return ProjectsCost(
        projects=projects,
        file=whole.stat().st_size,
        head=head.stat().st_size,
        base=one - before,
        others=_resident() - one,
        named=named,
        first=seconds[0],
        seconds=statistics.median(seconds[1:] or seconds),
    )


def _resident() -> int:
    return int(psutil.Process().memory_info().rss)


@torch.inference_mode()
def original_encoder(net: EBSeg, images: torch.Tensor) -> None:
    """Run segment-anything's own code, blocks and all but its neck, on images (B, 3, height, width)."""
    encoder = net.sam.encoder
    x = encoder.patch_embed(images)
    x = x + net.sam.positions(x.shape[1], x.shape[2])
    for block in encoder.blocks:
        x = block(x)


def seconds_of(call: Callable[[], object]) -> float:
    """Tell how many seconds a call takes."""
    started = time.perf_counter()
    call()
    return time.perf_counter() - started
