"""Judge by the photos to train on where too few are held out, each with a model that did not see it.

The candidate itself sees all of them. What stands for it on a photo is a model that was fine-tuned in the
same way on two thirds of them, and so is, as a rule, a little worse.
"""

import io
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import numpy as np

from ebseg.loading import load
from training.annotations.manifest import Manifest
from training.annotations.parts import folds
from training.annotations.snapshot import SnapshotSource
from training.finetuning import parent
from training.finetuning.folder import RUNS
from training.judging import measuring
from training.judging.gate import Measured
from training.settings import Settings
from training.storage import Storage


def train_folds(
    settings: Settings,
    storage: Storage,
    manifest: Manifest,
    spec: dict[str, Any],
    job_id: str,
    report: Callable[[dict[str, Any], list[str]], None],
    progress: measuring.PhotosDone,
) -> None:
    """Fine-tune once for each fold, and keep in the storage what these models predict for theirs.

    ``spec``: of the candidate's own training. What is done already is not done again.
    """
    if storage.exists(_key(job_id)):
        return
    measured, folders = [], list[Path]()
    for number, fold in enumerate(folds(SnapshotSource(storage, manifest, "train"))):
        folder = settings.home / RUNS / f"{job_id}-fold-{number + 1}"
        folders.append(folder)
        if not parent.is_done(folder):
            fold_spec = {**spec, "out": str(folder), "fold": number, "mlflow": None}
            parent.run_process(folder, fold_spec, settings.train_processes, report)
        model = load(parent.outcome(folder)["path"], device=settings.device)
        measured.append(measuring.measure(model, fold, storage, progress))
    pooled = pool(measured)
    content = io.BytesIO()
    np.savez_compressed(content, tasks=np.array(pooled.tasks), counts=pooled.counts)
    storage.write(_key(job_id), content.getvalue())
    for folder in folders:
        parent.forget(storage, folder)


def folds_measured(storage: Storage, job_id: str) -> Measured | None:
    """Read what the folds' models of a training predicted; None where it had none."""
    try:
        content = storage.read(_key(job_id))
    except FileNotFoundError:
        return None
    with np.load(io.BytesIO(content), allow_pickle=False) as found:
        return Measured(tuple(found["tasks"].tolist()), found["counts"])


def pool(parts: list[Measured]) -> Measured:
    """Put measurements of different tasks together, in the order of the tasks."""
    tasks = np.concatenate([np.array(part.tasks, np.int64) for part in parts])
    counts = np.concatenate([part.counts for part in parts])
    order = np.argsort(tasks)
    return Measured(tuple(tasks[order].tolist()), counts[order])


def only(tasks: Collection[int], measured: Measured) -> Measured:
    """Leave out the measurements of other tasks."""
    kept = [task in tasks for task in measured.tasks]
    return Measured(
        tuple(task for task, keep in zip(measured.tasks, kept, strict=True) if keep), measured.counts[kept]
    )


def _key(job_id: str) -> str:
    return f"{RUNS}/{job_id}/folds.npz"
