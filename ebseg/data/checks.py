"""Whether a benchmark's prepared photos and label maps are as they should be."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ebseg.data.catalogue import Split, find_benchmark, open_dataset
from ebseg.data.folder import CONVERTED, LABEL_SUFFIXES, FolderSource
from ebseg.data.prepare import count_unlabelled
from ebseg.data.subset import Subset, sample_of
from ebseg.errors import DataError
from ebseg.file_names import one_form
from ebseg.read_ahead import read_ahead

SAMPLE = 200
"""Photos and label maps that are read unless all of them are to be."""


@dataclass(frozen=True)
class Check:
    """What was found in a benchmark's split.

    ``folder`` holds the label maps. ``photos`` have one; ``unlabelled`` ones were left out by preparing
    because they have no label. ``official``: photos of the official split, None where not known.
    ``read``: how many were read; ``labels`` of the ``classes`` occur in these, with indices from
    ``smallest`` to ``largest`` (None where nothing is labelled), and ``ignored`` is the share of pixels
    without a label. ``faults``: what is wrong with the files.
    """

    name: str
    split: str
    folder: str
    photos: int
    unlabelled: int
    official: int | None
    read: int
    classes: int
    labels: int
    smallest: int | None
    largest: int | None
    ignored: float
    faults: tuple[str, ...]

    @property
    def miscount(self) -> str | None:
        """Say how the number of photos differs from the official one."""
        found = self.photos + self.unlabelled
        if self.official is None or found == self.official:
            return None
        return f"{found:,} photos with label maps, but the official split has {self.official:,}"


def check(
    name: str,
    root: Path,
    split: Split,
    *,
    full: bool = False,
    workers: int = 1,
    progress: Callable[[int, int], object] = lambda done, total: None,
) -> Check:
    """Count, and read a sample or, where ``full``, all: sizes must agree, and values be classes or ignored.

    ``workers``: threads that read. ``progress`` is called with how many photos are read and how many there
    are to read. Raises ConfigError for an unknown name or split, and DataError where nothing is prepared.
    """
    source = open_dataset(name, root, split)
    part = sample_of(source, len(source) if full else SAMPLE)
    classes = len(source.vocabulary)
    pixels = np.zeros(classes + 1, np.int64)  # of each class, and ignored ones
    faults = _unpaired(source)
    # Threads suffice: decoding frees the interpreter.
    with read_ahead(partial(_read, part), range(len(part)), threads=workers, count=2 * workers) as counted:
        for done, (_, reading) in enumerate(counted, start=1):
            found = reading.result()
            if isinstance(found, str):
                faults.append(found)
            else:
                pixels += found
            progress(done, len(part))
    present = np.flatnonzero(pixels[:classes])
    return Check(
        name=name,
        split=split,
        folder=str(source.labels),
        photos=len(source),
        unlabelled=count_unlabelled(source.labels),
        official=find_benchmark(name).images(split),
        read=len(part),
        classes=classes,
        labels=len(present),
        smallest=int(present[0]) if len(present) else None,
        largest=int(present[-1]) if len(present) else None,
        ignored=float(pixels[classes] / max(pixels.sum(), 1)),
        faults=tuple(faults),
    )


def _read(part: Subset, index: int) -> npt.NDArray[np.int64] | str:
    """Count the pixels of each class and, last, those ignored; or say what is wrong with the files."""
    try:
        label_map = part[index].label_map
    except DataError as error:
        return str(error)
    classes = len(part.vocabulary)
    return np.bincount(np.where(label_map < 0, classes, label_map).ravel(), minlength=classes + 1)


def _unpaired(source: FolderSource) -> list[str]:
    """Name label maps without a photo: the source does not show them."""
    files = [path for path in source.labels.rglob("*") if path.suffix.lower() in LABEL_SUFFIXES]
    maps = {one_form(path.stem): path for path in files if not path.name.startswith(".")}
    converted = {stem.removesuffix(CONVERTED): maps[stem] for stem in maps if stem.endswith(CONVERTED)}
    paired = {one_form(Path(photo).stem) for photo in source.names}
    alone = sorted(str(path) for stem, path in (converted or maps).items() if stem not in paired)
    if not alone:
        return []
    return [f"{len(alone):,} label maps have no photo in {source.photos}, such as {alone[0]}"]
