"""The job that fine-tunes the champion on a reading of annotations, and registers what came of it."""

from pathlib import Path
from typing import Any

from ebseg.checkpoint import backbone_name
from training.annotations.manifest import load
from training.finetuning import parent
from training.finetuning.folder import RUNS
from training.jobs.job import job
from training.judging.cross_validation import train_folds
from training.loop import Loop, Result
from training.queue import orders
from training.registry.version import Version


def finetune(loop: Loop, project: int, fingerprint: str, base: int) -> Result:
    """Fine-tune the registry's version ``base`` on a reading of annotations, in a process of its own."""
    settings, registry = loop.settings, loop.registry
    folder = settings.home / RUNS / loop.job_id
    loop.progress.stage("starting")
    version = registry.version(str(base))
    origin = registry.origin(version)
    checkpoint, teacher = registry.checkpoint(version), registry.checkpoint(origin)
    spec = parent.spec(
        settings, checkpoint, teacher, _backbone(loop, origin), project, fingerprint, loop.job_id
    )

    def report(progress: dict[str, Any], log: list[str]) -> None:
        loop.progress.tell(log, **progress)

    manifest = load(loop.storage, project, fingerprint)
    if len(manifest.judging("held_out")) < settings.min_held_out:
        done = loop.progress.stage("cross-validating")
        train_folds(settings, loop.storage, manifest, spec, loop.job_id, report, done)
    if not parent.is_done(folder):
        parent.run_process(folder, spec, settings.train_processes, report)
    outcome = parent.outcome(folder)
    candidate = registry.register(
        Path(outcome["path"]),
        key=loop.job_id,
        run_id=parent.mlflow_run(folder),
        tags={"fingerprint": fingerprint, "base": str(base), "job": loop.job_id},
        project=project,
    )
    parent.forget_checkpoints(loop.storage, folder)
    name = loop.job_id.removeprefix(orders.TRAINING)
    orders.judge(settings, name, project, fingerprint, candidate.number).resubmit(loop.connection)
    return {
        "outcome": f"version {candidate.number} ({candidate.name}) after {outcome['steps']} steps",
        "version": candidate.number,
    }


def _backbone(loop: Loop, origin: Version) -> str:
    """Name the model that a line of trainings began with, whose backbone all its heads have."""
    if "checkpoint" in origin.tags:
        return origin.tags["checkpoint"]
    of_a_head = backbone_name(loop.registry.checkpoint(origin))
    return of_a_head or f"models:/{loop.settings.registered_model}/{origin.number}"


finetune_project = job(finetune)
