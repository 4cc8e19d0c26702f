"""The training loop: read it from top to bottom.

One loop for a CPU, a GPU and several processes (``accelerate launch`` or ``torchrun``).
"""

import logging
import math
import os
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import gather_object, parse_flag_from_env
from torch import Tensor, nn

from ebseg.checkpoint import save_checkpoint
from ebseg.config import LossConfig, Precision, TrainConfig
from ebseg.data.batches import Batch, StepBatches, StepData, loader
from ebseg.data.samples import Source
from ebseg.errors import CheckpointError, ConfigError, DataError, TrainingError
from ebseg.losses import Totals
from ebseg.model import EBSeg
from ebseg.runs import log as run_log
from ebseg.runs.folder import RunFolder
from ebseg.runs.memory import peak_bytes
from ebseg.runs.state import RunState
from ebseg.runs.watch import StepReport, StopTraining, Watcher
from ebseg.text_cache import TextEncoder
from ebseg.vocabulary import Vocabulary

_logger = logging.getLogger(__name__)

SMALLEST_SCALE = 1.0
"""Loss scale of fp16 under which a run has diverged: it starts at 65,536, and each overflow halves it."""

_PRECISIONS = {"float32": "no", "bf16": "bf16", "fp16": "fp16"}


def train(
    net: EBSeg,
    sources: Sequence[Source],
    config: TrainConfig,
    out: Path,
    *,
    weights: Sequence[float] | None = None,
    watchers: Sequence[Watcher] = (),
    workers: int = 1,
) -> Path:
    """Train ``net``, in place, on labelled photos; go on from the checkpoint in ``out`` where there is one.

    Trains what the paper trains (section 4.2); ``net`` freezes the rest. ``weights``: how often each source
    is drawn from; by default by its size. ``workers``: processes that read photos. Writes
    ``model.safetensors``, ``log.jsonl`` and checkpoints into ``out`` and returns the model's path. The
    model's training vocabulary becomes what it was trained on before and the sources' labels.

    Everything random follows from the seed and the number of a photo: on a CPU, a run that was killed at
    any moment and is started again ends with the same weights as one that was not.

    Raises TrainingError where a loss or a gradient is not finite, naming terms and photos (the checkpoint
    before it stays); DataError where more than ``config.max_broken`` files are broken; CheckpointError
    where ``out`` holds another run; ConfigError for a batch that the processes cannot share.
    """
    run = _Run(net, sources, config, out, weights, watchers)
    accelerator = run.accelerator
    try:
        run.start(sources)
        for loaded in loader(run.plan, run.done, workers):
            if run.ended():
                break
            run.count_broken(loaded)
            totals = run.shared_totals(loaded)
            rate = run.set_learning_rate()
            terms: dict[str, float] = {}
            for batch in loaded.batches:
                # Processes average their gradients once a step: in the last batch's backward pass.
                waits = batch is not loaded.batches[-1]
                with accelerator.no_sync(run.module) if waits else nullcontext():
                    losses = run.module(batch, run.vocabularies[batch.source], config.seed, totals)
                    for name, value in run.finite(losses, batch).items():
                        terms[name] = terms.get(name, 0.0) + value
                    accelerator.backward(sum(losses.values(), torch.zeros((), device=accelerator.device)))
            norm = accelerator.clip_grad_norm_(list(run.trained.values()), config.largest_gradient)
            run.check_gradients(norm, loaded)
            run.optimiser.step()
            run.optimiser.zero_grad()
            run.done += 1
            run.report(terms, rate, float(norm))
            if run.done % config.checkpoint_every == 0 or run.done == config.steps:
                run.store()
        run.finish()
    except BaseException as error:
        for watcher in run.watchers:
            watcher.failed(error)
        raise
    return run.folder.model


