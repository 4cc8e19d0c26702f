"""How good clicks and boxes are on photos whose label maps are known: mean IoU, by label.

    python -m tests.pointing FOLDER MODEL --labels "sky,building,..."

FOLDER has images/val and labels/val, as ``ebseg train --data`` takes them; ``--labels`` are the values' names
in order, without the one for unlabelled pixels. Of some photos each connected part of at least 2,000 pixels
is pointed at: by a click at its deepest point, by a second, negative one where the first was most wrong, and
by the box around it. Beside these, the box filled, and the best of the model's masks that hold the click.
"""

import argparse
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from rich.progress import track

import ebseg
from ebseg.ask import Mask, Pointed
from ebseg.label_studio.prompts import Box, Point
from ebseg.predictor import Predictor
from ebseg.vocabulary import Vocabulary

LEAST_PIXELS = 2000
COLUMNS = (
    "click", "and a negative one", "box", "one 5 % wider at each side", "the box filled",
    "best mask at the click",
)  # fmt: skip
LOOSE = 0.05


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("model")
    parser.add_argument("--labels", required=True)
    parser.add_argument("--photos", type=int, default=10)
    asked = parser.parse_args()
    names = asked.labels.split(",")
    files = sorted((asked.folder / "images" / "val").iterdir())
    chosen = [files[index] for index in np.linspace(0, len(files) - 1, asked.photos).astype(int)]
    predictor = ebseg.load(asked.model)
    found: dict[str, list[list[float]]] = defaultdict(list)
    for file in track(chosen, "Pointing", transient=True):
        photo = np.asarray(Image.open(file).convert("RGB"))
        label_map = np.asarray(Image.open(asked.folder / "labels" / "val" / f"{file.stem}.png"))
        for label, ious in measured(predictor, photo, label_map, Vocabulary(names)):
            found[names[label]].append(ious)
    print("| label | regions | " + " | ".join(COLUMNS) + " |")
    print("| --- " * (len(COLUMNS) + 2) + "|")
    everything = [row for rows in found.values() for row in rows]
    for name, rows in (*found.items(), ("all", everything)):
        means = " | ".join(f"{mean:.2f}" for mean in np.mean(rows, axis=0))
        print(f"| {name} | {len(rows)} | {means} |")


def measured(
    predictor: Predictor, photo: np.ndarray, label_map: np.ndarray, vocabulary: Vocabulary
) -> Iterator[tuple[int, list[float]]]:
    """Point at each part of a photo; give its label and the IoU of each of ``COLUMNS``."""
    encoded = predictor.encode(photo)
    size = (photo.shape[0], photo.shape[1])
    proposals = encoded.encoded.resizable().resized(0, size[0], size).numpy() > 0

    def find(label: int, **pointed: tuple) -> Mask:
        found = predictor.point(encoded, photo, vocabulary, Pointed(label, **pointed))
        return found.label_map == label

    for label in range(len(vocabulary)):
        count, parts, stats, _ = cv2.connectedComponentsWithStats((label_map == label).astype(np.uint8))
        for number in range(1, count):
            truth = parts == number
            if truth.sum() < LEAST_PIXELS:
                continue
            left, top, width, height = stats[number, :4]
            there = _deepest(truth)
            first = find(label, positive=(_click(there, size),))
            wrong = first & ~truth
            away = (_click(_deepest(wrong), size),) if wrong.any() else ()
            second = find(label, positive=(_click(there, size),), negative=away)
            box, loose = (_box(left, top, width, height, size, wider) for wider in (0.0, LOOSE))
            holding = [mask for mask in proposals if mask[there]]
            best = max((iou(mask, truth) for mask in holding), default=0.0)
            yield (
                label,
                [
                    iou(first, truth),
                    iou(second, truth),
                    iou(find(label, boxes=(box,)), truth),
                    iou(find(label, boxes=(loose,)), truth),
                    iou(box.draw(*size), truth),
                    best,
                ],
            )


def _deepest(mask: Mask) -> tuple[int, int]:
    """Give the row and the column that is farthest from the edge."""
    padded = np.pad(mask.astype(np.uint8), 1)
    depth = cv2.distanceTransform(padded, cv2.DIST_L2, cv2.DIST_MASK_5)[1:-1, 1:-1]
    row, column = np.unravel_index(depth.argmax(), depth.shape)
    return int(row), int(column)


def _click(place: tuple[int, int], size: tuple[int, int]) -> Point:
    return Point((place[1] + 0.5) / size[1], (place[0] + 0.5) / size[0], 0.0, True)


def _box(left: int, top: int, width: int, height: int, size: tuple[int, int], wider: float) -> Box:
    """Make a box of pixels, wider by a share of its sides at each of them."""
    x, y = (
        np.clip([(start - wider * length) / side, (start + (1 + wider) * length) / side], 0, 1)
        for start, length, side in ((left, width, size[1]), (top, height, size[0]))
    )
    return Box(((x[0], y[0]), (x[1], y[0]), (x[1], y[1]), (x[0], y[1])), True)


def iou(one: Mask, other: Mask) -> float:
    return float((one & other).sum() / (one | other).sum())


if __name__ == "__main__":
    main()
