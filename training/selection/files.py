"""What is kept of a project's tasks to put them into order; nothing is lost with it but that order.

In the storage, below ``selection/project-<id>/<digest of the model's version>/``::

    embeddings/all.npz      embeddings of tasks, up to ``MOST_TASKS``
    embeddings/<task>.npz   those of a job's tasks, until the next plan takes them in
    front.json              the tasks that come first, in order
"""

import hashlib
import io
import json
import logging
import zipfile
from collections.abc import Mapping, Sequence

import numpy as np
from pydantic import TypeAdapter, ValidationError

from training.selection.strategies import Embedding
from training.storage import Storage

MOST_TASKS = 2000
"""Of a project, whose distances from each other take 16 MB; the oldest ones by their ids."""

_log = logging.getLogger(__name__)

_DAMAGED = (ValueError, KeyError, EOFError, OSError, zipfile.BadZipFile, ValidationError)
"""What reading a damaged file raises."""

_TASKS = TypeAdapter(list[int])


def keep(storage: Storage, project: int, model: str, embeddings: Mapping[int, Embedding]) -> None:
    """Keep embeddings of one task or more by a version of the model, for the next ``collect``."""
    _write(storage, f"{_folder(project, model)}/embeddings/{min(embeddings)}.npz", embeddings)


def collect(storage: Storage, project: int, model: str) -> dict[int, Embedding]:
    """Give the tasks' embeddings by a version of the model; what was kept by another one is removed."""
    own = f"{_folder(project, model)}/"
    for key in storage.keys(f"selection/project-{project}"):
        if not key.startswith(own):
            storage.remove(key)
    whole, parts = f"{own}embeddings/all.npz", storage.keys(f"{own}embeddings")
    found: dict[int, Embedding] = {}
    for key in parts:
        found |= _read(storage, key)
    found = {task: found[task] for task in sorted(found)[:MOST_TASKS]}
    if parts not in ([], [whole]):
        _write(storage, whole, found)
        for key in parts:
            if key != whole:
                storage.remove(key)
    return found


def _write(storage: Storage, key: str, embeddings: Mapping[int, Embedding]) -> None:
    content = io.BytesIO()
    np.savez(content, tasks=np.array(list(embeddings)), embeddings=np.stack(list(embeddings.values())))
    storage.write(key, content.getvalue())


def _read(storage: Storage, key: str) -> dict[int, Embedding]:
    try:
        with np.load(io.BytesIO(storage.read(key)), allow_pickle=False) as found:
            return dict(zip(found["tasks"].tolist(), found["embeddings"], strict=True))
    except _DAMAGED as error:
        _log.warning("%s cannot be read (%s): its tasks have no part in the order for now", key, error)
        return {}


def put_in_front(storage: Storage, project: int, model: str, tasks: Sequence[int]) -> None:
    """Say which tasks come first."""
    storage.write(f"{_folder(project, model)}/front.json", json.dumps(list(tasks)).encode())


def front(storage: Storage, project: int, model: str) -> list[int]:
    """Tell which tasks come first, in order; none where that was never said, or cannot be read."""
    key = f"{_folder(project, model)}/front.json"
    try:
        return _TASKS.validate_json(storage.read(key))
    except FileNotFoundError:
        return []
    except _DAMAGED as error:
        _log.warning("%s cannot be read (%s): no task comes first", key, error)
        return []


def forget(storage: Storage, project: int) -> None:
    """Remove all that is kept of a project."""
    storage.remove(f"selection/project-{project}")


def _folder(project: int, model: str) -> str:
    return f"selection/project-{project}/{hashlib.sha256(model.encode()).hexdigest()[:16]}"
