"""From the benchmarks' raw annotations to label maps.

Each raw format is read as the ids that its makers gave, (H, W) int32; one table a benchmark turns these into
indices of its class list.
"""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from ebseg.data.catalogue import class_facts
from ebseg.data.coco_masks import decode
from ebseg.errors import DataError

Ids = npt.NDArray[np.int32]
StoredLabelMap = npt.NDArray[np.unsignedinteger]

SHORTER_SIDE = 512
"""Pixels of the shorter side that ADE20K-847's photos are made smaller to."""

_BAD = -1  # in a table: an id that means nothing
_MAX_ID = 65535
_REST_IS_UNLABELLED = ("coco-stuff-171", "ade20k-847")
"""Benchmarks that have only some of their annotations' classes."""

_UNLABELLED = {"voc-20": (0, 255)}  # 255: the border around objects


@dataclass(frozen=True)
class Mask:
    """A class's pixels in a photo: its id and COCO's run-length code."""

    category: int
    counts: str


@dataclass(frozen=True)
class DetailPhoto:
    """A photo of PASCAL in Detail: its file name, size in pixels and masks; later ones lie on top."""

    file_name: str
    width: int
    height: int
    masks: tuple[Mask, ...]

    def ids(self) -> Ids:
        """Draw the masks; 0 where there is none. Raises ValueError for a damaged one."""
        ids = np.zeros((self.height, self.width), np.int32)
        for mask in self.masks:
            ids[decode(mask.counts, ids.shape)] = mask.category
        return ids


def read_detail(path: Path, split: str) -> list[DetailPhoto]:
    """Read a split's photos from ``trainval_merged.json``, in its order.

    Raises DataError, which names the file, for one that is not such a file.
    """
    try:
        content = json.loads(path.read_bytes())
        photos = {row["image_id"]: row for row in content["images"] if row["phase"] == split}
        masks: dict[int, list[Mask]] = {number: [] for number in photos}
        for row in content["annos_segmentation"]:
            if row["image_id"] in photos:
                masks[row["image_id"]].append(_mask(row, photos[row["image_id"]]))
        return [
            DetailPhoto(str(row["file_name"]), int(row["width"]), int(row["height"]), tuple(masks[number]))
            for number, row in photos.items()
        ]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path}: cannot be read as PASCAL in Detail's annotations ({error!r}); get the file again"
        ) from error


def _mask(row: dict[str, Any], photo: dict[str, Any]) -> Mask:
    code = row["segmentation"]
    if code["size"] != [photo["height"], photo["width"]]:
        raise ValueError(f"a mask of {photo['file_name']} has another size than the photo")
    return Mask(int(row["category_id"]), code["counts"])


def read_coco(path: Path) -> Ids:
    """Read a pixel map of COCO-Stuff, whose values are the ids less one."""
    return _grey(path) + 1


def read_grey(path: Path) -> Ids:
    """Read a grey or palette PNG whose values are the ids."""
    return _grey(path)


def read_mat(path: Path) -> Ids:
    """Read a .mat file of PASCAL-Context's 459 classes; whole numbers may be stored as floats."""
    from scipy.io import loadmat  # slow to import, and only one benchmark needs it

    with path.open("rb") as stream:  # else SciPy has words of its own for a missing file
        values = loadmat(stream, variable_names=["LabelMap"])["LabelMap"]
    kind = values.dtype.kind
    whole = kind in "iu" or (kind == "f" and np.array_equal(values, np.trunc(values).clip(0, _MAX_ID)))
    if values.ndim != 2 or not whole:
        raise ValueError(f"its LabelMap is no table of whole numbers but {values.dtype} {values.shape}")
    ids: Ids = values.astype(np.int32)
    return ids


def read_colours(path: Path) -> Ids:
    """Read a ``_seg.png`` of the full ADE20K, whose red and green hold the ids."""
    with Image.open(path, formats=("PNG",)) as image:
        if image.mode != "RGB":
            raise ValueError(f"a picture of the kind {image.mode}, not RGB")
        values = np.asarray(image).astype(np.int32)
    ids: Ids = values[..., 0] // 10 * 256 + values[..., 1]
    return ids


def _grey(path: Path) -> Ids:
    with Image.open(path, formats=("PNG",)) as image:
        if image.mode not in ("L", "P"):
            raise ValueError(f"a picture of the kind {image.mode}, not grey or palette with 8 bits")
        return np.asarray(image).astype(np.int32)


def to_label_map(name: str, ids: Ids) -> StoredLabelMap:
    """Turn raw ids into indices of a benchmark's classes and its ignore value, uint8 or uint16.

    Raises ValueError for ids that are neither a class nor unlabelled.
    """
    table = _table(name)
    if ids.size == 0 or ids.min() < 0 or ids.max() > _MAX_ID:
        raise ValueError("it has no pixels or values out of range")
    indices = table[ids]
    if indices.min() == _BAD:
        bad = ", ".join(map(str, np.unique(ids[indices == _BAD])[:5]))
        raise ValueError(f"value {bad} is none of {name}'s classes")
    wide = class_facts(name).ignore > np.iinfo(np.uint8).max
    label_map: StoredLabelMap = indices.astype(np.uint16 if wide else np.uint8)
    return label_map


@cache
def _table(name: str) -> Ids:
    facts = class_facts(name)
    table = np.full(_MAX_ID + 1, facts.ignore if name in _REST_IS_UNLABELLED else _BAD, np.int32)
    table[list(_UNLABELLED.get(name, (0,)))] = facts.ignore
    table[list(facts.raw_ids)] = np.arange(len(facts.raw_ids))
    return table


def read_photo(path: Path) -> npt.NDArray[np.uint8]:
    """Read a photo as it is stored, (H, W, 3) or, where it is grey, (H, W)."""
    with Image.open(path, formats=("JPEG",)) as image:
        return np.asarray(image if image.mode in ("L", "RGB") else image.convert("RGB"))


def shrink(
    photo: npt.NDArray[np.uint8], label_map: StoredLabelMap
) -> tuple[npt.NDArray[np.uint8], StoredLabelMap]:
    """Make a photo and its label map smaller, to a shorter side of ``SHORTER_SIDE``, where that is longer.

    Sizes are rounded as Python does, halves to even.
    """
    import cv2  # slow to import, and only one benchmark needs it

    height, width = photo.shape[:2]
    if min(height, width) <= SHORTER_SIDE:
        return photo, label_map
    if width >= height:
        size = round(width / height * SHORTER_SIDE), SHORTER_SIDE
    else:
        size = SHORTER_SIDE, round(height / width * SHORTER_SIDE)
    smaller = np.asarray(cv2.resize(photo, size, interpolation=cv2.INTER_LINEAR), np.uint8)
    indices = np.asarray(cv2.resize(label_map, size, interpolation=cv2.INTER_NEAREST), label_map.dtype)
    return smaller, indices
