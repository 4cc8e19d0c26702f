"""The jobs of the learning loop, in the order in which they follow each other.

``snapshot_project``, ``finetune_project``, ``judge_candidate``, ``label_project``, ``label_tasks``; and
``sweep``, which the schedule starts. Each is a function of JSON values that may be run again at any time: it
finds what an earlier run has done, and goes on. Their results are JSON and say in words what came out.
"""

import logging
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from redis import Redis
from rq import Retry

from ebseg.errors import DataError
from training.annotations.label_studio import NotInStudio, Studio
from training.annotations.photos import photo_fetcher
from training.finetuning import parent
from training.queue.job_context import Context, Result, job
from training.queue.queues import JUDGING, TRAINING, Line, id_of, resubmit
from training.queue.triggers import Project, forget_project, known_projects, require_the_services_model
from training.settings import Settings

_log = logging.getLogger(__name__)

if TYPE_CHECKING:
    from training.annotations.manifest import Manifest
    from training.registry.registry import Registry


@job
def snapshot_project(context: Context, project: int, number: int) -> Result | Retry:
    """Read a project's annotations, and start a training where there is reason to: round ``number``."""
    from training.annotations import corrections, snapshot
    from training.registry.registry import Registry

    settings, state = context.settings, Project(context.connection, project)
    wait = state.seconds_until_quiet(settings)
    if wait > 0:
        return Retry(max=1_000_000, interval=math.ceil(wait))
    events, forced = state.begin_reading()
    require_the_services_model(context.connection, settings)
    registry = Registry(settings)
    registry.start_over()
    context.stage("reading annotations")
    try:
        manifest = snapshot.take(
            Studio(settings), photo_fetcher(settings), context.storage, project, settings
        )
    except NotInStudio:
        forget_project(context.connection, project)
        return {"outcome": f"project {project} is not in Label Studio (any more)"}
    for version, live in corrections.summarise(manifest.entries).items():
        registry.record_live(version, live.numbers())
    waits = state.training
    if waits:
        outcome = f"{waits} is under way; these annotations are looked at when it has ended"
        base = registry.ensure_base().number
        if waits.endswith(parent.name(settings, project, manifest.fingerprint, base)):
            outcome, waits = f"{waits} is under way with these annotations", None
    else:
        outcome = _start_training(context, registry, state, manifest, forced=forced)
    state.covered(events, forced=forced and not waits)
    state.end_round(number)
    if state.has_news:
        state.request_round(settings.debounce)
    return {
        "outcome": outcome,
        "fingerprint": manifest.fingerprint,
        "tasks": len(manifest.entries),
        "skipped": {str(task): why for task, why in manifest.skipped.items()},
        "unknown_labels": sorted({name for entry in manifest.entries for name in entry.unknown}),
    }


def _start_training(
    context: Context, registry: "Registry", state: Project, manifest: "Manifest", *, forced: bool
) -> str:
    """Submit the training that an annotations' reading is reason for; say in words what was decided."""
    from training.annotations.manifest import load
    from training.judging.reasons import reason_to_train

    settings, project = context.settings, state.number
    try:
        trained = load(context.storage, project, state.trained) if state.trained else None
    except DataError as error:  # another storage than before: all annotations are new to it
        _log.warning("what project %d was trained on is not known: %s", project, error)
        trained = None
    base = registry.ensure_base()
    seen = set[str]()
    if settings.few_held_out == "cross-validate":
        from training.judging.judge import seen_photos

        seen = seen_photos(context.storage, registry, base)
    reason = reason_to_train(manifest, trained, settings, forced=forced, seen=seen)
    if not reason.train:
        return f"no training: {reason.why}"
    name = parent.name(settings, project, manifest.fingerprint, base.number)
    train, judge = f"{TRAINING}{name}", f"{JUDGING}{name}"
    state.train_with(train, judge)
    resubmit(
        context.connection,
        Line.TRAIN,
        "training.jobs.finetune_project",
        [project, manifest.fingerprint, base.number],
        job_id=train,
        what=f"fine-tune version {base.number} for project {project}: {reason.why}",
        timeout=settings.train_timeout,
        retries=settings.train_retries,
    )
    return f"{train}: {reason.why}"


@job
def finetune_project(context: Context, project: int, fingerprint: str, base: int) -> Result:
    """Fine-tune the registry's version ``base`` on a reading of annotations, in a process of its own."""
    from training.annotations.manifest import load
    from training.judging.cross_validation import train_folds
    from training.registry.registry import Registry

    settings, job_id = context.settings, context.job.id
    registry = Registry(settings)
    folder = settings.home / "runs" / job_id
    context.stage("starting")
    checkpoint = registry.checkpoint(registry.version(str(base)))
    spec = parent.spec(settings, checkpoint, project, fingerprint, job_id)

    def report(progress: dict[str, Any], log: list[str]) -> None:
        context.progress(log, **progress)

    manifest = load(context.storage, project, fingerprint)
    if len(manifest.labelled("held_out")) < settings.min_held_out:
        done = context.stage("cross-validating")
        train_folds(settings, context.storage, manifest, spec, job_id, report, done)
    if not parent.is_done(folder):
        parent.run(folder, spec, settings.train_processes, report)
    outcome = parent.outcome(folder)
    candidate = registry.register(
        Path(outcome["path"]),
        key=job_id,
        run_id=parent.mlflow_run(folder),
        tags={"project": str(project), "fingerprint": fingerprint, "base": str(base), "job": job_id},
    )
    parent.forget_checkpoints(context.storage, folder)
    resubmit(
        context.connection,
        Line.CONTROL,
        "training.jobs.judge_candidate",
        [project, fingerprint, candidate.number],
        job_id=f"{JUDGING}{job_id.removeprefix(TRAINING)}",
        what=f"compare version {candidate.number} with the champion, for project {project}",
        timeout=settings.train_timeout,
    )
    return {
        "outcome": f"version {candidate.number} ({candidate.name}) after {outcome['steps']} steps",
        "version": candidate.number,
    }


