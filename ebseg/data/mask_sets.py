"""Masks of other systems, each read when its photo is known: COCO's JSON, folders of label maps.

How large a mask is says the photo, never the file: memory is taken for no other size.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from enum import StrEnum
from hashlib import sha256
from pathlib import Path

from ebseg.data.coco import paint_masks
from ebseg.data.coco_file import Mask, Photo, read_masks
from ebseg.data.folder import LABEL_SUFFIXES, list_files, read_values, to_indices
from ebseg.data.samples import LabelMap
from ebseg.errors import DataError
from ebseg.label_lists import read_file


class SourceName(StrEnum):
    """A kind of masks by its name."""

    COCO = "coco"
    PNG = "png"


class MaskSet(ABC):
    """Masks of photos.

    ``labels``: the names of each label, by its place. ``photos``: what the photos are called. ``digest``:
    names the content.
    """

    labels: tuple[tuple[str, ...], ...]
    photos: tuple[str, ...]
    digest: str

    @abstractmethod
    def read(self, photo: int, size: tuple[int, int], indices: Sequence[int | None]) -> LabelMap:
        """Read the label map of a photo, by its place.

        ``size``: (H, W) of the photo. ``indices``: what each label becomes, None for one that is left out.
        Raises DataError, which names the file, for masks that are damaged or of another size.
        """


def open_masks(path: Path, source: SourceName) -> list[MaskSet]:
    """Open a COCO file, a folder with COCO files in ``annotations``, or a folder of label maps.

    Raises DataError for what is none, VocabularyError for a faulty list of labels.
    """
    if source is SourceName.PNG:
        return [LabelMapFolder(path)]
    if not path.is_dir():
        return [CocoFile(path)]
    files = sorted((path / "annotations").glob("*.json"))
    if not files:
        raise DataError(f"{path} has no annotations/*.json: give a COCO file, or a folder as it is exported")
    return [CocoFile(file) for file in files]


class CocoFile(MaskSet):
    """A COCO file of masks or polygons; photos without any are left out."""

    def __init__(self, path: Path) -> None:
        file = read_masks(path)
        if isinstance(file, list):
            raise DataError(
                f'{path}: a bare list of results does not name its labels; give a file with "images", '
                '"categories" and "annotations"'
            )
        masks: dict[int | str, list[tuple[int, Mask]]] = {photo.id: [] for photo in file.images}
        if len(masks) < len(file.images):
            raise DataError(f"{path}: two images have the same id; export it again")
        for entry, mask in enumerate(file.annotations):
            if mask.image_id not in masks:
                raise DataError(
                    f"{path}: annotation {entry} is of image {mask.image_id!r}, which is not listed"
                )
            masks[mask.image_id].append((entry, mask))
        self._path = path
        self._ids = [category.id for category in file.categories]
        if len(set(self._ids)) < len(self._ids):
            raise DataError(f"{path}: two categories have the same id; export it again")
        self._photos: list[tuple[Photo, list[tuple[int, Mask]]]] = [
            (photo, masks[photo.id]) for photo in file.images if masks[photo.id]
        ]
        self.labels = tuple((category.name,) for category in file.categories)
        self.photos = tuple(photo.file_name for photo, _ in self._photos)
        self.digest = sha256(path.read_bytes()).hexdigest()

    def read(self, photo: int, size: tuple[int, int], indices: Sequence[int | None]) -> LabelMap:
        """Paint a photo's masks, later ones over earlier ones; those of labels that are left out are not."""
        listed, masks = self._photos[photo]
        if listed.size not in (None, size):
            raise DataError(
                f"{self._path}: {listed.file_name} is listed with {listed.width} x {listed.height} pixels, "
                f"but the photo has {size[1]} x {size[0]}; make its masks again from this photo"
            )
        return paint_masks(self._path, size, masks, dict(zip(self._ids, indices, strict=True)))


class LabelMapFolder(MaskSet):
    """Label maps below a folder, named as their photos are, with ``labels.json`` or ``labels.txt``.

    What is in ``images`` are the photos.
    """

    def __init__(self, folder: Path) -> None:
        lists = [folder / name for name in ("labels.json", "labels.txt")]
        found = next((path for path in lists if path.is_file()), None)
        if found is None:
            raise DataError(f"{folder} has no labels.json or labels.txt, which says what its values mean")
        self.labels = read_file(found).prompts
        self.photos = tuple(sorted(list_files(folder, LABEL_SUFFIXES, without=folder / "images")))
        self._folder = folder
        content = sha256(found.read_bytes())
        for photo in self.photos:
            content.update(f"\n{photo}\n".encode(errors="replace"))
            content.update(sha256((folder / photo).read_bytes()).digest())
        self.digest = content.hexdigest()

    def read(self, photo: int, size: tuple[int, int], indices: Sequence[int | None]) -> LabelMap:
        """Read a label map: values are places of labels, the largest one is none."""
        path = self._folder / self.photos[photo]
        places = [-1 if index is None else index for index in indices]
        return to_indices(read_values(path, Path(self.photos[photo]), size), path, places)
