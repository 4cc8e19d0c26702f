"""``ebseg train``: train a model, as in the paper or on data of one's own."""

import os
from pathlib import Path
from typing import Annotated

import typer

from ebseg.commands import INTERRUPTED, LARGEST_SEED
from ebseg.commands.train_request import Request
from ebseg.config import VARIANTS, Precision, find_variant
from ebseg.errors import ConfigError

app = typer.Typer(rich_markup_mode=None)


@app.command(epilog="Example: ebseg train --variant base --data coco-stuff-171 --data-root datasets")
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
    request = Request(
        variant=find_variant(variant or "tiny").name if start is None else variant,
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
        from ebseg.commands.train_work import run  # PyTorch is slow to import

        run(request)
    except KeyboardInterrupt:
        if os.environ.get("RANK", "0") == "0":
            typer.echo(f"ebseg: {_stopped(request.out)}", err=True)
        raise typer.Exit(INTERRUPTED) from None


def _stopped(out: Path) -> str:
    """Say from where a run goes on that somebody has stopped."""
    checkpoints = sorted(out.glob("checkpoints/step-*.pt"))
    if not checkpoints:
        return "stopped before the first checkpoint; the same command starts from the beginning"
    step = int(checkpoints[-1].stem.removeprefix("step-"))
    return f"stopped; the same command goes on from step {step}, the last checkpoint in {out}"
