"""What limits a fine-tuning: mIoU on photos whose label maps are known, with one change at a time.

    python -m tests.learning camvid.toml ebseg-tiny --out runs/learning --photos 367 "steps x 3" "rate x 2"

Each change is a whole fine-tuning as ``ebseg finetune`` does it, from photos of train; "as shipped" is none.
The photos of val judge it at full size, every pixel labelled, and 40 drawn scenes tell what is kept. A run
that was stopped goes on.
"""

import argparse
import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

import ebseg
from ebseg.checkpoint import load_checkpoint
from ebseg.config import RECIPES, BalanceConfig, LossConfig, TrainConfig
from ebseg.data.folder import FolderSource
from ebseg.data.open import open_data
from ebseg.data.samples import Source
from ebseg.data.subset import Subset, hold_out, sample_of
from ebseg.evaluation.in_memory import evaluate
from ebseg.model import Backbone, EBSeg
from ebseg.predictor import Predictor
from ebseg.runs.watch import ProgressBar
from training.finetuning import finetune as finetuning
from training.finetuning.finetune import FinetuneConfig, FinetuneResult, Snapshot, finetune
from training.finetuning.general_data import general_data

HELD_OUT = 0.2

LOOKED_AT = 20
"""Held-out photos, at most, that are measured every 50 steps, so that a run does not spend its time there."""


@dataclass(frozen=True)
class Change:
    """What differs from a fine-tuning as it ships."""

    config: FinetuneConfig
    recipe: TrainConfig = RECIPES["tiny"]
    unfrozen: int = 0
    """Last blocks of both image encoders that are trained as well."""


_SHIPPED = Change(FinetuneConfig())


def _with(**settings: object) -> Change:
    return replace(_SHIPPED, config=_SHIPPED.config.model_copy(update=settings))


def _recipe(**settings: object) -> Change:
    return replace(_SHIPPED, recipe=_SHIPPED.recipe.model_copy(update=settings))


def _losses(**settings: object) -> Change:
    losses: LossConfig = _SHIPPED.recipe.losses
    return _recipe(losses=losses.model_copy(update=settings))


CHANGES: dict[str, Change] = {
    "as shipped": _SHIPPED,
    "nothing rehearsed": _with(rehearsal=0.0, keep=0.0),
    "steps x 3": _with(steps=1800),
    "steps x 3, nothing rehearsed": _with(steps=1800, rehearsal=0.0, keep=0.0),
    "rate x 2": _with(learning_rate=1e-3),
    "rate x 4": _with(learning_rate=2e-3),
    "batch x 2": _with(batch=8),
    "whole photos": _recipe(short_edges=(256,), crop=256),
    "larger photos": _recipe(short_edges=(224, 256, 320, 360), crop=256),
    "no SSC": _losses(ssc=0.0),
    "last two blocks": replace(_SHIPPED, unfrozen=2),
    "last two blocks, steps x 3": replace(_with(steps=1800), unfrozen=2),
    "all blocks": replace(_SHIPPED, unfrozen=99),
}

ASKED: dict[str, dict[str, Any]] = {
    "as it is": {},
    "less of CLIP": {"balance": BalanceConfig(alpha=0.1, beta=0.25, gamma=0.25)},
    "without CLIP": {"balance": BalanceConfig(alpha=0.0, beta=0.0, gamma=0.0)},
    "test size 320": {"test_size": 320},
}
"""What the fine-tuned model is asked with, by what changes in its config."""

COLUMNS = ("steps", "held out", "kept", "share of new weights")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", help="a .toml file, as ebseg finetune takes it")
    parser.add_argument("model", help="ebseg-tiny, or another of its size")
    parser.add_argument(
        "changes", nargs="*", metavar="CHANGE", help=f"of {', '.join(CHANGES)}; by default all"
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--photos", type=int, default=80)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    train = open_data(asked.data, "train", root=Path(), seed=0)
    if not isinstance(train, FolderSource):
        parser.error(f"{asked.data} is no folder of photos")
    val = open_data(asked.data, "val", root=Path(), seed=0)
    print(f"| {asked.photos} photos, seed {asked.seed} | {' | '.join((*COLUMNS, *ASKED))} |")
    for name in asked.changes or CHANGES:
        result = _run(asked.model, sample_of(train, asked.photos), name, asked.out, asked.seed)
        print(
            f"| {name} | {result.steps} | {_told(result)} | {' | '.join(_judged(result, val))} |", flush=True
        )


def _run(model: str, photos: Subset, name: str, out: Path, seed: int) -> FinetuneResult:
    change = CHANGES[name]
    config = change.config.model_copy(update={"seed": seed})
    fitted, held_out = hold_out(photos, HELD_OUT)
    looked_at = held_out.indices[:: -(-len(held_out) // LOOKED_AT)]
    snapshot = Snapshot(fitted, replace(held_out, indices=looked_at))
    folder = out / f"{name.replace(' ', '-')}-{len(photos)}-{seed}"
    with _changed(change):
        general = general_data(None, model, Path(), lambda: None, seed=seed)
        return finetune(model, snapshot, config, folder, general=general, watchers=[ProgressBar()])


@contextmanager
def _changed(change: Change) -> Iterator[None]:
    """Let fine-tunings use the change's recipe, and train what it unfreezes."""

    def unfrozen(path: Path) -> tuple[EBSeg, dict[str, str]]:
        net, metadata = load_checkpoint(path)
        for blocks in (net.clip.tower.transformer.resblocks, net.sam.encoder.blocks):
            for block in list(blocks)[-change.unfrozen :] if change.unfrozen else ():
                block.requires_grad_(True)
        net.backbone = Backbone({name: p for name, p in net.named_parameters() if not p.requires_grad})
        return net, metadata

    with (
        mock.patch.dict(RECIPES, {"tiny": change.recipe}),
        mock.patch.object(finetuning, "load_checkpoint", unfrozen),
    ):
        yield


def _told(result: FinetuneResult) -> str:
    """Give held-out mIoU, kept share of the general mIoU, and share of new weights."""
    chosen, base = result.chosen, result.base
    kept = "" if chosen.general is None or not base.general else f"{chosen.general / base.general:.1%}"
    return f"{base.project:.1f} -> {chosen.project:.1f} | {kept} | {chosen.share:.0%}"


def _judged(result: FinetuneResult, val: Source) -> Iterator[str]:
    net = ebseg.load(str(result.path)).net
    for update in ASKED.values():
        other = copy.copy(net)
        other.config = net.config.model_copy(update=update)
        samples = (val[index] for index in range(len(val)))
        photos = ((sample.image, sample.label_map) for sample in samples)
        found = evaluate(Predictor(other, version="judged"), photos, val.vocabulary)
        yield f"{found.miou:.1f}"


if __name__ == "__main__":
    main()
