"""Costs of a prediction, stage by stage, of labels' texts, and of regions: for `ebseg bench stages`.

Random weights take the time of real ones. A photo is of noise, which takes the time of a real one; what
regions are made of is a drawn scene, as random weights would answer with noise, of which regions take longer.
"""

import statistics
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Annotated, Self

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ebseg.clip import TextClassifier
from ebseg.config import ModelConfig
from ebseg.data.drawn.synthetic import PHRASES, draw_scene
from ebseg.errors import ConfigError
from ebseg.fresh_process import fresh_process
from ebseg.label_studio.kinds import KINDS
from ebseg.label_studio.label_config import Control, Label
from ebseg.label_studio.regions import masks_to_regions
from ebseg.machine import Machine, this_machine
from ebseg.model import EBSeg
from ebseg.photo_sizes import photo_size
from ebseg.predictor import Predictor, choose_device
from ebseg.progress import count, doing
from ebseg.runs.memory import peak_bytes
from ebseg.stages import Stage, observed
from ebseg.text_cache import TextEncoder
from ebseg.timing import original_encoder, seconds_of
from ebseg.vocabulary import MAX_LABELS, Vocabulary

OTHER = "other"
"""What of a photo's time is in no stage."""

PHOTO = "whole photo"
ENCODER = "segment-anything's encoder"
ALL_LABELS, ONE_MORE = "all labels", "one more label"


class Table(BaseModel):
    """What the steps of a piece of work take.

    ``seconds``: of each step, round by round. ``flops``: of each stage of a photo, two for a multiplication
    and its addition; in matrix products, convolutions and attention, as nothing else is counted.
    ``peak_bytes``: as ``runs.memory.peak_bytes``, of a process that has done the work and nothing that takes
    more; None where that is not known.
    """

    model_config = ConfigDict(frozen=True)

    seconds: dict[str, Annotated[list[float], Field(min_length=1)]]
    flops: dict[str, int] = {}
    peak_bytes: int | None = None

    @property
    def medians(self) -> dict[str, float]:
        """Median seconds of each step."""
        return {step: statistics.median(values) for step, values in self.seconds.items()}

    @property
    def whole(self) -> float | None:
        """Median seconds of a whole photo; None where the table is of other work."""
        return self.medians.get(PHOTO)

    @property
    def encoder(self) -> float | None:
        """Median seconds of segment-anything's encoder; None where the table is of other work."""
        return self.medians.get(ENCODER)

    @property
    def times_encoder(self) -> float | None:
        """How many times segment-anything's encoder a whole photo takes."""
        return None if self.whole is None or self.encoder is None else self.whole / self.encoder

    def flops_of(self, step: str) -> int | None:
        """Operations of a stage, or of the whole photo; None where they are not counted."""
        return sum(self.flops.values()) if step == PHOTO else self.flops.get(step)


class Report(BaseModel):
    """Tables of a ``variant`` by their titles, with the ``machine`` and its ``device`` they were taken on."""

    model_config = ConfigDict(frozen=True)

    variant: str
    device: str
    machine: Machine
    tables: dict[str, Table]

    @classmethod
    def read(cls, content: str, name: str, variant: str, titles: Collection[str]) -> Self:
        """Take the tables of these titles from what ``model_dump_json`` wrote of this variant.

        Raises ConfigError, which calls it ``name``, where it is something else or has no such tables.
        """
        try:
            report = cls.model_validate_json(content)
        except ValidationError as error:
            raise ConfigError(f"{name} is no report that `ebseg bench stages --json` printed") from error
        if report.variant != variant:
            raise ConfigError(f"{name} is a report of {report.variant}: give --variant {report.variant}")
        missing = [title for title in titles if title not in report.tables]
        if missing:
            raise ConfigError(f"{name} has no table of {missing[0]}; it has: {'; '.join(report.tables)}")
        return report.model_copy(update={"tables": {title: report.tables[title] for title in titles}})

    @classmethod
    def joined(cls, reports: Sequence[Self]) -> Self:
        """Join reports of the same tables into one with the rounds of all."""
        tables = {}
        for title, table in reports[0].tables.items():
            same = [report.tables[title] for report in reports]
            seconds = {step: [took for each in same for took in each.seconds[step]] for step in table.seconds}
            peak = max((each.peak_bytes for each in same if each.peak_bytes), default=None)
            tables[title] = table.model_copy(update={"seconds": seconds, "peak_bytes": peak})
        return reports[0].model_copy(update={"tables": tables})


