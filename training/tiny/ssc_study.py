"""What SSC changes: `python -m training.tiny.ssc_study --runs runs/ablation`.

SSC speaks to the A embeddings alone. So models of the ablation with and without it are compared in what they
say by A alone, and in how far the structure of A is from that of the texts, on validation scenes.
"""

import json
import math
from pathlib import Path
from statistics import mean
from typing import Annotated, Any

import numpy as np
import torch
import typer
from torch import Tensor

from ebseg.checkpoint import load_checkpoint
from ebseg.config import RECIPES
from ebseg.data.drawn.scenes import benchmark_vocabulary, validation_scenes
from ebseg.losses import Prediction, Totals, match, ssc_loss, targets_of
from ebseg.model import EBSeg
from ebseg.runs.folder import RunFolder
from training.tiny.ablation import A_ALONE, ROWS, AblatedEBSeg
from training.tiny.exponents import observe_all, score

COMPARED = tuple(row for row in ROWS if row.name in ("adab", "ssc"))


def load_run(folder: Path, row: Any) -> EBSeg:
    """Load a run's model with the parts of its row."""
    stored, _ = load_checkpoint(RunFolder(folder).model)
    net = AblatedEBSeg(stored.config, row, training_vocabulary=stored.training_vocabulary)
    net.load_state_dict(stored.state_dict())
    return net.eval()


@torch.no_grad()
def structure_error(net: EBSeg, scenes: int) -> float:
    """Root mean square difference between the cosines of matched A embeddings and of their labels' texts.

    Of cosines, not of inner products as in the loss: A's learned length is no structure.
    """
    text = net.class_embeddings(benchmark_vocabulary())
    config = RECIPES[net.config.name].losses
    errors = []
    for index, (image, truth) in enumerate(validation_scenes(scenes)):
        found = net.encode([torch.from_numpy(image).permute(2, 0, 1).float()])
        a, b, _ = net.class_logits(found, text)
        prediction = Prediction(found.masks, a, b, found.a)
        label_map = torch.from_numpy(truth.astype(np.int64))[None]
        targets = targets_of(label_map, config)
        generator = torch.Generator().manual_seed(index)
        matching = match(prediction, targets, config, [generator])
        unit = torch.nn.functional.normalize(found.a, dim=-1)
        totals = Totals(masks=1.0, class_weight=1.0, photos=1.0)
        errors.append(float(ssc_loss(unit, targets, matching, text[:-1], totals)))
    return math.sqrt(mean(errors))


@torch.no_grad()
def text_cosines(net: EBSeg) -> Tensor:
    """Cosines between the texts of different labels."""
    names = net.class_embeddings(benchmark_vocabulary())[:-1]
    cosines = names @ names.T
    return cosines[~torch.eye(len(names), dtype=torch.bool)]


def study(folder: Path, row: Any, scenes: int) -> dict[str, float]:
    """Measure one run: mIoU by A alone, A's scale, and how far its structure is off."""
    net = load_run(folder, row)
    vocabulary = benchmark_vocabulary()
    seen = net.seen(vocabulary)
    outcomes = observe_all(net, validation_scenes(scenes), vocabulary)
    alone = score(outcomes, seen, A_ALONE)
    cosines = text_cosines(net)
    return {
        "seen by A": alone.seen,
        "unseen by A": alone.unseen,
        "structure error": structure_error(net, scenes),
        "A's scale": net.mask_decoder.mask_embedding.scale.item(),
        "text cosines, mean": cosines.mean().item(),
        "text cosines, deviation": cosines.std().item(),
    }


def main(
    runs: Annotated[Path, typer.Option(help="folder of the ablation's runs")] = Path("runs/ablation"),
    scenes: Annotated[int, typer.Option(min=1, help="validation scenes")] = 40,
    threads: Annotated[int, typer.Option(min=1, help="processor threads")] = 2,
) -> None:
    """Compare the ablation's runs with and without SSC, and print what was measured as JSON."""
    torch.set_num_threads(threads)
    for row in COMPARED:
        for folder in sorted(runs.glob(f"{row.name}-[0-9]")):
            found = {name: round(value, 3) for name, value in study(folder, row, scenes).items()}
            typer.echo(json.dumps({"run": folder.name, **found}))


if __name__ == "__main__":
    typer.run(main)
