"""Champion and candidate on the same held-out tasks, and on what they should not have forgotten.

Measured with the benchmarks' own code, task by task, so that the gate can tell luck from progress. What was
measured is kept in the storage under the model's version, so that a model is measured once on the same data.
"""

import hashlib
import io
import json
from collections.abc import Callable, Iterator
from typing import Protocol

import numpy as np
import numpy.typing as npt

from ebseg.data.samples import Source
from ebseg.evaluation.in_memory import count_pixels
from ebseg.evaluation.metrics import mean_percent
from ebseg.predictor import Predictor
from ebseg.vocabulary import Vocabulary
from training.judging.gate import Measured
from training.storage import Storage

PhotosDone = Callable[[int], None]
"""Called with the number of photos done."""


class Tasks(Source, Protocol):
    """Photos of annotated tasks; a snapshot, or a part of one."""

    @property
    def tasks(self) -> tuple[int, ...]:
        """The number of each photo's task."""


def measure(model: Predictor, held_out: Tasks, storage: Storage, progress: PhotosDone) -> Measured:
    """Count the pixels of every task: those of all its photos.

    A broken photo is a DataError: numbers that leave it out could not be compared.
    """
    key = f"evaluations/{model.version}/{held_out.fingerprint()}.npz"
    if storage.exists(key):
        with np.load(io.BytesIO(storage.read(key)), allow_pickle=False) as found:
            return _by_task(held_out.tasks, found["counts"])  # in the order of content, as the tasks are
    counts = []
    for photo in _photos(held_out, range(len(held_out)), progress):
        (matrix,), _ = count_pixels(model, [photo], [held_out.vocabulary])
        counts.append(matrix.counts)
    labels = len(held_out.vocabulary)
    pixels = np.reshape(counts, (-1, labels, labels + 1)).astype(np.int64)
    content = io.BytesIO()
    np.savez_compressed(content, counts=pixels)
    storage.write(key, content.getvalue())
    return _by_task(held_out.tasks, pixels)


def _by_task(tasks: tuple[int, ...], counts: npt.NDArray[np.int64]) -> Measured:
    """Sum photos' pixels (P, K, K + 1) up by task: pages of a document are no samples of their own."""
    places = {task: place for place, task in enumerate(dict.fromkeys(tasks))}
    summed = np.zeros((len(places), *counts.shape[1:]), np.int64)
    np.add.at(summed, np.array([places[task] for task in tasks], np.intp), counts)
    return Measured(tuple(places), summed)


def miou(
    model: Predictor,
    source: Source,
    photos: range,
    storage: Storage,
    progress: PhotosDone,
    *,
    without: Vocabulary | None = None,
) -> float:
    """Mean IoU in percent on some photos of a source, of the labels that ``without`` does not have.

    NaN where these photos show no such label. Raises DataError for a broken photo.
    """
    others = "" if without is None else without.to_json()
    asked = hashlib.sha256(f"{source.fingerprint()} {photos} {others}".encode()).hexdigest()[:32]
    key = f"evaluations/{model.version}/{asked}.json"
    if storage.exists(key):
        found = json.loads(storage.read(key))
        return float("nan") if found is None else float(found)
    (matrix,), _ = count_pixels(model, _photos(source, photos, progress), [source.vocabulary])
    iou = matrix.iou()
    if without is not None:
        iou = iou[~np.array(source.vocabulary.seen_in(without))]
    mean = mean_percent(iou)
    storage.write(key, json.dumps(None if np.isnan(mean) else mean).encode())
    return mean


def _photos(
    source: Source, photos: range, progress: PhotosDone
) -> Iterator[tuple[npt.NDArray[np.uint8], npt.NDArray[np.int16]]]:
    for done, index in enumerate(photos, start=1):
        sample = source[index]
        yield sample.image, sample.label_map
        progress(done)
