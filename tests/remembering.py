"""What a memory of corrections is worth on photos whose label maps are known: mean IoU, by corrected photos.

    python -m tests.remembering FOLDER MODEL --labels "sky,building,..."

FOLDER has images/ and labels/ with train and val, as ``ebseg train --data`` takes them; ``--labels`` are the
values' names in order, without the one for unlabelled pixels. Some photos of train are the corrections: with
their whole label maps, with 100 pixels each, and with the labels of ``--some`` alone. Some of val are asked
for. With "drawn" for FOLDER it is drawn scenes, on which ebseg-tiny was trained, that it looks at.
"""

import argparse
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from rich.progress import track

import ebseg
from ebseg.ask import Memory
from ebseg.data.drawn.synthetic import PHRASES, draw_scene
from ebseg.evaluation.metrics import ConfusionMatrix
from ebseg.predictor import EncodedPhoto, Predictor
from ebseg.vocabulary import Vocabulary
from training.memory.fitting import fit
from training.memory.samples import Samples
from training.memory.sampling import sample

COLUMNS = (
    "corrections", "photos", "mIoU", "text alone", "least and most", "labels not corrected", "fit, s"
)  # fmt: skip

SPARSE = 100
"""Pixels of a photo, where the corrections are few strokes."""

Photo = tuple[np.ndarray, np.ndarray]
"""A photo (H, W, 3) uint8 and its label map (H, W) int16, -1 where unlabelled."""


@dataclass(frozen=True, eq=False)
class Judged:
    """Photos that are asked for, encoded once, with their label maps."""

    predictor: Predictor
    vocabulary: Vocabulary
    photos: list[tuple[EncodedPhoto, np.ndarray]]

    def iou(self, memory: Memory | None) -> np.ndarray:
        """Give each label's IoU in percent, NaN where no photo shows it."""
        matrix = ConfusionMatrix(len(self.vocabulary))
        for encoded, truth in self.photos:
            found = self.predictor.decide(encoded, self.vocabulary, 0.0, memory=memory)
            matrix.add(found.label_map, truth)
        return 100 * matrix.iou()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder")
    parser.add_argument("model")
    parser.add_argument("--labels", default=",".join(PHRASES))
    parser.add_argument("--some", default="")
    parser.add_argument("--photos", type=int, default=30, help="of val; 0: all")
    parser.add_argument("--counts", default="1,2,5,20")
    parser.add_argument("--seeds", type=int, default=2)
    asked = parser.parse_args()
    names, counts = asked.labels.split(","), [int(count) for count in asked.counts.split(",")]
    predictor, vocabulary = ebseg.load(asked.model), Vocabulary(names)
    judging = list(_photos(asked.folder, "val", asked.photos, None, len(names)))
    encoded = [(predictor.encode(photo), truth) for photo, truth in track(judging, transient=True)]
    judged = Judged(predictor, vocabulary, encoded)
    text = judged.iou(None)
    some = [names.index(name) for name in asked.some.split(",") if name]
    rows: dict[tuple[str, int], list[list[float]]] = defaultdict(list)
    for seed in range(asked.seeds):
        corrected = list(_photos(asked.folder, "train", max(counts), seed, len(names)))
        for kind, change in _kinds(some).items():
            taken = list(_samples(predictor, vocabulary, corrected, change, seed))
            for count in counts:
                rows[kind, count].append(_worth(judged, text, taken[:count]))
                print(kind, count, "seed", seed, np.round(rows[kind, count][-1], 1), flush=True)
    print(f"\n| {' | '.join(COLUMNS)} |\n" + "| --- " * len(COLUMNS) + "|")
    for (kind, count), found in rows.items():
        miou, before, missing, seconds = np.array(found).T
        missing = missing[~np.isnan(missing)]
        change = f"{missing.mean():+.1f}" if len(missing) else "–"
        print(
            f"| {kind} | {count} | {miou.mean():.1f} | {before.mean():.1f} "
            f"| {miou.min():.1f} to {miou.max():.1f} | {change} | {seconds.mean():.1f} |"
        )


def _kinds(some: list[int]) -> dict[str, Callable[[np.ndarray, np.random.Generator], np.ndarray]]:
    kinds = {"whole photos": lambda truth, _: truth, f"{SPARSE} pixels a photo": _sparse}
    if some:
        kinds[f"{len(some)} labels"] = lambda truth, _: np.where(np.isin(truth, some), truth, np.int16(-1))
    return kinds


def _sparse(truth: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    kept = np.full(truth.shape, -1, np.int16)
    chosen = rng.choice(np.flatnonzero(truth >= 0), SPARSE, replace=False)
    kept.ravel()[chosen] = truth.ravel()[chosen]
    return kept


def _samples(
    predictor: Predictor,
    vocabulary: Vocabulary,
    corrected: list[Photo],
    change: Callable[[np.ndarray, np.random.Generator], np.ndarray],
    seed: int,
) -> Iterator[Samples]:
    rng = np.random.default_rng(seed)
    for photo, truth in corrected:
        yield sample(predictor, predictor.encode(photo), change(truth, rng), vocabulary)


def _worth(judged: Judged, text: np.ndarray, taken: list[Samples]) -> list[float]:
    """Give mIoU with the memory and without, the change of labels that were not corrected, and seconds."""
    begin = time.monotonic()
    fitted = fit(taken, judged.vocabulary.names, judged.predictor.version)
    seconds = time.monotonic() - begin
    if fitted is None:
        return [np.nanmean(text), np.nanmean(text), np.nan, seconds]
    iou = judged.iou(fitted.memory)
    has = np.isin(judged.vocabulary.names, fitted.memory.labels)
    missing = np.nanmean((iou - text)[~has]) if (~has & ~np.isnan(text)).any() else np.nan
    return [np.nanmean(iou), np.nanmean(text), missing, seconds]


def _photos(folder: str, split: str, count: int, seed: int | None, labels: int) -> Iterator[Photo]:
    """Give photos: spread over all there are, or drawn by lot with a seed."""
    if folder == "drawn":
        first = 10_000 if seed is None else 20_000 + 1000 * seed
        for index in range(count):
            scene = draw_scene(7, first + index)
            yield scene.image, scene.label_map
        return
    files = sorted((Path(folder) / "images" / split).iterdir())
    chosen = np.linspace(0, len(files) - 1, min(count, len(files)) or len(files)).astype(int)
    if seed is not None:
        chosen = np.random.default_rng(seed).permutation(len(files))[:count]
    for index in chosen:
        photo = np.asarray(Image.open(files[index]).convert("RGB"))
        values = Image.open(Path(folder) / "labels" / split / f"{files[index].stem}.png")
        truth = np.asarray(values).astype(np.int16)
        yield photo, np.where(truth < labels, truth, np.int16(-1))


if __name__ == "__main__":
    main()
