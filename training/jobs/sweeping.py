"""The job that the schedule starts: a look at every known project."""

from training.jobs.job import job
from training.loop import Loop, Result
from training.queue import orders
from training.queue.orders import Which
from training.queue.plans import is_open, submit_plan
from training.queue.projects import Project, known_projects
from training.queue.remembering import request_memory
from training.queue.schedule import plan_next

RESUMED = (Which.MISSING, Which.NEW, Which.EMPTY)


def look_at_all(loop: Loop, at: str) -> Result:
    """Look at every known project, as the schedule wants at ``at``; and see to the next time."""
    plan_next(loop.connection, loop.settings)
    projects = known_projects(loop.connection, loop.settings)
    for number in projects:
        Project(loop.connection, number, loop.clock).request_round(0.0)
        request_memory(loop.connection, loop.settings, number)
        champion = loop.registry.champion(number)
        # A plan of which a job failed for good: what is done already is not done again.
        for which in RESUMED:
            if champion is not None and is_open(
                loop.connection, orders.plan(number, champion.name, which).job_id
            ):
                submit_plan(loop.connection, number, champion.name, which)
    return {"outcome": f"{len(projects)} projects are looked at", "projects": projects}


sweep = job(look_at_all)
