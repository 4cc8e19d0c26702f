"""Measure a system on a data set: read ahead, label, count behind; go on where a run was stopped.

Photos are read and resized by threads ahead of the model, and counted by a thread behind it: decoding,
resizing and counting let go of Python's lock.
"""

import json
import os
import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, nullcontext
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Generic

import torch
from accelerate import PartialState
from accelerate.utils import parse_flag_from_env

from ebseg.data.catalogue import class_facts
from ebseg.data.samples import LabelMap, Source
from ebseg.errors import ConfigError, DataError
from ebseg.evaluation.labellers import Labeller, T
from ebseg.evaluation.result import Evaluation
from ebseg.evaluation.tally import Tally
from ebseg.read_ahead import read_ahead
from ebseg.vocabulary import DATASETS

SAVE_SECONDS = 30.0
"""Between two writes of what was counted: what a run that is killed loses at most."""

AHEAD = 2
"""Photos that each reading thread may be ahead of the model."""

BEHIND = 4
"""Photos that counting may be behind the model."""

PATIENCE = timedelta(hours=12)
"""That processes wait for each other at the end: one may have resumed later, or have the larger photos."""


def run_benchmark(
    labeller: Labeller[T],
    source: Source,
    *,
    limit: int | None = None,
    workers: int = 2,
    out: Path | None = None,
    others: PartialState | None = None,
    progress: Callable[[int], None] = lambda _done: None,
) -> Evaluation:
    """Label the photos of a data set and compare with their truth.

    ``limit``: the first so many photos; else all. ``workers``: threads that read. ``out``: a folder for what
    was counted; a run that was stopped goes on from there. ``others``: what ``join`` gives; each process
    takes its share of the photos, and all come to the result of one. ``progress`` is called with the number
    of photos that this process has done.

    A photo that cannot be read or labelled is counted and named in the result. Raises ConfigError where
    ``out`` holds another evaluation, or one by another number of processes.
    """
    if workers < 1:
        raise ConfigError(f"{workers} threads cannot read photos: give 1 or more workers")
    process, processes = (0, 1) if others is None else (others.process_index, others.num_processes)
    asked = len(source) if limit is None else min(limit, len(source))
    store = None
    if out is not None:
        identity = {
            "model": labeller.name,
            "data": f"{source.name}, {source.fingerprint()}",
            "protocol": json.dumps(labeller.protocol),
            "photos": str(asked),
            "processes": str(processes),
        }
        store = _Store(out / f"process-{process}.npz", identity)
    tally = (store and store.load()) or Tally(len(source.vocabulary))
    # The others then find the text embeddings on disk.
    with nullcontext() if others is None else others.main_process_first():
        started = time.monotonic()
        labeller.start()
        tally.seconds["text"] += time.monotonic() - started
    _measure(labeller, source, range(process, asked, processes), tally, workers, store, progress)
    if processes > 1:
        tally = tally.gathered(labeller.device)
    dataset = source.vocabulary.dataset
    return Evaluation(
        model=labeller.name,
        dataset=source.name,
        vocabulary=source.vocabulary,
        seen=labeller.seen,
        asked=asked,
        official=class_facts(dataset).validation_images if dataset in DATASETS else None,
        tally=tally,
        protocol=labeller.protocol,
        config=labeller.config,
        device=labeller.device,
        processes=processes,
    )


