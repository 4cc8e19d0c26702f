"""Labelled photos in two folders: photos, and label maps of the same names."""

import hashlib
import json
import os
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image
from PIL.ImageFile import ImageFile

from ebseg.data.samples import LabelMap, Sample
from ebseg.errors import DataError, ImageError
from ebseg.file_names import one_form
from ebseg.images import OTHER_SUFFIXES, PHOTO_SUFFIXES, passed_over, read_image
from ebseg.vocabulary import Vocabulary

LABEL_SUFFIXES = frozenset({".png", ".tif", ".tiff"})
CONVERTED = "_labelTrainIds"
"""End of the names that COCO-Stuff's scripts give to converted label maps."""

_BAD = -2  # in a lookup table: a value that means nothing
_VALUES_SHOWN = 5
# Pillow stretches grey samples of fewer than 8 bits to 0..255; label maps need the samples themselves.
_STRETCHED = {"L;2": 85, "L;4": 17}


class FolderSource:
    """Photos and label maps whose paths below two folders agree but for their ends.

    ``photos``: what ``ebseg.images`` reads. ``labels``: PNG or TIFF with 8 or 16 bits, whose values are
    indices into ``vocabulary``; a palette is not looked at. The largest value (255 or 65535) is ignored, and
    so are those of ``ignored``, also where the vocabulary has a label of that index. Subfolders are searched;
    hidden files are not. Where names end in ``_labelTrainIds``, other label maps are not looked at: they are
    raw ones that lie beside. ``name`` is the photos' folder unless given.

    Photos are in the order of their names. Those without a label map are left out, see ``without_labels``.

    Raises DataError where a folder is missing, two files claim the same name, or no photo has a label map.
    """

    def __init__(
        self,
        photos: Path,
        labels: Path,
        vocabulary: Vocabulary,
        *,
        ignored: Collection[int] = (),
        name: str | None = None,
    ) -> None:
        self.photos = photos
        self.labels = labels
        self.ignored = tuple(sorted(set(ignored)))
        self._name = name or str(photos)
        self._vocabulary = vocabulary
        found = _by_stem(photos, list_files(photos, PHOTO_SUFFIXES, without=labels))
        label_maps = _label_maps(labels, photos)
        self._pairs = tuple((file, label_maps[stem]) for stem, file in found.items() if stem in label_maps)
        self.without_labels = tuple(file for stem, file in found.items() if stem not in label_maps)
        """Photos left out, as paths below ``photos``."""
        self.unreadable = tuple(sorted(list_files(photos, OTHER_SUFFIXES, without=labels)))
        """Pictures of kinds that cannot be read, as paths below ``photos``."""
        if not self._pairs:
            raise DataError(
                f"no photo of {photos} ({len(found)} photos) has a label map in {labels} "
                f"({len(label_maps)} label maps): a photo a/b.jpg needs a label map a/b.png or a/b.tif"
                + (f". {passed_over(photos, self.unreadable)}" if self.unreadable else "")
            )

    @property
    def name(self) -> str:
        """What people know it by."""
        return self._name

    @property
    def vocabulary(self) -> Vocabulary:
        """What the label maps' numbers mean."""
        return self._vocabulary

    @property
    def names(self) -> tuple[str, ...]:
        """Paths of the photos below ``photos``."""
        return tuple(photo for photo, _ in self._pairs)

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, index: int) -> Sample:
        """Read one; its name is the photo's path.

        Raises DataError, which names the file, for one that is missing or damaged, for sizes that differ and
        for values that are neither a label nor ignored.
        """
        photo, labels = self._paths(index)
        try:
            image = read_image(photo)
        except ImageError as error:
            raise DataError(str(error)) from error
        values = read_values(labels, photo, (image.shape[0], image.shape[1]))
        label_map = to_indices(values, labels, range(len(self._vocabulary)), self.ignored)
        return Sample(str(photo), image, label_map)

    def fingerprint(self) -> str:
        """Name the content: a hash of all pairs' names and lengths in bytes, the labels and ``ignored``.

        Files are not read, so that 118,000 pairs take seconds: a file that is changed and keeps its length
        goes unnoticed. The folders' own place does not count. Raises DataError for a file that has gone.
        """
        content = hashlib.sha256(json.dumps([self._vocabulary.to_json(), self.ignored]).encode())
        for index, pair in enumerate(self._pairs):
            lengths = [_length(path) for path in self._paths(index)]
            content.update(json.dumps([[one_form(file) for file in pair], lengths]).encode())
        return content.hexdigest()

    def _paths(self, index: int) -> tuple[Path, Path]:
        photo, labels = self._pairs[index]
        return self.photos / photo, self.labels / labels


