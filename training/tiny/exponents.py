"""Choose alpha, beta and gamma of the balanced decoder: `python -m training.tiny.exponents MODEL --scenes N`.

The paper chose them by hand for each of its models; here a grid is searched on validation scenes, which
are neither training's nor the benchmark's. What the exponents act on does not depend on them: the network
runs once a scene, and its masks, at stride 4, and three sets of class logits are kept.

Q masks, K labels, E joint embedding size, h x w: the masks' grid at stride 4.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import torch
import typer
from torch import Tensor

from ebseg.balance import balance
from ebseg.config import BASE, BalanceConfig
from ebseg.data.drawn.scenes import benchmark_vocabulary, validation_scenes
from ebseg.evaluation.in_memory import Result, summarise
from ebseg.evaluation.metrics import ConfusionMatrix
from ebseg.loading import load
from ebseg.model import EBSeg
from ebseg.predictor import resize_shortest_edge
from ebseg.vocabulary import Vocabulary

STRIDE = 4  # of masks, in pixels of the photo at test size
TENTHS = tuple(tenths / 10 for tenths in range(11))
LARGEST_ALPHA = 0.5
PAPER = BASE.balance
NEAR = 0.1 + 1e-6  # a step of the grid

Photo = npt.NDArray[np.uint8]
Truth = npt.NDArray[np.integer]


@dataclass(frozen=True)
class Observation:
    """What the network said of a photo, before balancing.

    `a` (1, Q, K + 1), `b`, `c` (1, Q, K + 1) class logits; `masks` (Q, h, w) probabilities; `truth`
    (h, w) label indices, -1 ignored.
    """

    a: Tensor
    b: Tensor
    c: Tensor
    masks: Tensor
    truth: Truth


@dataclass(frozen=True)
class Choice:
    """The best exponents, and what else was measured (percent; best first)."""

    best: BalanceConfig
    measured: tuple[tuple[BalanceConfig, Result], ...]

    def neighbours(self) -> list[float]:
        """Harmonic means of the best exponents' neighbours: those that differ by one step or less in each."""
        return [
            result.harmonic
            for exponents, result in self.measured
            if exponents != self.best and _distance(exponents, self.best) <= NEAR
        ]


def _distance(one: BalanceConfig, other: BalanceConfig) -> float:
    """Largest difference of one exponent."""
    return max(abs(one.alpha - other.alpha), abs(one.beta - other.beta), abs(one.gamma - other.gamma))


def grid() -> tuple[BalanceConfig, ...]:
    """All exponents in steps of 0.1, alpha up to 0.5, that leave A a share of 0 or more."""
    return tuple(
        BalanceConfig(alpha=alpha, beta=beta, gamma=gamma)
        for alpha, beta, gamma in product(TENTHS, repeat=3)
        if alpha <= LARGEST_ALPHA and max(alpha, beta) + gamma <= 1 + 1e-9
    )


