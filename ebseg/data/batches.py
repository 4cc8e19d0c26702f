"""What each step of a training run sees: a pure function of the seed, the step and the place in it."""

import atexit
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ebseg.config import TrainConfig
from ebseg.data.orphans import end_with_parent
from ebseg.data.samples import Sample, Source
from ebseg.data.transforms import augment
from ebseg.errors import ConfigError, DataError, EBSegError

ATTEMPTS = 10
"""Photos tried in place of a broken one before a run stops."""

PREFETCH = 2
"""Steps that each worker prepares ahead."""

# The independent streams of random numbers that a seed gives; large, since seeds of scenes and of random
# points go on with small numbers.
_SOURCES, _ORDER, _AUGMENTATION, _REPLACEMENT = range(2**31, 2**31 + 4)


@dataclass(frozen=True, eq=False)
class Batch:
    """Photos that go through the model together.

    ``images``: (b, 3, crop, crop) uint8 RGB. ``label_maps``: (b, crop, crop) int16, -1 ignored. ``photos``:
    the number of each in the run, which its random points are seeded by. ``source``: number of the source,
    whose vocabulary the labels are of. ``segments``: how many labels each label map shows.
    """

    images: Tensor
    label_maps: Tensor
    names: tuple[str, ...]
    photos: tuple[int, ...]
    source: int
    segments: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class StepData:
    """One process's share of a step, all of one source.

    ``broken``: what is wrong with the files that were replaced by others, each once.
    """

    batches: list[Batch]
    broken: tuple[str, ...]
    source: int


class StepBatches(Dataset[StepData]):
    """The steps of a run; item ``step`` holds process ``rank``'s share of it.

    All photos of a step are of one source, since a step has one vocabulary; which one is drawn in proportion
    to ``weights``, by default to the sources' sizes. The photos of a source come in an order that is shuffled
    anew for every pass, and none comes again before all have come. The step's places 0 .. batch - 1 are dealt
    to the processes, and by each to its batches, in contiguous runs: what a place shows depends on the seed
    and the step alone, not on how many processes there are.

    Raises ConfigError where the batch cannot be dealt evenly or the weights do not fit the sources, and
    DataError for a source without photos.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        config: TrainConfig,
        *,
        weights: Sequence[float] | None = None,
        rank: int = 0,
        processes: int = 1,
    ) -> None:
        check_shares(config, processes)
        self.sources = tuple(sources)
        self.config = config
        share = config.batch // processes
        self._places = range(rank * share, (rank + 1) * share)
        self._source_of, self._earlier = _mixed(_shares(self.sources, weights), config)

    def __len__(self) -> int:
        return self.config.steps

    def __getitem__(self, step: int) -> StepData:
        """Read a step. Raises DataError where a broken photo and all tried in its place are unreadable."""
        source = int(self._source_of[step])
        broken: dict[str, None] = {}
        samples = [
            self._sample(step, place, source, index, broken)
            for place, index in zip(self._places, self._indices(step, source), strict=True)
        ]
        numbers = [step * self.config.batch + place for place in self._places]
        size = len(samples) // self.config.accumulation
        batches = [
            _batch(samples[start : start + size], numbers[start : start + size], source)
            for start in range(0, len(samples), size)
        ]
        return StepData(batches, tuple(broken), source)

    def _indices(self, step: int, source: int) -> list[int]:
        """Choose the photos of this process's places from the source's shuffled passes."""
        count = len(self.sources[source])
        first = int(self._earlier[step]) * self.config.batch
        positions = [first + place for place in self._places]
        # Orders are made anew each time: milliseconds, against a cache that would grow in every worker.
        orders = {
            epoch: self._random(_ORDER, source, epoch).permutation(count)
            for epoch in {position // count for position in positions}
        }
        return [int(orders[position // count][position % count]) for position in positions]

    def _sample(self, step: int, place: int, source: int, index: int, broken: dict[str, None]) -> Sample:
        """Read and augment a photo, or another where it is broken, and note what is wrong."""
        sample = self._readable(step, place, source, index, broken)
        rng = self._random(_AUGMENTATION, step, place)
        image, label_map = augment(sample.image, sample.label_map, self.config, rng)
        return Sample(sample.name, image, label_map)

    def _readable(self, step: int, place: int, source: int, index: int, broken: dict[str, None]) -> Sample:
        photos = self.sources[source]
        for attempt in range(ATTEMPTS + 1):
            try:
                return photos[index]
            except DataError as error:
                last = str(error)
                broken[last] = None
                index = int(self._random(_REPLACEMENT, step, place, attempt).integers(len(photos)))
        raise DataError(
            f"{photos.name}: a photo and {ATTEMPTS} tried in its place are broken; the last: {last}"
        )

    def _random(self, *stream: int) -> np.random.Generator:
        return np.random.default_rng((self.config.seed, *stream))


def check_shares(config: TrainConfig, processes: int) -> None:
    """Raise ConfigError where a step's photos cannot be dealt evenly to processes and their batches."""
    if config.batch % (processes * config.accumulation):
        raise ConfigError(
            f"a batch of {config.batch} photos cannot be dealt evenly to {processes} processes with "
            f"{config.accumulation} batches each: make it a multiple of {processes * config.accumulation}"
        )


