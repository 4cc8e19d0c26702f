"""Labelled photos in the layouts that trainers read.

A photo's name is that of a file, ``a.jpg``; its label map's, where a layout has a file for it, differs in the
ending. The photos themselves are put where ``Layout.photo`` says, by others.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path, PurePath
from typing import get_args

import numpy as np
from PIL import Image

from ebseg.data.coco_writers import CocoWriter, PolygonWriter, StuffWriter, polygons
from ebseg.data.open import Split
from ebseg.data.samples import LabelMap
from ebseg.errors import DataError
from ebseg.label_lists import write_file
from ebseg.render import indexed_png
from ebseg.segmentation import Segmentation
from ebseg.vocabulary import Vocabulary

SPLITS: tuple[Split, ...] = get_args(Split)


class LayoutName(StrEnum):
    """A layout by its name."""

    COCO = "coco"
    COCO_POLYGONS = "coco-polygons"
    YOLO = "yolo"
    PNG = "png"
    VOC = "voc"


class Layout(ABC):
    """A folder that is filled with labelled photos, one by one.

    ``folder``: an empty one. ``labels``: their names, by index. ``vocabulary``: what a model is asked for.
    """

    def __init__(self, folder: Path, labels: Sequence[str], vocabulary: Vocabulary) -> None:
        self.folder = folder
        self.labels = labels
        self.vocabulary = vocabulary

    def photo(self, name: str, split: Split) -> Path:
        """Give the path that a photo is to have."""
        return self.folder / "images" / split / name

    @abstractmethod
    def add(self, name: str, split: Split, label_map: LabelMap) -> None:
        """Write what a photo shows."""

    @abstractmethod
    def close(self) -> None:
        """Write what is known when all photos are there."""


class Coco(Layout):
    """COCO: a JSON file a split, with an annotation for each label of each photo, as COCO-Stuff has it."""

    writer: type[CocoWriter] = StuffWriter

    def __init__(self, folder: Path, labels: Sequence[str], vocabulary: Vocabulary) -> None:
        super().__init__(folder, labels, vocabulary)
        self._files = {
            split: self.writer(folder / "annotations" / f"{split}.json", labels) for split in SPLITS
        }

    def add(self, name: str, split: Split, label_map: LabelMap) -> None:
        """Keep a photo's masks."""
        self._files[split].add(name, label_map)

    def close(self) -> None:
        """Write the JSON files."""
        for file in self._files.values():
            file.close()


class CocoPolygons(Coco):
    """The same with polygons instead of run-length code."""

    writer = PolygonWriter


class Yolo(Layout):
    """Ultralytics' segmentation: a text a photo, and for each connected part of a label a line.

    A line is the label's index and the outline's corners, x and y as shares of the photo's size. What has no
    label is background there.
    """

    def add(self, name: str, split: Split, label_map: LabelMap) -> None:
        """Write a photo's text; it is empty where there is no label."""
        height, width = label_map.shape
        lines = []
        for index in np.unique(label_map[label_map >= 0]).tolist():
            for ring in polygons(label_map == index):
                shares = (ring / (width, height)).ravel().tolist()
                lines.append(" ".join([str(index), *(f"{share:.6g}" for share in shares)]))
        _write_lines(_label_file(self.folder / "labels" / split, name, ".txt"), lines)

    def close(self) -> None:
        """Write the description, whose paths are relative to it."""
        for split in SPLITS:  # both are wanted, also without photos
            (self.folder / "images" / split).mkdir(parents=True, exist_ok=True)
        names = [f"  {index}: {_quoted(label)}" for index, label in enumerate(self.labels)]
        _write_lines(
            self.folder / "data.yaml", [*(f"{split}: images/{split}" for split in SPLITS), "names:", *names]
        )


