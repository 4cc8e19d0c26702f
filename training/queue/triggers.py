"""Where the service hands over what it was told: events, projects that called, tasks it had no time for."""

from typing import Any

from training.queue.mending import mend
from training.queue.outcomes import Outcomes, called, newest
from training.queue.pause import paused
from training.queue.plans import submit_chunks
from training.queue.projects import (
    PROJECTS_KEY,
    Project,
    tell_the_hostname,
    tell_the_model,
)
from training.queue.queues import connect, find
from training.queue.remembering import request_memory
from training.settings import Settings

MOST_PROJECTS = 10_000
"""Known projects at most: webhooks come from strangers."""


class Triggers:
    """Where the service hands over what it was told. Raises ConfigError where Redis does not answer."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._connection = connect(settings)
        mend(self._connection)
        tell_the_model(self._connection, settings)

    def note_project(self, project_id: int, version: str) -> None:
        """Remember a project that has called, for the schedule; no more than so many.

        ``version``: of its predictions, as it was told, if it was. Where it is another one than before, such
        as with other labels, a round is due: it has the tasks predicted anew.
        """
        if self._is_known(project_id) and version:
            project = Project(self._connection, project_id)
            if project.heard_of(version):
                project.request_round(self._settings.debounce)

    def note_hostname(self, hostname: str) -> None:
        """Remember what Label Studio calls itself, for the workers: tasks' photos carry that address."""
        tell_the_hostname(self._connection, hostname)

    def _is_known(self, project_id: int) -> bool:
        if self._connection.scard(PROJECTS_KEY) < MOST_PROJECTS:
            self._connection.sadd(PROJECTS_KEY, project_id)
            called(self._connection, project_id)
        return bool(self._connection.sismember(PROJECTS_KEY, str(project_id)))

    def note_event(self, project_id: int, events: int, forced: bool, uploaded: bool = False) -> None:
        """Have a project's annotations read when events cease to come, or at once where that is forced.

        ``uploaded``: tasks were added; they are predicted then.
        """
        if not self._is_known(project_id):
            return
        project = Project(self._connection, project_id)
        project.note(events, forced=forced, uploaded=uploaded)
        request_memory(self._connection, self._settings, project_id)
        project.request_round(0.0 if forced else self._settings.debounce)

    def finish(self, project_id: int, task_ids: list[int], version: str) -> None:
        """Have workers predict the tasks that a request had no time for."""
        submit_chunks(self._connection, self._settings, project_id, task_ids, version)

    def outcomes(self) -> dict[int, Outcomes]:
        """Give what jobs told of projects, the newest first."""
        return newest(self._connection)

    def paused(self) -> str:
        """Tell why and since when the loop pauses; empty where it does not."""
        return str(paused(self._connection) or "")

    def job_status(self, job_id: str) -> dict[str, Any] | None:
        """Tell a job's state and progress; None for one that is not known."""
        job = find(self._connection, job_id)
        if job is None:
            return None
        return {"status": job.get_status(refresh=False).value, "progress": job.meta.get("progress")}
