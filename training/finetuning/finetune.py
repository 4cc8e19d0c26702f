"""Fine-tune a model on a project's annotations without losing what it could do before.

Three things work together. **Rehearsal**: some of the steps see the general data that the model comes
from, where that is at hand. **Early stopping** on photos that are held out. **Interpolation** of all
trained weights between the base and the fine-tuned model (WiSE-FT: Wortsman et al., "Robust fine-tuning of
zero-shot models", CVPR 2022), as far towards the fine-tuned one as the general measure allows.
docs/finetuning.md has what was measured.
"""

import json
import logging
import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, parse_flag_from_env, reduce
from pydantic import BaseModel, ConfigDict, Field
from safetensors import SafetensorError
from torch import Tensor

from ebseg.checkpoint import load_checkpoint, save_checkpoint, save_head
from ebseg.config import RECIPES, Precision, TrainConfig
from ebseg.data.batches import check_shares
from ebseg.data.samples import Source
from ebseg.errors import ConfigError, DataError, RunNotWritten
from ebseg.evaluation.in_memory import count_pixels
from ebseg.evaluation.metrics import mean_percent
from ebseg.files import write_whole_json
from ebseg.loading import checkpoint_path
from ebseg.model import EBSeg
from ebseg.predictor import Predictor, evaluation_mode
from ebseg.runs.watch import StepReport, StopTraining, Watcher
from ebseg.text_cache import TextCache
from ebseg.train import make_accelerator, train
from training.finetuning.folder import FinetuneFolder, TrainingFolder

_log = logging.getLogger(__name__)

MIXES = tuple(twentieths / 20 for twentieths in range(20, 0, -1))
"""Shares of the fine-tuned weights that are tried; the rest is the base's, which is the last resort."""

LEAST_STEPS, MOST_STEPS, LOOKS = 600, 1800, 12
"""Updates of a fine-tuning, and how often each photo is seen between the two; see ``steps_for``."""

PATIENCE = timedelta(hours=2)
"""That processes wait for the main one while it alone measures, draws pictures or stores; PyTorch gives up
after ten minutes. Where a process dies, its launcher ends the others at once."""


class FinetuneConfig(BaseModel):
    """A fine-tuning run. Sizes of photos and crops are the variant's own (``config.RECIPES``)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    steps: int | None = Field(default=None, gt=0, description="updates at most; None: see ``steps_for``")
    batch: int = Field(default=4, gt=0, description="photos a step, over all processes")
    learning_rate: float = Field(default=5e-4, gt=0)
    unlabelled: Literal["ignored", "background"] = Field(
        default="ignored", description="what a pixel without a label is: not known, or none of the labels"
    )
    rehearsal: float = Field(default=0.5, ge=0, lt=1, description="share of the steps on general data")
    keep: float = Field(default=0.95, ge=0, le=1, description="share of the general mIoU that must be left")
    measure_every: int = Field(default=50, gt=0, description="steps between looks at the held-out photos")
    patience: int = Field(default=6, gt=0, description="looks without a better mIoU before it ends early")
    general_photos: int = Field(default=40, gt=0, description="general photos that forgetting is measured on")
    precision: Precision = Field(default="auto", description="as of ``config.TrainConfig``")
    seed: int = Field(default=0, ge=0)


def steps_for(photos: int, a_step: float) -> int:
    """Choose the updates for so many photos to train on, of which a step sees ``a_step``.

    LEAST_STEPS, or as many more, up to MOST_STEPS, as it takes for LOOKS at each (docs/finetuning.md).
    """
    return min(max(LEAST_STEPS, math.ceil(LOOKS * photos / a_step)), MOST_STEPS)


@dataclass(frozen=True)
class Snapshot:
    """A project's annotated photos, of one vocabulary: to train on, and held out."""

    train: Source
    held_out: Source


@dataclass(frozen=True)
class General:
    """What the base can do besides the project: data to rehearse with and to measure on, if at hand."""

    train: Source | None
    held_out: Source | None