class _Run:
    """What the loop works on: the model, its optimiser, the data, and who is told."""

    def __init__(
        self,
        net: EBSeg,
        sources: Sequence[Source],
        config: TrainConfig,
        out: Path,
        weights: Sequence[float] | None,
        watchers: Sequence[Watcher],
    ) -> None:
        self.net, self.config, self.folder = net, config, RunFolder(out)
        self.accelerator = make_accelerator(config)
        self.main = self.accelerator.is_main_process
        self.vocabularies = [source.vocabulary for source in sources]
        net.to(self.accelerator.device).train()
        known = [] if net.training_vocabulary is None else [net.training_vocabulary]
        net.trained_on(Vocabulary.union([*known, *self.vocabularies]))
        self.trained = net.head
        groups = parameter_groups(net, config.weight_decay)
        optimiser = torch.optim.AdamW(groups, lr=config.learning_rate)
        self.plan = StepBatches(
            sources,
            config,
            weights=weights,
            rank=self.accelerator.process_index,
            processes=self.accelerator.num_processes,
        )
        out.mkdir(parents=True, exist_ok=True)
        data = [f"{source.name}, {source.fingerprint()}" for source in sources]
        fixed = config.model_copy(update={"precision": resolved_precision(config)})
        model = net.config.model_dump_json()
        self.state = RunState(out, net, model, fixed, [*data, f"weights {weights}"])
        self.done = 0
        self.broken: set[str] = set()
        self._resume(optimiser)
        self.module, self.optimiser = self.accelerator.prepare(_Losses(net, config.losses), optimiser)
        self.watchers = list(watchers) if self.main else []
        self._enough = False
        self._step_started = time.monotonic()

    def start(self, sources: Sequence[Source]) -> None:
        """Tell the watchers; one that has seen enough of an earlier part of the run may say so."""
        try:
            for watcher in self.watchers:
                watcher.started(self.net, self.config, sources, self.done)
        except StopTraining:
            self._enough = True
        self._step_started = time.monotonic()

    def ended(self) -> bool:
        """Tell all processes whether a watcher of the main one has seen enough."""
        return self._any(self._enough)

    def _resume(self, optimiser: torch.optim.Optimizer) -> None:
        """Restore weights, optimiser and position from the newest checkpoint, where there is one."""
        state = self.state.newest()
        if state is not None:
            found: Mapping[str, Tensor] = state["parameters"]
            if {n: p.shape for n, p in found.items()} != {n: p.shape for n, p in self.trained.items()}:
                raise CheckpointError(f"{self.folder.checkpoints} is of another model: choose another folder")
            with torch.no_grad():
                for name, parameter in self.trained.items():
                    parameter.copy_(found[name])
            optimiser.load_state_dict(state["optimiser"])
            if self.accelerator.scaler is not None:
                self.accelerator.scaler.load_state_dict(state["scaler"])
            self.done, self.broken = state["step"], set(state["broken"])
        if self.main:
            run_log.trim(self.folder.log, self.done)

    def count_broken(self, loaded: StepData) -> None:
        """Name and count the files that were skipped, in all processes, and stop where they are too many."""
        new = set(loaded.broken) - self.broken
        if self._any(bool(new)):
            new = set(gather_object(sorted(new))) - self.broken
            self.broken |= new
            for message in sorted(new) if self.main else ():
                _logger.warning("Skipped a broken file: %s", message)
        if len(self.broken) > self.config.max_broken:
            raise DataError(
                f"{len(self.broken)} files are broken, more than {self.config.max_broken} (max_broken): "
                f"{'; '.join(sorted(self.broken)[:5])}; mend or remove them"
            )

    def shared_totals(self, loaded: StepData) -> Totals:
        """Add up what all batches of all processes hold, so that it does not matter how they are split."""
        segments = [count for batch in loaded.batches for count in batch.segments]
        own = Totals.of(segments, self.net.config.decoder.queries, self.config.losses)
        device = self.accelerator.device
        summed = torch.tensor([own.masks, own.class_weight, own.photos], device=device)
        masks, class_weight, photos = self.accelerator.reduce(summed, reduction="mean").tolist()
        return Totals(masks=masks, class_weight=class_weight, photos=photos)

    def set_learning_rate(self) -> float:
        """Poly schedule: a pure function of the step, so that nothing of it has to be stored."""
        rate: float = self.config.learning_rate * (1 - self.done / self.config.steps) ** self.config.power
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        return rate

    def check_gradients(self, norm: Tensor, loaded: StepData) -> None:
        """Stop at a gradient that is not finite. With fp16 it is a usual overflow, up to a point."""
        if torch.isfinite(norm):
            return
        scaler = self.accelerator.scaler
        if scaler is not None and float(scaler.get_scale()) > SMALLEST_SCALE:
            return  # the scaler skips this update and halves its scale
        broken = [n for n, p in self.trained.items() if p.grad is not None and not p.grad.isfinite().all()]
        names = gather_object([name for batch in loaded.batches for name in batch.names])
        raise TrainingError(
            f"step {self.done + 1}: the gradients of {', '.join(broken[:5])} ({len(broken)} tensors) are not "
            f"finite, for {', '.join(names)}; {self._remedy()}"
        )

    def finite(self, losses: Mapping[str, Tensor], batch: Batch) -> dict[str, float]:
        """Give the terms as numbers.

        Raises TrainingError, in every process, that names what is not finite and for which photos.
        """
        values = torch.stack([term.detach().float() for term in losses.values()])
        terms = dict(zip(losses, values.tolist(), strict=True))
        broken = [name for name, value in terms.items() if not math.isfinite(value)]
        if self._any(bool(broken)):
            found = [f"{', '.join(broken)} for {', '.join(batch.names)}"] if broken else []
            everywhere = "; ".join(gather_object(found))
            raise TrainingError(
                f"step {self.done + 1}: loss terms are not finite: {everywhere}; {self._remedy()}"
            )
        return terms

    def _remedy(self) -> str:
        """Say what to do about what is not finite; a run may not have come to its first checkpoint."""
        kept = self.folder.stored()
        remedy = "look at these photos, or start again with a lower learning rate"
        return f"the checkpoint before it is kept: {remedy}" if kept else remedy

    def _any(self, here: bool) -> bool:
        """Tell every process whether something is so in one of them."""
        if self.accelerator.num_processes == 1:
            return here
        flag = torch.tensor([float(here)], device=self.accelerator.device)
        return bool(self.accelerator.reduce(flag, reduction="sum").item())

    def report(self, terms: dict[str, float], rate: float, norm: float) -> None:
        """Tell the log and the watchers what the step did."""
        progress = StepReport(
            step=self.done,
            steps=self.config.steps,
            terms=self._over_processes(terms),
            learning_rate=rate,
            gradient_norm=norm,
            photos=self.config.batch,
            seconds=time.monotonic() - self._step_started,
            memory=peak_bytes(self.accelerator.device),
            broken=len(self.broken),
        )
        self._step_started = time.monotonic()
        if self.main and (self.done % self.config.log_every == 0 or self.done == self.config.steps):
            run_log.append(self.folder.log, progress)
        for watcher in self.watchers:
            watcher.stepped(progress)

    def _over_processes(self, terms: dict[str, float]) -> dict[str, float]:
        values = torch.tensor(list(terms.values()), device=self.accelerator.device)
        return dict(zip(terms, self.accelerator.reduce(values, reduction="mean").tolist(), strict=True))

    def store(self) -> None:
        """Write a checkpoint."""
        if not self.main:
            return
        scaler = self.accelerator.scaler
        self.state.store(
            self.done,
            {
                "parameters": {name: parameter.detach() for name, parameter in self.trained.items()},
                "optimiser": self.optimiser.state_dict(),
                "scaler": None if scaler is None else scaler.state_dict(),
                "broken": sorted(self.broken),
            },
        )
        try:
            for watcher in self.watchers:
                watcher.stored(self.net, self.done)
        except StopTraining:
            self._enough = True

    def finish(self) -> None:
        """Write the model, once every process is done."""
        self.accelerator.wait_for_everyone()
        self.net.eval()
        if self.main:
            save_checkpoint(self.net, self.folder.model)
        for watcher in self.watchers:
            watcher.finished(self.folder.model)
        self.accelerator.wait_for_everyone()