def loader(step_batches: StepBatches, start: int, workers: int) -> Iterator[StepData]:
    """Read the steps from ``start`` on, in order, in ``workers`` processes, or in this one where that is 0.

    Errors arrive as they were raised. Workers need a main module that can be imported without starting the
    run again, and shared memory (/dev/shm) for two steps each. They end when the iterator is closed or
    dropped, and when this process dies.
    """
    steps = DataLoader(
        _Caught(step_batches),
        batch_size=None,
        sampler=range(start, len(step_batches)),
        num_workers=workers,
        prefetch_factor=PREFETCH if workers else None,
        worker_init_fn=_start_worker,
        # A forked worker would inherit locks that other threads hold (CUDA's, OpenMP's). A fork server's
        # workers would outlive a killed run: their parent, whose end PyTorch watches for, is the fork server.
        multiprocessing_context="spawn" if workers else None,
        generator=torch.Generator(),  # else each start draws from the generator that the run depends on
    )
    try:
        for item in steps:
            if isinstance(item, EBSegError):
                raise item
            yield item
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise DataError(
            f"a process that reads photos was killed ({str(error).splitlines()[0]}): give it more memory, in "
            "a container more shared memory (docker run --shm-size 512m), or take fewer --workers"
        ) from error


class _Caught(Dataset[StepData | EBSegError]):
    """Hands our errors over as values: DataLoader would hide their message in a worker's traceback."""

    def __init__(self, step_batches: StepBatches) -> None:
        self.step_batches = step_batches

    def __getitem__(self, step: int) -> StepData | EBSegError:
        try:
            return self.step_batches[step]
        except EBSegError as error:
            return error


def _start_worker(_: int) -> None:
    # PyTorch's own watch takes whoever is the parent by now for the run, which may have been killed before.
    end_with_parent()
    cv2.setNumThreads(0)  # DataLoader itself gives PyTorch one thread: the cores are shared by the workers
    torch.set_num_threads(1)
    # Ctrl-C reaches the whole group; the run decides when it ends, and it may want to finish a step.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.excepthook = _say_nothing_of_a_closed_pipe
    atexit.register(_end_at_once)


def _end_at_once() -> None:
    """End without taking Python apart, with status 1 where an error was not caught.

    The thread that hands over a batch may be in the middle of it. It would be cut off inside PyTorch, which
    C++ calls an error ("terminate called without an active exception").
    """
    os._exit(int(hasattr(sys, "last_type")))


def _say_nothing_of_a_closed_pipe(
    kind: type[BaseException], error: BaseException, traceback: TracebackType | None
) -> None:
    """Keep a run that was interrupted while it took over a batch from ending with a worker's traceback.

    A thread of multiprocessing, which hands over shared memory, calls this hook where the run hangs up.
    """
    if not isinstance(error, ConnectionError | EOFError):
        sys.__excepthook__(kind, error, traceback)


def _shares(sources: Sequence[Source], weights: Sequence[float] | None) -> npt.NDArray[np.float64]:
    """Give each source's probability."""
    if not sources:
        raise ConfigError("no source of photos was given; name at least one")
    for source in sources:
        if len(source) == 0:
            raise DataError(f"{source.name} has no photos")
    shares = np.array([len(source) for source in sources] if weights is None else weights, dtype=np.float64)
    if shares.shape != (len(sources),) or not (np.isfinite(shares) & (shares > 0)).all():
        raise ConfigError(
            f"weights {weights} do not fit: give a positive number for each of {len(sources)} sources"
        )
    return np.asarray(shares / shares.sum())


def _mixed(
    shares: npt.NDArray[np.float64], config: TrainConfig
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Draw each step's source, and count the earlier steps of the same source: both (steps,)."""
    rng = np.random.default_rng((config.seed, _SOURCES))
    source_of = rng.choice(len(shares), size=config.steps, p=shares)
    earlier = np.empty_like(source_of)
    for source in range(len(shares)):
        of_source = source_of == source
        earlier[of_source] = np.arange(of_source.sum())
    return source_of, earlier


def _batch(samples: Sequence[Sample], numbers: Sequence[int], source: int) -> Batch:
    images = np.stack([sample.image.transpose(2, 0, 1) for sample in samples])
    label_maps = np.stack([sample.label_map for sample in samples])
    return Batch(
        images=torch.from_numpy(
            np.ascontiguousarray(images)
        ),  # stacked as the photos lie in memory: channels last
        label_maps=torch.from_numpy(label_maps),
        names=tuple(sample.name for sample in samples),
        photos=tuple(numbers),
        source=source,
        segments=tuple(len(np.unique(label_map[label_map >= 0])) for label_map in label_maps),
    )