@dataclass(frozen=True)
class Mix:
    """Weights between base and fine-tuned model, and the mIoU they reach (percent; None: not measured)."""

    share: float
    project: float
    general: float | None


@dataclass(frozen=True)
class FinetuneResult:
    """What came of a fine-tuning: ``chosen`` is the model in ``path``, ``base`` what it was before.

    ``seconds``: of this process; a run that was resumed took longer.
    """

    path: Path
    base: Mix
    chosen: Mix
    tried: tuple[Mix, ...]
    steps: int
    seconds: float


def finetune(
    base: str,
    snapshot: Snapshot,
    config: FinetuneConfig,
    out: Path,
    *,
    general: General | None = None,
    watchers: Sequence[Watcher] = (),
    workers: int = 1,
    backbone: str | None = None,
) -> FinetuneResult:
    """Fine-tune a model on a project's photos; go on where a run in ``out`` was stopped.

    ``base``: what ``ebseg.load`` takes. ``general``: without its photos to train on nothing is rehearsed,
    without those to measure on the fine-tuned weights are taken whole. The same arguments give the same
    weights on the same machine. Writes ``model.safetensors`` and ``outcome.json`` into ``out``, each once, at
    the end. ``backbone``: what ``ebseg.load`` takes for a model with the base's backbone; with it, the head
    alone is written.

    Several processes of one machine (``torchrun``, ``accelerate launch``), each called with the same
    arguments, share every step's photos and the measuring. The main one writes the files, and its watchers
    are told; all return its outcome.

    Where the fine-tuned weights are no better on the held-out photos than the base, the base is written.

    Raises what ``ebseg.train.train`` raises; ConfigError for a vocabulary that differs between the two parts
    of the snapshot, and a model that is none of our variants; DataError where a part of the snapshot has no
    photos.
    """
    _check(snapshot)
    started = time.monotonic()
    net, _ = load_checkpoint(checkpoint_path(base))
    sources, weights = _mixture(snapshot, general, config)
    steps = config.steps or steps_for(len(snapshot.train), config.batch * weights[0])
    recipe, known = _recipe(net, config, steps), net.training_vocabulary
    accelerator = _accelerator(recipe)
    process, processes = accelerator.process_index, accelerator.num_processes
    check_shares(recipe, processes)
    net.to(accelerator.device)
    before = {name: parameter.detach().clone() for name, parameter in net.head.items()}
    folder = FinetuneFolder(out)
    folder.training.path.mkdir(parents=True, exist_ok=True)
    held_out = general.held_out if general else None
    measure = _Measure(snapshot.held_out, held_out, config.general_photos, process, processes)
    base_mix = measure.mix(net, 0.0)
    if np.isnan(base_mix.project):
        raise DataError(f"{snapshot.held_out.name} has no labelled pixel: hold other photos out")
    stopper = _EarlyStopping(folder.training, _Measure(snapshot.held_out, None, 0), config)
    train(
        net,
        sources,
        recipe,
        folder.training.path,
        weights=weights,
        watchers=[*watchers, stopper],
        workers=workers,
    )
    chosen, tried = _choose(net, before, stopper.best_weights(before), measure, base_mix, config)
    if chosen is base_mix:  # nor does it know the project's labels then
        net.trained_on(known)
    outcome = FinetuneResult(
        path=folder.model,
        base=base_mix,
        chosen=chosen,
        tried=tried,
        steps=stopper.last_step,
        seconds=time.monotonic() - started,
    )
    if accelerator.is_main_process:
        _write(net, folder, outcome, config, backbone)
    agreed: list[FinetuneResult] = broadcast_object_list([outcome])
    return agreed[0]


def _check(snapshot: Snapshot) -> None:
    for part in (snapshot.train, snapshot.held_out):
        if len(part) == 0:
            raise DataError(f"{part.name} has no photos: annotate some more")
    if snapshot.train.vocabulary != snapshot.held_out.vocabulary:
        raise ConfigError(f"{snapshot.train.name} and {snapshot.held_out.name} have different labels")


