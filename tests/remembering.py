"""What a memory of corrections is worth on photos whose label maps are known: mean IoU, by corrected photos.

    python -m tests.remembering FOLDER MODEL --labels "sky,building,..."

FOLDER has images/ and labels/ with train and val, as ``ebseg train --data`` takes them; ``--labels`` are the
values' names in order, without the one for unlabelled pixels. Some photos of train are the corrections: with
their whole label maps, with 100 pixels each, and with the labels of ``--some`` alone. Some of val are asked
for. With "drawn" for FOLDER it is drawn scenes, on which ebseg-tiny was trained, that it looks at; with
"negatives" their negatives, as of film, which it never saw, asked for by the last words of the phrases.
"""

import argparse
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from rich.progress import track

import ebseg
from ebseg.ask import Memory
from ebseg.data.drawn.synthetic import PHRASES, draw_scene
from ebseg.evaluation.metrics import ConfusionMatrix
from ebseg.memory import join
from ebseg.predictor import EncodedPhoto, Predictor, best_labels
from ebseg.scores import Contest, score_strips
from ebseg.vocabulary import Vocabulary
from training.memory.fitting import fit
from training.memory.samples import Samples
from training.memory.sampling import sample

COLUMNS = (
    "corrections", "photos", "mIoU", "text alone", "least and most", "labels not corrected", "fit, s"
)  # fmt: skip

SPARSE = 100
"""Pixels of a photo, where the corrections are few strokes."""

KINDS = tuple(dict.fromkeys(phrase.split()[-1] for phrase in PHRASES))
"""What the drawn scenes' phrases are of: "ball" and not "red ball", as a negative's colours are others."""

_KIND_OF = np.array([KINDS.index(phrase.split()[-1]) for phrase in PHRASES], np.int16)

Photo = tuple[np.ndarray, np.ndarray]
"""A photo (H, W, 3) uint8 and its label map (H, W) int16, -1 where unlabelled."""


class Judged:
    """Photos that are asked for, encoded and scored by the text once, with their label maps."""

    def __init__(self, predictor: Predictor, vocabulary: Vocabulary, photos: Iterable[Photo]) -> None:
        self.predictor, self.vocabulary = predictor, vocabulary
        self._photos = [self._scored(photo, truth) for photo, truth in photos]

    @torch.inference_mode()
    def _scored(
        self, photo: np.ndarray, truth: np.ndarray
    ) -> tuple[EncodedPhoto, list[torch.Tensor], np.ndarray]:
        encoded, texts = self.predictor.encode(photo), self.predictor.texts(self.vocabulary)
        classes = self.predictor.net.classify(encoded.encoded, self.vocabulary, text=texts)[0]
        strips = list(score_strips(encoded.encoded.resizable(), classes, encoded.size))
        return encoded, strips, truth

    @torch.inference_mode()
    def iou(self, memory: Memory | None) -> np.ndarray:
        """Give each label's IoU in percent, NaN where no photo shows it: as of ``Predictor.decide``."""
        matrix = ConfusionMatrix(len(self.vocabulary))
        for encoded, strips, truth in self._photos:
            scored: Iterator[torch.Tensor] = (strip.clone() for strip in strips)  # joining changes them
            if memory is not None:
                scored = join(memory, scored, encoded.encoded, self.vocabulary.names, encoded.size)
            found = torch.cat([best_labels(Contest.of_all(scores), 0.0)[0] for scores in scored])
            matrix.add(found.numpy(), truth)
        return 100 * matrix.iou()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder")
    parser.add_argument("model")
    parser.add_argument("--labels", help="by default those of the drawn scenes")
    parser.add_argument("--some", default="")
    parser.add_argument("--photos", type=int, default=30, help="of val; 0: all")
    parser.add_argument("--counts", default="1,2,5,20,80")
    parser.add_argument("--seeds", type=int, default=5)
    asked = parser.parse_args()
    drawn = KINDS if asked.folder == "negatives" else PHRASES
    names = asked.labels.split(",") if asked.labels else list(drawn)
    counts = [int(count) for count in asked.counts.split(",")]
    predictor, vocabulary = ebseg.load(asked.model), Vocabulary(names)
    judging = list(_photos(asked.folder, "val", asked.photos, None, len(names)))
    judged = Judged(predictor, vocabulary, track(judging, transient=True))
    text = judged.iou(None)
    some = [names.index(name) for name in asked.some.split(",") if name]
    rows: dict[tuple[str, int], list[list[float]]] = defaultdict(list)
    for seed in range(asked.seeds):
        corrected = [
            (predictor.encode(photo), truth)
            for photo, truth in _photos(asked.folder, "train", max(counts), seed, len(names))
        ]
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
    corrected: list[tuple[EncodedPhoto, np.ndarray]],
    change: Callable[[np.ndarray, np.random.Generator], np.ndarray],
    seed: int,
) -> Iterator[Samples]:
    rng = np.random.default_rng(seed)
    for encoded, truth in corrected:
        yield sample(predictor, encoded, change(truth, rng), vocabulary)


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
    if folder in ("drawn", "negatives"):
        first = 10_000 if seed is None else 20_000 + 1000 * seed
        for index in range(count):
            scene = draw_scene(7, first + index)
            if folder == "drawn":
                yield scene.image, scene.label_map
            else:
                truth = np.where(scene.label_map < 0, np.int16(-1), _KIND_OF[scene.label_map])
                yield 255 - scene.image, truth
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
