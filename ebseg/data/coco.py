"""Label maps as COCO files: stuff JSON with a run-length coded mask a label, and panoptic PNGs with a JSON.

Both are COCO's own formats (https://cocodataset.org/#format-data), with the lists of images and categories
that make a file readable on its own. A label's index is the position of its category in that list. Files
written here have index + 1 as the category's id, because 0 is "nothing" in panoptic PNGs.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, TypeVar

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask
from pydantic import BaseModel, Field, PositiveInt, TypeAdapter, ValidationError

from ebseg.data import coco_rle
from ebseg.data.folder import PHOTO_SUFFIXES
from ebseg.data.samples import LabelMap
from ebseg.errors import DataError, VocabularyError
from ebseg.files import whole, write_whole_json
from ebseg.images import DEFAULT_MAX_PIXELS
from ebseg.vocabulary import Vocabulary

"""(H, W) int16: label indices, -1 where there is no label."""

LabelMapReaders = dict[str, Callable[[], LabelMap]]
"""Readers of label maps, by the photo's path without its ending: ``street/one`` for street/one.jpg."""

_T = TypeVar("_T")


class _Photo(BaseModel):
    id: int | str
    file_name: str
    width: PositiveInt
    height: PositiveInt


class _Category(BaseModel):
    id: int
    name: str


class _Rle(BaseModel):
    size: tuple[PositiveInt, PositiveInt]  # height, width
    counts: str | list[Annotated[int, Field(ge=0, le=DEFAULT_MAX_PIXELS)]]


class _Mask(BaseModel):
    category_id: int
    segmentation: _Rle
    image_id: int | str | None = None
    file_name: str | None = None  # detectron2 writes it in place of image_id


class _Segment(BaseModel):
    id: int
    category_id: int


class _Segments(BaseModel):
    image_id: int | str
    file_name: str  # of the PNG
    segments_info: list[_Segment]


class _File(BaseModel):
    categories: list[_Category]


class _StuffFile(_File):
    images: list[_Photo]
    annotations: list[_Mask]


class _PanopticFile(_File):
    images: list[_Photo]
    annotations: list[_Segments]


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


def load_stuff(path: Path, labels: int) -> LabelMapReaders:
    """Open a COCO stuff file; each label map is decoded when it is asked for.

    ``labels``: how many labels there must be. Where masks overlap, the later one wins; pixels in none are -1.

    A bare list of results, as COCO's evaluation and detectron2's ``sem_seg_predictions.json`` have it, will
    do where ``file_name``, or a text as ``image_id``, names the photos. Their folders are then left out, the
    categories' ids are taken for indices, and photos without any mask are missing.

    Raises DataError for a file that is damaged or has other labels, and so do the readers for damaged masks;
    the message names file and entry.
    """
    content = _read_bytes(path)
    if content.lstrip().startswith(b"["):
        return _load_results(path, _parse(path, content, list[_Mask]), labels)
    file = _parse(path, content, _StuffFile)
    indices = _indices(path, file.categories, labels)
    masks: dict[int | str, list[tuple[int, _Mask]]] = {photo.id: [] for photo in file.images}
    for entry, mask in enumerate(file.annotations):
        if mask.image_id not in masks:
            raise DataError(f"{path}: annotation {entry} is of image {mask.image_id!r}, which is not listed")
        masks[mask.image_id].append((entry, mask))
    found = []
    for photo in file.images:
        read = _stuff_reader(path, (photo.height, photo.width), masks[photo.id], indices)
        found.append((_key(photo.file_name), read))
    return _by_key(path, found)


def load_panoptic(path: Path, folder: Path, labels: int) -> LabelMapReaders:
    """Open a COCO panoptic file; each PNG is read when it is asked for.

    ``folder``: where the PNGs are. ``labels``: how many labels there must be. All segments of a category
    become one label; pixels of the id 0 are -1.

    Raises DataError for a file that is damaged or has other labels, and so do the readers for PNGs that are
    missing, damaged or have ids that the JSON does not list.
    """
    file = _parse(path, _read_bytes(path), _PanopticFile)
    indices = _indices(path, file.categories, labels)
    photos = {photo.id: photo for photo in file.images}
    found = []
    for entry, segments in enumerate(file.annotations):
        photo = photos.get(segments.image_id)
        if photo is None:
            raise DataError(
                f"{path}: annotation {entry} is of image {segments.image_id!r}, which is not listed"
            )
        ids = {0: -1}
        for segment in segments.segments_info:
            ids[segment.id] = _index(path, entry, segment.category_id, indices)
        size = (photo.height, photo.width)
        found.append((_key(photo.file_name), _panoptic_reader(folder / segments.file_name, size, ids)))
    return _by_key(path, found)


def read_categories(path: Path) -> Vocabulary:
    """Read the names of the labels of a COCO file, by index.

    Raises DataError for a file that is damaged or has no list of categories, and VocabularyError for names
    that cannot be told apart or are empty.
    """
    file = _parse(path, _read_bytes(path), _File)
    try:
        return Vocabulary([category.name for category in file.categories])
    except VocabularyError as error:
        raise VocabularyError(f"{path}: categories: {error}; rename or merge them there") from error