class _Losses(nn.Module):
    """The model's losses as a module's forward pass, which is what several processes can share."""

    def __init__(self, net: EBSeg, config: LossConfig) -> None:
        super().__init__()
        self.net, self.config = net, config
        self.texts = TextEncoder(net.text)  # the tower is frozen, so a name is encoded once a run

    def forward(self, batch: Batch, vocabulary: Vocabulary, seed: int, totals: Totals) -> dict[str, Tensor]:
        weight = self.net.text.background
        images = batch.images.to(weight.device, weight.dtype)
        generators = [random_points(seed, photo, weight.device) for photo in batch.photos]
        return self.net.losses(
            images,
            batch.label_maps.to(weight.device),
            vocabulary,
            text=self.texts(vocabulary),
            config=self.config,
            generators=generators,
            totals=totals,
        )


def random_points(seed: int, photo: int, device: torch.device) -> torch.Generator:
    """Give a photo of a run a generator of its own for random points, so that batches can be split anyhow."""
    (state,) = np.random.SeedSequence((seed, photo)).generate_state(1, np.uint64)
    return torch.Generator(device).manual_seed(int(state >> np.uint64(1)))


def resolved_precision(config: TrainConfig) -> Precision:
    """Give the precision that "auto" means on the device that Accelerate will choose."""
    if config.precision != "auto":
        return config.precision
    return "fp16" if torch.cuda.is_available() and not _on_cpu() else "float32"


