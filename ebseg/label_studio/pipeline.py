"""From a task to its prediction: photo, question, regions."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ebseg.ask import Ask
from ebseg.images import read_image
from ebseg.label_studio.regions import Region, masks_to_regions, prediction
from ebseg.label_studio.smart_tools import InteractiveRequest, less
from ebseg.label_studio.tasks import Labelling, photo_url, task_id


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


class Model(Protocol):
    """What segments photos; ``ebseg.predictor.Predictor`` and ``ebseg.engine.Engine`` are such."""

    @property
    def version(self) -> str:
        """Changes whenever predictions may change."""

    def predict_many(self, asks: Sequence[Ask]) -> Sequence[Segmentation]:
        """Segment photos, in their order."""


@dataclass(frozen=True)
class Pipeline:
    """How the tasks of one label config become predictions; its steps may be taken in different threads.

    ``max_pixels``: that a photo may have.
    """

    labelling: Labelling
    fetcher: Fetcher
    max_pixels: int

    def predict(self, task: Any, model: Model) -> dict[str, Any]:
        """Make a task's prediction as Label Studio stores it. Raises EBSegError for a bad task or photo."""
        [found] = model.predict_many([self.ask(self.photo(task))])
        return prediction(self.regions(found), self.labelling.version(model.version))

    def photo(self, task: Any) -> npt.NDArray[np.uint8]:
        """Fetch and decode a task's photo: (H, W, 3) uint8 RGB.

        Raises TaskError, FetchError or ImageError.
        """
        url = photo_url(task, self.labelling.data_key)
        content = self.fetcher.fetch(url, task_id=task_id(task))
        return read_image(
            content, max_pixels=self.max_pixels, limited_by="EBSEG_MAX_PIXELS", name="the photo"
        )

    def ask(self, photo: npt.NDArray[np.uint8], asked: InteractiveRequest | None = None) -> Ask:
        """Ask for every pixel's label of a photo (H, W, 3) uint8 RGB, or for what a smart tool points at.

        Raises AnnotationError for prompts that do not fit the photo, before the model takes its time.
        """
        pointed = None
        if asked:
            for prompt in asked.prompts:
                prompt.draw(photo.shape[0], photo.shape[1])
            pointed = asked.pointed(self.labelling.control.labels.index(asked.label))
        return Ask(photo, self.labelling.vocabulary, self.labelling.threshold, pointed)

    def regions(self, found: Segmentation, asked: InteractiveRequest | None = None) -> list[Region]:
        """Turn a segmentation into regions: all that are large enough, or what a smart tool asked for.

        Raises AnnotationError for scores that are not finite, and for prompts that do not fit the photo.
        """
        control, min_area = self.labelling.control, self.labelling.min_area
        if asked is None:
            return masks_to_regions(found.label_map, found.scores, control, min_area=min_area)
        index = control.labels.index(asked.label)
        part = found.label_map == index
        if asked.is_unguided:
            part = less(part, asked.prompts)
        return masks_to_regions(np.where(part, index, -1), found.scores, control)
