"""From what people write to a source of labelled photos: a benchmark's name, "drawn-scenes" or a file."""

import tomllib
from pathlib import Path
from typing import Any, Literal

from ebseg.data.catalogue import open_dataset
from ebseg.data.folder import FolderSource, read_names
from ebseg.data.samples import Source
from ebseg.data.scenes import VALIDATION_SEED, SceneSource
from ebseg.errors import ConfigError, DataError
from ebseg.vocabulary import DATASETS, Vocabulary

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

    Raises ConfigError for an unknown name, and DataError for a file or folder that is not as it should be.
    """
    if name == DRAWN_SCENES:
        return SceneSource(seed if split == "train" else VALIDATION_SEED, SCENES)
    if name in DATASETS:
        return open_dataset(name, root, split)
    path = Path(name).expanduser()
    if path.suffix != ".toml" or not path.is_file():
        known = ", ".join((*DATASETS, DRAWN_SCENES))
        raise ConfigError(f"no data named {name!r}; known: {known}, or a .toml file that describes a folder")
    return _described(path, split)


def _described(path: Path, split: Split) -> FolderSource:
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
        part = content[split]
        photos, label_maps = (path.parent / str(part[key]) for key in ("photos", "label_maps"))
        ignored = [int(value) for value in content.get("ignored", [])]
        vocabulary = _labels(path.parent, content["labels"])
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"{path} does not describe labelled photos: {error}") from error
    except KeyError as error:
        raise DataError(
            f"{path} has no {error}: it must have labels, and photos and label_maps of [{split}]"
        ) from error
    return FolderSource(photos, label_maps, vocabulary, ignored=ignored)


def _labels(folder: Path, labels: Any) -> Vocabulary:
    if isinstance(labels, str):
        return read_names(folder / labels)
    if not isinstance(labels, list):
        raise TypeError("labels must be a list of names or the name of a file")
    return Vocabulary([label.split("|") if isinstance(label, str) else label for label in labels])
