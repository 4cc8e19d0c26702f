"""Label maps from COCO files: JSON with masks or polygons (stuff, instances), and panoptic PNGs with a JSON.

They are COCO's own formats (https://cocodataset.org/#format-data), with the lists of images and categories
that make a file readable on its own. A label's index is the position of its category in that list.
"""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image

from ebseg.data import coco_masks
from ebseg.data.coco_file import Category, File, Mask, PanopticFile, Polygon, Rle, read_file, read_masks
from ebseg.data.folder import list_files
from ebseg.data.samples import LabelMap
from ebseg.errors import DataError, VocabularyError
from ebseg.file_names import inside, one_form
from ebseg.images import DEFAULT_MAX_PIXELS, OTHER_SUFFIXES, PHOTO_SUFFIXES
from ebseg.vocabulary import Vocabulary

_log = logging.getLogger(__name__)

_T = TypeVar("_T", int, int | None)

LabelMapReaders = dict[str, Callable[[], LabelMap]]
"""Readers of label maps, by the photo's path without its ending: ``street/one`` for street/one.jpg.

Paths are in Unicode's NFC form and lead into the photos' folder, whatever the file calls the photos.
"""


def load_stuff(path: Path, labels: int) -> LabelMapReaders:
    """Open a file of COCO's masks, stuff or instances; each label map is decoded when it is asked for.

    ``labels``: how many labels there must be. Where masks overlap, the later one wins; pixels in none are -1.

    A bare list of results, as COCO's evaluation and detectron2's ``sem_seg_predictions.json`` have it, will
    do where ``file_name``, or a text as ``image_id``, names the photos. Their folders are then left out, the
    categories' ids are taken for indices, and photos without any mask are missing.

    Photos whose size the file does not tell have that of their masks; those without masks are left out.

    Raises DataError for a file that is damaged or has other labels, or boxes without masks, and so do the
    readers for damaged masks; the message names file and entry.
    """
    file = read_masks(path)
    if isinstance(file, list):
        return _load_results(path, file, labels)
    indices = _indices(path, file.categories, labels)
    masks: dict[int | str, list[tuple[int, Mask]]] = {photo.id: [] for photo in file.images}
    for entry, mask in enumerate(file.annotations):
        if mask.image_id not in masks:
            raise DataError(f"{path}: annotation {entry} is of image {mask.image_id!r}, which is not listed")
        masks[mask.image_id].append((entry, mask))
    found = []
    left_out = []
    for photo in file.images:
        size = photo.size or _size_of_masks(path, photo.file_name, masks[photo.id])
        if size is None:
            left_out.append(photo.file_name)
        else:
            found.append((_key(path, photo.file_name), _stuff_reader(path, size, masks[photo.id], indices)))
    if left_out:
        _log.warning(
            "%s: %d photos have neither a size nor a mask and are left out, such as %s",
            path,
            len(left_out),
            left_out[0],
        )
    return _by_key(path, found)


def load_panoptic(path: Path, folder: Path, labels: int) -> LabelMapReaders:
    """Open a COCO panoptic file; each PNG is read when it is asked for.

    ``folder``: where the PNGs are. ``labels``: how many labels there must be. All segments of a category
    become one label; pixels of the id 0 are -1.

    Raises DataError for a file that is damaged or has other labels, and so do the readers for PNGs that are
    missing, damaged or have ids that the JSON does not list.
    """
    file = read_file(path, PanopticFile)
    indices = _indices(path, file.categories, labels)
    photos = {photo.id: photo for photo in file.images}
    pngs = {one_form(png): png for png in list_files(folder, {".png"})}
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
        name = one_form(str(_inside(path, segments.file_name)))
        read = _panoptic_reader(folder / pngs.get(name, name), photo.size, ids)
        found.append((_key(path, photo.file_name), read))
    return _by_key(path, found)


def read_categories(path: Path) -> Vocabulary:
    """Read the names of the labels of a COCO file, by index.

    Raises DataError for a file that is damaged or has no list of categories, and VocabularyError for names
    that cannot be told apart or are empty.
    """
    file = read_file(path, File)
    try:
        return Vocabulary([category.name for category in file.categories])
    except VocabularyError as error:
        raise VocabularyError(f"{path}: categories: {error}; rename or merge them there") from error


def _load_results(path: Path, results: list[Mask], labels: int) -> LabelMapReaders:
    masks: dict[str, list[tuple[int, Mask]]] = {}
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
        size = _size_of_masks(path, name, of_photo)
        if size is not None:
            key = _key(path, name).rpartition("/")[2]
            found.append((key, _stuff_reader(path, size, of_photo, indices)))
    return _by_key(path, found)


def _size_of_masks(path: Path, photo: str, masks: list[tuple[int, Mask]]) -> tuple[int, int] | None:
    """Give the height and width of the first mask that has them; None where there is no mask at all.

    Raises DataError where there are polygons only.
    """
    for _, mask in masks:
        if isinstance(mask.segmentation, Rle):
            return mask.segmentation.size
    if masks:
        raise DataError(
            f"{path}: no size is given for {photo}, which its polygons need: write its width and height there"
        )
    return None


