"""Text embeddings kept in memory and on disk: one more label costs one label, not a vocabulary."""

import hashlib
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import platformdirs
import torch
from torch import Tensor

from ebseg.clip import TextClassifier, label_embeddings
from ebseg.files import nobody_elses, whole
from ebseg.stages import Stage, stage
from ebseg.vocabulary import TEMPLATES, Vocabulary

_log = logging.getLogger(__name__)

NAMES_PER_CALL = 64
"""Names encoded between two writes: what an interrupted run of a large vocabulary loses at most."""

MOST_KEPT = 20_000
"""Names in memory, 40 MB of EBSeg-B's: tasks may bring labels of their own, ever others."""

_DIGEST_BYTES = hashlib.sha256().digest_size
_ON_DISK = np.dtype("<f4")
_Embedding = npt.NDArray[np.float32]


def default_folder() -> Path:
    """Where text embeddings are kept: ``$EBSEG_CACHE_DIR/text``, else below the user's cache folder."""
    root = os.environ.get("EBSEG_CACHE_DIR") or platformdirs.user_cache_dir("ebseg", appauthor=False)
    return Path(root).expanduser() / "text"


class TextCache:
    """A cache in front of a text tower, shared by threads, processes and models.

    An embedding is found by the text tower's fingerprint, the prompt templates and the name. ``folder``
    holds one small file a name (SHA-256 of the values, then the values, little-endian float32); None keeps
    to memory. Files are replaced whole, so processes may share a folder; a damaged file counts as absent.
    Where nothing can be written, the cache says so once and goes on in memory.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._memory: dict[str, _Embedding] = {}

    def embed(self, names: Sequence[str], encode: Callable[[list[str]], Tensor], fingerprint: str) -> Tensor:
        """Give the embeddings (len(names), E), float32 on the CPU, of names.

        ``encode`` turns names into embeddings (N, E) on any device and is called only for names that
        are neither in memory nor on disk. ``fingerprint`` names the weights behind ``encode``.
        """
        keys = {name: _key(fingerprint, name) for name in names}
        found = {name: known for name, key in keys.items() if (known := self._known(key)) is not None}
        missing = [name for name in keys if name not in found]
        for start in range(0, len(missing), NAMES_PER_CALL):
            chunk = missing[start : start + NAMES_PER_CALL]
            for name, row in zip(chunk, encode(chunk).detach().float().cpu().numpy(), strict=True):
                found[name] = self._keep(keys[name], row.copy())
                self._save(keys[name], row)
        return torch.from_numpy(np.stack([found[name] for name in names]))

    def _known(self, key: str) -> _Embedding | None:
        """Find one embedding in memory or on disk."""
        embedding = self._memory.get(key)
        if embedding is not None:
            return embedding
        embedding = self._load(key)
        return None if embedding is None else self._keep(key, embedding)

    def _keep(self, key: str, embedding: _Embedding) -> _Embedding:
        if len(self._memory) >= MOST_KEPT:
            self._memory = {}
        self._memory[key] = embedding
        return embedding

    def _load(self, key: str) -> _Embedding | None:
        """Read one embedding from disk; None where it is absent or damaged."""
        if self._folder is None:
            return None
        try:
            content = self._path(self._folder, key).read_bytes()
        except OSError:
            return None
        digest, values = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
        if not values or hashlib.sha256(values).digest() != digest:
            _log.warning("Ignored a damaged text embedding: %s", self._path(self._folder, key))
            return None
        return np.frombuffer(values, _ON_DISK).astype(np.float32)

    def _save(self, key: str, embedding: _Embedding) -> None:
        folder = self._folder
        if folder is None:
            return
        path = self._path(folder, key)
        values = embedding.astype(_ON_DISK).tobytes()
        try:
            with whole(path, unfinished=nobody_elses(path), mode=0o600) as unfinished:
                unfinished.write_bytes(hashlib.sha256(values).digest() + values)
        except OSError as error:
            _log.warning("Text embeddings are kept in memory only: cannot write %s: %s", folder, error)
            self._folder = None

    @staticmethod
    def _path(folder: Path, key: str) -> Path:
        return folder / key[:2] / f"{key}.f32"


class TextEncoder:
    """Embeddings of labels by a model's text tower, which is frozen, kept in a cache.

    One serves all models that share the tower. ``cache``: a new one in memory unless told otherwise.
    """

    def __init__(self, text: TextClassifier, cache: TextCache | None = None) -> None:
        self._text = text
        self._cache = cache or TextCache(None)

    @stage(Stage.TEXT)
    def __call__(self, vocabulary: Vocabulary) -> Tensor:
        """Give the labels' embeddings (K, E), float32 on the CPU: ``text`` of the model's methods."""
        names = [prompt for prompts in vocabulary.prompts for prompt in prompts]
        found = self._cache.embed(names, self._text.encode_names, self._text.fingerprint())
        return label_embeddings(vocabulary, found)


def _key(fingerprint: str, name: str) -> str:
    """Hash what an embedding depends on; the parts are joined by a character that none of them has."""
    return hashlib.sha256("\0".join((fingerprint, *TEMPLATES, name)).encode()).hexdigest()
