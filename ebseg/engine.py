"""A model that remembers the photos it has seen: asked again, with any labels, it answers in a fraction."""

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ebseg.ask import Ask
from ebseg.predictor import EncodedPhoto, Predictor, as_array
from ebseg.segmentation import Segmentation

CACHE_BYTES = 256 * 2**20
"""Of encoded photos: some 8 of EBSeg-B's, a hundred of the small model's."""


class EncodedPhotos:
    """Encoded photos by model and pixels, up to so many bytes; those not asked for longest go first.

    For many threads, and the engines of many models. A photo that is larger than the whole is not kept.
    """

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._photos: OrderedDict[bytes, EncodedPhoto] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    @property
    def nbytes(self) -> int:
        """Bytes that are kept now."""
        return self._bytes

    def __len__(self) -> int:
        return len(self._photos)

    def get(self, key: bytes) -> EncodedPhoto | None:
        """Give a photo, and keep it the longer for it."""
        with self._lock:
            found = self._photos.get(key)
            if found is not None:
                self._photos.move_to_end(key)
            return found

    def put(self, key: bytes, photo: EncodedPhoto) -> None:
        """Keep a photo, and drop others until it has room."""
        with self._lock:
            if key in self._photos or photo.nbytes > self._most_bytes:
                return
            self._photos[key] = photo
            self._bytes += photo.nbytes
            while self._bytes > self._most_bytes:
                _, dropped = self._photos.popitem(last=False)
                self._bytes -= dropped.nbytes


class Engine:
    """Answers questions with one model, one caller at a time.

    A photo's masks and embeddings, most of the work, do not depend on labels: they are kept, so that a smart
    tool's second click, or a changed label, costs the rest alone. ``encoded``: where, which models may share;
    by default CACHE_BYTES of this one's.
    """

    def __init__(self, predictor: Predictor, *, encoded: EncodedPhotos | None = None) -> None:
        self._predictor = predictor
        self._encoded = EncodedPhotos(CACHE_BYTES) if encoded is None else encoded

    @property
    def version(self) -> str:
        """The model's version."""
        return self._predictor.version

    @property
    def photos_at_once(self) -> int:
        """How many questions are best asked together; see ``Predictor.photos_at_once``."""
        return self._predictor.photos_at_once

    def predict_many(self, asks: Sequence[Ask]) -> list[Segmentation]:
        """Answer questions, in their order; see ``Predictor.predict_many``."""
        step = self.photos_at_once
        return [
            answer
            for first in range(0, len(asks), step)
            for answer in self._answers(asks[first : first + step])
        ]

    def _answers(self, asks: Sequence[Ask]) -> list[Segmentation]:
        pixels = [as_array(ask.photo) for ask in asks]
        keys = [_key(self.version, each) for each in pixels]
        encoded = {key: kept for key in keys if (kept := self._encoded.get(key)) is not None}
        new = {key: photo for key, photo in zip(keys, pixels, strict=True) if key not in encoded}
        for key, photo in zip(new, self._predictor.encode_many(list(new.values())), strict=True):
            self._encoded.put(key, photo)
            encoded[key] = photo
        answer = self._predictor.answer
        return [answer(ask, encoded[key], each) for ask, key, each in zip(asks, keys, pixels, strict=True)]


def _key(version: str, pixels: npt.NDArray[np.uint8]) -> bytes:
    """Name what a model says of a photo, by the model's version and the photo's size and pixels.

    It takes 1 ms a megapixel, three orders less than the model.
    """
    digest = hashlib.blake2b(repr((version, pixels.shape)).encode(), digest_size=16)
    digest.update(np.ascontiguousarray(pixels).data)
    return digest.digest()