def _recipe(net: EBSeg, config: FinetuneConfig, steps: int) -> TrainConfig:
    """Take photos' sizes, decay and clipping from the variant's recipe, the rest from the fine-tuning's."""
    if net.config.name not in RECIPES:
        raise ConfigError(f"no recipe for EBSeg {net.config.name!r}; known: {', '.join(RECIPES)}")
    recipe = RECIPES[net.config.name]
    unlabelled = "ignored" if config.unlabelled == "ignored" else "negative"
    return recipe.model_copy(
        update={
            "losses": recipe.losses.model_copy(update={"unlabelled": unlabelled}),
            "steps": steps,
            "batch": config.batch,
            "learning_rate": config.learning_rate,
            "precision": config.precision,
            "seed": config.seed,
            "checkpoint_every": config.measure_every,
        }
    )


def _accelerator(recipe: TrainConfig) -> Accelerator:
    """Prepare the device and, where there are several processes, their patience with each other."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not torch.distributed.is_initialized():
        on_gpus = torch.cuda.is_available() and not parse_flag_from_env("ACCELERATE_USE_CPU")
        torch.distributed.init_process_group("nccl" if on_gpus else "gloo", timeout=PATIENCE)
    return make_accelerator(recipe)


def _mixture(
    snapshot: Snapshot, general: General | None, config: FinetuneConfig
) -> tuple[list[Source], list[float]]:
    """Say what the steps see, and how often each."""
    if general is None or general.train is None or config.rehearsal == 0:
        return [snapshot.train], [1.0]
    return [snapshot.train, general.train], [1 - config.rehearsal, config.rehearsal]


def _write(
    net: EBSeg,
    folder: FinetuneFolder,
    outcome: FinetuneResult,
    config: FinetuneConfig,
    backbone: str | None,
) -> None:
    content = {**asdict(outcome), "path": str(outcome.path), "config": config.model_dump()}
    with _writing_to(folder.path):
        if backbone is None:
            save_checkpoint(net, folder.model)
        else:
            save_head(net, folder.model, backbone=backbone)
        write_whole_json(folder.outcome, content)


@contextmanager
def _writing_to(folder: Path) -> Iterator[None]:
    """Say which folder is on the disk that is full. Raises RunNotWritten."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise RunNotWritten(
            f"the run's folder {folder} cannot be written to ({error}): make room; the same command goes on "
            "from the newest checkpoint"
        ) from error


class _Measure:
    """Mean IoU, in percent, of a model as it is, on the project's held-out photos and on general ones.

    Several processes take turns with the photos. What they add up are whole numbers, so that each comes to
    the same result, which is that of one process, and decides alike.

    A broken photo is a DataError: leaving it out would make numbers that cannot be compared.
    """

    def __init__(
        self,
        project: Source,
        general: Source | None,
        general_photos: int,
        process: int = 0,
        processes: int = 1,
    ) -> None:
        self._project, self._general, self._general_photos = project, general, general_photos
        self._process, self._processes = process, processes
        self._texts = TextCache(None)

    def project(self, net: EBSeg) -> float:
        return mean_percent(self._iou(net, self._project, len(self._project)))

    def general(self, net: EBSeg) -> float | None:
        """Measure the labels that the project does not use."""
        if self._general is None:
            return None
        iou = self._iou(net, self._general, min(self._general_photos, len(self._general)))
        others = iou[~np.array(self._general.vocabulary.seen_in(self._project.vocabulary))]
        if np.isnan(others).all():
            _log.warning("%s shows no label that the project does not use", self._general.name)
            self._general = None
            return None
        return mean_percent(others)

    def mix(self, net: EBSeg, share: float) -> Mix:
        return Mix(share, self.project(net), self.general(net))

    def _iou(self, net: EBSeg, source: Source, count: int) -> npt.NDArray[np.float64]:
        with evaluation_mode(net):
            device = next(net.parameters()).device
            predictor = Predictor(net, version="measured", device=device, text_cache=self._texts)
            samples = (source[index] for index in range(self._process, count, self._processes))
            photos = ((sample.image, sample.label_map) for sample in samples)
            (matrix,), _ = count_pixels(predictor, photos, [source.vocabulary])
            if self._processes > 1:
                counts = torch.from_numpy(matrix.counts).to(device)
                matrix.counts = reduce(counts, reduction="sum").cpu().numpy()
            return matrix.iou()


