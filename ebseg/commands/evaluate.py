"""``ebseg evaluate``: measure a model on a benchmark, on photos of one's own or on held-out drawn scenes."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from ebseg.commands import INTERRUPTED
from ebseg.commands.evaluate_request import ALL, Request
from ebseg.files import require_writable

app = typer.Typer(rich_markup_mode=None)


@app.command(epilog="Example: ebseg evaluate runs/tiny/model.safetensors --json result.json")
def evaluate(
    model: Annotated[
        str | None, typer.Argument(help="Model name or checkpoint file.", show_default="ebseg-tiny")
    ] = None,
    dataset: Annotated[
        str | None,
        typer.Option(help="A benchmark, all that are on disk (all), drawn-scenes, or a .toml file."),
    ] = None,
    data_root: Annotated[
        Path,
        typer.Option(file_okay=False, envvar="EBSEG_DATA_ROOT", help="Where the benchmarks' folders are."),
    ] = Path("datasets"),
    tta: Annotated[bool, typer.Option("--tta", help="Six sizes of each photo, also mirrored.")] = False,
    limit: Annotated[int | None, typer.Option(min=1, help="The first so many photos only.")] = None,
    predictions: Annotated[
        Path | None,
        typer.Option(help="Measure saved label maps in place of a model: a folder, or COCO stuff JSON."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(file_okay=False, help="Folder for what was counted: a stopped run goes on from there."),
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", dir_okay=False, help="Write the result here as well.")
    ] = None,
    html: Annotated[
        Path | None, typer.Option("--html", dir_okay=False, help="Write a report with pictures here.")
    ] = None,
    mlflow: Annotated[bool, typer.Option("--mlflow", help="Record the result with MLflow.")] = False,
    workers: Annotated[int, typer.Option(min=1, help="Threads that read photos.")] = 2,
    scenes: Annotated[int, typer.Option(min=1, help="Drawn scenes to measure on.")] = 300,
    unseen: Annotated[bool, typer.Option(help="Show combinations that training never showed.")] = True,
) -> None:
    """Measure a model on labelled photos, as the benchmarks of the field do, beside the paper's numbers.

    A photo that cannot be read is reported and the others are measured; the exit status is 1 then. With
    --dataset all, --json writes a list. Several processes: torchrun --nproc-per-node 4 -m ebseg evaluate ...

    Without --dataset: mIoU on held-out drawn scenes, of seen phrases and of combinations that training never
    showed. Then the same scenes are asked again by names that no training scene has ("crimson sphere").
    """
    if predictions is not None and (model is not None or tta):
        raise typer.BadParameter("saved label maps need no model: leave MODEL and --tta out")
    if predictions is not None and out is not None:
        raise typer.BadParameter("counting saved label maps takes no model's time: leave --out out")
    if dataset is None and (
        tta or mlflow or any(each is not None for each in (limit, predictions, out, html))
    ):
        raise typer.BadParameter("say on which --dataset, for example drawn-scenes")
    if predictions is not None and dataset == ALL:
        raise typer.BadParameter("saved label maps are of one --dataset: name it")
    model = model or "ebseg-tiny"
    with _prepared(out, json_file, html):
        from ebseg.commands.evaluate_work import on_datasets, on_scenes  # PyTorch is slow to import

        if dataset is None:
            on_scenes(model, scenes, unseen, json_file)
        else:
            request = Request(
                model, dataset, data_root, tta, limit, workers, out, predictions, scenes, unseen
            )
            on_datasets(request, json_file, html, mlflow)


@contextmanager
def _prepared(out: Path | None, *results: Path | None) -> Iterator[None]:
    """Try, before hours of work, whether the results can be written; say how to go on after Ctrl-C."""
    main = os.environ.get("RANK", "0") == "0"
    for path in results if main else ():
        if path is not None:
            require_writable(path)
    try:
        yield
    except KeyboardInterrupt:
        if main:
            typer.echo(f"ebseg: {_stopped(out)}", err=True)
        raise typer.Exit(INTERRUPTED) from None


def _stopped(out: Path | None) -> str:
    """Say from where an evaluation goes on that somebody has stopped."""
    if out is None:
        return "stopped; nothing is kept (--dataset with --out keeps what was counted)"
    if not any(out.glob("*/process-*.npz")):
        return "stopped before anything was kept; the same command starts from the beginning"
    return f"stopped; the same command goes on from what was counted in {out}"