class Png(Layout):
    """Label maps of indices and a ``data.toml`` that ``ebseg.data.open.open_data`` takes."""

    def add(self, name: str, split: Split, label_map: LabelMap) -> None:
        """Write a label map; pixels without a label have the largest value."""
        path = _label_file(self.folder / "labels" / split, name, ".png")
        scores = np.broadcast_to(np.float32(1), label_map.shape)
        indexed_png(Segmentation(label_map, scores, self.vocabulary.names), path)

    def close(self) -> None:
        """Write the list of labels, with their synonyms, and the description."""
        write_file(self.folder / "labels.json", self.vocabulary)
        parts = [
            f'[{split}]\nphotos = "images/{split}"\nlabel_maps = "labels/{split}"\n'
            for split in SPLITS
            if (self.folder / "labels" / split).is_dir()  # a part without photos is no part to open_data
        ]
        (self.folder / "data.toml").write_text("".join(['labels = "labels.json"\n', *parts]))


class Voc(Layout):
    """Pascal VOC: palette PNGs in ``SegmentationClass``, whose value 0 is background and 255 is void.

    A pixel without a label is void: nobody has said that it is background. A label that is called background
    has the value 0, the others count from 1; the line of a name in ``classes.txt``, from 0, is its value.
    Raises DataError for more labels than there are values.
    """

    def __init__(self, folder: Path, labels: Sequence[str], vocabulary: Vocabulary) -> None:
        super().__init__(folder, labels, vocabulary)
        others = [label for label in labels if label.casefold() != _BACKGROUND]
        if len(others) >= _VOID:
            raise DataError(
                f"voc has room for {_VOID - 1} labels, but there are {len(others)}: use png or coco"
            )
        self._classes = [_BACKGROUND, *others]
        place = {name: value for value, name in enumerate(self._classes)}
        values = [place.get(label, 0) for label in labels]
        self._values = np.array([*values, _VOID], np.uint8)  # the last one is that of -1, no label
        self._names: dict[Split, list[str]] = {split: [] for split in SPLITS}

    def photo(self, name: str, split: Split) -> Path:
        """Give the path that a photo is to have, whatever its format."""
        return self.folder / "JPEGImages" / name

    def add(self, name: str, split: Split, label_map: LabelMap) -> None:
        """Write a label map."""
        image = Image.fromarray(self._values[label_map])
        image.putpalette(_voc_palette())
        image.save(_label_file(self.folder / "SegmentationClass", name, ".png"))
        self._names[split].append(PurePath(name).stem)

    def close(self) -> None:
        """Write the lists of photos and of classes."""
        sets = self.folder / "ImageSets" / "Segmentation"
        sets.mkdir(parents=True)
        for split, names in self._names.items():
            _write_lines(sets / f"{split}.txt", sorted(names))
        _write_lines(self.folder / "classes.txt", self._classes)


LAYOUTS: dict[LayoutName, type[Layout]] = {
    LayoutName.COCO: Coco,
    LayoutName.COCO_POLYGONS: CocoPolygons,
    LayoutName.YOLO: Yolo,
    LayoutName.PNG: Png,
    LayoutName.VOC: Voc,
}

_BACKGROUND, _VOID = "background", 255


def _voc_palette() -> bytes:
    """Make VOC's colours: a value's bits, three by three, are the high bits of red, green and blue."""
    values = np.arange(256)
    channels = [
        sum(((values >> (3 * bit + channel)) & 1) << (7 - bit) for bit in range(8)) for channel in range(3)
    ]
    return np.stack(channels, axis=-1).astype(np.uint8).tobytes()


def _label_file(folder: Path, photo: str, ending: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{PurePath(photo).stem}{ending}"


def _write_lines(path: Path, lines: Sequence[str]) -> None:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def _quoted(text: str) -> str:
    """Write a text as YAML does, whatever is in it."""
    letters = (
        letter if letter.isprintable() and letter not in '"\\' else f"\\U{ord(letter):08x}" for letter in text
    )
    return f'"{"".join(letters)}"'
