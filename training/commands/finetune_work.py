"""The work of ``ebseg finetune``: open the data, fine-tune, tell what came of it."""

import json
import math
import os
from dataclasses import asdict

import typer

import ebseg
from ebseg.config import checked
from ebseg.data.folder import FolderSource
from ebseg.data.labelled import require_labelled
from ebseg.data.open import open_data
from ebseg.data.subset import hold_out, sample_of
from ebseg.errors import ConfigError, DataError
from ebseg.evaluation.in_memory import evaluate
from ebseg.evaluation.result import nothing_labelled
from ebseg.runs.watch import ProgressBar
from training.commands.finetune_request import Request
from training.finetuning.finetune import FinetuneConfig, FinetuneResult, General, Snapshot, finetune
from training.finetuning.folder import FinetuneFolder
from training.finetuning.general_data import general_data
from training.finetuning.own_answers import general_answers
from training.storage import Storage

HELD_OUT = 0.2
"""Share of the photos that early stopping and the choice of weights look at."""


def run(request: Request) -> None:
    """Fine-tune, and print what came of it."""
    source = open_data(str(request.data), "train", root=request.root, seed=request.seed)
    if not isinstance(source, FolderSource):
        raise ConfigError(f"{request.data} is no folder of photos: give a .toml file that describes one")
    require_labelled(source)
    config = checked(FinetuneConfig, request.settings)
    train, held_out = hold_out(sample_of(source, request.photos or len(source)), HELD_OUT)
    snapshot = Snapshot(train, held_out)

    def own() -> General | None:
        storage = Storage(str(request.out.resolve()), request.out)
        return general_answers(request.model, snapshot, config, storage, FinetuneFolder(request.out))

    kept = general_data(request.general, request.model, request.root, own, seed=request.seed)
    speaks = os.environ.get("RANK", "0") == "0"
    if speaks and (missing := _missing(kept)):
        typer.echo(missing, err=True)
    watchers = [ProgressBar()]
    outcome = finetune(request.model, snapshot, config, request.out, general=kept, watchers=watchers)
    if not speaks:
        return
    if request.as_json:
        typer.echo(json.dumps({**asdict(outcome), "path": str(outcome.path)}))
        return
    _tell(outcome, len(train), len(held_out))
    validate(request, {"before": request.model, "after": str(outcome.path)})


def _missing(general: General | None) -> str | None:
    """Say what is not done for what the model could do before."""
    if general is None:
        return "no --general data: what the model could do before is neither kept nor measured"
    if general.held_out is None:
        return (
            "the model is not sure enough of what these photos show: its own answers are rehearsed, but what "
            "it forgets cannot be measured with them"
        )
    return None


def _tell(outcome: FinetuneResult, photos: int, held_out: int) -> None:
    typer.echo(f"wrote {outcome.path} after {outcome.steps} steps and {outcome.seconds:.0f} s")
    typer.echo(f"{photos} photos, {held_out} held out; mIoU there, and on other labels:")
    for name, mix in (("before", outcome.base), *((f"{m.share:.0%} new", m) for m in outcome.tried)):
        other = "" if mix.general is None else f"{mix.general:6.1f}"
        typer.echo(f"  {name:8} {mix.project:6.1f} {other}{'  <- chosen' if mix == outcome.chosen else ''}")


def validate(request: Request, models: dict[str, str]) -> None:
    """Print the models' mIoU on the validation split, where the data has one.

    Raises DataError where that has no labelled pixel.
    """
    try:
        source = open_data(str(request.data), "val", root=request.root, seed=request.seed)
    except DataError:
        return
    for name, model in models.items():
        samples = (source[index] for index in range(len(source)))
        photos = ((sample.image, sample.label_map) for sample in samples)
        found = evaluate(ebseg.load(model), photos, source.vocabulary)
        if math.isnan(found.miou):
            raise DataError(nothing_labelled(source.name))
        typer.echo(f"{name}: mIoU {found.miou:.1f} on {found.photos} photos of {source.name}")