def join() -> PartialState | None:
    """Join the processes that torchrun or ``accelerate launch`` started beside this one; None without any."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return None
    cpu = parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.cuda.is_available()
    return PartialState(cpu=cpu, timeout=PATIENCE)


@dataclass(frozen=True)
class _Store:
    """Where a process keeps its tally, and what it belongs to."""

    path: Path
    identity: dict[str, str]

    def load(self) -> Tally | None:
        return Tally.load(self.path, self.identity)

    def save(self, tally: Tally) -> None:
        tally.save(self.path, self.identity)


@dataclass(frozen=True, eq=False)
class _Read(Generic[T]):
    """A photo that was read: its place in the source, its truth, and what the labeller made of it."""

    index: int
    name: str
    truth: LabelMap
    prepared: T


@dataclass(frozen=True)
class _Broken:
    """What is wrong with a photo."""

    message: str


@dataclass(frozen=True)
class _Seconds:
    """What a photo took, by ``tally.STAGES``."""

    read: float
    wait: float
    network: float
    scores: float


def _measure(
    labeller: Labeller[T],
    source: Source,
    indices: Sequence[int],
    tally: Tally,
    workers: int,
    store: _Store | None,
    progress: Callable[[int], None],
) -> None:
    """Add the photos that ``tally`` has not done yet."""
    counter = _Counter(tally, len(indices), store, progress)
    with closing(counter), closing(_photos(labeller, source, indices[tally.done :], workers)) as photos:
        for photo, reading, waiting in photos:
            began = inferred = time.monotonic()
            label_map = None
            if isinstance(photo, _Read):
                decide = labeller.infer(photo.prepared)
                inferred = time.monotonic()
                label_map = decide()
            seconds = _Seconds(reading, waiting, inferred - began, time.monotonic() - inferred)
            counter.put(photo, label_map, seconds)
        counter.finish()


def _photos(
    labeller: Labeller[T], source: Source, indices: Sequence[int], workers: int
) -> Generator[tuple[_Read[T] | _Broken, float, float], None, None]:
    """Yield photos, read ahead, in order, with the seconds that reading took, and those it was waited for."""

    def read(index: int) -> tuple[_Read[T] | _Broken, float]:
        began = time.monotonic()
        try:
            sample = source[index]
            photo = _Read(index, sample.name, sample.label_map, labeller.prepare(sample))
        except DataError as error:
            return _Broken(str(error)), time.monotonic() - began
        return photo, time.monotonic() - began

    with read_ahead(read, indices, threads=workers, count=AHEAD * workers + 1) as photos:
        for _, reading in photos:
            began = time.monotonic()
            photo, seconds = reading.result()
            yield photo, seconds, time.monotonic() - began


class _Counter:
    """Counts photos in a thread of its own, in order, and keeps the tally on disk."""

    def __init__(
        self, tally: Tally, photos: int, store: _Store | None, progress: Callable[[int], None]
    ) -> None:
        self._tally, self._photos, self._store, self._progress = tally, photos, store, progress
        self._spent = tally.seconds["total"]
        self._started = self._saved = time.monotonic()
        self._pool = ThreadPoolExecutor(1, "count")
        self._counting: deque[Future[None]] = deque()
        self._failed = False

    def put(self, photo: "_Read[Any] | _Broken", label_map: LabelMap | None, seconds: _Seconds) -> None:
        """Take a photo over; wait where counting lags behind."""
        self._counting.append(self._pool.submit(self._count_next, photo, label_map, seconds))
        if len(self._counting) > BEHIND:
            self._counting.popleft().result()

    def finish(self) -> None:
        """Wait until all is counted. Raises what went wrong."""
        while self._counting:
            self._counting.popleft().result()

    def close(self) -> None:
        """End the thread."""
        self._pool.shutdown(cancel_futures=True)

    def _count_next(
        self, photo: "_Read[Any] | _Broken", label_map: LabelMap | None, seconds: _Seconds
    ) -> None:
        if self._failed:  # what is kept must be of the first photos, without a gap
            return
        try:
            self._count(photo, label_map, seconds)
        except BaseException:
            self._failed = True
            raise

    def _count(self, photo: "_Read[Any] | _Broken", label_map: LabelMap | None, seconds: _Seconds) -> None:
        began = time.monotonic()
        tally = self._tally
        if isinstance(photo, _Read) and label_map is not None:
            tally.add(photo.index, photo.name, label_map, photo.truth)
        elif isinstance(photo, _Broken):
            tally.add_broken(photo.message)
        now = time.monotonic()
        for stage, spent in {**asdict(seconds), "metrics": now - began}.items():
            tally.seconds[stage] += spent
        tally.seconds["total"] = self._spent + now - self._started
        due = now - self._saved >= SAVE_SECONDS or tally.done == self._photos
        if self._store is not None and due:
            self._store.save(tally)
            self._saved = now
        self._progress(tally.done)
