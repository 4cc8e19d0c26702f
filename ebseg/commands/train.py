"""``ebseg train``: train a model, as in the paper or on data of one's own."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ebseg.commands import INTERRUPTED, LARGEST_SEED
from ebseg.config import RECIPES, VARIANTS, Precision, TrainConfig, checked
from ebseg.errors import ConfigError, DataError
from ebseg.vocabulary import DATASETS, Vocabulary

if TYPE_CHECKING:
    from ebseg.data.samples import Sample, Source
    from ebseg.model import EBSeg

_EXAMPLE_PHOTOS = 4
"""Validation photos that MLflow gets overlay pictures of."""


@dataclass(frozen=True)
class _Request:
    """What was asked for; ``settings`` are the recipe's numbers that were given."""

    variant: str | None
    start: str | None
    encoders: str | None
    data: list[str]
    root: Path
    shares: list[float] | None
    out: Path
    workers: int
    settings: dict[str, Any]
    mlflow: bool
    dry_run: bool


def train(
    variant: Annotated[
        str | None,
        typer.Option(help=f"Size of the model: {', '.join(VARIANTS)}; else tiny, or that of --from."),
    ] = None,
    data: Annotated[
        list[str],
        typer.Option(help="A benchmark, drawn-scenes, or a .toml file (docs/training.md); repeatable."),
    ] = ["drawn-scenes"],  # noqa: B006 (typer's way)
    data_root: Annotated[
        Path,
        typer.Option(file_okay=False, envvar="EBSEG_DATA_ROOT", help="Where the benchmarks' folders are."),
    ] = Path("datasets"),
    out: Annotated[
        Path | None,
        typer.Option(file_okay=False, help="Folder of checkpoints, log and model; else below runs/."),
    ] = None,
    share: Annotated[
        list[float] | None,
        typer.Option(help="How often a data set is drawn from, once for each --data; else by size."),
    ] = None,
    start: Annotated[
        str | None, typer.Option("--from", help="Go on from this model instead of its encoders.")
    ] = None,
    encoders: Annotated[
        str | None,
        typer.Option(help="Encoders (safetensors, or a model); else the released ones."),
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Updates; else the variant's recipe.")] = None,
    batch: Annotated[int | None, typer.Option(min=1, help="Photos a step, over all processes.")] = None,
    accumulation: Annotated[int, typer.Option(min=1, help="Batches a process makes of its photos.")] = 1,
    learning_rate: Annotated[float | None, typer.Option(help="Of the first step; it falls to 0.")] = None,
    crop: Annotated[int | None, typer.Option(min=32, help="Pixels of a side of the random crop.")] = None,
    precision: Annotated[Precision, typer.Option(help="Auto: fp16 on a GPU, float32 on a CPU.")] = "auto",
    checkpoint_every: Annotated[int | None, typer.Option(min=1, help="Steps between checkpoints.")] = None,
    max_broken: Annotated[int | None, typer.Option(min=0, help="Broken files to skip, at most.")] = None,
    workers: Annotated[int, typer.Option(min=0, help="Processes that read photos.")] = 2,
    seed: Annotated[int, typer.Option(min=0, max=LARGEST_SEED)] = 0,
    mlflow: Annotated[bool, typer.Option(help="Record the run with MLflow.")] = True,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the plan and the memory it needs, and end.")
    ] = False,
) -> None:
    """Train a model on labelled photos; a run that was stopped goes on from its last checkpoint in OUT.

    Several processes: accelerate launch --num_processes 4 -m ebseg train ...
    """
    if start is not None and encoders is not None:
        raise ConfigError("--from takes a whole model, its encoders too: leave --encoders out")
    if share and len(share) != len(data):
        raise ConfigError(f"--share is given {len(share)} times and --data {len(data)} times: give one each")
    settings = {
        "steps": steps, "batch": batch, "learning_rate": learning_rate, "crop": crop,
        "checkpoint_every": checkpoint_every, "max_broken": max_broken,
        "accumulation": accumulation, "precision": precision, "seed": seed,
    }  # fmt: skip
    names = [Path(name).stem for name in (start, *data) if name is not None]
    request = _Request(
        variant=_known(variant or "tiny") if start is None else variant,
        start=start,
        encoders=encoders,
        data=data,
        root=data_root,
        shares=share or None,
        out=out or Path("runs") / "-".join(names if start else (variant or "tiny", *names)),
        workers=workers,
        settings={name: value for name, value in settings.items() if value is not None},
        mlflow=mlflow,
        dry_run=dry_run,
    )
    try:
        _run(request)
    except KeyboardInterrupt:
        if os.environ.get("RANK", "0") == "0":
            typer.echo(f"ebseg: {_stopped(request.out)}", err=True)
        raise typer.Exit(INTERRUPTED) from None


