"""Package a trained model: `python -m training.tiny.release RUNS`, the last step of `make tiny`."""

import json
import shutil
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import torch
import typer

from ebseg.checkpoint import load_checkpoint, save_checkpoint
from ebseg.config import TINY
from ebseg.data.drawn.scenes import benchmark_scenes, benchmark_vocabulary, renamed_vocabulary
from ebseg.evaluation.in_memory import evaluate
from ebseg.loading import PACKAGED, load
from ebseg.runs.folder import RunFolder

WEIGHTS = Path("ebseg/weights") / f"{PACKAGED}.safetensors"
RECORD = Path("docs/tiny")
SCENES = 300


def main(
    runs: Annotated[Path, typer.Argument(help="folder with pretrain/, train/ and words/", exists=True)],
) -> None:
    """Write the weights in half precision into the package, and what they were measured at into docs/."""
    net, _ = load_checkpoint(RunFolder(runs / "words").model)
    net = net.with_balance(TINY.balance)  # exponents are not trained
    save_checkpoint(net, WEIGHTS, dtype=torch.float16, metadata={"version": f"{PACKAGED}-{version('ebseg')}"})
    predictor = load(str(WEIGHTS))
    result = evaluate(
        predictor, benchmark_scenes(SCENES), benchmark_vocabulary(), renamed=renamed_vocabulary()
    )
    RECORD.mkdir(parents=True, exist_ok=True)
    for stage in ("pretrain", "train"):
        shutil.copyfile(RunFolder(runs / stage).log, RECORD / f"{stage}.jsonl")
    content = {
        "model": predictor.version,
        "data": "drawn scenes",
        **asdict(result),
        "harmonic": result.harmonic,
    }
    (RECORD / "result.json").write_text(json.dumps(content, indent=2) + "\n")
    typer.echo(f"wrote {WEIGHTS}: {json.dumps(content)}")


if __name__ == "__main__":
    typer.run(main)
