"""``ebseg evaluate``: measure a model on a benchmark, on photos of one's own or on held-out drawn scenes."""

import json
import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn, track
from rich.table import Column, Table

from ebseg.commands import INTERRUPTED
from ebseg.errors import DataError
from ebseg.vocabulary import DATASETS

if TYPE_CHECKING:
    from ebseg.data.samples import Source
    from ebseg.evaluation.labellers import Labeller
    from ebseg.evaluation.result import Evaluation

ALL = "all"
"""Stands for every benchmark that is on disk."""

_PICTURES = 3
"""Photos of each end, best and worst, that the report shows."""

_BROKEN_SHOWN = 10

_ROWS = {
    "fwIoU": "fwiou", "mACC": "macc", "pACC": "pacc", "seen mIoU": "seen", "unseen mIoU": "unseen",
    "harmonic mean": "harmonic", "boundary IoU": "boundary",
}  # fmt: skip
"""Rows of the printed table below mIoU, and the scores they show."""


@dataclass(frozen=True)
class _Request:
    """What was asked for. ``scenes`` and ``unseen`` are for drawn scenes."""

    model: str
    dataset: str
    root: Path
    tta: bool
    limit: int | None
    workers: int
    out: Path | None
    predictions: Path | None
    scenes: int
    unseen: bool


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
    if dataset is None:
        if tta or mlflow or any(given is not None for given in (limit, predictions, out, html)):
            raise typer.BadParameter("say on which --dataset, for example drawn-scenes")
        with _prepared(None, json_file):
            _on_scenes(model or "ebseg-tiny", scenes, unseen, json_file)
        return
    if predictions is not None and dataset == ALL:
        raise typer.BadParameter("saved label maps are of one --dataset: name it")
    request = _Request(
        model or "ebseg-tiny", dataset, data_root, tta, limit, workers, out, predictions, scenes, unseen
    )
    with _prepared(out, json_file, html):
        _on_datasets(request, json_file, html, mlflow)


@contextmanager
def _prepared(out: Path | None, *results: Path | None) -> Iterator[None]:
    """Try, before hours of work, whether the results can be written; say how to go on after Ctrl-C."""
    from ebseg.files import require_writable

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


def _on_scenes(model: str, scenes: int, unseen: bool, json_file: Path | None) -> None:
    """Measure seen phrases, unseen combinations and other names."""
    import ebseg  # PyTorch is slow to import and `ebseg --help` does not need it
    from ebseg.data.drawn.scenes import benchmark_scenes, benchmark_vocabulary, renamed_vocabulary
    from ebseg.evaluation.in_memory import evaluate as measure
    from ebseg.files import write_whole

    predictor = ebseg.load(model)
    photos = track(benchmark_scenes(scenes, unseen=unseen), description="evaluating", total=scenes)
    result = measure(predictor, photos, benchmark_vocabulary(), renamed=renamed_vocabulary())
    means = f"mIoU {result.miou:.1f}"
    if unseen:
        means += f" (seen {result.seen:.1f}, unseen {result.unseen:.1f}, harmonic mean {result.harmonic:.1f})"
    means += f", by other names {result.new_names:.1f}"
    typer.echo(f"{predictor.version}: {means} on {result.photos} drawn scenes")
    if json_file is not None:
        numbers = {**asdict(result), "harmonic": result.harmonic}
        found = {name: value for name, value in numbers.items() if not math.isnan(value)}
        content = {"model": predictor.version, "data": "drawn scenes", **found}
        write_whole(json_file, json.dumps(content, indent=2) + "\n")


def _on_datasets(request: _Request, json_file: Path | None, html: Path | None, mlflow: bool) -> None:
    """Measure one data set or all, print tables, and write what was asked for."""
    from ebseg.evaluation.benchmark import join, run
    from ebseg.files import write_whole

    sources = _sources(request)
    others = join()
    main = others is None or others.is_main_process
    labeller_of = _labellers(request, None if others is None else str(others.device))
    found: list[dict[str, Any]] = []
    pictures: list[list[tuple[str, bytes]]] = []
    broken = 0
    for name, source in sources.items():
        labeller = labeller_of(source)
        with _progress(name, source, request, shown=main) as progress:
            evaluation = run(
                labeller,
                source,
                limit=request.limit,
                workers=request.workers,
                out=None if request.out is None else request.out / name,
                others=others,
                progress=progress,
            )
        broken += evaluation.tally.broken
        if main:
            _print(evaluation)
            found.append(evaluation.to_json())
            pictures.append(list(_pictures(evaluation, labeller, source)) if html is not None else [])
    if main and json_file is not None:
        content = found if request.dataset == ALL else found[0]
        write_whole(json_file, json.dumps(content, indent=2) + "\n")
    if main and html is not None:
        from ebseg.evaluation.report import write_html

        write_html(found, pictures, html)
    if main and mlflow:
        from ebseg.evaluation.report import log_to_mlflow

        for one in found:
            log_to_mlflow(one, html, json_file)
    if broken:
        raise typer.Exit(1)


