"""Predictions with the scores of an order, and what the next order is made of."""

from typing import Any

import numpy as np

from ebseg.engine import EncodedPhotos
from ebseg.label_studio.pipeline import Model, Pipeline
from ebseg.predictor import EncodedPhoto
from training.selection import files
from training.selection.embeddings import embedding
from training.selection.strategies import Embedding, is_by_diversity, score
from training.settings import Select
from training.storage import Storage


class Ordering:
    """Gives predictions the scores of an order, and keeps what the next one is made of.

    ``model``: the version that predicts; ``photos``: what it is to keep encoded photos in.
    """

    def __init__(self, storage: Storage, project: int, model: str, select: Select) -> None:
        self._taken: list[Embedding] = []
        # A task is predicted once: nothing else of its photos is kept.
        self.photos = _Embeddings(self._taken) if is_by_diversity(select) else EncodedPhotos(0)
        self._select = select
        self._place = (storage, project, model)
        self._front = files.front(*self._place) if is_by_diversity(select) else []
        self._found: dict[int, Embedding] = {}

    def predict(self, pipeline: Pipeline, task: Any, model: Model) -> dict[str, Any]:
        """Make a task's prediction as the pipeline does, with its score in the order."""
        self._taken.clear()
        prediction = pipeline.predict(task, model)
        if self._taken:
            self._found[task["id"]] = np.stack(self._taken).mean(axis=0).astype(np.float16)
        place = score(self._select, task["id"], prediction["score"], self._front)
        return prediction | {"score": place}

    def keep(self) -> None:
        """Keep what the next order is made of."""
        if self._found:
            files.keep(*self._place, self._found)


class _Embeddings(EncodedPhotos):
    """Keeps the embeddings of encoded photos, in a list, and nothing else of them."""

    def __init__(self, taken: list[Embedding]) -> None:
        super().__init__(0)
        self._taken = taken

    def put(self, key: bytes, photo: EncodedPhoto) -> None:
        """Keep a photo's embedding."""
        self._taken.append(embedding(photo.encoded))
