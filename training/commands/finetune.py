"""``ebseg finetune``: what the retrain jobs do, on a folder of one's own."""

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from ebseg.commands import LARGEST_SEED
from ebseg.config import checked
from ebseg.errors import ConfigError, DataError

HELD_OUT = 0.2
"""Share of the photos that early stopping and the choice of weights look at."""

app = typer.Typer(add_completion=False)


@app.command(epilog="Example: ebseg finetune ebseg-tiny --data street.toml --out runs/street")
def finetune(
    model: Annotated[str, typer.Argument(help="Model to start from: a name or a checkpoint file.")],
    data: Annotated[Path, typer.Option(dir_okay=False, help="A .toml file (docs/training.md).")],
    out: Annotated[Path, typer.Option(file_okay=False, help="Folder of checkpoints, log and model.")],
    photos: Annotated[int | None, typer.Option(min=2, help="Use so many photos; else all.")] = None,
    general: Annotated[
        str | None,
        typer.Option(help="Data not to forget, as --data of ebseg train; drawn-scenes for the small model."),
    ] = None,
    rehearsal: Annotated[float | None, typer.Option(min=0, max=0.9, help="Share of general steps.")] = None,
    keep: Annotated[float | None, typer.Option(min=0, max=1, help="General mIoU that must be left.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Updates at most.")] = None,
    learning_rate: Annotated[float | None, typer.Option(min=0)] = None,
    background: Annotated[bool, typer.Option(help="Unlabelled pixels are none of the labels.")] = False,
    data_root: Annotated[Path, typer.Option(envvar="EBSEG_DATA_ROOT", help="Where benchmarks are.")] = Path(
        "datasets"
    ),
    seed: Annotated[int, typer.Option(min=0, max=LARGEST_SEED)] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the outcome as JSON.")] = False,
) -> None:
    """Fine-tune a model on labelled photos, without losing what it could do before.

    A fifth of the photos is held out by the hash of their names, for early stopping and for the choice
    between old and new weights. Where the data has a validation split, both are measured on that too.

    Several processes: accelerate launch --num_processes 4 -m ebseg finetune ...
    """
    from ebseg.data.folder import FolderSource  # PyTorch is slow to import
    from ebseg.data.open import open_data
    from ebseg.data.subset import hold_out, sample_of
    from ebseg.runs.watch import ProgressBar
    from training.finetuning.finetune import FinetuneConfig, Snapshot
    from training.finetuning.finetune import finetune as run
    from training.finetuning.general_data import general_data

    source = open_data(str(data), "train", root=data_root, seed=seed)
    if not isinstance(source, FolderSource):
        raise ConfigError(f"{data} is no folder of photos: give a .toml file that describes one")
    given: dict[str, Any] = {
        "rehearsal": rehearsal, "keep": keep, "steps": steps, "learning_rate": learning_rate, "seed": seed,
        "unlabelled": "background" if background else "ignored",
    }  # fmt: skip
    config = checked(FinetuneConfig, {name: value for name, value in given.items() if value is not None})
    train, held_out = hold_out(sample_of(source, photos or len(source)), HELD_OUT)
    kept = general_data(general, model, data_root, seed)
    speaks = os.environ.get("RANK", "0") == "0"
    if kept is None and speaks:
        typer.echo("no --general data: what the model could do before is neither kept nor measured", err=True)
    outcome = run(model, Snapshot(train, held_out), config, out, general=kept, watchers=[ProgressBar()])
    if not speaks:
        return
    if as_json:
        typer.echo(json.dumps({**asdict(outcome), "path": str(outcome.path)}))
        return
    typer.echo(f"wrote {outcome.path} after {outcome.steps} steps and {outcome.seconds:.0f} s")
    typer.echo(f"{len(train)} photos, {len(held_out)} held out; mIoU there, and on other labels:")
    for name, mix in (("before", outcome.base), *((f"{m.share:.0%} new", m) for m in outcome.tried)):
        other = "" if mix.general is None else f"{mix.general:6.1f}"
        typer.echo(f"  {name:8} {mix.project:6.1f} {other}{'  <- chosen' if mix == outcome.chosen else ''}")
    _validate(data, data_root, seed, {"before": model, "after": str(outcome.path)})


def _validate(data: Path, root: Path, seed: int, models: dict[str, str]) -> None:
    """Print the models' mIoU on the validation split, where the data has one."""
    import ebseg
    from ebseg.data.open import open_data
    from ebseg.evaluation.in_memory import evaluate

    try:
        source = open_data(str(data), "val", root=root, seed=seed)
    except DataError:
        return
    for name, model in models.items():
        samples = (source[index] for index in range(len(source)))
        photos = ((sample.image, sample.label_map) for sample in samples)
        found = evaluate(ebseg.load(model), photos, source.vocabulary)
        typer.echo(f"{name}: mIoU {found.miou:.1f} on {found.photos} photos of {source.name}")
