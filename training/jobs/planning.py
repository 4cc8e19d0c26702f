"""The job that fans the unlabelled tasks of a project out, and what ends such a plan."""

from training.annotations.label_studio import LabelStudioClient, NotInLabelStudio
from training.jobs.job import job
from training.loop import Loop, Result
from training.queue.plans import close_plan, open_plan, submit_chunks
from training.queue.projects import forget_project


def plan(loop: Loop, project: int, version: str) -> Result:
    """Fan the unlabelled tasks of a project out into jobs of a few."""
    studio = loop.studio()
    if not is_served(loop, project, version):
        return {"outcome": f"{version} is not served any more"}
    done = loop.progress.stage("listing tasks")
    open_plan(loop.connection, loop.job_id)
    try:
        tasks = [task.id for task in studio.unlabelled(project)]
    except NotInLabelStudio:
        forget_project(loop.connection, project)
        return {"outcome": f"project {project} is not in Label Studio (any more)"}
    done(len(tasks))
    chunks = submit_chunks(loop.connection, loop.settings, project, tasks, version, plan=loop.job_id)
    end_part(loop, studio, project, version, plan=loop.job_id)
    return {"outcome": f"{len(tasks)} unlabelled tasks in {len(chunks)} jobs", "chunks": chunks}


def is_served(loop: Loop, project: int, version: str) -> bool:
    """Tell whether a project is still served the version of that name."""
    return loop.registry.ensure_base(project).name == version


def end_part(loop: Loop, studio: LabelStudioClient, project: int, version: str, *, plan: str) -> None:
    """Note that this job's part of a plan is done; the last one has the project show the version's scores.

    Not where another version is served by now.
    """
    if close_plan(loop.connection, plan, loop.job_id) and is_served(loop, project, version):
        studio.set_model_version(project, version)


label_project = job(plan)
