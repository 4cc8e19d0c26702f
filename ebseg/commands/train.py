"""``ebseg train``: train a model, as in the paper or on data of one's own."""

from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import typer

from ebseg.config import RECIPES, VARIANTS, Precision, TrainConfig
from ebseg.errors import ConfigError, DataError

_EXAMPLE_PHOTOS = 4
"""Validation photos that MLflow gets overlay pictures of."""


def train(
    variant: Annotated[str, typer.Option(help=f"Size of the model: {', '.join(VARIANTS)}.")] = "tiny",
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
        typer.Option(help="How often a data set is drawn from; else by size."),
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
    learning_rate: Annotated[float | None, typer.Option(min=0)] = None,
    crop: Annotated[int | None, typer.Option(min=32, help="Pixels of a side of the random crop.")] = None,
    precision: Annotated[Precision, typer.Option(help="Auto: fp16 on a GPU, float32 on a CPU.")] = "auto",
    checkpoint_every: Annotated[int | None, typer.Option(min=1, help="Steps between checkpoints.")] = None,
    max_broken: Annotated[int | None, typer.Option(min=0, help="Broken files to skip, at most.")] = None,
    workers: Annotated[int, typer.Option(min=0, help="Processes that read photos.")] = 2,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    mlflow: Annotated[bool, typer.Option(help="Record the run with MLflow.")] = True,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the plan and the memory it needs, and end.")
    ] = False,
) -> None:
    """Train a model on labelled photos; a run that was stopped goes on from its last checkpoint in OUT.

    Several processes: accelerate launch --num_processes 4 -m ebseg train ...
    """
    if variant not in VARIANTS:
        raise ConfigError(f"no variant named {variant!r}; known: {', '.join(VARIANTS)}")
    if start is not None and encoders is not None:
        raise ConfigError("--from takes a whole model, its encoders too: leave --encoders out")
    given: dict[str, Any] = {
        "steps": steps, "batch": batch, "learning_rate": learning_rate, "crop": crop,
        "checkpoint_every": checkpoint_every, "max_broken": max_broken,
        "accumulation": accumulation, "precision": precision, "seed": seed,
    }  # fmt: skip
    recipe = RECIPES[variant].model_dump() | {
        name: value for name, value in given.items() if value is not None
    }
    config = TrainConfig(**recipe)
    folder = out or Path("runs") / "-".join((variant, *(Path(name).stem for name in data)))
    _run(
        config,
        variant,
        start,
        encoders,
        data,
        data_root,
        share,
        folder,
        workers,
        mlflow=mlflow,
        dry_run=dry_run,
    )


def _run(
    config: TrainConfig,
    variant: str,
    start: str | None,
    encoders: str | None,
    data: list[str],
    root: Path,
    shares: list[float] | None,
    out: Path,
    workers: int,
    *,
    mlflow: bool,
    dry_run: bool,
) -> None:
    """Build what the options ask for, and train. Everything that is slow to import is imported here."""
    import torch

    from ebseg.checkpoint import load_checkpoint
    from ebseg.data.open import open_data
    from ebseg.encoders import load_encoders
    from ebseg.loading import checkpoint_path
    from ebseg.model import EBSeg
    from ebseg.train import make_accelerator
    from ebseg.train import train as run
    from ebseg.watch import ProgressBar, Watcher

    sources = [open_data(name, "train", root=root, seed=config.seed) for name in data]
    if start is None:
        torch.manual_seed(config.seed)
        net = EBSeg(VARIANTS[variant])
        if not dry_run:  # the plan is the same with random encoders, without a download
            load_encoders(net, encoders)
    else:
        net, _ = load_checkpoint(checkpoint_path(start))
    accelerator = make_accelerator(config)
    if dry_run:
        from ebseg.plan import plan

        text = plan(net, config, sources, processes=accelerator.num_processes, device=accelerator.device)
        if accelerator.is_main_process:
            typer.echo(text)
        return
    watchers: list[Watcher] = []
    if accelerator.is_main_process:
        watchers.append(ProgressBar())
        if mlflow:
            from ebseg.tracking import MlflowRun

            watchers.append(MlflowRun(out, name=out.name, **_examples(data, root, config.seed)))
    path = run(net, sources, config, out, weights=shares, watchers=watchers, workers=workers)
    if accelerator.is_main_process:
        typer.echo(f"wrote {path}")


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


def _readable(source: Any) -> Any:
    for index in range(len(source)):
        try:
            yield source[index]
        except DataError:  # a broken photo is no reason not to train
            continue
