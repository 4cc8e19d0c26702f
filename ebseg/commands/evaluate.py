"""``ebseg evaluate``: measure a model on held-out drawn scenes."""

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import track


def evaluate(
    model: Annotated[str, typer.Argument(help="Model name or checkpoint file.")] = "ebseg-tiny",
    scenes: Annotated[int, typer.Option(min=1, help="Scenes to measure on.")] = 300,
    unseen: Annotated[bool, typer.Option(help="Show combinations that training never showed.")] = True,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the result here as well.")] = None,
) -> None:
    """Measure mIoU on held-out drawn scenes: seen phrases, and combinations that training never showed.

    Then the same scenes are asked again by names that no training scene has ("crimson sphere").
    """
    import ebseg  # PyTorch is slow to import and `ebseg --help` does not need it
    from ebseg.data.scenes import benchmark_scenes, benchmark_vocabulary, renamed_vocabulary
    from ebseg.evaluate import evaluate as measure

    predictor = ebseg.load(model)
    photos = track(benchmark_scenes(scenes, unseen=unseen), description="evaluating", total=scenes)
    result = measure(predictor, photos, benchmark_vocabulary(), renamed=renamed_vocabulary())
    means = f"mIoU {result.miou:.1f}"
    if unseen:
        means += f" (seen {result.seen:.1f}, unseen {result.unseen:.1f}, harmonic mean {result.harmonic:.1f})"
    means += f", by other names {result.new_names:.1f}"
    typer.echo(f"{predictor.version}: {means} on {result.photos} drawn scenes")
    if json_file is not None:
        numbers = {**asdict(result), "harmonic": result.harmonic}
        found = {name: value for name, value in numbers.items() if not math.isnan(value)}
        content = {"model": predictor.version, "data": "drawn scenes", **found}
        json_file.write_text(json.dumps(content, indent=2) + "\n")
