"""From a task to its prediction: photos, questions, regions."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ebseg.ask import Ask, Measure, Memory
from ebseg.errors import ImageError, NoPhoto
from ebseg.images import read_image
from ebseg.label_studio.questions import Question, Served
from ebseg.label_studio.regions import Region, masks_to_regions, on_page, prediction
from ebseg.label_studio.smart_tools import InteractiveRequest, less
from ebseg.label_studio.style import style
from ebseg.label_studio.tasks import Labelling, TaskError, TaskPhoto, describe, task_id
from ebseg.label_studio.version import with_memory

_log = logging.getLogger(__name__)

OWN_FAULTS = (TaskError, NoPhoto, ImageError)
"""What is wrong with a task or its photo itself: asked again, the answer would be the same."""


SPECK = 0.01
"""Share of what a smart tool asked for, below which a connected part is no region of its own."""


class Fetcher(Protocol):
    """What photos are fetched with; ``ebseg.label_studio.fetch.ImageFetcher`` is one."""

    def fetch(self, url: str, *, task_id: int | None) -> bytes:
        """Fetch the file of a task's photo. Raises FetchError."""


class Segmentation(Protocol):
    """What a model answers for a photo."""

    @property
    def label_map(self) -> npt.NDArray[np.int16]:
        """(H, W): index into the labels, -1 where unsure."""

    @property
    def scores(self) -> npt.NDArray[np.float32]:
        """(H, W): share of the chosen label at each pixel, 0..1."""

    @property
    def measures(self) -> Mapping[Measure, npt.NDArray[np.float32]]:
        """(H, W) each: what else the question asked for."""


class Model(Protocol):
    """What segments photos; ``ebseg.predictor.Predictor`` and ``ebseg.engine.Engine`` are such."""

    @property
    def version(self) -> str:
        """Changes whenever predictions may change."""

    @property
    def photos_at_once(self) -> int:
        """How many questions are best asked together."""

    def predict_many(self, asks: Sequence[Ask]) -> Sequence[Segmentation]:
        """Segment photos, in their order."""


@dataclass(frozen=True)
class Pipeline:
    """How the tasks of one label config become predictions; its steps may be taken in different threads.

    ``max_pixels``: that a photo may have. ``memory``: of the project's corrections, if there is one; it
    counts where the model is the one that it belongs to.
    """

    labelling: Labelling
    fetcher: Fetcher
    max_pixels: int
    memory: Memory | None = None

    def version(self, model: str) -> str:
        """Name the version of the predictions that a model of that version makes."""
        if self.memory is not None and self.memory.model == model:
            model = with_memory(model, self.memory.name)
        return self.labelling.version(model)

    def predict(self, task: Any, model: Model) -> dict[str, Any]:
        """Make a task's prediction as Label Studio stores it. Raises EBSegError for a bad task or photo.

        Of several photos those that are bad themselves are left out, unless all are.
        """
        regions: list[Region] = []
        faults: list[Exception] = []
        photos = self.photos(task)
        for of in photos:
            try:
                [found] = model.predict_many([self.ask(self.photo(task, of), of.question)])
                regions += self.regions(found, of)
            except OWN_FAULTS as error:
                faults.append(error)
        if len(faults) == len(photos):
            raise faults[0]
        for fault in faults:
            _log.warning("%s: a photo is left out: %s", describe(task), fault)
        return prediction(regions, self.version(model.version))

    def photos(self, task: Any, asked: InteractiveRequest | None = None) -> list[TaskPhoto]:
        """List a task's photos, or the one that a smart tool points at.

        Raises AnnotationError where the tool asks for a label that no photo has.
        """
        there = self.labelling.photos(task)
        return [asked.choose(there)] if asked else there

    def photo(self, task: Any, of: TaskPhoto) -> npt.NDArray[np.uint8]:
        """Fetch and decode one of a task's photos: (H, W, 3) uint8 RGB.

        Raises TaskError, FetchError or ImageError.
        """
        if of.fault:
            raise of.fault
        content = self.fetcher.fetch(of.url, task_id=task_id(task))
        return read_image(
            content, max_pixels=self.max_pixels, limited_by="EBSEG_MAX_PIXELS", name="the photo"
        )

    def ask(
        self, photo: npt.NDArray[np.uint8], question: Question, asked: InteractiveRequest | None = None
    ) -> Ask:
        """Ask for every pixel's label of a photo (H, W, 3) uint8 RGB, or for what a smart tool points at.

        Raises AnnotationError for prompts that do not fit the photo, before the model takes its time.
        """
        pointed = None
        if asked:
            for prompt in asked.prompts:
                prompt.draw(photo.shape[0], photo.shape[1])
            pointed = asked.pointed(asked.place(question))
        measures = () if asked else question.measures
        return Ask(photo, question.vocabulary, question.threshold, pointed, measures, self.memory)

    def regions(
        self, found: Segmentation, of: TaskPhoto, asked: InteractiveRequest | None = None
    ) -> list[Region]:
        """Turn a segmentation into regions of each control: all that are large enough, or what was asked for.

        Raises AnnotationError for scores that are not finite, for prompts that do not fit the photo, and
        where nothing is left of what was asked for.
        """
        label_map = found.label_map
        if asked:
            index = asked.place(of.question)
            part = label_map == index
            if asked.is_unguided:
                part = less(part, asked.prompts)
            label_map = np.where(part, np.int16(index), np.int16(-1))
        regions: list[Region] = []
        for served, own in of.question.parts(label_map):
            if asked:
                least = SPECK * (own >= 0).mean()
                regions += masks_to_regions(own, found.scores, served.control, min_area=least)
            else:
                regions += self._predicted(own, found, served)
        if asked and not regions:
            raise asked.nothing_found()
        return regions if of.page is None else [on_page(region, of.page) for region in regions]

    def _predicted(
        self, label_map: npt.NDArray[np.int16], found: Segmentation, served: Served
    ) -> list[Region]:
        measure = style(served.control)[0].measure
        return masks_to_regions(
            label_map,
            found.scores,
            served.control,
            min_area=served.min_area,
            min_confidence=served.min_confidence,
            certainty=found.measures[measure] if measure else None,
        )