def _stuff_reader(
    path: Path, size: tuple[int, int], masks: list[tuple[int, Mask]], indices: dict[int, int]
) -> Callable[[], LabelMap]:
    """Make the reader of a photo's masks, each with its place in the file."""
    _require_size(path, size)
    for entry, mask in masks:
        _require_mask(path, entry, mask)
        _index(path, entry, mask.category_id, indices)
    return lambda: paint_masks(path, size, masks, indices)


def paint_masks(
    path: Path, size: tuple[int, int], masks: Sequence[tuple[int, Mask]], indices: Mapping[int, int | None]
) -> LabelMap:
    """Paint a photo's masks, later ones over earlier ones; pixels in none are -1.

    ``size``: (H, W) of the photo; nothing else decides how much memory is taken. ``masks``: each with its
    place in the file. ``indices``: of each category's id, None for one that is left out. Raises DataError,
    which names file and entry, for a mask that is damaged, of another size or of an unknown category.
    """
    label_map = np.full(size, -1, np.int16)
    for entry, mask in masks:
        _require_mask(path, entry, mask)
        index = _index(path, entry, mask.category_id, indices)
        if index is not None:
            label_map[_pixels(path, entry, mask.segmentation, size)] = index
    return label_map


def _require_mask(path: Path, entry: int, mask: Mask) -> None:
    if mask.segmentation == []:
        raise DataError(
            f"{path}: annotation {entry} has no mask, and a box or points say nothing of single pixels; "
            "draw it as a mask or polygon, or leave it out, and export again"
        )


def _pixels(
    path: Path, entry: int, mask: Rle | list[Polygon], size: tuple[int, int]
) -> npt.NDArray[np.bool_]:
    """Decode a mask (H, W)."""
    if isinstance(mask, Rle) and mask.size != size:
        raise DataError(
            f"{path}: the mask of annotation {entry} has {mask.size[1]} x {mask.size[0]} pixels, "
            f"but its photo has {size[1]} x {size[0]}"
        )
    try:
        return coco_masks.decode(mask.counts, size) if isinstance(mask, Rle) else coco_masks.fill(mask, size)
    except ValueError as error:
        raise DataError(
            f"{path}: the mask of annotation {entry} is damaged ({error}); export it again"
        ) from error


def _panoptic_reader(
    png: Path, size: tuple[int, int] | None, labels: dict[int, int]
) -> Callable[[], LabelMap]:
    """Make the reader of a PNG; ``labels``: the index of each of its ids."""

    def read() -> LabelMap:
        try:
            with Image.open(png, formats=("PNG",)) as image:
                colours = np.asarray(image.convert("RGB")).astype(np.int32)
        except Exception as error:  # damaged files make Pillow raise almost anything, see ebseg.images
            raise DataError(f"{png}: cannot be read as a PNG ({error}); export it again") from error
        height, width = colours.shape[:2]
        if size is not None and size != (height, width):
            raise DataError(f"{png}: {width} x {height} pixels, but its photo has {size[1]} x {size[0]}")
        ids, places = np.unique(colours @ [1, 256, 65536], return_inverse=True)
        unknown = [id_ for id_ in ids.tolist() if id_ not in labels]
        if unknown:
            raise DataError(f"{png}: its JSON does not list the segment {unknown[0]}; export both again")
        return np.array([labels[id_] for id_ in ids.tolist()], np.int16)[places].reshape(height, width)

    return read


def _indices(path: Path, categories: list[Category], labels: int) -> dict[int, int]:
    """Give the index of each category's id."""
    indices = {category.id: index for index, category in enumerate(categories)}
    if not len(indices) == len(categories) == labels:
        raise DataError(
            f"{path}: {len(indices)} different categories, but there are {labels} labels; "
            "give the label list it was made with"
        )
    return indices


def _index(path: Path, entry: int, category_id: int, indices: Mapping[int, _T]) -> _T:
    try:
        return indices[category_id]
    except KeyError:
        raise DataError(
            f"{path}: annotation {entry} has the category {category_id}, which is none of the {len(indices)}"
        ) from None


def _key(path: Path, file_name: str) -> str:
    """Drop the ending of a photo's path, and folders that lie outside of the photos' own."""
    photo = _inside(path, file_name)
    pictures = PHOTO_SUFFIXES | OTHER_SUFFIXES
    return one_form(str(photo.with_suffix("") if photo.suffix.lower() in pictures else photo))


def _inside(path: Path, file_name: str) -> PurePosixPath:
    try:
        return inside(file_name)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error


def _require_size(path: Path, size: tuple[int, int]) -> None:
    height, width = size
    if height * width > DEFAULT_MAX_PIXELS:
        raise DataError(
            f"{path}: a photo of {width} x {height} pixels is larger than {DEFAULT_MAX_PIXELS / 1e6:.0f} "
            "megapixels; make it smaller"
        )


def _by_key(path: Path, readers: Iterable[tuple[str, Callable[[], LabelMap]]]) -> LabelMapReaders:
    found: LabelMapReaders = {}
    for key, read in readers:
        if key in found:
            raise DataError(f"{path}: two photos are called {key}; keep one of them")
        found[key] = read
    return found
