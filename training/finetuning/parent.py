"""Run a fine-tuning as a process of its own, watched from the job that it belongs to."""

import hashlib
import json
import math
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ebseg.children import environment, python
from ebseg.config import InferencePrecision
from ebseg.errors import Outage, TrainingError
from ebseg.files import write_whole_json
from training.finetuning.folder import RUNS, FinetuneFolder
from training.finetuning.spec import JOB_VARIABLE
from training.settings import Settings
from training.storage import Storage

LOOK_SECONDS = 1.0
"""Between looks at the process and its progress."""

STOP_SECONDS = 20.0
"""For a process that is told to end, before it is killed."""

LOG_LINES, LOG_BYTES = 20, 20_000
"""Of the end of its log: lines that the job shows, and bytes that are looked at."""

PHOTOS_A_STEP = 4
"""Or a few more, where processes could not share them evenly."""

WORKERS = 1
"""Processes that read photos."""


def name(settings: Settings, project: int, fingerprint: str, base: int) -> str:
    """Name a training by all that it depends on: the same one is done once."""
    general = [settings.general_data, settings.model]
    content = json.dumps([fingerprint, base, _config(settings), general, version("ebseg")])
    return f"{project}-{hashlib.sha256(content.encode()).hexdigest()[:12]}"


def _config(settings: Settings) -> dict[str, Any]:
    """Give the fields of ``training.finetuning.finetune.FinetuneConfig`` that the settings have."""
    return {
        "steps": settings.finetune_steps,
        "batch": math.ceil(PHOTOS_A_STEP / settings.train_processes) * settings.train_processes,
        "learning_rate": settings.finetune_learning_rate,
        "unlabelled": settings.unlabelled,
        "general_photos": settings.general_photos,
        "keep": 1 - settings.largest_forgetting,  # what the gate asks for
        # Only what was asked for by name: "auto" may measure otherwise when a training goes on.
        **({"precision": "bf16"} if settings.precision is InferencePrecision.BF16 else {}),
    }


def spec(
    settings: Settings,
    base: Path,
    teacher: Path,
    backbone: str,
    project: int,
    fingerprint: str,
    job_id: str,
) -> dict[str, Any]:
    """Say what ``training.finetuning.child`` is to do: fine-tune the checkpoint ``base`` on a snapshot.

    ``teacher``: the checkpoint that the base's line of trainings began with. ``backbone``: the name of a
    model that has the base's backbone, as ``ebseg.load`` takes it on any machine.
    """
    return {
        "base": str(base),
        "teacher": str(teacher),
        "backbone": backbone,
        "storage": settings.storage_url,
        "cache": str(settings.home / "cache"),
        "project": project,
        "fingerprint": fingerprint,
        "out": str(settings.home / RUNS / job_id),
        "config": _config(settings),
        "general": settings.general_data,
        "first_model": settings.model,
        "data_root": str(settings.data_root),
        "mirror": True if settings.storage else None,  # shared, be it a folder: another machine may go on
        "workers": WORKERS,
        "mlflow": {
            "tracking_uri": settings.tracking_uri,
            "experiment": settings.registered_model,
            "run_name": job_id,
        },
    }


def is_done(folder: Path) -> bool:
    """Tell whether the run in a folder has come to its end."""
    return FinetuneFolder(folder).outcome.exists()


def outcome(folder: Path) -> dict[str, Any]:
    """Read what came of a finished run (``training.finetuning.finetune.FinetuneResult``)."""
    return FinetuneFolder(folder).read_outcome()


def forget_checkpoints(storage: Storage, folder: Path) -> None:
    """Remove what a finished run needs no more, and its copy in the storage; log and numbers stay."""
    run = FinetuneFolder(folder)
    shutil.rmtree(run.training.checkpoints, ignore_errors=True)
    run.training.best.unlink(missing_ok=True)
    storage.remove(run.mirror)