@job
def judge_candidate(context: Context, project: int, fingerprint: str, number: int) -> Result:
    """Compare a candidate with the champion on held-out tasks, promote it only if it is better."""
    from training.judging import judge
    from training.judging.gate import Verdict
    from training.registry.registry import Registry

    registry = Registry(context.settings)
    candidate = registry.version(str(number))
    decision = judge(context, registry, candidate, project, fingerprint)
    champion = registry.ensure_base()
    state = Project(context.connection, project)
    promoted = decision.verdict is Verdict.PROMOTE
    if promoted or candidate.tags.get("base") == str(champion.number):
        state.trained = fingerprint
    # Else it was rejected for what another project's champion knows: it is trained anew, from that one.
    if promoted:
        refresh(context.connection, context.settings, champion.name)
    state.train_with()
    state.request_round(context.settings.debounce)  # annotations that came meanwhile
    return {"outcome": f"{decision.verdict}: {'; '.join(decision.reasons)}", "version": number}


def refresh(connection: Redis, settings: Settings, version: str) -> None:
    """Have all unlabelled tasks of all known projects predicted with a version."""
    for number in known_projects(connection, settings):
        submit_plan(connection, number, version)


def submit_plan(connection: Redis, project: int, version: str) -> str:
    """Have all unlabelled tasks of a project predicted with a version; return the job's id."""
    job_id = id_of("plan", project, version)
    resubmit(
        connection,
        Line.CONTROL,
        "training.jobs.label_project",
        [project, version],
        job_id=job_id,
        what=f"predict the unlabelled tasks of project {project} with {version}",
    )
    return job_id


@job
def label_project(context: Context, project: int, version: str) -> Result:
    """Fan the unlabelled tasks of a project out into jobs of a few."""
    from training.labelling import close_plan, open_plan, submit_chunks
    from training.registry.registry import Registry

    studio = Studio(context.settings)
    if not _is_served(Registry(context.settings), version):
        return {"outcome": f"{version} is not served any more"}
    done = context.stage("listing tasks")
    plan = context.job.id
    open_plan(context.connection, plan)
    try:
        tasks = [task.id for task in studio.unlabelled(project)]
    except NotInStudio:
        forget_project(context.connection, project)
        return {"outcome": f"project {project} is not in Label Studio (any more)"}
    done(len(tasks))
    chunks = submit_chunks(context.connection, context.settings, project, tasks, version, plan=plan)
    if close_plan(context.connection, plan, plan):
        _show_scores(context, studio, project, version)
    return {"outcome": f"{len(tasks)} unlabelled tasks in {len(chunks)} jobs", "chunks": chunks}


@job
def label_tasks(context: Context, project: int, tasks: list[int], version: str, plan: str) -> Result:
    """Predict some tasks and push the predictions; the last job of a plan makes the project show them."""
    import ebseg
    from ebseg.label_studio.tasks import read_label_config
    from training.labelling import claimer, close_plan, label
    from training.registry.registry import Registry

    settings, studio = context.settings, Studio(context.settings)
    context.stage("loading the model")
    try:
        labelling = read_label_config(studio.project(project).label_config)
    except NotInStudio:
        return {"outcome": f"project {project} is not in Label Studio (any more)"}
    registry = Registry(settings)
    if plan and not _is_served(registry, version):
        return {"outcome": f"{version} is not served any more"}
    model = ebseg.load(registry.named(version), device=settings.device)
    done = context.stage("predicting", len(tasks))
    claim = claimer(context.connection, context.job.id, version)
    pushed = label(studio, photo_fetcher(settings), model, labelling, settings, project, tasks, claim, done)
    if plan and close_plan(context.connection, plan, context.job.id):
        _show_scores(context, studio, project, version)
    return {"outcome": pushed.told(), "left_out": {str(task): why for task, why in pushed.left_out.items()}}


def _is_served(registry: "Registry", version: str) -> bool:
    return registry.ensure_base().name == version


def _show_scores(context: Context, studio: Studio, project: int, version: str) -> None:
    """Fill the Data Manager's score column, unless another version is served by now."""
    from training.registry.registry import Registry

    if _is_served(Registry(context.settings), version):
        studio.set_model_version(project, version)


@job
def sweep(context: Context, at: str) -> Result:
    """Look at every known project, as the schedule wants at ``at``; and see to the next time."""
    from training.labelling import is_open
    from training.queue.schedule import plan_next
    from training.registry.registry import Registry

    plan_next(context.connection, context.settings)
    projects = known_projects(context.connection, context.settings)
    champion = Registry(context.settings).champion()
    for number in projects:
        Project(context.connection, number).request_round(0.0)
        # A plan of which a job failed for good: what is done already is not done again.
        if champion is not None and is_open(context.connection, id_of("plan", number, champion.name)):
            submit_plan(context.connection, number, champion.name)
    return {"outcome": f"{len(projects)} projects are looked at", "projects": projects}