class _EarlyStopping:
    """Measures at each checkpoint, keeps the best weights, and ends a run that no longer gets better.

    Of several processes only the main one's is told of the run; it decides for all. All it knows is in two
    files, so that a resumed run decides as one that was not stopped.
    """

    def __init__(self, folder: TrainingFolder, measure: _Measure, config: FinetuneConfig) -> None:
        self._folder, self._measure, self._config = folder, measure, config
        self._measured: dict[int, float] = {}

    @property
    def last_step(self) -> int:
        """Steps done, as the main process knows."""
        return max(self._measured, default=0)

    def started(self, net: EBSeg, _config: TrainConfig, _sources: Sequence[Source], step: int) -> None:
        path = self._folder.measured
        found = json.loads(path.read_text()) if path.exists() else {}
        self._measured = {int(key): value for key, value in found.items() if int(key) <= step}
        if step and step not in self._measured:  # killed after the checkpoint, before it was measured
            self._measure_at(net, step)
        self._end_if_done()

    def stepped(self, progress: StepReport) -> None:
        pass

    def stored(self, net: EBSeg, step: int) -> None:
        self._measure_at(net, step)
        self._end_if_done()

    def _measure_at(self, net: EBSeg, step: int) -> None:
        score = self._measure.project(net)
        with _writing_to(self._folder.path):
            if score > max(self._measured.values(), default=-1.0):
                save_checkpoint(net, self._folder.best)
            self._measured[step] = score
            write_whole_json(self._folder.measured, self._measured, indent=None)

    def finished(self, path: Path) -> None:
        pass

    def failed(self, error: BaseException) -> None:
        pass

    def _end_if_done(self) -> None:
        scores = [self._measured[step] for step in sorted(self._measured)]
        if len(scores) - int(np.argmax(scores or [0.0])) > self._config.patience:
            raise StopTraining

    def best_weights(self, names: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Read the trained weights of the best checkpoint, to where those named are."""
        net, _ = load_checkpoint(self._folder.best)
        found = dict(net.named_parameters())
        return {name: found[name].detach().to(there.device) for name, there in names.items()}


def _choose(
    net: EBSeg,
    base: Mapping[str, Tensor],
    tuned: Mapping[str, Tensor],
    measure: _Measure,
    base_mix: Mix,
    config: FinetuneConfig,
) -> tuple[Mix, tuple[Mix, ...]]:
    """Leave in ``net`` the best mix of both on the project that keeps enough of the general mIoU.

    From the fine-tuned weights towards the base's, until enough is kept and the project gets worse.
    """
    floor = config.keep * (base_mix.general or 0.0)
    tried: list[Mix] = []
    best = base_mix
    for share in MIXES:
        interpolate(net, base, tuned, share)
        mix = measure.mix(net, share)
        tried.append(mix)
        if base_mix.general is None:  # nothing to keep: all or nothing
            best = mix if mix.project > base_mix.project else base_mix
            break
        kept = (mix.general or 0.0) >= floor
        if kept and mix.project > best.project:
            best = mix
        elif kept:
            break
    interpolate(net, base, tuned, best.share)
    return best, tuple(tried)


@torch.no_grad()
def interpolate(net: EBSeg, base: Mapping[str, Tensor], tuned: Mapping[str, Tensor], share: float) -> None:
    """Set the trained weights of ``net`` to (1 - share) base + share tuned."""
    for name, parameter in net.named_parameters():
        if name in base:
            parameter.copy_(torch.lerp(base[name], tuned[name], share))
