"""The job that fans the unlabelled tasks of a project out, and what ends such a plan."""

from ebseg.label_studio.pipeline import Pipeline
from training.annotations.label_studio import LabelStudioClient, LabelStudioProject, NotInLabelStudio
from training.annotations.labelling import read_labelling
from training.annotations.photos import PatientFetcher
from training.annotations.score_column import show_scores
from training.jobs.job import job
from training.loop import Loop, Result
from training.memory import files
from training.queue.orders import Which
from training.queue.plans import close_plan, open_plan, submit_chunks
from training.queue.projects import Project, forget_project
from training.selection.planning import plan_order

PREDICTED = {Which.NEW: False, Which.EMPTY: True}
"""Whether the tasks of a plan have predictions, where that matters."""


def plan(loop: Loop, project: int, model: str, which: str = Which.MISSING) -> Result:
    """Fan unlabelled tasks of a project out into jobs of a few; ``model``: the champion's version."""
    studio, kind = loop.studio(), Which(which)
    if loop.registry.ensure_base(project).name != model:
        return {"outcome": f"{model} is not served any more"}
    done = loop.progress.stage("listing tasks")
    open_plan(loop.connection, loop.job_id)
    state = Project(loop.connection, project)
    whole = kind in (Which.MISSING, Which.ALL)
    if kind is not Which.EMPTY:
        state.uploaded = False  # before the listing, which may miss what comes later
    if whole:
        files.plan_with_newest(loop.storage, project)
    try:
        found = studio.project(project)
        version = pipeline_of(loop, studio, found).version(model)
        without = version if kind is Which.MISSING and _may_leave_out(loop, model) else None
        listed = studio.unlabelled(project, predicted=PREDICTED.get(kind), without=without)
        tasks = [task.id for task in listed]
        done(len(tasks))
        if whole:
            state.version = version
            plan_order(
                loop.storage,
                project,
                model,
                loop.settings.select,
                lambda: tasks if without is None else [task.id for task in studio.unlabelled(project)],
            )
    except NotInLabelStudio:
        forget_project(loop.connection, project)
        return {"outcome": f"project {project} is not in Label Studio (any more)"}
    chunks = submit_chunks(
        loop.connection, loop.settings, project, tasks, version, plan=loop.job_id, which=kind
    )
    if chunks:
        end_part(loop, studio, project, version, plan=loop.job_id)
    elif close_plan(loop.connection, loop.job_id, loop.job_id):  # nothing took time in which it could change
        show_scores(studio, found, version, loop.registry.names, whole=True)
    return {"outcome": f"{len(tasks)} unlabelled tasks in {len(chunks)} jobs", "chunks": chunks}


def _may_leave_out(loop: Loop, model: str) -> bool:
    """Tell whether the tasks that a model has predicted need not be listed, and can be told apart.

    Label Studio tells versions apart by their text: a model's name must be part of no other's.
    """
    return sum(model.lower() in name.lower() for name in loop.registry.names()) == 1


def served(loop: Loop, studio: LabelStudioClient, project: int) -> str:
    """Give the version of workers' predictions as of now: of the champion, planned memory and label config.

    Raises LabelConfigError or VocabularyError for one that cannot be served, and NotInLabelStudio.
    """
    return _served(loop, studio, studio.project(project))


def _served(loop: Loop, studio: LabelStudioClient, project: LabelStudioProject) -> str:
    return pipeline_of(loop, studio, project).version(loop.registry.ensure_base(project.id).name)


def pipeline_of(loop: Loop, studio: LabelStudioClient, project: LabelStudioProject) -> Pipeline:
    """Give the way from a project's tasks to their predictions; ``project``: as it is now.

    Raises LabelConfigError or VocabularyError for one that cannot be served.
    """
    settings = loop.settings
    return Pipeline(
        read_labelling(project.label_config, settings),
        PatientFetcher(loop.photos(), lambda: studio.project(project.id), settings.patience),
        settings.max_pixels,
        files.planned(loop.storage, project.id) if settings.memory else None,
    )


def end_part(loop: Loop, studio: LabelStudioClient, project: int, version: str, *, plan: str) -> None:
    """Note that this job's part of a plan is done; the last one has the project show the version's scores.

    Not where another version is served by now, or somebody chose another model's.
    """
    if close_plan(loop.connection, plan, loop.job_id):
        now = studio.project(project)
        if _served(loop, studio, now) == version:
            show_scores(studio, now, version, loop.registry.names, whole=True)


label_project = job(plan)