class Change(BaseModel):
    """Median seconds of a step in two reports, None where there is no such step, and their ratio."""

    model_config = ConfigDict(frozen=True)

    before: float | None
    after: float | None
    ratio: float | None


class Comparison(BaseModel):
    """Two reports that have the same tables, and by tables' titles and by steps what changed.

    ``in_turns``: whether both were measured in turns, so that noise of the machine hit both.
    """

    model_config = ConfigDict(frozen=True)

    before: Report
    after: Report
    in_turns: bool
    changes: dict[str, dict[str, Change]]

    @classmethod
    def of(cls, before: Report, after: Report, *, in_turns: bool) -> Self:
        """Compare reports."""
        changes = {title: _changes(before.tables[title], table) for title, table in after.tables.items()}
        return cls(before=before, after=after, in_turns=in_turns, changes=changes)


def _changes(before: Table, after: Table) -> dict[str, Change]:
    old, new = before.medians, after.medians
    return {
        step: Change(
            before=old.get(step),
            after=new.get(step),
            ratio=new[step] / old[step] if step in new and old.get(step) else None,
        )
        for step in dict.fromkeys([*new, *old])
    }


class StageMeter:
    """Shares out what a counter gains among the stages: to each what it gains outside of stages within it.

    ``read`` reads a counter that never falls, such as a clock; the meter starts when it is made.
    """

    def __init__(self, read: Callable[[], float]) -> None:
        self._read = read
        self._last = read()
        self._open: list[str] = [OTHER]
        self._gained = dict.fromkeys([*Stage, OTHER], 0.0)

    @contextmanager
    def __call__(self, name: Stage) -> Iterator[None]:
        """Meter a stage: an ``Observer``."""
        self.gained()
        self._open.append(name)
        try:
            yield
        finally:
            self.gained()
            self._open.pop()

    def gained(self) -> dict[str, float]:
        """Tell what was gained until now: by each stage, and under ``OTHER`` by none."""
        now = self._read()
        self._gained[self._open[-1]] += now - self._last
        self._last = now
        return self._gained


Work = dict[tuple[str, ...], Callable[[], list[Table]]]
"""What is measured: titles of tables that are measured together, and how."""


def photo_title(megapixels: float, labels: int) -> str:
    """Give the title of a table of a photo."""
    return f"photo of {megapixels:g} megapixels, {_named(labels)}"


def plan(config: ModelConfig, megapixels: Sequence[float], labels: Sequence[int], rounds: int) -> Work:
    """Plan photos of each size with each number of labels, texts of each number, regions at each size.

    Raises ConfigError for a size or a number out of bounds.
    """
    for size in megapixels:
        photo_size(size)  # now, and not in the process that measures
    for number in labels:
        if not 1 <= number <= MAX_LABELS:
            raise ConfigError(f"{number} labels are not measured; choose from 1 to {MAX_LABELS}")
    work: Work = {}
    for size in megapixels:
        titles = tuple(photo_title(size, number) for number in labels)
        work[titles] = partial(measure_photo, config, size, labels, rounds)
    for number in labels:
        work[(f"text of {_named(number)}",)] = partial(measure_text, config, number, rounds)
    for size in megapixels:
        work[(f"regions at {size:g} megapixels",)] = partial(measure_regions, size, rounds)
    return work


def measure_stages(variant: str, work: Work) -> Report:
    """Measure all that is planned for a variant, what is measured together in a new process."""
    tables: dict[str, Table] = {}
    for titles, measure in work.items():
        with fresh_process() as fresh:
            tables |= zip(titles, fresh.submit(measure).result(), strict=True)
    return Report(variant=variant, device=str(choose_device(None)), machine=this_machine(), tables=tables)


