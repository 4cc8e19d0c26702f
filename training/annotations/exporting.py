"""Label Studio's data out: a project's labelled photos written in a layout that trainers read."""

import errno
import os
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path, PurePath

from ebseg.data.layouts import LAYOUTS, LayoutName
from ebseg.errors import ConfigError, DataError
from ebseg.files import whole_folder
from ebseg.images import PHOTO_SUFFIXES, file_kind
from training.annotations.labelled_photos import LabelledPhoto, LabelledPhotos


@dataclass
class Written:
    """What was written: photos by their split, and how many of them their EXIF orientation turns."""

    photos: Counter[str] = field(default_factory=Counter)
    turned: int = 0


def export(
    labelled: LabelledPhotos,
    out: Path,
    layout_name: LayoutName,
    *,
    link: bool = False,
    progress: Callable[[], object] = lambda: None,
) -> Written:
    """Write labelled photos into a folder, whole or not at all; ``labelled.left_out`` has what is not there.

    ``link``: link the photos' files instead of copying them. ``progress``: called after each photo. Raises
    ConfigError for a folder that cannot be taken, and where there is no file to link to; DataError where
    there is no photo, or the layout has no room for the labels.
    """
    written = Written()
    with whole_folder(out) as folder:
        layout = LAYOUTS[layout_name](folder, labelled.labels, labelled.vocabulary)
        for photo in labelled:
            suffix, turned = file_kind(photo.file)
            name = _with_suffix(photo.name, suffix)
            _put(photo, layout.photo(name, photo.split), link)
            layout.add(name, photo.split, photo.label_map)
            written.photos[photo.split] += 1
            written.turned += turned
            progress()
        if not written.photos:
            raise DataError(_nothing(labelled))
        layout.close()
    return written


def _with_suffix(name: str, suffix: str) -> str:
    """Give a photo's name an ending by which its file is known; one that it has stays."""
    return name if PurePath(name).suffix.lower() in PHOTO_SUFFIXES else f"{name}{suffix}"


def _put(photo: LabelledPhoto, path: Path, link: bool) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if link:
        _link(photo, path)
    elif isinstance(photo.file, bytes):
        path.write_bytes(photo.file)
    else:
        shutil.copyfile(photo.file, path)


def _link(photo: LabelledPhoto, path: Path) -> None:
    """Give a file a second name, or point to it from another file system."""
    if isinstance(photo.file, bytes):
        raise ConfigError(
            f"the photo of task {photo.task} was fetched just now and is no file here: leave --link out"
        )
    try:
        os.link(photo.file, path)
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EPERM, errno.EMLINK):
            raise
        path.symlink_to(photo.file.absolute())


def _nothing(labelled: LabelledPhotos) -> str:
    if not labelled.left_out:
        return "there is nothing to export: no task has what was asked for"
    task, why = next(iter(labelled.left_out.items()))
    return f"there is nothing to export: {len(labelled.left_out)} tasks cannot be read, such as {task}: {why}"
