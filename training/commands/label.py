"""``ebseg label``: predict all unlabelled tasks of a project, by whatever workers there are."""

import json
import time
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Annotated, Any

import typer
from redis import Redis
from rich.progress import Progress

from ebseg.errors import LoopPaused, TrainingError
from training.annotations.reach import require_label_studio
from training.queue.orders import Which
from training.queue.pause import paused
from training.queue.plans import submit_plan
from training.queue.queues import ACTIVE, connect, find
from training.registry.registry import Registry
from training.settings import load_settings

LOOK_SECONDS = 1.0

app = typer.Typer(add_completion=False)


class Again(StrEnum):
    """What is made anew."""

    EMPTY = Which.EMPTY
    ALL = Which.ALL


@dataclass
class _Done:
    """What came of the jobs, by their ids; and of tasks without a prediction the reasons."""

    jobs: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    deferred: dict[str, str] = field(default_factory=dict)

    def add(self, job_id: str, result: dict[str, Any]) -> None:
        self.jobs[job_id] = result["outcome"]
        self.left_out |= result.get("left_out", {})
        self.deferred |= result.get("deferred", {})


@app.command()
def label(
    project: Annotated[int, typer.Argument(min=1, help="Number of the project in Label Studio.")],
    again: Annotated[Again | None, typer.Option(help="Make anew what is empty, or all there is.")] = None,
    wait: Annotated[bool, typer.Option(help="Wait until the workers are done.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Have workers predict every unlabelled task of a project with the champion.

    --again empty finds tasks with an empty prediction, as a refused token or a photo that was not there once
    left, and makes it anew; --again all replaces every prediction of the version that is served.

    Otherwise no task is predicted twice by one version, so it can be stopped and repeated at any time; the
    workers go on without it. At the end the project shows the version's scores.

    Example: ebseg label 12 --again empty
    """
    settings = load_settings()
    connection = connect(settings)
    if settings.label_studio_api_key:  # the workers' alone is enough
        require_label_studio(settings)
    _require_no_pause(connection)
    version = Registry(settings).ensure_base(project).name
    plan = submit_plan(connection, project, version, Which(again) if again else Which.MISSING)
    if not wait:
        typer.echo(json.dumps({"job": plan, "version": version}) if as_json else f"{plan} is submitted")
        return
    done = _wait(connection, plan, quiet=as_json)
    summary = {"version": version, **asdict(done)}
    told = f"{done.jobs[plan]}; labelled with {version}"
    typer.echo(json.dumps(summary, indent=2) if as_json else told)
    for number, reason in done.left_out.items():
        typer.echo(f"ebseg: task {number} has no prediction: {reason}", err=True)
    for number, reason in done.deferred.items():
        typer.echo(f"ebseg: task {number} waits until this is mended: {reason}", err=True)
    if done.left_out or done.deferred:
        raise typer.Exit(1)


def _require_no_pause(connection: Redis) -> None:
    """Raise LoopPaused where workers wait for Label Studio."""
    if reason := paused(connection):
        raise LoopPaused(f"the loop is {reason}; it goes on by itself, then repeat the command")


def _wait(connection: Redis, plan: str, *, quiet: bool) -> _Done:
    """Wait for a plan and its jobs.

    Raises TrainingError where one fails, or there is nothing to plan, and LoopPaused.
    """
    done, waiting, failed = _Done(), {plan}, dict[str, str]()
    with Progress(transient=True, disable=quiet) as bar:
        task = bar.add_task("waiting for a worker", total=None)
        while waiting:
            _require_no_pause(connection)
            time.sleep(LOOK_SECONDS)
            for job_id in sorted(waiting):
                job = find(connection, job_id)
                if job is not None and job.get_status(refresh=False) in ACTIVE:
                    continue
                waiting.discard(job_id)
                result = job.return_value() if job is not None else None
                if not isinstance(result, dict):
                    failed[job_id] = str(job.meta.get("reason", "failed") if job else "gone")
                    continue
                if job_id == plan and "chunks" not in result:
                    raise TrainingError(result["outcome"])
                done.add(job_id, result)
                waiting |= set(result.get("chunks", ()))
            total = len(waiting) + len(done.jobs)
            bar.update(task, description="predicting", total=total, completed=len(done.jobs))
    if failed:
        first = next(iter(failed))
        raise TrainingError(
            f"{len(failed)} jobs failed, such as {first}: {failed[first]}; repeat the command"
        )
    return done