def _sources(request: _Request) -> "dict[str, Source]":
    """Open what is to be measured on, by short names; of all benchmarks, name those that are missing."""
    from ebseg.data.drawn.scenes import BenchmarkScenes
    from ebseg.data.open import DRAWN_SCENES, open_data

    if request.dataset == DRAWN_SCENES:
        return {DRAWN_SCENES: BenchmarkScenes(request.scenes, request.unseen)}
    if request.dataset != ALL:
        return {Path(request.dataset).stem: open_data(request.dataset, "val", root=request.root, seed=0)}
    sources: dict[str, Source] = {}
    for name in DATASETS:
        try:
            sources[name] = open_data(name, "val", root=request.root, seed=0)
        except DataError as error:
            if os.environ.get("RANK", "0") == "0":
                typer.echo(f"ebseg: not measured: {error}", err=True)
    if not sources:
        raise DataError(f"no benchmark is in {request.root}; say by --data-root where they are")
    return sources


def _labellers(request: _Request, device: str | None) -> "Callable[[Source], Labeller[Any]]":
    """Load what is measured; give what labels a data set's photos."""
    from ebseg.evaluation.labellers import ModelLabeller, SavedLabeller

    if request.predictions is not None:
        return partial(SavedLabeller, request.predictions)
    import ebseg

    predictor = ebseg.load(request.model, device=device)
    return lambda source: ModelLabeller(predictor, source.vocabulary, augment=request.tta)


@contextmanager
def _progress(
    name: str, source: "Source", request: _Request, *, shown: bool
) -> Iterator[Callable[[int], None]]:
    """Show a bar on standard error; give what tells it how many photos are done."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    quiet = not shown or not console.is_terminal
    with Progress(*columns, console=console, transient=True, redirect_stdout=False, disable=quiet) as bar:
        photos = min(len(source), request.limit or len(source))
        task = bar.add_task(name, total=math.ceil(photos / int(os.environ.get("WORLD_SIZE", "1"))))
        yield lambda done: bar.update(task, completed=done)


def _pictures(
    evaluation: "Evaluation", labeller: "Labeller[Any]", source: "Source"
) -> Iterator[tuple[str, bytes]]:
    """Label the best and the worst photos again, and draw them beside their truth."""
    from ebseg.evaluation.report import comparison

    for kind, photos in (("worst", evaluation.tally.worst), ("best", evaluation.tally.best)):
        for photo in photos[:_PICTURES]:
            sample = source[photo.index]
            predicted = labeller.infer(labeller.prepare(sample))()
            title = f"{kind}: {photo.name}, mIoU {photo.miou:.1f}"
            yield title, comparison(sample.image, predicted, sample.label_map, evaluation.vocabulary.names)


def _print(evaluation: "Evaluation") -> None:
    """Print the metrics beside the paper's number, and what could not be measured."""
    console, tally = Console(), evaluation.tally
    table = Table("metric", Column("here", justify="right"))
    first = [f"{evaluation.scores.miou:.1f}"]
    if evaluation.published is not None:
        for heading in ("paper", "difference"):
            table.add_column(heading, justify="right")
        difference = "" if evaluation.difference is None else f"{evaluation.difference:+.1f}"
        first += [f"{evaluation.published:.1f}", difference]
    table.add_row("mIoU", *first)
    for name, key in _ROWS.items():
        value = getattr(evaluation.scores, key)
        table.add_row(name, "–" if math.isnan(value) else f"{value:.1f}")
    whole = evaluation.official or evaluation.asked
    photos = f"{tally.measured} photos" if tally.measured == whole else f"{tally.measured} of {whole} photos"
    text = f"{evaluation.model} on {evaluation.dataset}: {photos}"
    console.print(text, markup=False, highlight=False, soft_wrap=True)
    console.print(table)
    shares = evaluation.to_json()["throughput"]["shares"]
    busy = ", ".join(f"{stage} {share:.0%}" for stage, share in shares.items() if share is not None)
    console.print(f"{evaluation.photos_per_second:.2f} photos/s; busy: {busy}", highlight=False)
    for message in tally.messages[:_BROKEN_SHOWN]:
        typer.echo(f"ebseg: {message}", err=True)
    if tally.broken:
        typer.echo(f"ebseg: {tally.broken} of {evaluation.asked} photos could not be measured", err=True)
