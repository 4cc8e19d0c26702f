"""Pre-train the small model's two encoders on drawn scenes: `python -m training.tiny.pretrain --out DIR`.

First the CLIP pair, then the spatial encoder. The run can be stopped and started again: it goes on
from its last checkpoint, and since each step draws its random numbers from the seed and the step
alone, it does what it would have done.
"""

import json
import logging
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Annotated, Any, Protocol

import numpy as np
import torch
import typer
from safetensors.torch import save_file
from torch import Tensor, nn

from ebseg.config import TINY
from ebseg.errors import TrainingError
from ebseg.files import whole
from training.tiny.pretrain_clip import ClipPhase, ClipStage
from training.tiny.pretrain_sam import SamPhase, SamStage
from training.tiny.pretrain_scenes import HELD_OUT_SEED, cached_scenes

logger = logging.getLogger(__name__)

SCENES = 6000
# Colours are learnt within the first thousand steps; from then on nouns count for more, as an unseen
# combination is mistaken for another thing of its colour. The second round unlearns that words held
# out beside each other exclude each other: it lifted unseen regions from 0.55 to 0.71.
CLIP_ROUNDS = (
    (
        ClipPhase(steps=950, batch=32, side=64, zoom=(0.7, 1.3), noun_weight=0.5, spare_held_out=False),
        ClipPhase(steps=610, batch=32, side=64, zoom=(0.7, 1.3), noun_weight=1.5, spare_held_out=False),
        ClipPhase(steps=340, batch=10, side=128, zoom=(0.6, 1.0), noun_weight=1.5, spare_held_out=False),
    ),
    (
        ClipPhase(steps=450, batch=32, side=64, zoom=(0.7, 1.3), noun_weight=1.5, spare_held_out=True),
        ClipPhase(steps=250, batch=10, side=128, zoom=(0.6, 1.0), noun_weight=1.5, spare_held_out=True),
    ),
)
SAM_PHASES = (SamPhase(steps=420, scenes=2, side=128), SamPhase(steps=110, scenes=2, side=256))


class Stage(Protocol):
    """What the loop needs of a stage."""

    name: str
    rounds: tuple[int, ...]  # steps of each; the learning rate starts anew with each round

    @property
    def model(self) -> nn.Module:
        """Everything that is trained."""

    def loss(self, step: int, rng: np.random.Generator) -> tuple[Tensor, dict[str, float]]:
        """Draw a batch and return its loss and what to log of it."""

    def measure(self, seed: int, count: int) -> dict[str, float]:
        """Quality on `count` held-out scenes."""

    def export(self) -> dict[str, Tensor]:
        """Weights by their names in encoders.safetensors."""


@dataclass(frozen=True)
class Schedule:
    """How the loop optimises, logs and stores."""

    learning_rate: float = 1e-3
    weight_decay: float = 0.05
    warm_up: int = 100
    largest_gradient: float = 1.0
    log_every: int = 20
    measure_every: int = 400
    measure_scenes: int = 32
    final_scenes: int = 100
    checkpoint_seconds: float = 120.0


def train(stage: Stage, out: Path, seed: int, schedule: Schedule) -> None:
    """Train a stage to its last step, from its checkpoint in `out` where there is one.

    Raises TrainingError where the loss is not finite.
    """
    optimiser = _optimiser(stage.model, schedule)
    checkpoint = out / f"{stage.name}.pt"
    start = _load(checkpoint, stage, optimiser)
    stored = logged = time.monotonic()
    ends = tuple(accumulate(stage.rounds))
    for step in range(start, ends[-1]):
        for group in optimiser.param_groups:
            group["lr"] = schedule.learning_rate * _rate(step, stage.rounds, schedule.warm_up)
        loss, terms = stage.loss(step, np.random.default_rng((seed, step)))
        if not math.isfinite(loss.item()):
            raise TrainingError(
                f"{stage.name}: the loss at step {step} is {loss.item()}; lower the learning rate"
            )
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(stage.model.parameters(), schedule.largest_gradient)
        optimiser.step()
        done = step + 1
        if done % schedule.log_every == 0:
            seconds = (time.monotonic() - logged) / schedule.log_every
            logged = time.monotonic()
            _log(out, stage, done, {"loss": loss.item(), **terms, "seconds": seconds})
        if done in ends or done % schedule.measure_every == 0:
            count = schedule.final_scenes if done in ends else schedule.measure_scenes
            _log(out, stage, done, stage.measure(seed + HELD_OUT_SEED, count))
        if done == ends[-1] or time.monotonic() - stored > schedule.checkpoint_seconds:
            _save(checkpoint, stage, optimiser, done)
            stored = time.monotonic()


