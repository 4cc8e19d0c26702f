"""``ebseg simulate``: what an order of tasks is worth, on photos whose label maps are known."""

from pathlib import Path
from typing import Annotated

import typer

from ebseg.commands import INTERRUPTED
from ebseg.errors import ConfigError
from ebseg.files import require_writable
from training.commands.simulate_request import PLOT, RESULTS, Request
from training.settings import Select

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command(epilog="Example: ebseg simulate --data street.toml --out runs/which")
def simulate(
    data: Annotated[Path, typer.Option(dir_okay=False, help="A .toml file (docs/training.md).")],
    out: Annotated[
        Path | None, typer.Option(file_okay=False, help=f"Folder for {RESULTS} and {PLOT}.")
    ] = None,
    model: Annotated[str, typer.Option(help="Model name or checkpoint file.")] = "ebseg-tiny",
    strategies: Annotated[
        str, typer.Option(help="Orders of EBSEG_SELECT to compare, separated by commas.")
    ] = ",".join(Select),
    photos: Annotated[
        str, typer.Option(help="Numbers of annotated photos to measure at.")
    ] = "1,2,4,8,11,16,22,32",
    pool: Annotated[int, typer.Option(min=1, help="Photos of train that a project has.")] = 120,
    judges: Annotated[int, typer.Option(min=1, help="Photos of val that mIoU is measured on.")] = 40,
    seeds: Annotated[int, typer.Option(min=1, help="Projects, each of other photos.")] = 5,
) -> None:
    """Replay the labelling of a project with a simulated annotator: which order teaches most.

    The annotator leaves each photo's label map, the memory of corrections learns from it (docs/memory.md).
    Measured are mIoU on other photos, and how many pixels were corrected for it. docs/selection.md has more.
    """
    request = Request(
        model=model,
        data=data,
        out=out,
        strategies=_strategies(strategies),
        photos=_counts(photos, pool),
        pool=pool,
        judges=judges,
        seeds=seeds,
    )
    if out is not None:
        require_writable(out / RESULTS)
    try:
        from training.commands.simulate_work import run  # PyTorch is slow to import

        run(request)
    except KeyboardInterrupt:
        typer.echo("ebseg: stopped; nothing is written", err=True)
        raise typer.Exit(INTERRUPTED) from None


def _strategies(names: str) -> tuple[Select, ...]:
    try:
        return tuple(Select(name.strip()) for name in names.split(","))
    except ValueError as error:
        raise ConfigError(f"--strategies {names!r}: give some of {', '.join(Select)}") from error


def _counts(numbers: str, pool: int) -> tuple[int, ...]:
    try:
        counts = sorted({int(number) for number in numbers.split(",")})
    except ValueError as error:
        raise ConfigError(f"--photos {numbers!r}: give whole numbers, separated by commas") from error
    if counts[0] < 1 or counts[-1] > pool:
        raise ConfigError(f"--photos {numbers!r}: give numbers from 1 to {pool}, the photos of --pool")
    return tuple(counts)
