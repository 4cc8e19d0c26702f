"""``ebseg label``: predict all unlabelled tasks of a project, by whatever workers there are."""

import json
import time
from typing import Annotated

import typer
from rich.progress import Progress

from ebseg.errors import TrainingError
from training.queue.plans import submit_plan
from training.queue.queues import ACTIVE, connect, find
from training.registry.registry import Registry
from training.settings import load_settings

LOOK_SECONDS = 1.0

app = typer.Typer(add_completion=False)


@app.command()
def label(
    project: Annotated[int, typer.Argument(min=1, help="Number of the project in Label Studio.")],
    wait: Annotated[bool, typer.Option(help="Wait until the workers are done.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Have workers predict every unlabelled task of a project with the champion.

    No task is predicted twice by one version, so it can be stopped and repeated at any time; the workers go
    on without it. At the end the project shows the version's scores.

    Example: ebseg label 12
    """
    settings = load_settings()
    connection = connect(settings)
    version = Registry(settings).ensure_base(project).name
    plan = submit_plan(connection, project, version)
    if not wait:
        typer.echo(json.dumps({"job": plan, "version": version}) if as_json else f"{plan} is submitted")
        return
    waiting, failed = {plan}, {}
    outcome: dict[str, str] = {}
    left_out: dict[str, str] = {}
    with Progress(transient=True, disable=as_json) as bar:
        task = bar.add_task("waiting for a worker", total=None)
        while waiting:
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
                outcome[job_id] = result["outcome"]
                left_out |= result.get("left_out", {})
                if job_id == plan and "chunks" not in result:
                    raise TrainingError(result["outcome"])
                waiting |= set(result.get("chunks", ()))
            bar.update(
                task, description="predicting", total=len(waiting) + len(outcome), completed=len(outcome)
            )
    if failed:
        first = next(iter(failed))
        raise TrainingError(
            f"{len(failed)} jobs failed, such as {first}: {failed[first]}; repeat the command"
        )
    summary = {"version": version, "jobs": outcome, "left_out": left_out}
    typer.echo(json.dumps(summary, indent=2) if as_json else f"{outcome[plan]}; labelled with {version}")
    for number, reason in left_out.items():
        typer.echo(f"ebseg: task {number} has no prediction: {reason}", err=True)
    if left_out:
        raise typer.Exit(1)