def _on_cpu() -> bool:
    """Tell whether a run keeps to the CPU: as asked for, or as the only way for several processes."""
    asked: bool = parse_flag_from_env("ACCELERATE_USE_CPU")
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    return asked or (several and not torch.cuda.is_available())


def make_accelerator(config: TrainConfig) -> Accelerator:
    """Prepare device, precision and processes. Raises ConfigError for a precision that is not to be had."""
    precision = resolved_precision(config)
    # Accelerate keeps the first precision of a process for good; a second run may want another.
    AcceleratorState._reset_state()
    try:
        return Accelerator(mixed_precision=_PRECISIONS[precision], cpu=_on_cpu())
    except (ValueError, ImportError) as error:
        raise ConfigError(
            f"precision {precision} cannot be had on this machine ({error}); try float32"
        ) from error


def parameter_groups(net: EBSeg, weight_decay: float) -> list[dict[str, Any]]:
    """Sort the trainable parameters into decayed ones and not decayed ones, each into exactly one.

    As the authors' run did: norms, embedding tables and the encoders' positional embeddings do not
    decay; biases, scales, the background vector, the pixel decoder's level embedding and, by a slip
    that the published numbers were made with, the norms before the fusion do. Nor has their factor for
    the backbone's learning rate any effect (it is 1): there is one learning rate.
    """
    kept = {id(net.clip.tower.positional_embedding), id(net.sam.encoder.pos_embed)}
    for module in (net.pixel_decoder, net.mask_decoder):
        for part in module.modules():
            if isinstance(part, nn.LayerNorm | nn.GroupNorm | nn.Embedding):
                kept |= {id(parameter) for parameter in part.parameters()}
    trained = [parameter for parameter in net.parameters() if parameter.requires_grad]
    return [
        {
            "name": "decayed",
            "params": [p for p in trained if id(p) not in kept],
            "weight_decay": weight_decay,
        },
        {"name": "kept", "params": [p for p in trained if id(p) in kept], "weight_decay": 0.0},
    ]
