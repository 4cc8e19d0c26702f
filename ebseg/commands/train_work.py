"""The work of ``ebseg train``: build what is asked for, and train."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import torch
import typer

from ebseg.checkpoint import load_checkpoint
from ebseg.commands.train_request import Request
from ebseg.config import RECIPES, TrainConfig, checked, find_variant
from ebseg.data.batches import StepBatches
from ebseg.data.catalogue import MissingDataset
from ebseg.data.labelled import require_labelled
from ebseg.data.open import open_data
from ebseg.data.samples import Sample, Source
from ebseg.encoders import load_encoders
from ebseg.errors import ConfigError, DataError
from ebseg.loading import checkpoint_path
from ebseg.model import EBSeg
from ebseg.plan import plan_training
from ebseg.runs.tracking import MlflowRun
from ebseg.runs.watch import ProgressBar, Watcher
from ebseg.train import make_accelerator, train
from ebseg.vocabulary import DATASETS, Vocabulary

_EXAMPLE_PHOTOS = 4
"""Validation photos that MLflow gets overlay pictures of."""


def run(request: Request) -> None:
    """Build what is asked for, and train."""
    net, config = _model(request)
    sources = [_source(name, request, config.seed) for name in request.data]
    accelerator = make_accelerator(config)
    # What does not fit together is said before anything is downloaded.
    if all(len(source) for source in sources):
        StepBatches(sources, config, weights=request.shares, processes=accelerator.num_processes)
    if request.dry_run:
        text = plan_training(
            net, config, sources, processes=accelerator.num_processes, device=accelerator.device
        )
        if accelerator.is_main_process:
            typer.echo(text)
        return
    for source in sources:
        require_labelled(source)
    if request.start is None:
        load_encoders(net, request.encoders)
    watchers: list[Watcher] = []
    if accelerator.is_main_process:
        watchers.append(ProgressBar())
        if request.mlflow:
            examples = _examples(request.data, request.root, config.seed)
            watchers.append(MlflowRun(request.out, name=request.out.name, **examples))
    path = train(
        net,
        sources,
        config,
        request.out,
        weights=request.shares,
        watchers=watchers,
        workers=request.workers,
    )
    if accelerator.is_main_process:
        typer.echo(f"wrote {path}")


def _source(name: str, request: Request, seed: int) -> Source:
    """Open a data set; a plan can be made before a benchmark is on disk."""
    try:
        return open_data(name, "train", root=request.root, seed=seed)
    except DataError as error:
        if not request.dry_run or name not in DATASETS:
            raise
        return MissingDataset(str(error), Vocabulary.from_dataset(name))


def _model(request: Request) -> tuple[EBSeg, TrainConfig]:
    """Make the model, its encoders still random unless it goes on from another, and its recipe."""
    if request.start is None:
        model = find_variant(request.variant or "tiny")
        config = _config(model.name, request.settings)
        torch.manual_seed(config.seed)
        return EBSeg(model), config
    net, _ = load_checkpoint(checkpoint_path(request.start))
    name = net.config.name
    if request.variant not in (None, name):
        raise ConfigError(f"{request.start} is EBSeg {name!r}, not {request.variant!r}: leave --variant out")
    return net, _config(find_variant(name).name, request.settings)


def _config(variant: str, settings: dict[str, Any]) -> TrainConfig:
    """Put what was given over the variant's recipe."""
    return checked(TrainConfig, RECIPES[variant].model_dump() | settings)


def _examples(data: list[str], root: Path, seed: int) -> dict[str, Any]:
    """Choose validation photos of the first data set that has some, the same ones every time."""
    for name in data:
        try:
            source = open_data(name, "val", root=root, seed=seed)
        except DataError:  # not every data set has a validation split, and the run does not need it
            continue
        return {
            "validation": list(islice(_readable(source), _EXAMPLE_PHOTOS)),
            "vocabulary": source.vocabulary,
        }
    return {}


def _readable(source: Source) -> Iterator[Sample]:
    for index in range(len(source)):
        try:
            yield source[index]
        except DataError:  # a broken photo is no reason not to train
            continue
