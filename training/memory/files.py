"""A project's memory in the storage, below ``memory/project-<id>/``: nothing is lost with it but time.

memory.npz           the newest: the classifier, and a header (JSON) that says what it is worth
planned.npz          the one with which workers predict, a whole project at a time
samples/<key>.npz    samples of a photo, see ``choosing.samples_key``
"""

import io
import logging
import zipfile
from collections.abc import Collection
from dataclasses import dataclass
from functools import cache

import numpy as np
from pydantic import TypeAdapter, ValidationError

from ebseg.ask import Memory
from ebseg.errors import DataError
from training.memory.samples import Samples
from training.storage import Storage

_log = logging.getLogger(__name__)

_DAMAGED = (ValueError, KeyError, EOFError, OSError, zipfile.BadZipFile, ValidationError)
"""What reading a damaged file raises."""


@dataclass(frozen=True)
class Worth:
    """mIoU in percent, by the text alone and with the memory, on photos that it was not fitted to.

    ``photos``: how many.
    """

    photos: int
    text: float
    remembered: float


@dataclass(frozen=True)
class Header:
    """What a memory is, and what it is worth.

    ``model``: the version of the model it belongs to. ``share``: how much it counts, 0..1, in the score of
    each label. ``pixels``: that it was fitted to, of each label. ``made_of``: names its samples.
    ``left_out``: its worth on its own photos, left out in turn; ``held_out``: on the held-out ones, None
    where there are too few. ``used``: whether it is.
    """

    name: str
    model: str
    labels: tuple[str, ...]
    share: tuple[float, ...]
    pixels: tuple[int, ...]
    made_of: str
    left_out: Worth
    held_out: Worth | None
    used: bool

    def in_words(self) -> str:
        """Say it in a line."""
        said = f"{len(self.labels)} labels of {self.left_out.photos} photos"
        for where, worth in (("left out in turn", self.left_out), ("held out", self.held_out)):
            if worth is not None:
                said += f"; mIoU {worth.text:.1f} -> {worth.remembered:.1f} on {worth.photos} {where}"
        return said if self.used else f"{said}; not used, as it is no better than the text"


@dataclass(frozen=True, eq=False)
class StoredMemory:
    """A memory as it lies in the storage."""

    header: Header
    memory: Memory


@cache
def _headers() -> TypeAdapter[Header]:
    return TypeAdapter(Header)


def store(storage: Storage, project: int, stored: StoredMemory) -> None:
    """Write a project's newest memory; whoever reads sees the old one or the new one."""
    _write(storage, _key(project), stored)


def _write(storage: Storage, key: str, stored: StoredMemory) -> None:
    memory = stored.memory
    content = io.BytesIO()
    np.savez(
        content,
        header=np.frombuffer(_headers().dump_json(stored.header), np.uint8),
        weight=memory.weight,
        bias=memory.bias,
    )
    storage.write(key, content.getvalue())


def used(storage: Storage, project: int) -> Memory | None:
    """Read a project's newest memory where it is good enough to be used."""
    found = find(storage, project)
    return found.memory if found is not None and found.header.used else None


def planned(storage: Storage, project: int) -> Memory | None:
    """Read the memory with which workers predict a project's tasks; None for none."""
    found = _find(storage, _planned_key(project))
    return found.memory if found is not None else None


def plan_with_newest(storage: Storage, project: int) -> None:
    """Have workers predict a project's tasks with its newest memory from now on, or with none."""
    newest = find(storage, project)
    if newest is not None and newest.header.used:
        _write(storage, _planned_key(project), newest)
    else:
        storage.remove(_planned_key(project))


def is_outgrown(storage: Storage, project: int, model: str) -> bool:
    """Tell whether all tasks should be predicted anew, with the newest memory; ``model``: that serves.

    Not at each Submit, of which a project has thousands: where it knows twice the photos, or fewer than
    before, or other labels.
    """
    newest, before = find(storage, project), _find(storage, _planned_key(project))
    new = newest.header if newest is not None and newest.header.used else None
    old = before.header if before is not None and before.header.model == model else None
    if new is None or new.model != model:
        return new is None and old is not None
    if old is None or new.labels != old.labels:
        return True
    return not old.left_out.photos <= new.left_out.photos < 2 * old.left_out.photos


def stamp(storage: Storage, project: int) -> str:
    """Give what changes with a project's newest memory; cheaper than reading it."""
    return storage.stamp(_key(project))


def find(storage: Storage, project: int) -> StoredMemory | None:
    """Read a project's newest memory; None where there is none, or a damaged one, of which the log tells."""
    return _find(storage, _key(project))


def _find(storage: Storage, key: str) -> StoredMemory | None:
    try:
        return _read(storage.read(key))
    except FileNotFoundError:
        return None
    except _DAMAGED as error:
        _log.warning("%s cannot be read (%s): the text alone decides until it is made anew", key, error)
        return None


def _read(content: bytes) -> StoredMemory:
    with np.load(io.BytesIO(content), allow_pickle=False) as found:
        header = _headers().validate_json(found["header"].tobytes())
        weight, bias = found["weight"], found["bias"]
    labels = len(header.labels)
    if weight.ndim != 2 or {weight.shape[1], len(bias), len(header.share)} != {labels}:
        raise ValueError("its parts do not fit together")
    if not np.isfinite(weight).all() or not np.isfinite(bias).all():
        raise ValueError("its weights are not finite")
    parts = (each.astype(np.float32) for each in (weight, bias, np.array(header.share)))
    return StoredMemory(header, Memory(header.name, header.model, header.labels, *parts))


def forget_memory(storage: Storage, project: int) -> None:
    """Remove a project's newest memory: the text alone decides from then on. Its samples stay."""
    storage.remove(_key(project))


def forget(storage: Storage, project: int) -> None:
    """Remove all that is kept of a project's corrected pixels."""
    storage.remove(_folder(project))


def stored_samples(storage: Storage, project: int) -> set[str]:
    """List the keys of the photos whose samples are kept."""
    there = storage.keys(f"{_folder(project)}/samples")
    return {key.rpartition("/")[2].removesuffix(".npz") for key in there}


def keep_samples(storage: Storage, project: int, key: str, samples: Samples) -> None:
    """Keep a photo's samples."""
    content = io.BytesIO()
    np.savez(
        content, features=samples.features, labels=samples.labels, areas=samples.areas, text=samples.text
    )
    storage.write(_samples_key(project, key), content.getvalue())


def read_samples(storage: Storage, project: int, key: str) -> Samples:
    """Read a photo's samples. Raises FileNotFoundError, and DataError for a damaged file."""
    content = storage.read(_samples_key(project, key))
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as found:
            parts = [found[name] for name in ("features", "labels", "areas", "text")]
    except _DAMAGED as error:
        raise DataError(f"{_samples_key(project, key)}: cannot be read ({error}); remove it") from error
    return Samples(*parts)


def drop_samples(storage: Storage, project: int, keys: Collection[str]) -> None:
    """Remove the samples of some photos."""
    for key in keys:
        storage.remove(_samples_key(project, key))


def _folder(project: int) -> str:
    return f"memory/project-{project}"


def _key(project: int) -> str:
    return f"{_folder(project)}/memory.npz"


def _planned_key(project: int) -> str:
    return f"{_folder(project)}/planned.npz"


def _samples_key(project: int, key: str) -> str:
    return f"{_folder(project)}/samples/{key}.npz"