def _load_results(path: Path, results: list[_Mask], labels: int) -> LabelMapReaders:
    masks: dict[str, list[tuple[int, _Mask]]] = {}
    for entry, mask in enumerate(results):
        name = mask.file_name or mask.image_id
        if not isinstance(name, str):
            raise DataError(
                f"{path}: entry {entry} is of image {name!r}, which names no photo; "
                'give a file with "images", "categories" and "annotations"'
            )
        masks.setdefault(name, []).append((entry, mask))
    indices = {index: index for index in range(labels)}
    found = []
    for name, of_photo in masks.items():
        read = _stuff_reader(path, of_photo[0][1].segmentation.size, of_photo, indices)
        found.append((PurePosixPath(_key(name)).name, read))
    return _by_key(path, found)


def _stuff_reader(
    path: Path, size: tuple[int, int], masks: list[tuple[int, _Mask]], indices: dict[int, int]
) -> Callable[[], LabelMap]:
    """Make the reader of a photo's masks, each with its place in the file."""
    chosen = [
        (entry, mask.segmentation, _index(path, entry, mask.category_id, indices)) for entry, mask in masks
    ]

    def read() -> LabelMap:
        label_map = np.full(size, -1, np.int16)
        for entry, rle, index in chosen:
            if rle.size != size:
                raise DataError(
                    f"{path}: the mask of annotation {entry} has {rle.size[1]} x {rle.size[0]} pixels, "
                    f"but its photo has {size[1]} x {size[0]}"
                )
            try:
                label_map[coco_rle.decode(rle.counts, rle.size)] = index
            except ValueError as error:
                raise DataError(
                    f"{path}: the mask of annotation {entry} is damaged ({error}); export it again"
                ) from error
        return label_map

    return read


def _panoptic_reader(png: Path, size: tuple[int, int], labels: dict[int, int]) -> Callable[[], LabelMap]:
    """Make the reader of a PNG; ``labels``: the index of each of its ids."""

    def read() -> LabelMap:
        try:
            with Image.open(png, formats=("PNG",)) as image:
                colours = np.asarray(image.convert("RGB")).astype(np.int32)
        except Exception as error:  # damaged files make Pillow raise almost anything, see ebseg.images
            raise DataError(f"{png}: cannot be read as a PNG ({error}); export it again") from error
        if colours.shape[:2] != size:
            height, width = colours.shape[:2]
            raise DataError(f"{png}: {width} x {height} pixels, but its photo has {size[1]} x {size[0]}")
        ids, places = np.unique(colours @ [1, 256, 65536], return_inverse=True)
        unknown = [id_ for id_ in ids.tolist() if id_ not in labels]
        if unknown:
            raise DataError(f"{png}: its JSON does not list the segment {unknown[0]}; export both again")
        return np.array([labels[id_] for id_ in ids.tolist()], np.int16)[places].reshape(size)

    return read


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check the path") from error


def _parse(path: Path, content: bytes, kind: type[_T]) -> _T:
    try:
        return TypeAdapter(kind).validate_json(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        if mistaken := _other_kind(kind, first["input"]):
            raise DataError(f"{path}: {mistaken}") from error
        place = ".".join(map(str, first["loc"]))
        raise DataError(
            f"{path}: {place + ': ' if place else ''}{first['msg']}; export it again as COCO JSON"
        ) from error


def _other_kind(kind: type, entry: object) -> str | None:
    """Tell, by the entry that does not fit, how to read a file of COCO's other kind."""
    if not isinstance(entry, dict):
        return None
    if kind is _StuffFile and "segments_info" in entry:
        return "this is a panoptic file: give --panoptic DIR, the folder of its PNGs, to ebseg import-coco"
    if kind is _PanopticFile and "segmentation" in entry and "segments_info" not in entry:
        return "this is no panoptic file, it holds masks: leave --panoptic out"
    return None


def _indices(path: Path, categories: list[_Category], labels: int) -> dict[int, int]:
    """Give the index of each category's id."""
    indices = {category.id: index for index, category in enumerate(categories)}
    if not len(indices) == len(categories) == labels:
        raise DataError(
            f"{path}: {len(indices)} different categories, but there are {labels} labels; "
            "give the label list it was made with"
        )
    return indices


def _index(path: Path, entry: int, category_id: int, indices: dict[int, int]) -> int:
    try:
        return indices[category_id]
    except KeyError:
        raise DataError(
            f"{path}: annotation {entry} has the category {category_id}, which is none of the {len(indices)}"
        ) from None


def _key(file_name: str) -> str:
    """Drop the ending of a photo's path, and folders that lie outside of the photos' own."""
    path = PurePosixPath(file_name)
    if path.suffix.lower() in PHOTO_SUFFIXES:
        path = path.with_suffix("")
    return path.name if path.is_absolute() or ".." in path.parts else str(path)


def _by_key(path: Path, readers: Iterable[tuple[str, Callable[[], LabelMap]]]) -> LabelMapReaders:
    found: LabelMapReaders = {}
    for key, read in readers:
        if key in found:
            raise DataError(f"{path}: two photos are called {key}; keep one of them")
        found[key] = read
    return found


def _extent(mask: dict[str, Any]) -> dict[str, Any]:
    """Give what an annotation says of its mask's extent; COCO's results must not have it."""
    rle = mask["segmentation"]
    box = coco_mask.toBbox(rle).tolist()  # left, top, width, height
    return {"area": int(coco_mask.area(rle)), "bbox": box, "iscrowd": 0}


def _save(image: Image.Image, path: Path) -> None:
    """Write a PNG whole or not at all."""
    with whole(path) as unfinished:
        image.save(unfinished, format="PNG")
