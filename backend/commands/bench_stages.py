"""``ebseg bench stages``: what each step of a prediction takes, here and, in turns, in another checkout."""

import subprocess
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.console import Console
from rich.table import Column
from rich.table import Table as Grid

import ebseg
from backend.commands.bench_plots import draw_photos, require_plot
from ebseg.children import environment, python
from ebseg.config import find_variant
from ebseg.errors import ConfigError
from ebseg.progress import count

if TYPE_CHECKING:  # PyTorch is slow to import, and `ebseg --help` does not need it
    from ebseg.stage_timing import Comparison, Report, Table

HERE = Path(ebseg.__file__).parents[1]
TURNS = 3
"""Of each of two checkouts, so that noise of the machine hits both."""


def stages(
    *,
    variant: Annotated[str, typer.Option(help="Size of the model; its weights are random.")] = "base",
    rounds: Annotated[int, typer.Option(min=1, help="Times that each step is measured.")] = 5,
    megapixels: Annotated[
        list[float],
        typer.Option(
            help="Size of a photo, 4 wide to 3 high; may be given several times.",
            default_factory=lambda: [0.4],
            show_default="0.4",
        ),
    ],
    labels: Annotated[
        list[int],
        typer.Option(
            help="Labels to ask for; may be given several times.",
            default_factory=lambda: [19],
            show_default="19",
        ),
    ],
    against: Annotated[
        Path | None,
        typer.Option(
            help="Compare with another checkout (a folder), in turns, or a report of --json (a file)."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the numbers as JSON.")] = False,
    plot: Annotated[
        Path | None, typer.Option(help="Draw seconds a photo by size and by labels (PNG; with matplotlib).")
    ] = None,
) -> None:
    """Measure the stages of a photo, the texts of labels, and the writing of regions of each kind.

    Example: ebseg bench stages --megapixels 0.4 --megapixels 12 --against ../older
    """
    config = find_variant(variant)
    require_plot(plot)
    from ebseg.stage_timing import Comparison, Report, measure_stages, photo_title, plan  # as above

    work = plan(config, megapixels, labels, rounds)
    tables = list(chain(*work))
    titles = {(size, number): photo_title(size, number) for size in megapixels for number in labels}
    if against is None:
        report = measure_stages(variant, work)
        typer.echo(report.model_dump_json()) if as_json else _print_report(report)
        if plot is not None:
            draw_photos(report, titles, plot)
        return
    if against.is_dir():
        options = ["--variant", variant, "--rounds", str(rounds)]
        options += [option for size in megapixels for option in ("--megapixels", str(size))]
        options += [option for number in labels for option in ("--labels", str(number))]
        reports: tuple[list[Report], list[Report]] = ([], [])
        for turn in count(2 * TURNS, f"{against} and {HERE} in turns"):
            checkout = (against.resolve(), HERE)[turn % 2]
            content = _printed_by(checkout, options)
            reports[turn % 2].append(Report.read(content, str(checkout), variant, tables))
        before, after = map(Report.joined, reports)
    else:
        before = Report.read(_content(against), str(against), variant, tables)
        after = measure_stages(variant, work)
    compared = Comparison.of(before, after, in_turns=against.is_dir())
    typer.echo(compared.model_dump_json()) if as_json else _print_comparison(compared)
    if plot is not None:
        draw_photos(compared.after, titles, plot)


def _printed_by(checkout: Path, options: Sequence[str]) -> str:
    """Run this command by the code of a checkout, in this environment; give what it prints.

    Raises ConfigError for a folder that is no checkout, or of before this command was there.
    """
    if not (checkout / "ebseg" / "__main__.py").is_file():
        raise ConfigError(f"{checkout} is no checkout of this project: it has no ebseg/__main__.py")
    command = python("-m", "ebseg", "bench", "stages", "--json", *options)
    run = subprocess.run(command, env=environment(PYTHONPATH=str(checkout)), capture_output=True, text=True)
    if run.returncode:
        said = (run.stderr.strip() or f"status {run.returncode}").splitlines()[-1]
        raise ConfigError(
            f"the checkout {checkout} cannot be measured by its own `ebseg bench stages`, which says: {said}"
        )
    return run.stdout


def _content(file: Path) -> str:
    try:
        return file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} is no folder, and no report that can be read: {error}") from error


def _print_report(report: "Report") -> None:
    for title, table in report.tables.items():
        typer.echo(title)
        _print_table(table)
    typer.echo(f"EBSeg {report.variant} with random weights, {_machine(report)}")


def _print_table(table: "Table") -> None:
    medians, whole = table.medians, table.whole
    more = ("share", "GFLOP") if whole else ()
    grid = _grid("median ms", "least", "most", *more)
    for step, values in table.seconds.items():
        cells = [_ms(medians[step]), _ms(min(values)), _ms(max(values))]
        if whole:
            flops = table.flops_of(step)
            cells += [f"{medians[step] / whole:.0%}", "" if flops is None else f"{flops / 1e9:.2f}"]
        grid.add_row(step, *cells)
    Console().print(grid)
    if table.times_encoder:
        typer.echo(f"  {table.times_encoder:.2f} times segment-anything's encoder")
    if table.peak_bytes:
        typer.echo(f"  {_gib(table.peak_bytes)} of memory at most")
    typer.echo()


def _print_comparison(compared: "Comparison") -> None:
    for title, changes in compared.changes.items():
        typer.echo(title)
        grid = _grid("before, ms", "after, ms", "after / before")
        for step, change in changes.items():
            ratio = "" if change.ratio is None else f"{change.ratio:.2f}"
            grid.add_row(step, _ms(change.before), _ms(change.after), ratio)
        Console().print(grid)
        before, after = compared.before.tables[title], compared.after.tables[title]
        if before.peak_bytes and after.peak_bytes:
            typer.echo(
                f"  {_gib(before.peak_bytes)} of memory at most before, {_gib(after.peak_bytes)} after"
            )
        typer.echo()
    typer.echo(f"EBSeg {compared.after.variant} with random weights, {_machine(compared.after)}")
    if not compared.in_turns:
        typer.echo(
            f"before is of another run, {_machine(compared.before)}; where segment-anything's encoder "
            "changed, it is the machine that did"
        )


def _grid(*columns: str) -> Grid:
    right = [Column(name, justify="right", no_wrap=True) for name in columns]
    return Grid(Column("step", no_wrap=True), *right, box=box.SIMPLE_HEAD, pad_edge=False)


def _ms(seconds: float | None) -> str:
    return "" if seconds is None else f"{1000 * seconds:.1f}"


def _gib(size: int) -> str:
    return f"{size / 2**30:.2f} GiB"


def _machine(report: "Report") -> str:
    machine = report.machine
    return (
        f"{report.device}: {machine.cpu}, cores: {machine.cores}, threads: {machine.threads}, "
        f"{machine.instructions or 'no AVX-512, no AMX'}; torch {machine.torch}; GPU: {machine.gpu or 'none'}"
    )