def to_indices(
    values: npt.NDArray[np.unsignedinteger], path: Path, indices: Sequence[int], ignored: Collection[int] = ()
) -> LabelMap:
    """Turn a label map's values, as ``read_values`` gives them, into indices.

    ``path``: its file's. ``indices``: what each value from 0 on means, -1 for nothing. Values of ``ignored``
    and the largest one become -1. Raises DataError for a value that is neither.
    """
    count, largest = len(indices), int(np.iinfo(values.dtype).max)
    unlabelled = [value for value in (*ignored, largest) if value <= largest]
    table = np.full(largest + 1, _BAD, dtype=np.int16)
    table[:count] = np.asarray(indices, np.int16)[: largest + 1]
    table[unlabelled] = -1
    found: LabelMap = table[values]
    if found.min() == _BAD:
        bad = np.unique(values[found == _BAD]).tolist()
        shown = ", ".join(map(str, bad[:_VALUES_SHOWN])) + (" ..." if len(bad) > _VALUES_SHOWN else "")
        raise DataError(
            f"{path}: value {shown} is neither one of the {count} labels (0 to {count - 1}) nor ignored "
            f"({', '.join(map(str, unlabelled))}). Values start at 0: where the first label is 1, "
            f"subtract 1 from all, and make an unlabelled 0 the ignored {largest}. Else give the label "
            "list it was made with, or add the value to the description's ignored = [...]"
        )
    return found


def list_files(folder: Path, suffixes: Collection[str], *, without: Path | None = None) -> Iterator[str]:
    """List files as paths below a folder; another folder below it is left out, and so is what is hidden.

    Raises DataError where the folder is missing.
    """
    if not folder.is_dir():
        raise DataError(f"folder {folder} is missing; check the path")
    left_out = None if without is None else one_form(str(without))
    for place, subfolders, names in os.walk(folder, followlinks=True):
        subfolders[:] = [
            s for s in subfolders if not s.startswith(".") and one_form(str(Path(place, s))) != left_out
        ]
        below = os.path.relpath(place, folder)
        for name in names:
            if os.path.splitext(name)[1].lower() in suffixes and not name.startswith("."):
                yield os.path.normpath(os.path.join(below, name))


def _by_stem(folder: Path, files: Iterable[str], *, end: str = "") -> dict[str, str]:
    """Sort files by name, and key them by what they are paired by: their path without suffix and ``end``.

    Names are compared in one Unicode form: on macOS a photo and its label map often have different ones.
    """
    found: dict[str, str] = {}
    for file in sorted(files, key=one_form):
        stem = one_form(os.path.splitext(file)[0].removesuffix(end))
        if stem in found:
            raise DataError(f"{folder} has both {found[stem]} and {file}; keep one of them")
        found[stem] = file
    return found


def _label_maps(folder: Path, photos: Path) -> dict[str, str]:
    files = list(list_files(folder, LABEL_SUFFIXES, without=photos))
    converted = [file for file in files if os.path.splitext(file)[0].endswith(CONVERTED)]
    return _by_stem(folder, converted or files, end=CONVERTED)


def read_values(path: Path, photo: Path, size: tuple[int, int]) -> npt.NDArray[np.unsignedinteger]:
    """Read a label map's numbers as they are stored: (H, W) uint8 or uint16.

    ``size``: (H, W) of its ``photo``. Raises DataError for a file that is damaged or of another size.
    """
    try:
        with Image.open(path, formats=("PNG", "TIFF")) as image:
            width, height = image.size
            if (height, width) != size:
                raise DataError(
                    f"{path}: {width} x {height} pixels, but its photo {photo} has {size[1]} x {size[0]}; "
                    "make the label map again from this photo"
                )
            return _numbers(image, path)
    except DataError:
        raise
    except Exception as error:  # damaged files make Pillow raise almost anything, see ebseg.images
        raise DataError(f"{path}: cannot be read as a label map ({error}); replace or remove it") from error


def _numbers(image: ImageFile, path: Path) -> npt.NDArray[np.unsignedinteger]:
    arguments = image.tile[0].args or ("",)  # gone once the picture is decoded
    raw_mode = arguments if isinstance(arguments, str) else arguments[0]
    values = np.asarray(image)
    if image.mode in ("1", "L", "P"):
        return values.astype(np.uint8) // np.uint8(_STRETCHED.get(raw_mode, 1))
    if image.mode.startswith("I;16"):
        return values.astype(np.uint16)
    raise DataError(
        f"{path}: a picture of the kind {image.mode}, not one number of 8 or 16 bits a pixel; "
        "save it as grey or palette PNG or as TIFF"
    )


def _length(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); it was there before") from error
