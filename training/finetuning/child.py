"""A fine-tuning job's process: ``python -m training.finetuning.child SPEC.json``, alone or under a launcher.

It ends with status 0 when it is done, 1 with one line that begins with "ebseg: " where it failed, and 143
soon after SIGTERM; the same command goes on from the newest checkpoint. It does not outlive who started it.
"""

import fcntl
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ebseg.errors import ConfigError, EBSegError, TrainingError
from training.finetuning.progress_file import ProgressFile, Stage
from training.queue.lifeline import die_with_parent

if TYPE_CHECKING:  # all that needs PyTorch is imported when the lock is had
    from ebseg.data.samples import Source
    from ebseg.runs.watch import Watcher
    from training.storage import Storage

LOCK_FILE, PROGRESS_FILE = "run.lock", "progress.json"

MIRROR = "mirror"
"""Where in a run's folder of the storage the copy of its newest checkpoint is."""

LOCK_SECONDS = 10.0
"""That a run waits for the one before it, whose job was killed, to notice and end."""

TERMINATED = 128 + signal.SIGTERM
"""Exit status of a process that SIGTERM ended, as shells have it."""

END_SECONDS = 10.0
"""For MLflow to be told of the end, after SIGTERM."""

PICTURES = 4
"""Validation photos whose predictions MLflow gets pictures of."""


JOB_VARIABLE = "EBSEG_JOB_PROCESS"
"""Environment variable with the number of the process that the run works for."""


class MlflowSpec(BaseModel):
    """Where MLflow keeps the run, and what it calls it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tracking_uri: str
    experiment: str
    run_name: str


class RunSpec(BaseModel):
    """What to fine-tune, on which annotations, and where everything is."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    base: str = Field(description="what ebseg.load takes")
    storage: str = Field(description="folder or URL of the snapshots")
    cache: Path = Field(description="folder for copies of the storage's files")
    project: int
    fingerprint: str = Field(description="of the snapshot of the project's annotations")
    out: Path = Field(description="folder of checkpoints, progress and model; its name is the run's")
    fold: int | None = Field(
        default=None, ge=0, description="part of the photos that another model trains on"
    )
    config: dict[str, Any] = Field(description="fields of FinetuneConfig")
    general: str | None = Field(description="data not to forget, as --data of ebseg train")
    data_root: Path = Field(description="where benchmarks are")
    workers: int = Field(ge=0, description="processes that read photos")
    mlflow: MlflowSpec | None = None
    mirror: bool | None = Field(
        default=None, description="copy checkpoints into the storage; unset: where that is not a local folder"
    )


def main() -> None:
    """Run the command."""
    # Under torchrun the parent is the launcher, which would itself outlive the job.
    job = os.environ.get(JOB_VARIABLE)
    die_with_parent(
        generations=2 if "TORCHELASTIC_RUN_ID" in os.environ else 1, parent=None if job is None else int(job)
    )
    if len(sys.argv) != 2:
        print("usage: python -m training.finetuning.child SPEC.json", file=sys.stderr)
        sys.exit(2)
    try:
        spec = read_spec(Path(sys.argv[1]))
        if os.environ.get("RANK", "0") != "0":
            _run(spec)
            return
        end_in_order()
        with alone_in(spec.out), reported(ProgressFile(spec.out / PROGRESS_FILE)) as progress:
            _run(spec, progress)
    except (EBSegError, OSError) as error:  # an OSError here is a disk's or a network's answer and names it
        print(f"ebseg: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(1)


def read_spec(path: Path) -> RunSpec:
    """Read what to do. Raises ConfigError."""
    try:
        return RunSpec.model_validate_json(path.read_text())
    except (OSError, ValidationError) as error:
        raise ConfigError(f"{path} does not say what to fine-tune: {error}") from error


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Keep other processes from training in a folder. Raises TrainingError where one does already."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK_FILE).open("a") as lock:
        deadline = time.monotonic() + LOCK_SECONDS
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise TrainingError(
                        f"another process trains in {folder}: let it end, stop it, or choose another folder"
                    ) from None
                time.sleep(0.1)
        yield


@contextmanager
def reported(progress: ProgressFile) -> Iterator[ProgressFile]:
    """Tell the progress how a run has ended."""
    try:
        yield progress
    except BaseException as error:
        progress.failed(error)
        raise
    progress.enter(Stage.DONE)


def end_in_order() -> None:
    """Have SIGTERM end this process with its watchers told, and at once where that takes too long."""

    def end(_number: int, _frame: object) -> None:
        # A launcher or a job sends SIGTERM to the processes that read photos too: their end is no error now.
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        late = threading.Timer(END_SECONDS, os._exit, [TERMINATED])
        late.daemon = True
        late.start()
        raise SystemExit(TERMINATED)

    signal.signal(signal.SIGTERM, end)


def _run(spec: RunSpec, progress: ProgressFile | None = None) -> None:
    """Fine-tune. ``progress``: the main process's, which alone is watched and writes files."""
    from ebseg.config import checked
    from training.annotations.manifest import load
    from training.annotations.parts import training_and_validation
    from training.annotations.snapshot import SnapshotSource
    from training.finetuning.finetune import FinetuneConfig, Snapshot, finetune
    from training.finetuning.general_data import general_data
    from training.storage import Storage

    config = checked(FinetuneConfig, spec.config)
    storage = Storage(spec.storage, spec.cache)
    manifest = load(storage, spec.project, spec.fingerprint)
    # What is held out judges the result: nothing of it may be seen here.
    train, validation = training_and_validation(SnapshotSource(storage, manifest, "train"), fold=spec.fold)
    finetune(
        spec.base,
        Snapshot(train, validation),
        config,
        spec.out,
        general=general_data(spec.general, spec.base, spec.data_root, config.seed),
        watchers=[] if progress is None else [progress, *_watchers(spec, storage, validation)],
        workers=spec.workers,
    )


def _watchers(spec: RunSpec, storage: "Storage", validation: "Source") -> "list[Watcher]":
    from ebseg.runs.tracking import MlflowRun
    from ebseg.runs.watch import ProgressBar
    from training.finetuning.finetune import RUN_FOLDER
    from training.finetuning.run_mirror import RunMirror

    folder = spec.out / RUN_FOLDER
    watchers: list[Watcher] = [ProgressBar()]
    if not storage.is_local if spec.mirror is None else spec.mirror:
        mirror = RunMirror(storage, f"runs/{spec.out.name}/{MIRROR}", folder)
        mirror.restore()
        watchers.append(mirror)
    if spec.mlflow is not None:
        os.environ["MLFLOW_TRACKING_URI"] = spec.mlflow.tracking_uri
        pictures = [validation[index] for index in range(min(PICTURES, len(validation)))]
        names = {"name": spec.mlflow.run_name, "experiment": spec.mlflow.experiment}
        watchers.append(MlflowRun(folder, **names, validation=pictures, vocabulary=validation.vocabulary))
    return watchers


if __name__ == "__main__":
    main()