def measure_photo(config: ModelConfig, megapixels: float, labels: Sequence[int], rounds: int) -> list[Table]:
    """Measure a photo with so many labels each, and segment-anything's own encoder, in turns."""
    photo = np.random.default_rng(0).integers(256, size=(*photo_size(megapixels), 3), dtype=np.uint8)
    predictor = Predictor(EBSeg(config).requires_grad_(False), version="random")  # for FlopCounterMode
    device = predictor.device
    vocabularies = {number: some_labels(number) for number in sorted(labels)}
    peaks = {}
    for number, vocabulary in vocabularies.items():  # the fewest first: what takes more memory comes later
        with doing(f"A first photo with {_named(number)}"):
            predictor.predict(photo, vocabulary)  # the labels' embeddings are kept from then on
        peaks[number] = peak_bytes(device)  # of an answer; segment-anything's encoder would take more

    from torch.utils.flop_counter import FlopCounterMode  # loads Triton, which no answer does

    def predict(vocabulary: Vocabulary, read: Callable[[], float]) -> dict[str, float]:
        meter = StageMeter(read)
        with observed(meter):
            predictor.predict(photo, vocabulary)
            return meter.gained()

    flops = {}
    for number, vocabulary in vocabularies.items():
        with doing("Counting its operations"), FlopCounterMode(display=False) as counter:
            flops[number] = predict(vocabulary, counter.get_total_flops)
    clock = partial(_clock, device)
    images = torch.rand(1, 3, *predictor.encode(photo).encoded.padded, device=device)
    original_encoder(predictor.net, images)  # warm-up, as the first photo was
    steps = (*Stage, OTHER, PHOTO, ENCODER)
    seconds: dict[int, dict[str, list[float]]] = {number: {step: [] for step in steps} for number in labels}
    for _ in count(rounds, f"Photos of {megapixels:g} megapixels"):
        begun = clock()
        original_encoder(predictor.net, images)
        encoder = clock() - begun
        for number, vocabulary in vocabularies.items():
            gained = {ENCODER: encoder} | predict(vocabulary, clock)
            gained[PHOTO] = sum(gained[step] for step in (*Stage, OTHER))
            for step, values in seconds[number].items():
                values.append(gained[step])
    return [
        Table(
            seconds=seconds[number],
            flops={step: int(gained) for step, gained in flops[number].items()},
            peak_bytes=peaks[number],
        )
        for number in labels
    ]


def measure_text(config: ModelConfig, labels: int, rounds: int) -> list[Table]:
    """Measure the embedding of labels that no cache has, and then of one more."""
    device = choose_device(None)
    text = TextClassifier(config.clip).to(device).eval()
    clock = partial(_clock, device)
    vocabulary, other = some_labels(labels), Vocabulary(["one more"])
    TextEncoder(text)(other)  # warm-up
    seconds: dict[str, list[float]] = {ALL_LABELS: [], ONE_MORE: []}
    for _ in count(rounds, f"Texts of {_named(labels)}"):
        encoder, times = TextEncoder(text), [clock()]
        for asked in (vocabulary, other):
            encoder(asked)
            times.append(clock())
        seconds[ALL_LABELS].append(times[1] - times[0])
        seconds[ONE_MORE].append(times[2] - times[1])
    return [Table(seconds=seconds, peak_bytes=peak_bytes(device))]


def measure_regions(megapixels: float, rounds: int) -> list[Table]:
    """Measure the writing of a drawn scene's regions, for each kind that predictions have."""
    with doing("Drawing a scene"):
        drawn = draw_scene(0, 0, size=photo_size(megapixels)).label_map
    scores = np.ones(drawn.shape, dtype=np.float32)
    labels = tuple(Label(phrase) for phrase in PHRASES)
    controls = [
        Control(kind.types[1], name=kind.types[0], to_name="image", labels=labels)
        for kind in KINDS
        if kind.write
    ]
    seconds: dict[str, list[float]] = {control.name: [] for control in controls}
    for number in count(rounds + 1, f"Regions at {megapixels:g} megapixels"):
        for control in controls:
            took = seconds_of(partial(masks_to_regions, drawn, scores, control))
            if number:  # the first is a warm-up
                seconds[control.name].append(took)
    return [Table(seconds=seconds)]  # drawing took more memory


def some_labels(number: int) -> Vocabulary:
    """Give so many labels, of a word or some as people type them."""
    return Vocabulary([f"{PHRASES[n % len(PHRASES)]} {n // len(PHRASES) + 1}" for n in range(number)])


def _named(labels: int) -> str:
    return "1 label" if labels == 1 else f"{labels} labels"


def _clock(device: torch.device) -> float:
    """Read the clock when the device has done what it was told to."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
