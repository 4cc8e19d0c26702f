"""The work of ``ebseg evaluate``: measure, print tables, and write what was asked for."""

import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn, track
from rich.table import Column, Table

import ebseg
from ebseg.commands.evaluate_request import ALL, Request
from ebseg.data.drawn.scenes import (
    BenchmarkScenes,
    benchmark_scenes,
    benchmark_vocabulary,
    renamed_vocabulary,
)
from ebseg.data.open import DRAWN_SCENES, open_data
from ebseg.data.samples import Source
from ebseg.errors import DataError
from ebseg.evaluation.benchmark import join, run_benchmark
from ebseg.evaluation.in_memory import evaluate
from ebseg.evaluation.labellers import Labeller, ModelLabeller, SavedLabeller
from ebseg.evaluation.report import comparison, log_to_mlflow, write_html
from ebseg.evaluation.result import Evaluation, nothing_labelled
from ebseg.files import write_whole_json
from ebseg.vocabulary import DATASETS

_PICTURES = 3
"""Photos of each end, best and worst, that the report shows."""

_BROKEN_SHOWN = 10

_ROWS = {
    "fwIoU": "fwiou", "mACC": "macc", "pACC": "pacc", "seen mIoU": "seen", "unseen mIoU": "unseen",
    "harmonic mean": "harmonic", "boundary IoU": "boundary",
}  # fmt: skip
"""Rows of the printed table below mIoU, and the scores they show."""


def on_scenes(model: str, scenes: int, unseen: bool, json_file: Path | None) -> None:
    """Measure seen phrases, unseen combinations and other names."""
    predictor = ebseg.load(model)
    photos = track(benchmark_scenes(scenes, unseen=unseen), description="evaluating", total=scenes)
    result = evaluate(predictor, photos, benchmark_vocabulary(), renamed=renamed_vocabulary())
    means = f"mIoU {result.miou:.1f}"
    if unseen:
        means += f" (seen {result.seen:.1f}, unseen {result.unseen:.1f}, harmonic mean {result.harmonic:.1f})"
    means += f", by other names {result.new_names:.1f}"
    typer.echo(f"{predictor.version}: {means} on {result.photos} drawn scenes")
    if json_file is not None:
        numbers = {**asdict(result), "harmonic": result.harmonic}
        found = {name: value for name, value in numbers.items() if not math.isnan(value)}
        content = {"model": predictor.version, "data": "drawn scenes", **found}
        write_whole_json(json_file, content)


def on_datasets(request: Request, json_file: Path | None, html: Path | None, mlflow: bool) -> None:
    """Measure one data set or all, print tables, and write what was asked for."""
    sources = _sources(request)
    others = join()
    main = others is None or others.is_main_process
    labeller_of = _labellers(request, None if others is None else str(others.device))
    found: list[dict[str, Any]] = []
    pictures: list[list[tuple[str, bytes]]] = []
    failed = False
    for name, source in sources.items():
        labeller = labeller_of(source)
        with _progress(name, source, request, shown=main) as progress:
            evaluation = run_benchmark(
                labeller,
                source,
                limit=request.limit,
                workers=request.workers,
                out=None if request.out is None else request.out / name,
                others=others,
                progress=progress,
            )
        failed |= evaluation.tally.broken > 0 or evaluation.unlabelled
        if main:
            _print(evaluation)
            found.append(evaluation.to_json())
            pictures.append(list(_pictures(evaluation, labeller, source)) if html is not None else [])
    if main and json_file is not None:
        content = found if request.dataset == ALL else found[0]
        write_whole_json(json_file, content)
    if main and html is not None:
        write_html(found, pictures, html)
    if main and mlflow:
        for one in found:
            log_to_mlflow(one, html, json_file)
    if failed:
        raise typer.Exit(1)


def _sources(request: Request) -> dict[str, Source]:
    """Open what is to be measured on, by short names; of all benchmarks, name those that are missing."""
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


def _labellers(request: Request, device: str | None) -> Callable[[Source], Labeller[Any]]:
    """Load what is measured; give what labels a data set's photos."""
    if request.predictions is not None:
        return partial(SavedLabeller, request.predictions)
    predictor = ebseg.load(request.model, device=device)
    return lambda source: ModelLabeller(predictor, source.vocabulary, augment=request.tta)


@contextmanager
def _progress(name: str, source: Source, request: Request, *, shown: bool) -> Iterator[Callable[[int], None]]:
    """Show a bar on standard error; give what tells it how many photos are done."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    quiet = not shown or not console.is_terminal
    with Progress(*columns, console=console, transient=True, redirect_stdout=False, disable=quiet) as bar:
        photos = min(len(source), request.limit or len(source))
        task = bar.add_task(name, total=math.ceil(photos / int(os.environ.get("WORLD_SIZE", "1"))))
        yield lambda done: bar.update(task, completed=done)


def _pictures(evaluation: Evaluation, labeller: Labeller[Any], source: Source) -> Iterator[tuple[str, bytes]]:
    """Label the best and the worst photos again, and draw them beside their truth."""
    for kind, photos in (("worst", evaluation.tally.worst), ("best", evaluation.tally.best)):
        for photo in photos[:_PICTURES]:
            sample = source[photo.index]
            predicted = labeller.infer(labeller.prepare(sample))()
            title = f"{kind}: {photo.name}, mIoU {photo.miou:.1f}"
            yield title, comparison(sample.image, predicted, sample.label_map, evaluation.vocabulary.names)


def _number(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.1f}"


def _print(evaluation: Evaluation) -> None:
    """Print the metrics beside the paper's number, and what could not be measured."""
    console, tally = Console(), evaluation.tally
    table = Table("metric", Column("here", justify="right"))
    first = [_number(evaluation.scores.miou)]
    if evaluation.published is not None:
        for heading in ("paper", "difference"):
            table.add_column(heading, justify="right")
        difference = "" if evaluation.difference is None else f"{evaluation.difference:+.1f}"
        first += [f"{evaluation.published:.1f}", difference]
    table.add_row("mIoU", *first)
    for name, key in _ROWS.items():
        table.add_row(name, _number(getattr(evaluation.scores, key)))
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
    if evaluation.unlabelled:
        typer.echo(f"ebseg: {nothing_labelled(evaluation.dataset)}", err=True)