def forget(storage: Storage, folder: Path) -> None:
    """Remove a run altogether."""
    shutil.rmtree(folder, ignore_errors=True)
    storage.remove(FinetuneFolder(folder).key)


def mlflow_run(folder: Path) -> str | None:
    """Give MLflow's number of a run, where it has one."""
    return FinetuneFolder(folder).training.mlflow_run()


def run_process(
    folder: Path, spec: Mapping[str, Any], processes: int, report: Callable[[dict[str, Any], list[str]], None]
) -> None:
    """Fine-tune in ``folder`` as ``spec`` says (``training.finetuning.child``), in so many processes.

    ``report`` is called with the progress and the last lines of the log as they change. The same folder goes
    on from its checkpoint. Whatever ends this call, be it the job's time limit, ends the processes. Raises
    TrainingError with the reason where they fail, and Interrupted where they need not fail again.
    """
    files = FinetuneFolder(folder)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)  # addresses of stores may hold passwords
    files.progress.unlink(missing_ok=True)  # of a try before, which may have failed
    write_whole_json(files.spec, spec)
    with files.output.open("ab") as output:
        process = subprocess.Popen(
            [*_launcher(processes), "-m", "training.finetuning.child", str(files.spec)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment(**{JOB_VARIABLE: str(os.getpid())}),
            start_new_session=True,
        )
    try:
        told: tuple[dict[str, Any], list[str]] = ({}, [])
        while process.poll() is None:
            time.sleep(LOOK_SECONDS)
            seen = files.read_progress(), log_tail(files)
            if seen != told:
                report(*seen)
                told = seen
    finally:
        _end(process)
    report(files.read_progress(), log_tail(files))
    if process.returncode < 0:
        raise Interrupted(
            f"the training process was killed by signal {-process.returncode} (too little memory?); "
            f"its log is {files.output}"
        )
    if process.returncode:
        fails_again = files.read_progress().get("fails_again", False)
        raise (TrainingError if fails_again else Interrupted)(_reason(files, process.returncode))


class Interrupted(TrainingError, Outage):
    """The training process was killed, or missed something: started again, it goes on from its checkpoint."""


def _launcher(processes: int) -> list[str]:
    if processes == 1:
        return python()
    import torch  # needed for this alone, and slow: what else a job does in this process needs none of it

    if not torch.cuda.is_available():  # accelerate launch would start one process on a CPU
        launch = python("-m", "torch.distributed.run", "--standalone")
        return [*launch, "--nproc-per-node", str(processes)]
    launch = python("-m", "accelerate.commands.launch", "--multi_gpu", "--num_machines", "1")
    settled = ["--mixed_precision", "no", "--dynamo_backend", "no"]  # the recipe says the precision
    return [*launch, "--num_processes", str(processes), *settled]


def log_tail(folder: FinetuneFolder, lines: int = LOG_LINES) -> list[str]:
    """Read the last lines that the run has printed."""
    with folder.output.open("rb") as log:
        log.seek(max(log.seek(0, os.SEEK_END) - LOG_BYTES, 0))
        return log.read().decode(errors="replace").splitlines()[-lines:]


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the process and its group: in order, or else at once."""
    for number, patience in ((signal.SIGTERM, STOP_SECONDS), (signal.SIGKILL, None)):
        if process.poll() is None:
            os.killpg(process.pid, number)
            try:
                process.wait(patience)
            except subprocess.TimeoutExpired:
                continue


def _reason(folder: FinetuneFolder, status: int) -> str:
    # Launchers print much after what the process said itself.
    ours = [line for line in log_tail(folder, LOG_BYTES) if line.startswith("ebseg: ")]
    if ours:
        return ours[-1].removeprefix("ebseg: ")
    last = next((line for line in reversed(log_tail(folder)) if line.strip()), "no word")
    return f"the training process ended with status {status}: {last}; its log is {folder.output}"
