"""The job that reads a project's annotations, and starts a training where there is reason to."""

import logging
import math
from collections import defaultdict
from collections.abc import Callable

from rq import Retry

from ebseg.errors import DataError, EBSegError
from ebseg.label_studio.tasks import read_label_config
from ebseg.label_studio.version import model_of
from training.annotations import corrections, manifest, snapshot
from training.annotations.advice import advise
from training.annotations.entry import Entry
from training.annotations.label_studio import NotInLabelStudio
from training.annotations.manifest import Manifest
from training.finetuning import parent
from training.jobs.job import job
from training.jobs.planning import served
from training.judging.reasons import reason_to_train
from training.judging.seen import seen_photos
from training.loop import Loop, Result
from training.queue import orders
from training.queue.orders import Which
from training.queue.outcomes import Topic, tell
from training.queue.plans import submit_plan
from training.queue.projects import Project, forget_project, require_the_services_model

_log = logging.getLogger(__name__)


def read_annotations(loop: Loop, project: int, number: int) -> Result | Retry:
    """Read a project's annotations, and start a training where there is reason to: round ``number``."""
    settings, state = loop.settings, Project(loop.connection, project, loop.clock)
    wait = state.seconds_until_quiet(settings)
    if wait > 0:
        return Retry(max=1_000_000, interval=math.ceil(wait))
    events, forced = state.begin_reading()
    require_the_services_model(loop.connection, settings)
    loop.registry.start_over()
    loop.progress.stage("reading annotations")
    try:
        title = loop.studio().project(project).title
        found = snapshot.take(loop.studio(), loop.photos(), loop.storage, project, settings)
    except NotInLabelStudio:
        forget_project(loop.connection, project)
        return {"outcome": f"project {project} is not in Label Studio (any more)"}
    tell(loop.connection, project, Topic.TITLE, title)
    _predict_what_is_due(loop, state)
    _keep_live(loop, found)
    waits = state.training
    if waits:
        outcome = f"{waits} is under way; these annotations are looked at when it has ended"
        base = loop.registry.ensure_base(project).number
        if waits.endswith(parent.name(settings, project, found.fingerprint, base)):
            outcome, waits = f"{waits} is under way with these annotations", None
    else:
        outcome = _start_training(loop, state, found, forced=forced)
    tell(loop.connection, project, Topic.TRAINING, outcome)
    state.covered(events, forced=forced and not waits)
    state.end_round(number)
    if state.has_news:
        state.request_round(settings.debounce)
    return {"outcome": outcome, **summary(found)}


def _keep_live(loop: Loop, found: Manifest) -> None:
    """Keep what corrections say of versions: with each, and for people the champion's first."""
    lives = corrections.summarise(found.entries)
    for version, live in lives.items():
        loop.registry.record_live(version, live.numbers())
    champion = loop.registry.ensure_base(found.project).name
    lines = [
        f"{version}: {corrections.in_words(lives[version].numbers())}"
        for version in sorted(lives, key=lambda each: each != champion)
    ]
    tell(loop.connection, found.project, Topic.LIVE, "; ".join(lines) or "nobody went over a prediction yet")


def _predict_what_is_due(loop: Loop, state: Project) -> None:
    """Have tasks predicted: all anew where the label config, say, has changed, and those that were added."""
    number, version = state.number, served(loop, loop.studio(), state.number)
    if state.version is None:
        state.version = version  # nothing is known of before
    elif state.version != version:
        submit_plan(loop.connection, number, model_of(version))
        return
    if state.uploaded:
        submit_plan(loop.connection, number, model_of(version), Which.NEW)


def summary(found: Manifest) -> Result:
    """Say what was read and what was not: tasks and regions that somebody may want to look at, by task."""
    return {
        "fingerprint": found.fingerprint,
        "tasks": len({entry.task for entry in found.entries}),
        "skipped": {str(task): why for task, why in found.skipped.items()},
        "unknown_labels": sorted({name for entry in found.entries for name in entry.unknown}),
        "blank_regions": _by_task(found, lambda entry: list(entry.blank)),
        "lost": {task: "; ".join(why) for task, why in _by_task(found, _lost).items()},
    }


def _by_task(found: Manifest, told: Callable[[Entry], list[str]]) -> dict[str, list[str]]:
    """Collect what is told of the photos of each task; tasks of which nothing is are left out."""
    collected = defaultdict[str, list[str]](list)
    for entry in found.entries:
        if words := told(entry):
            collected[str(entry.task)] += words
    return dict(collected)


def _lost(entry: Entry) -> list[str]:
    return [entry.lost] if entry.lost else []


def _start_training(loop: Loop, state: Project, found: Manifest, *, forced: bool) -> str:
    """Submit the training that an annotations' reading is reason for; say in words what was decided."""
    settings, project = loop.settings, state.number
    try:
        trained = manifest.load(loop.storage, project, state.trained) if state.trained else None
    except DataError as error:  # another storage than before: all annotations are new to it
        _log.warning("what project %d was trained on is not known: %s", project, error)
        trained = None
    base = loop.registry.ensure_base(project)
    seen = set[str]()
    if settings.few_held_out == "cross-validate":
        seen = seen_photos(loop.storage, loop.registry, base)
    reason = reason_to_train(found, trained, settings, forced=forced, seen=seen)
    if not reason.train:
        return f"no training: {reason.why}{_advice(loop, project, reason.missing)}"
    name = parent.name(settings, project, found.fingerprint, base.number)
    order = orders.finetune(settings, name, project, found.fingerprint, base.number, reason.why)
    state.train_with(order.job_id, f"{orders.JUDGING}{name}")
    order.resubmit(loop.connection)
    return f"{order.job_id}: {reason.why}"


def _advice(loop: Loop, project: int, missing: int) -> str:
    """Say which tasks to annotate for so many more held-out ones; nothing where that cannot be told now."""
    if not missing:
        return ""
    studio, photos = loop.studio(), loop.photos()
    try:
        labelling = read_label_config(studio.project(project).label_config)
        share = loop.settings.held_out_share
        words = advise(
            studio.unlabelled(project),
            lambda task: photos.fetch(labelling.first_address({"data": task.data}), task_id=task.id),
            loop.storage,
            project,
            share,
            missing,
        )
    except EBSegError as error:
        _log.warning("which tasks of project %d to annotate cannot be told: %s", project, error)
        return ""
    return f"; {words}"


snapshot_project = job(read_annotations)