def _optimiser(model: nn.Module, schedule: Schedule) -> torch.optim.AdamW:
    """AdamW that does not decay embeddings, norms, biases and scales."""
    tables = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    decayed = [p for p in trained if p.ndim >= 2 and id(p) not in tables]
    kept = [p for p in trained if p.ndim < 2 or id(p) in tables]
    groups = [
        {"params": decayed, "weight_decay": schedule.weight_decay},
        {"params": kept, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=schedule.learning_rate, betas=(0.9, 0.98), fused=True)


def _rate(step: int, rounds: tuple[int, ...], warm_up: int) -> float:
    """Share of the learning rate: in each round a linear warm-up and half a cosine to zero."""
    for steps in rounds:
        if step < steps:
            return min((step + 1) / warm_up, 1.0) * 0.5 * (1 + math.cos(math.pi * step / steps))
        step -= steps
    raise ValueError(f"step {step} is beyond the last round")


def _save(path: Path, stage: Stage, optimiser: torch.optim.Optimizer, step: int) -> None:
    """Write the loop's state beside the old checkpoint, then put it in its place."""
    state = {"step": step, "model": stage.model.state_dict(), "optimiser": optimiser.state_dict()}
    with whole(path) as unfinished:
        torch.save(state, unfinished)


def _load(path: Path, stage: Stage, optimiser: torch.optim.Optimizer) -> int:
    """Restore the loop's state and return the steps done: 0 without a checkpoint."""
    if not path.exists():
        return 0
    state: dict[str, Any] = torch.load(path, weights_only=True)
    stage.model.load_state_dict(state["model"])
    optimiser.load_state_dict(state["optimiser"])
    return int(state["step"])


def _log(out: Path, stage: Stage, step: int, values: dict[str, float]) -> None:
    entry = {"stage": stage.name, "step": step} | {name: round(value, 5) for name, value in values.items()}
    logger.info("%s", json.dumps(entry))
    with (out / "log.jsonl").open("a") as log:
        log.write(json.dumps(entry) + "\n")


def run(stages: Sequence[Stage], out: Path, seed: int, schedule: Schedule) -> Path:
    """Train the stages one after the other and write `encoders.safetensors`, whose path is returned."""
    weights: dict[str, Tensor] = {}
    for stage in stages:
        train(stage, out, seed, schedule)
        weights |= {name: tensor.contiguous() for name, tensor in stage.export().items()}
    path = out / "encoders.safetensors"
    with whole(path) as unfinished:
        save_file(weights, unfinished)
    return path


def main(
    out: Annotated[Path, typer.Option(help="folder of checkpoints, log and result")],
    seed: Annotated[int, typer.Option(help="of scenes, batches and first weights")] = 0,
    threads: Annotated[int, typer.Option(help="processor threads")] = 2,
) -> None:
    """Pre-train the small model's encoders, from the last checkpoint in OUT where there is one."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    out.mkdir(parents=True, exist_ok=True)
    scenes = cached_scenes(out, seed, SCENES, workers=threads)
    stages = (ClipStage(TINY.clip, scenes, CLIP_ROUNDS), SamStage(TINY.sam, seed, SAM_PHASES))
    path = run(stages, out, seed, Schedule())
    logger.info("wrote %s", path)


if __name__ == "__main__":
    typer.run(main)