@torch.inference_mode()
def observe(net: EBSeg, image: Photo, truth: Truth, text: Tensor) -> Observation:
    """Run the network on a photo (H, W, 3) with class embeddings `text` (K + 1, E), up to the balancing."""
    resized = resize_shortest_edge(image, net.config.test_size, net.config.test_max_size)
    height, width = resized.shape[:2]
    pixels = torch.from_numpy(resized).permute(2, 0, 1).float()
    found = net.encode([pixels])
    a, b, c = net.class_logits(found, text)
    masks = found.masks[0, :, : -(-height // STRIDE), : -(-width // STRIDE)].sigmoid()
    return Observation(a, b, c, masks, _sampled(truth, (masks.shape[1], masks.shape[2])))


def _sampled(truth: Truth, size: tuple[int, int]) -> Truth:
    """Take the label at the centre of each cell of a grid (h, w)."""
    rows, columns = (
        ((np.arange(count) + 0.5) * side / count).astype(int)
        for count, side in zip(size, truth.shape, strict=True)
    )
    sampled: Truth = truth[np.ix_(rows, columns)]
    return sampled


def observe_all(
    net: EBSeg,
    photos: Iterable[tuple[npt.NDArray[np.uint8], npt.NDArray[np.integer]]],
    vocabulary: Vocabulary,
) -> list[Observation]:
    """Run the network on every photo, with its truth in indices of `vocabulary`."""
    text = net.class_embeddings(vocabulary)
    return [observe(net, image, truth, text) for image, truth in photos]


def class_probabilities(outcome: Observation, seen: Sequence[bool], exponents: BalanceConfig) -> Tensor:
    """Balance what each mask may be: (Q, K), as `EBSeg.classify` gives it."""
    balanced = balance(outcome.a, outcome.b, outcome.c, torch.tensor(seen), exponents)
    return balanced.softmax(dim=-1)[0, :, : len(seen)]


@torch.inference_mode()
def score(outcomes: Sequence[Observation], seen: Sequence[bool], exponents: BalanceConfig) -> Result:
    """Mean IoU with these exponents, at the masks' stride."""
    matrix = ConfusionMatrix(len(seen))
    for outcome in outcomes:
        classes = class_probabilities(outcome, seen, exponents)
        scores = classes.T @ outcome.masks.flatten(1)  # (K, hw)
        matrix.add(scores.argmax(dim=0).view(outcome.masks.shape[1:]).numpy(), outcome.truth)
    return summarise(matrix.iou(), seen, len(outcomes))


def choose(
    outcomes: Sequence[Observation], seen: Sequence[bool], candidates: Sequence[BalanceConfig] | None = None
) -> Choice:
    """Take the candidates (by default the grid) with the largest harmonic mean of seen and unseen mIoU."""
    tried = grid() if candidates is None else candidates
    measured = [(exponents, score(outcomes, seen, exponents)) for exponents in tried]
    measured.sort(key=lambda pair: -pair[1].harmonic)
    return Choice(best=measured[0][0], measured=tuple(measured))


def choose_exponents(net: EBSeg, scenes: int) -> Choice:
    """Choose a model's exponents on so many validation scenes, all phrases of the benchmark asked for."""
    vocabulary = benchmark_vocabulary()
    return choose(observe_all(net, validation_scenes(scenes), vocabulary), net.seen(vocabulary))


def summary(net: EBSeg, scenes: int) -> dict[str, Any]:
    """Choose exponents and say how much depends on them."""
    vocabulary = benchmark_vocabulary()
    seen = net.seen(vocabulary)
    outcomes = observe_all(net, validation_scenes(scenes), vocabulary)
    choice = choose(outcomes, seen)
    near = choice.neighbours()

    def entry(exponents: BalanceConfig, result: Result) -> dict[str, float]:
        values = {"seen": result.seen, "unseen": result.unseen, "harmonic": result.harmonic}
        return {**exponents.model_dump(), **{name: round(value, 2) for name, value in values.items()}}

    special = {"paper's (EBSeg-B)": PAPER, "the model's own": net.config.balance}
    special["A alone"] = BalanceConfig(alpha=0, beta=0, gamma=0)
    return {
        "scenes": scenes,
        "candidates": len(choice.measured),
        "best": [entry(*pair) for pair in choice.measured[:10]],
        "neighbours": {"count": len(near), "lowest": round(min(near), 2), "highest": round(max(near), 2)},
        "within half a point": sum(
            result.harmonic >= choice.measured[0][1].harmonic - 0.5 for _, result in choice.measured
        ),
        **{name: entry(exponents, score(outcomes, seen, exponents)) for name, exponents in special.items()},
    }


def main(
    model: Annotated[str, typer.Argument(help="model name or checkpoint file")] = "ebseg-tiny",
    scenes: Annotated[int, typer.Option(min=1, help="validation scenes")] = 60,
    threads: Annotated[int, typer.Option(help="processor threads")] = 2,
    json_file: Annotated[Path | None, typer.Option("--json", help="write the result here as well")] = None,
) -> None:
    """Choose MODEL's exponents on validation scenes, and print what was measured."""
    torch.set_num_threads(threads)
    net = load(model, device="cpu").net
    text = json.dumps(summary(net, scenes), indent=2)
    typer.echo(text)
    if json_file is not None:
        json_file.write_text(text + "\n")


if __name__ == "__main__":
    typer.run(main)
