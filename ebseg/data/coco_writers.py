"""Label maps written as COCO files: stuff JSON with a mask a label, and panoptic PNGs with a JSON.

Category ids are label indices + 1, because 0 is "nothing" in panoptic PNGs. ``ebseg.data.coco`` reads them.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from pycocotools import mask as coco_mask

from ebseg.ask import Mask
from ebseg.data.samples import LabelMap
from ebseg.files import whole, write_whole_json
from ebseg.outlines import outline
from ebseg.parts import connected


def stuff_annotations(
    label_map: LabelMap, image_id: int | str, category_ids: Sequence[int]
) -> list[dict[str, Any]]:
    """Give COCO's result for each label of a label map: image, category, mask as compressed RLE.

    ``category_ids``: the labels' ids, by index. Pixels without a label are in no mask.
    """
    results = []
    for index in np.unique(label_map[label_map >= 0]).tolist():
        rle = coco_mask.encode(np.asfortranarray(label_map == index, dtype=np.uint8))
        segmentation = {"size": rle["size"], "counts": rle["counts"].decode()}
        results.append(
            {"image_id": image_id, "category_id": category_ids[index], "segmentation": segmentation}
        )
    return results


def polygons(mask: Mask) -> list[npt.NDArray[np.int64]]:
    """Outline the connected parts of a mask (H, W) bool, the largest first, each (corners, 2): x and y.

    Corners are those of pixels, so that nothing is lost. A polygon has no holes in these formats: a hole is
    cut out by a bridge without width, by which the outline goes to the hole, around it and back, and which
    fillings by the even-odd or the nonzero rule leave out.
    """
    parts = connected(mask, least=1, most=mask.size)
    return [np.rint(outline(part.mask, 0) + (part.left, part.top)).astype(np.int64) for part in parts]


class CocoWriter(ABC):
    """Writes the label maps of many photos as one COCO data set.

    ``path``: the JSON file, written by ``close``. ``labels``: the names, by index.
    """

    def __init__(self, path: Path, labels: Sequence[str]) -> None:
        self.path = path
        self._category_ids = range(1, len(labels) + 1)
        self._labels = labels
        self._images: list[dict[str, Any]] = []
        self._annotations: list[dict[str, Any]] = []

    def add(self, file_name: str, label_map: LabelMap) -> None:
        """Take a photo's label map; ``file_name`` is the photo's path below its folder."""
        height, width = label_map.shape
        image_id = len(self._images) + 1
        self._annotate(file_name, label_map, stuff_annotations(label_map, image_id, self._category_ids))
        self._images.append({"id": image_id, "file_name": file_name, "width": width, "height": height})

    def close(self) -> None:
        """Write the JSON file."""
        categories = [
            {"id": id_, "name": name, "supercategory": "label", "isthing": 0}
            for id_, name in zip(self._category_ids, self._labels, strict=True)
        ]
        content = {"images": self._images, "categories": categories, "annotations": self._annotations}
        write_whole_json(self.path, content, indent=None)

    @abstractmethod
    def _annotate(self, file_name: str, label_map: LabelMap, masks: list[dict[str, Any]]) -> None:
        """Keep what the file says about a photo, of which ``masks`` are the results."""


class StuffWriter(CocoWriter):
    """Writes COCO stuff: one JSON file with an annotation for each label of each photo."""

    def _annotate(self, file_name: str, label_map: LabelMap, masks: list[dict[str, Any]]) -> None:
        for number, mask in enumerate(masks, start=len(self._annotations) + 1):
            self._annotations.append({"id": number, **mask, **_extent(mask)})


class PolygonWriter(CocoWriter):
    """Writes COCO with polygons: one JSON file with an annotation for each label of each photo.

    Each connected part is a polygon, see ``polygons``.
    """

    def _annotate(self, file_name: str, label_map: LabelMap, masks: list[dict[str, Any]]) -> None:
        for number, mask in enumerate(masks, start=len(self._annotations) + 1):
            index = self._category_ids.index(mask["category_id"])
            rings = [ring.ravel().tolist() for ring in polygons(label_map == index)]
            self._annotations.append({"id": number, **mask, **_extent(mask), "segmentation": rings})


class PanopticWriter(CocoWriter):
    """Writes COCO panoptic PNGs, one segment a label, and their JSON.

    The PNGs are written at once, into ``folder``: the JSON's path without its ending. A pixel,
    R + 256 G + 65536 B, is its category's id, 0 where it has no label.
    """

    @property
    def folder(self) -> Path:
        """Where the PNGs are."""
        return self.path.with_suffix("")

    def _annotate(self, file_name: str, label_map: LabelMap, masks: list[dict[str, Any]]) -> None:
        png = str(PurePosixPath(file_name).with_suffix(".png"))
        ids = label_map.astype(np.int32) + 1
        colours = np.stack([ids & 255, ids >> 8, np.zeros_like(ids)], axis=-1).astype(np.uint8)
        _save(Image.fromarray(colours), self.folder / png)
        segments = [
            {"id": mask["category_id"], "category_id": mask["category_id"], **_extent(mask)} for mask in masks
        ]
        image_id = len(self._images) + 1
        self._annotations.append({"image_id": image_id, "file_name": png, "segments_info": segments})


def _extent(mask: dict[str, Any]) -> dict[str, Any]:
    """Give what an annotation says of its mask's extent; COCO's results must not have it."""
    rle = mask["segmentation"]
    box = coco_mask.toBbox(rle).tolist()  # left, top, width, height
    return {"area": int(coco_mask.area(rle)), "bbox": box, "iscrowd": 0}


def _save(image: Image.Image, path: Path) -> None:
    """Write a PNG whole or not at all."""
    with whole(path) as unfinished:
        image.save(unfinished, format="PNG")
