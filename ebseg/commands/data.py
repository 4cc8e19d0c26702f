"""``ebseg data``: list the benchmarks, prepare them from their downloads, and check what was prepared."""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ebseg.commands import INTERRUPTED
from ebseg.data.catalogue import BENCHMARKS, Split, class_facts, find_benchmark
from ebseg.data.checks import Check
from ebseg.data.checks import check as look_at
from ebseg.data.prepare import convert_all, plan_conversion
from ebseg.errors import DataError

FAULTS_SHOWN = 10
"""Faulty files that are named one by one."""

app = typer.Typer(
    help="List, prepare and check the benchmarks' data.", no_args_is_help=True, rich_markup_mode=None
)

_Root = Annotated[
    Path,
    typer.Option(file_okay=False, envvar="EBSEG_DATA_ROOT", help="Where the benchmarks' folders are."),
]
_SplitOption = Annotated[Literal["train", "val", "all"], typer.Option(help="Which part of the data set.")]
_Workers = Annotated[int | None, typer.Option(min=1, help="Processes; else one for each core.")]
_Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
_DEFAULT_ROOT = Path("datasets")


@app.command("list")
def list_benchmarks(root: _Root = _DEFAULT_ROOT, as_json: _Json = False) -> None:
    """List the benchmarks: labels, validation photos, origin, terms of use, and what of them is in ROOT.

    "raw": unpacked and ready for `ebseg data prepare`; "prepared": label maps are there.
    """
    rows = [
        {
            "name": row.name,
            "labels": len(class_facts(row.name).raw_ids),
            "validation_images": row.images("val"),
            "state": row.state(root, "val"),
            "terms": row.terms,
            "origin": row.origin("val"),
        }
        for row in BENCHMARKS
    ]
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    for row in rows:
        counts = f"{row['labels']:>4} labels {row['validation_images']:>6,} photos (val)"
        typer.echo(f"{row['name']:<20}{counts}  {row['state']}")
        typer.echo(f"    from {row['origin']}\n    terms of use: {row['terms']}")


@app.command(epilog="Example: ebseg data prepare voc-20 --root datasets")
def prepare(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A benchmark; see `ebseg data list`.")],
    root: _Root = _DEFAULT_ROOT,
    split: _SplitOption = "val",
    workers: _Workers = None,
) -> None:
    """Make a benchmark's label maps from what was downloaded and unpacked into ROOT.

    Raw files are only read. What is already there is left alone, also where the scripts of SAN, EBSeg or
    Mask2Former made it; a run that was stopped goes on. A broken raw file is reported and the others are
    done; the exit status is 1 then. In the end the result is checked as by `ebseg data check`; a number of
    photos that is not the official one is only reported.
    """
    processes = workers or os.cpu_count() or 1
    complete = True
    for part in _splits(split):
        complete = _prepare(name, root, part, processes) and complete
    if not complete:
        raise typer.Exit(1)


@app.command(epilog="Example: ebseg data check all --root datasets")
def check(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A benchmark, or all that are prepared.")],
    root: _Root = _DEFAULT_ROOT,
    split: _SplitOption = "val",
    full: Annotated[bool, typer.Option("--full", help="Read all label maps, not some of them.")] = False,
    as_json: _Json = False,
) -> None:
    """Check prepared data: number of photos, sizes, values.

    The exit status is 1 where anything is wrong, and where the number of photos is not the official one.
    """
    wanted = [
        (benchmark, part)
        for benchmark in ([row.name for row in BENCHMARKS] if name == "all" else [name])
        for part in _splits(split)
        if name != "all" or _is_prepared(benchmark, root, part)
    ]
    if not wanted:
        raise DataError(f"no benchmark is prepared in {root}; see `ebseg data list --root {root}`")
    found = [_check(benchmark, root, part, full, os.cpu_count() or 1) for benchmark, part in wanted]
    if as_json:
        typer.echo(json.dumps([{**asdict(row), "miscount": row.miscount} for row in found], indent=2))
    else:
        for row in found:
            _report(row)
    if any(row.faults or row.miscount for row in found):
        raise typer.Exit(1)


