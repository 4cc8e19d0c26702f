"""From what people write to a source of labelled photos: a benchmark's name, "drawn-scenes" or a file."""

import logging
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ebseg.data.catalogue import open_dataset
from ebseg.data.drawn.scenes import BENCHMARK_SEED, VALIDATION_SEED, SceneSource
from ebseg.data.folder import FolderSource
from ebseg.data.samples import Source
from ebseg.errors import ConfigError, DataError, VocabularyError
from ebseg.images import passed_over
from ebseg.label_lists import read_file, read_names
from ebseg.vocabulary import DATASETS, Vocabulary

_log = logging.getLogger(__name__)

Split = Literal["train", "val"]

DRAWN_SCENES = "drawn-scenes"
SCENES = 100_000
"""More than a run on two cores asks for: they are drawn when they are read, and then shown again."""


def open_data(name: str, split: Split, *, root: Path, seed: int) -> Source:
    """Open labelled photos.

    ``name``: one of ``vocabulary.DATASETS``, below ``root``; "drawn-scenes", drawn from ``seed``; or a TOML
    file that describes a folder, with paths relative to it::

        labels = "labels.txt"        # one a line, "car|automobile" with synonyms; or a list of them
        ignored = [11]               # values besides 255 (65535 in 16-bit maps) that count as unlabelled
        [train]
        photos = "images/train"
        label_maps = "labels/train"
        [val]
        photos = "images/val"
        label_maps = "labels/val"

    Raises ConfigError for an unknown name and for training on the seeds that drawn scenes are held out by;
    DataError for a file or folder that is not as it should be, and VocabularyError for faulty labels; these
    two name the file.
    """
    if name == DRAWN_SCENES:
        return _scenes(split, seed)
    if name in DATASETS:
        return open_dataset(name, root, split)
    path = Path(name).expanduser()
    if path.suffix != ".toml":
        known = ", ".join((*DATASETS, DRAWN_SCENES))
        raise ConfigError(f"no data named {name!r}; known: {known}, or a .toml file that describes a folder")
    return _folder(path, split)


def _scenes(split: Split, seed: int) -> SceneSource:
    if split == "val":
        return SceneSource(VALIDATION_SEED, SCENES)
    if seed in (VALIDATION_SEED, BENCHMARK_SEED):
        raise ConfigError(f"seed {seed} draws the scenes that models are measured on: train with another")
    return SceneSource(seed, SCENES)


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class _Folders(_Strict):
    photos: str
    label_maps: str


class _Description(_Strict):
    labels: str | list[Any]  # Vocabulary says more precisely what is wrong with a label
    ignored: list[Annotated[int, Field(ge=0, le=65535)]] = []
    train: _Folders | None = None
    val: _Folders | None = None


def _folder(path: Path, split: Split) -> FolderSource:
    description = _read(path)
    folders = description.train if split == "train" else description.val
    if folders is None:
        raise DataError(f"{path} has no [{split}] with its photos and label_maps")
    photos, label_maps = (
        path.parent / Path(place).expanduser() for place in (folders.photos, folders.label_maps)
    )
    vocabulary = _vocabulary(path, description.labels)
    try:
        source = FolderSource(
            photos, label_maps, vocabulary, ignored=description.ignored, name=f"{path.stem} {split}"
        )
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    if source.without_labels:
        left_out = len(source.without_labels)
        first = source.without_labels[0]
        _log.warning("%s: %d photos have no label map and are left out, such as %s", path, left_out, first)
    if source.unreadable:
        _log.warning("%s: %s", path, passed_over(photos, source.unreadable))
    return source


def _read(path: Path) -> _Description:
    try:
        return _Description(**tomllib.loads(path.read_text(encoding="utf-8-sig")))
    except ValidationError as error:
        raise DataError(f"{path} does not describe labelled photos: {_faults(error)}") from error
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read as a description of labelled photos: {error}") from error


def _faults(error: ValidationError) -> str:
    """Say in one line what is wrong where. What labels are is a choice, which is no place in the file."""
    places = [fault["loc"][: 1 if fault["loc"][0] == "labels" else None] for fault in error.errors()]
    messages = [fault["msg"] for fault in error.errors()]
    return "; ".join(
        f"{'.'.join(map(str, place))}: {message}" for place, message in zip(places, messages, strict=True)
    )


def _vocabulary(path: Path, labels: str | list[Any]) -> Vocabulary:
    if isinstance(labels, str):
        return read_file(path.parent / Path(labels).expanduser())
    try:
        return read_names(labels)
    except VocabularyError as error:
        raise VocabularyError(f"{path}: {error}") from error
