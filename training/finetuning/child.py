"""A fine-tuning job's process: ``python -m training.finetuning.child SPEC.json``, alone or under a launcher.

It ends with status 0 when it is done, 1 with one line that begins with "ebseg: " where it failed, and 143
soon after SIGTERM; the same command goes on from the newest checkpoint. It does not outlive who started it.
"""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from ebseg.errors import EBSegError, TrainingError
from ebseg.files import locked
from training.finetuning.folder import FinetuneFolder
from training.finetuning.progress_file import ProgressFile, Stage
from training.finetuning.spec import JOB_VARIABLE, RunSpec, read_spec
from training.queue.lifeline import die_with_parent

LOCK_SECONDS = 10.0
"""That a run waits for the one before it, whose job was killed, to notice and end."""

TERMINATED = 128 + signal.SIGTERM
"""Exit status of a process that SIGTERM ended, as shells have it."""

END_SECONDS = 10.0
"""For MLflow to be told of the end, after SIGTERM."""


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
        folder = FinetuneFolder(spec.out)
        with alone_in(folder), reported(ProgressFile(folder.progress)) as progress:
            _run(spec, progress)
    except (EBSegError, OSError) as error:  # an OSError here is a disk's or a network's answer and names it
        print(f"ebseg: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(1)


def alone_in(folder: FinetuneFolder) -> AbstractContextManager[None]:
    """Keep other processes from training in a folder. Raises TrainingError where one does already."""
    refusal = TrainingError(
        f"another process trains in {folder.path}: let it end, stop it, or choose another folder"
    )
    return locked(folder.lock, seconds=LOCK_SECONDS, refusal=refusal)


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
    # It takes seconds, with PyTorch: by now the job is watched, the lock is had, and the progress told.
    from training.finetuning.from_spec import finetune_as_told

    finetune_as_told(spec, progress)


if __name__ == "__main__":
    main()
