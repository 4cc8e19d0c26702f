"""The training loop: read it from top to bottom."""

import json
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.data import DataLoader

from ebseg.checkpoint import save_checkpoint
from ebseg.config import ModelConfig, TrainConfig
from ebseg.data.scenes import BENCHMARK_SEED, SceneBatches, training_vocabulary
from ebseg.errors import CheckpointError, ConfigError, TrainingError
from ebseg.model import EBSeg
from ebseg.text_cache import TextCache

STATE_FILE = "last.pt"
MODEL_FILE = "model.safetensors"
LOG_FILE = "log.jsonl"
LOG_EVERY = 20
"""Steps between lines of the log."""

Report = Callable[[int, dict[str, float]], None]
"""Called after each step with the steps done and the loss terms."""


def train(
    model: ModelConfig, config: TrainConfig, out: Path, *, encoders: Path | None = None, report: Report
) -> Path:
    """Train on drawn scenes; go on from the state in ``out`` where there is one.

    ``encoders``: pre-trained CLIP and spatial encoders, frozen here but for their positions (paper,
    section 4.2). Writes ``model.safetensors`` and ``log.jsonl`` into ``out`` and returns the model's path.
    Batches and random points depend on the seed and the step alone, so that a run that was stopped
    ends as one that was not.

    Raises TrainingError where a loss is not finite, and CheckpointError for encoders that do not fit.
    """
    if config.seed == BENCHMARK_SEED:
        raise ConfigError(f"seed {BENCHMARK_SEED} draws the benchmark's scenes: train with another")
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(config.seed)
    net = EBSeg(model).train()
    if encoders is not None:
        load_encoders(net, encoders)
    vocabulary = net.training_vocabulary = training_vocabulary()
    net.encode_names = partial(
        TextCache(None).embed, encode=net.text.encode_names, fingerprint=net.text.fingerprint()
    )
    optimiser = torch.optim.AdamW(parameter_groups(net, config.weight_decay), lr=config.learning_rate)
    schedule = torch.optim.lr_scheduler.PolynomialLR(optimiser, config.steps, config.power)
    done = _resume(out, net, optimiser, schedule)
    batches = DataLoader(
        SceneBatches(config), batch_size=None, sampler=range(done, config.steps), num_workers=1
    )
    for images, label_maps in batches:
        started = time.monotonic()
        torch.manual_seed(config.seed * config.steps + done)
        losses = net.losses(images.float(), label_maps, vocabulary)
        terms = _finite(losses, done)
        optimiser.zero_grad()
        sum(losses.values(), torch.zeros(())).backward()
        nn.utils.clip_grad_norm_(net.parameters(), config.largest_gradient)
        optimiser.step()
        schedule.step()
        done += 1
        if done % LOG_EVERY == 0:
            _log(out, done, terms, time.monotonic() - started)
        if done % config.checkpoint_every == 0 or done == config.steps:
            _store(out, net, optimiser, schedule, done)
        report(done, terms)
    save_checkpoint(net, out / MODEL_FILE)
    return out / MODEL_FILE


def parameter_groups(net: EBSeg, weight_decay: float) -> list[dict[str, Any]]:
    """Sort the trainable parameters into decayed ones and not decayed ones, each into exactly one.

    As the authors' run did: norms, embedding tables and the encoders' positional embeddings do not
    decay; biases, scales, the background vector, the pixel decoder's level embedding and, by a slip
    that the published numbers were made with, the norms before the fusion do.
    """
    kept = {id(net.clip.tower.positional_embedding), id(net.sam.encoder.pos_embed)}
    for module in (net.pixel_decoder, net.mask_decoder):
        for part in module.modules():
            if isinstance(part, nn.LayerNorm | nn.GroupNorm | nn.Embedding):
                kept |= {id(parameter) for parameter in part.parameters()}
    trained = [parameter for parameter in net.parameters() if parameter.requires_grad]
    return [
        {"params": [p for p in trained if id(p) not in kept], "weight_decay": weight_decay},
        {"params": [p for p in trained if id(p) in kept], "weight_decay": 0.0},
    ]


def load_encoders(net: EBSeg, path: Path) -> None:
    """Load pre-trained encoders: safetensors with ``clip_image.``, ``clip_text.`` and ``sam.`` names."""
    try:
        state = load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"encoders {path} cannot be read ({error})") from error
    parts = {"clip_image.": net.clip.tower, "clip_text.": net.text.tower, "sam.": net.sam.encoder}
    try:
        for prefix, part in parts.items():
            part.load_state_dict(
                {n.removeprefix(prefix): t for n, t in state.items() if n.startswith(prefix)}
            )
        with torch.no_grad():
            net.text.logit_scale.copy_(state["clip_logit_scale"])
    except (RuntimeError, KeyError) as error:
        raise CheckpointError(f"encoders {path} do not fit EBSeg {net.config.name!r}: {error}") from error


def _finite(losses: dict[str, Tensor], step: int) -> dict[str, float]:
    terms = {name: float(term.detach()) for name, term in losses.items()}
    broken = [name for name, value in terms.items() if not torch.isfinite(torch.tensor(value))]
    if broken:
        raise TrainingError(
            f"step {step}: {', '.join(broken)} is not finite; the state before it is kept: "
            "lower the learning rate and start again"
        )
    return terms


def _log(out: Path, done: int, terms: dict[str, float], seconds: float) -> None:
    last = {name: round(terms[name], 4) for name in ("class_a", "class_b", "mask", "dice", "ssc")}
    line = {"step": done, "loss": round(sum(terms.values()), 4), **last, "seconds": round(seconds, 3)}
    with (out / LOG_FILE).open("a") as log:
        log.write(json.dumps(line) + "\n")


def _store(
    out: Path,
    net: EBSeg,
    optimiser: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    done: int,
) -> None:
    """Write the run's state, atomically."""
    trained = {name: parameter for name, parameter in net.named_parameters() if parameter.requires_grad}
    state = {
        "step": done,
        "parameters": {name: parameter.detach() for name, parameter in trained.items()},
        "optimiser": optimiser.state_dict(),
        "schedule": schedule.state_dict(),
    }
    unfinished = out / f"{STATE_FILE}.unfinished"
    torch.save(state, unfinished)
    os.replace(unfinished, out / STATE_FILE)


def _resume(
    out: Path, net: EBSeg, optimiser: torch.optim.Optimizer, schedule: torch.optim.lr_scheduler.LRScheduler
) -> int:
    """Restore the run's state and return the steps done: 0 where there is none."""
    if not (out / STATE_FILE).exists():
        return 0
    state = torch.load(out / STATE_FILE, weights_only=True)
    missing, unexpected = net.load_state_dict(state["parameters"], strict=False)
    trained = {name for name, parameter in net.named_parameters() if parameter.requires_grad}
    if unexpected or trained & set(missing):
        raise CheckpointError(f"{out / STATE_FILE} is of another model: choose another folder")
    optimiser.load_state_dict(state["optimiser"])
    schedule.load_state_dict(state["schedule"])
    return int(state["step"])
