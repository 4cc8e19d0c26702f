"""``ebseg train``: train a model on drawn scenes."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ebseg.config import VARIANTS, TrainConfig
from ebseg.errors import ConfigError

_DEFAULTS = TrainConfig()


def train(
    out: Annotated[Path, typer.Option(file_okay=False, help="Folder of state, log and result.")],
    variant: Annotated[str, typer.Option(help=f"Size of the model: {', '.join(VARIANTS)}.")] = "tiny",
    encoders: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="Pre-trained encoders (safetensors).")
    ] = None,
    steps: Annotated[int, typer.Option(min=1)] = _DEFAULTS.steps,
    batch: Annotated[int, typer.Option(min=1, help="Photos a step.")] = _DEFAULTS.batch,
    learning_rate: Annotated[float, typer.Option(min=0)] = _DEFAULTS.learning_rate,
    seed: Annotated[int, typer.Option(min=0)] = _DEFAULTS.seed,
) -> None:
    """Train on drawn scenes; a run that was stopped goes on from its last state in OUT."""
    if variant not in VARIANTS:
        raise ConfigError(f"no variant named {variant!r}; known: {', '.join(VARIANTS)}")
    config = TrainConfig(steps=steps, batch=batch, learning_rate=learning_rate, seed=seed)
    from ebseg.train import train as run  # PyTorch is slow to import and `ebseg --help` does not need it

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        bar = progress.add_task("training", total=config.steps)

        def report(done: int, terms: dict[str, float]) -> None:
            loss = sum(terms.values())
            progress.update(bar, completed=done, description=f"loss {loss:.2f}, ssc {terms['ssc']:.3f}")

        path = run(VARIANTS[variant], config, out, encoders=encoders, report=report)
    typer.echo(f"wrote {path}")