def _run(request: _Request) -> None:
    """Build what is asked for, and train. Everything that is slow to import is imported here."""
    from ebseg.data.batches import StepBatches
    from ebseg.encoders import load_encoders
    from ebseg.runs.watch import ProgressBar, Watcher
    from ebseg.train import make_accelerator
    from ebseg.train import train as run

    net, config = _model(request)
    sources = [_source(name, request, config.seed) for name in request.data]
    accelerator = make_accelerator(config)
    # What does not fit together is said before anything is downloaded.
    if all(len(source) for source in sources):
        StepBatches(sources, config, weights=request.shares, processes=accelerator.num_processes)
    if request.dry_run:
        from ebseg.plan import plan

        text = plan(net, config, sources, processes=accelerator.num_processes, device=accelerator.device)
        if accelerator.is_main_process:
            typer.echo(text)
        return
    if request.start is None:
        load_encoders(net, request.encoders)
    watchers: list[Watcher] = []
    if accelerator.is_main_process:
        watchers.append(ProgressBar())
        if request.mlflow:
            from ebseg.runs.tracking import MlflowRun

            examples = _examples(request.data, request.root, config.seed)
            watchers.append(MlflowRun(request.out, name=request.out.name, **examples))
    path = run(
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


def _source(name: str, request: _Request, seed: int) -> "Source":
    """Open a data set; a plan can be made before a benchmark is on disk."""
    from ebseg.data.catalogue import MissingDataset
    from ebseg.data.open import open_data

    try:
        return open_data(name, "train", root=request.root, seed=seed)
    except DataError as error:
        if not request.dry_run or name not in DATASETS:
            raise
        return MissingDataset(str(error), Vocabulary.from_dataset(name))


def _model(request: _Request) -> tuple["EBSeg", TrainConfig]:
    """Make the model, its encoders still random unless it goes on from another, and its recipe."""
    import torch

    from ebseg.checkpoint import load_checkpoint
    from ebseg.loading import checkpoint_path
    from ebseg.model import EBSeg

    if request.start is None:
        variant = request.variant or "tiny"
        config = _config(variant, request.settings)
        torch.manual_seed(config.seed)
        return EBSeg(VARIANTS[variant]), config
    net, _ = load_checkpoint(checkpoint_path(request.start))
    name = net.config.name
    if request.variant not in (None, name):
        raise ConfigError(f"{request.start} is EBSeg {name!r}, not {request.variant!r}: leave --variant out")
    return net, _config(_known(name), request.settings)


def _known(variant: str) -> str:
    if variant not in VARIANTS:
        raise ConfigError(f"no variant named {variant!r}; known: {', '.join(VARIANTS)}")
    return variant


def _config(variant: str, settings: dict[str, Any]) -> TrainConfig:
    """Put what was given over the variant's recipe."""
    return checked(TrainConfig, RECIPES[variant].model_dump() | settings)


def _stopped(out: Path) -> str:
    """Say from where a run goes on that somebody has stopped."""
    checkpoints = sorted(out.glob("checkpoints/step-*.pt"))
    if not checkpoints:
        return "stopped before the first checkpoint; the same command starts from the beginning"
    step = int(checkpoints[-1].stem.removeprefix("step-"))
    return f"stopped; the same command goes on from step {step}, the last checkpoint in {out}"


def _examples(data: list[str], root: Path, seed: int) -> dict[str, Any]:
    """Choose validation photos of the first data set that has some, the same ones every time."""
    from ebseg.data.open import open_data

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


def _readable(source: "Source") -> Iterator["Sample"]:
    for index in range(len(source)):
        try:
            yield source[index]
        except DataError:  # a broken photo is no reason not to train
            continue
