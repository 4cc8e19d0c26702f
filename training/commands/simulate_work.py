"""The work of ``ebseg simulate``: look at the photos, replay, tell and draw what came of it."""

from dataclasses import asdict
from pathlib import Path

import numpy as np
import typer
from rich.console import Console
from rich.progress import Progress

import ebseg
from ebseg.data.open import open_data
from ebseg.data.samples import Source
from ebseg.errors import ConfigError
from ebseg.files import write_whole_json
from ebseg.plots import axes_beside_each_other, require_matplotlib, save
from ebseg.predictor import Predictor
from training.commands.simulate_request import PLOT, RESULTS, Request
from training.selection.simulation import Photo, Point, Simulation, look
from training.settings import Select

Curves = dict[Select, list[list[Point]]]
"""Of each order the points of each seed's replay."""


def run(request: Request) -> None:
    """Replay, and tell what came of it. Raises ConfigError for too few photos, and where nothing can draw."""
    if request.out is not None:
        require_matplotlib("--out")
    train, val = (open_data(str(request.data), split, root=Path(), seed=0) for split in ("train", "val"))
    if request.photos[-1] > len(train):
        raise ConfigError(f"{train.name} has {len(train)} photos, fewer than --photos {request.photos[-1]}")
    predictor = ebseg.load(request.model)
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        curves = _replay(request, predictor, train, val, bar)
    for line in table(curves):
        typer.echo(line)
    if request.out is not None:
        write_whole_json(request.out / RESULTS, _results(request, curves))
        draw(curves, request.out / PLOT)
        typer.echo(f"wrote {request.out / RESULTS} and {request.out / PLOT}")


def _replay(request: Request, predictor: Predictor, train: Source, val: Source, bar: Progress) -> Curves:
    pools = [
        np.random.default_rng(seed).permutation(len(train))[: request.pool].tolist()
        for seed in range(request.seeds)
    ]
    drawn = sorted({index for pool in pools for index in pool})
    spread = np.linspace(0, len(val) - 1, min(request.judges, len(val))).astype(int).tolist()
    looking = bar.add_task("looking at photos", total=len(drawn) + len(spread))

    def looked(source: Source, index: int) -> Photo:
        photo = look(predictor, source[index], train.vocabulary)
        bar.advance(looking)
        return photo

    judges = [looked(val, index) for index in spread]
    photos = {index: looked(train, index) for index in drawn}
    replaying = bar.add_task("replaying", total=len(request.strategies) * request.seeds * len(request.photos))
    curves: Curves = {select: [] for select in request.strategies}
    for seed, pool in enumerate(pools):
        project = Simulation(
            [photos[index] for index in pool],
            judges,
            train.vocabulary.names,
            predictor.version,
            predictor.threshold,
        )
        for select, replays in curves.items():
            replays.append([])
            for point in project.replay(select, seed, request.photos):
                replays[-1].append(point)
                bar.advance(replaying)
    return curves


def table(curves: Curves) -> list[str]:
    """Write a Markdown table: of each order and number of photos mIoU, its spread, and pixels corrected."""
    lines = [
        "| order | photos | mIoU | least and most | million pixels corrected |",
        "| --- | --- | --- | --- | --- |",
    ]
    for select, replays in curves.items():
        for points in zip(*replays, strict=True):
            found = [point.miou for point in points]
            corrected = np.mean([point.corrected for point in points]) / 1e6
            lines.append(
                f"| {select} | {points[0].photos} | {np.mean(found):.1f} "
                f"| {min(found):.1f} to {max(found):.1f} | {corrected:.2f} |"
            )
    return lines


def _results(request: Request, curves: Curves) -> dict[str, object]:
    return {
        "model": request.model,
        "data": str(request.data),
        "pool": request.pool,
        "judges": request.judges,
        "curves": {
            select: [[asdict(point) for point in points] for points in replays]
            for select, replays in curves.items()
        },
    }


def draw(curves: Curves, path: Path) -> None:
    """Plot the mean mIoU of each order against photos, and against pixels corrected (PNG)."""
    figure, (photos, pixels) = axes_beside_each_other(2)
    for select, replays in curves.items():
        miou = np.mean([[point.miou for point in points] for points in replays], axis=0)
        corrected = np.mean([[point.corrected for point in points] for points in replays], axis=0)
        photos.plot([point.photos for point in replays[0]], miou, ".-", label=select)
        pixels.plot(corrected / 1e6, miou, ".-", label=select)
    for axis, what in ((photos, "annotated photos"), (pixels, "million pixels corrected")):
        axis.set_xscale("log", base=2)
        axis.xaxis.set_major_formatter("{x:g}")
        axis.set_xlabel(what)
        axis.grid(alpha=0.3)
    photos.set_ylabel("mIoU, percent")
    photos.legend()
    save(figure, path)
