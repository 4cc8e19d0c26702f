"""``ebseg finetune``: what the retrain jobs do, on a folder of one's own."""

from pathlib import Path
from typing import Annotated

import typer

from ebseg.commands import LARGEST_SEED
from ebseg.config import Precision
from training.commands.finetune_request import Request

app = typer.Typer(add_completion=False)


@app.command(epilog="Example: ebseg finetune ebseg-tiny --data street.toml --out runs/street")
def finetune(
    model: Annotated[str, typer.Argument(help="Model to start from: a name or a checkpoint file.")],
    data: Annotated[Path, typer.Option(dir_okay=False, help="A .toml file (docs/training.md).")],
    out: Annotated[Path, typer.Option(file_okay=False, help="Folder of checkpoints, log and model.")],
    photos: Annotated[int | None, typer.Option(min=2, help="Use so many photos; else all.")] = None,
    general: Annotated[
        str | None,
        typer.Option(
            help="Data not to forget, as --data of ebseg train; else drawn-scenes for the small model, and "
            "own-answers, the model's on these photos, for others."
        ),
    ] = None,
    rehearsal: Annotated[float | None, typer.Option(min=0, max=0.9, help="Share of general steps.")] = None,
    keep: Annotated[float | None, typer.Option(min=0, max=1, help="General mIoU that must be left.")] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Updates at most; by default 600 to 1,800, by the photos.")
    ] = None,
    learning_rate: Annotated[float | None, typer.Option(min=0)] = None,
    precision: Annotated[Precision, typer.Option(help="Auto: fp16 on a GPU, float32 on a CPU.")] = "auto",
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
    settings = {
        "rehearsal": rehearsal, "keep": keep, "steps": steps, "learning_rate": learning_rate, "seed": seed,
        "precision": precision, "unlabelled": "background" if background else "ignored",
    }  # fmt: skip
    request = Request(
        model=model,
        data=data,
        out=out,
        photos=photos,
        general=general,
        root=data_root,
        seed=seed,
        settings={name: value for name, value in settings.items() if value is not None},
        as_json=as_json,
    )
    from training.commands.finetune_work import run  # PyTorch is slow to import

    run(request)
