"""``ebseg jobs``: what waits, what runs, what came of it and why; and how to stop it."""

import json
from contextlib import suppress
from datetime import UTC, datetime
from typing import Annotated, Any

import typer
from redis import Redis
from rich.console import Console
from rich.table import Column, Table
from rq.command import send_stop_job_command
from rq.exceptions import NoSuchJobError
from rq.job import Job, JobStatus
from rq.registry import ScheduledJobRegistry
from rq.serializers import JSONSerializer

from ebseg.errors import ConfigError
from training.queue.queues import ACTIVE, connect, find, queues
from training.settings import load_settings

app = typer.Typer(add_completion=False, no_args_is_help=True, help="Look at the learning loop's jobs.")

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command("list", epilog="Example: ebseg jobs list --json")
def list_jobs(
    count: Annotated[int, typer.Option(min=1, help="Jobs to show, the newest.")] = 30, as_json: AsJson = False
) -> None:
    """List jobs: id, state, how far it is or what came of it."""
    jobs = sorted(_all_jobs(_connection()), key=_since, reverse=True)[:count]
    if as_json:
        typer.echo(json.dumps([_as_dict(job) for job in jobs], indent=2))
        return
    table = Table(
        # A job is asked for by its whole id; without a least width rich cuts even what must not be wrapped.
        Column("job", no_wrap=True, min_width=max((len(job.id) for job in jobs), default=0)),
        Column("state", min_width=len("scheduled")),
        Column("since", min_width=len("2026-01-31")),
        Column("what", min_width=10, overflow="fold"),
    )
    for job in jobs:
        told = _as_dict(job)
        table.add_row(told["id"], told["state"], told["since"], told["outcome"] or told["what"])
    # In a terminal that is too narrow even so lines go on in the next one rather than being cropped.
    Console().print(table if jobs else "no jobs", crop=False)


@app.command(epilog="Example: ebseg jobs show train-1-0a1b2c3d4e5f-1")
def show(job: Annotated[str, typer.Argument(help="A job's id.")], as_json: AsJson = False) -> None:
    """Show a job: what it does, how far it is, what came of it, why it failed, the end of its log."""
    told = _as_dict(_job(_connection(), job))
    if as_json:
        typer.echo(json.dumps(told, indent=2))
        return
    for name, value in told.items():
        if not value:
            continue
        if isinstance(value, list):
            typer.echo(f"{name}:")
            for line in value:
                typer.echo(f"  {line}")
        else:
            typer.echo(f"{name + ':':13} {json.dumps(value) if isinstance(value, dict) else value}")


@app.command(epilog="Example: ebseg jobs cancel train-1-0a1b2c3d4e5f-1")
def cancel(job: Annotated[str, typer.Argument(help="A job's id.")]) -> None:
    """Take a job out of its queue, or stop it where it runs. A training that is started again goes on."""
    connection = _connection()
    found = _job(connection, job)
    state = found.get_status(refresh=False)
    if state is JobStatus.STARTED:
        send_stop_job_command(connection, found.id, serializer=JSONSerializer)
        typer.echo(f"{found.id} is being stopped")
    elif state in ACTIVE:
        found.cancel()
        typer.echo(f"{found.id} is cancelled")
    else:
        raise ConfigError(f"{found.id} is {_state(found)}: nothing is left to cancel")


def _connection() -> Redis:
    return connect(load_settings())


def _job(connection: Redis, job_id: str) -> Job:
    found = find(connection, job_id)
    if found is None:
        raise ConfigError(f"no job {job_id!r}: `ebseg jobs list` shows those of the last weeks")
    return found


def _all_jobs(connection: Redis) -> list[Job]:
    ids: list[str] = []
    for queue in queues(connection):
        ids += queue.get_job_ids()
        for registry in (
            queue.started_job_registry,
            queue.finished_job_registry,
            queue.failed_job_registry,
            queue.scheduled_job_registry,
            queue.deferred_job_registry,
            queue.canceled_job_registry,
        ):
            # Looking must not clean up: that is the workers' part.
            ids += registry.get_job_ids(cleanup=False)
    found = Job.fetch_many(list(dict.fromkeys(ids)), connection=connection, serializer=JSONSerializer)
    return [job for job in found if job is not None]


def _as_dict(job: Job) -> dict[str, Any]:
    """Say all that people ask about a job."""
    result = job.return_value(refresh=True) if _state(job) == "finished" else None
    outcome = result.get("outcome", "") if isinstance(result, dict) else ""
    reason = _reason(job)
    return {
        "id": job.id,
        "state": _state(job),
        "since": _written(_since(job)),
        "due": _due(job),
        "what": job.description or "",
        "progress": job.meta.get("progress", {}) if _state(job) == "started" else {},
        "outcome": outcome or reason,
        "result": result or {},
        "reason": reason,
        "retries_left": (job.retries_left or 0) if job.get_status(refresh=False) in ACTIVE else 0,
        "worker": job.worker_name or "",
        "log": job.meta.get("log", []),
    }


def _state(job: Job) -> str:
    return str(job.get_status(refresh=False).value)


def _since(job: Job) -> datetime:
    moment = job.ended_at or job.started_at or job.enqueued_at or job.created_at
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _due(job: Job) -> str:
    """Say when a scheduled job is started: a debounced reading, a job to be tried again, a sweep."""
    if _state(job) == "scheduled":
        with suppress(NoSuchJobError):  # its time has come meanwhile
            registry = ScheduledJobRegistry(job.origin, connection=job.connection)
            return _written(registry.get_scheduled_time(job))
    return ""


def _written(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%d %H:%M:%SZ")


def _reason(job: Job) -> str:
    """Say why a job failed, or failed before it was tried again."""
    if _state(job) in ("finished", "canceled"):
        return ""
    if _state(job) == "stopped":
        return "cancelled by hand"
    if reason := job.meta.get("reason"):
        return str(reason)
    result = job.latest_result()
    trace = (result.exc_string if result else None) or ""
    return next((line.strip() for line in reversed(trace.splitlines()) if line.strip()), "")