def _splits(split: Literal["train", "val", "all"]) -> list[Split]:
    return ["val", "train"] if split == "all" else [split]


def _is_prepared(name: str, root: Path, split: Split) -> bool:
    return find_benchmark(name).state(root, split) == "prepared"


def _prepare(name: str, root: Path, split: Split, workers: int) -> bool:
    """Prepare one split and check it; tell whether no file is wrong."""
    benchmark = find_benchmark(name)
    broken = 0
    if benchmark.missing(root, split) and benchmark.state(root, split) == "prepared":
        typer.echo(f"{name} {split}: already prepared; the raw files are not here")
    else:
        broken = _convert(name, root, split, workers)
        if broken and not _is_prepared(name, root, split):
            return False  # every raw file is broken, which was said; there is nothing to check
    result = _check(name, root, split, False, workers)
    _report(result)
    return not broken and not result.faults


def _convert(name: str, root: Path, split: Split, workers: int) -> int:
    """Do what is still to be done, with a progress bar; count broken raw files."""
    work = plan_conversion(name, root, split)
    if not work.jobs:
        typer.echo(f"{name} {split}: already prepared")
        return 0
    broken = unlabelled = 0
    try:
        with _progress(f"preparing {name} {split}") as (advance, say):
            for done, outcome in enumerate(convert_all(work, workers), start=1):
                unlabelled += outcome.unlabelled
                if outcome.error:
                    broken += 1
                    say(f"ebseg: {outcome.error}")
                advance(done, len(work.jobs))
    except KeyboardInterrupt:
        typer.echo("ebseg: stopped; the same command goes on from here", err=True)
        raise typer.Exit(INTERRUPTED) from None
    written = len(work.jobs) - broken - unlabelled
    notes = [f"{name} {split}: {written:,} label maps written to {work.label_maps}"]
    if work.done:
        notes.append(f"{work.done:,} were there")
    if unlabelled:
        notes.append(f"{unlabelled:,} left out that have no label")
    typer.echo(", ".join(notes))
    if broken:
        typer.echo(f"ebseg: {broken:,} of {len(work.jobs):,} photos could not be prepared", err=True)
    return broken


def _check(name: str, root: Path, split: Split, full: bool, workers: int) -> Check:
    with _progress(f"checking {name} {split}") as (advance, _):
        return look_at(name, root, split, full=full, workers=workers, progress=advance)


def _report(found: Check) -> None:
    verdict = "WRONG" if found.faults else "INCOMPLETE" if found.miscount else "fine"
    official = "" if found.official is None else f" of {found.official:,}"
    values = "no label" if found.smallest is None else f"values {found.smallest} to {found.largest}"
    typer.echo(
        f"{found.name} {found.split}: {verdict}: {found.photos:,}{official} photos with "
        f"label maps; in {found.read:,} of them {found.labels} of {found.classes} labels, {values}, "
        f"{found.ignored:.1%} of the pixels ignored"
    )
    if found.miscount:
        typer.echo(f"ebseg: {found.name} {found.split}: {found.miscount}", err=True)
    for fault in found.faults[:FAULTS_SHOWN]:
        typer.echo(f"ebseg: {fault}", err=True)
    if len(found.faults) > FAULTS_SHOWN:
        typer.echo(f"ebseg: and {len(found.faults) - FAULTS_SHOWN:,} more", err=True)


@contextmanager
def _progress(title: str) -> Iterator[tuple[Callable[[int, int], None], Callable[[str], None]]]:
    """Show a progress bar on standard error; give what moves it on and what prints a line above it."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(title, total=None)

        def advance(done: int, total: int) -> None:
            progress.update(task, completed=done, total=total)

        def say(text: str) -> None:
            progress.console.print(text, markup=False, highlight=False, soft_wrap=True)

        yield advance, say
