"""``ebseg jobs``: what waits, what runs, what came of it and why; and how to stop it."""

import json
import shutil
import textwrap
from contextlib import suppress
from datetime import UTC, datetime
from typing import Annotated, Any

import typer
from redis import ConnectionError as RedisConnectionError
from redis import Redis
from rq.command import send_stop_job_command
from rq.exceptions import NoSuchJobError
from rq.job import Job, JobStatus
from rq.registry import ScheduledJobRegistry
from rq.serializers import JSONSerializer

from ebseg.errors import ConfigError
from training.queue.entries import DamagedJob, LoopJob, read
from training.queue.mending import discard, faults, job_ids
from training.queue.pause import paused
from training.queue.queues import ACTIVE, connect
from training.settings import load_settings

app = typer.Typer(add_completion=False, no_args_is_help=True, help="Look at the learning loop's jobs.")

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command("list", epilog="Example: ebseg jobs list --json")
def list_jobs(
    count: Annotated[int, typer.Option(min=1, help="Jobs to show, the newest.")] = 30, as_json: AsJson = False
) -> None:
    """List jobs: state, since when, id; what each does or what came of it."""
    connection = _connection()
    for fault in faults(connection):
        typer.echo(f"ebseg: {fault.what}: a worker puts it aside", err=True)
    if reason := paused(connection):
        typer.echo(f"ebseg: {reason}", err=True)
    jobs = newest_jobs(connection, count)
    if as_json:
        typer.echo(json.dumps(jobs, indent=2))
        return
    width = shutil.get_terminal_size().columns
    for told in jobs:
        typer.echo(f"{told['state']:9}  {told['since'][:16]:16}  {told['id']}")
        # Below the line rather than beside it: ids are long, and asked for whole.
        words = told["outcome"] or told["what"]
        typer.echo(textwrap.fill(words, width, initial_indent="  ", subsequent_indent="  "))
    if not jobs:
        typer.echo("no jobs")


@app.command(epilog="Example: ebseg jobs show train-1-0a1b2c3d4e5f-1")
def show(job: Annotated[str, typer.Argument(help="A job's id.")], as_json: AsJson = False) -> None:
    """Show a job: what it does, how far it is, what came of it, why it failed, the end of its log."""
    connection = _connection()
    try:
        told = _as_dict(_job(connection, job))
    except DamagedJob as error:
        told = _damaged(job, error)
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
    try:
        found = _job(connection, job)
    except DamagedJob:
        discard(connection, job)
        typer.echo(f"{job} was damaged, and is taken away")
        return
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
    """Read a job. Raises ConfigError where there is none, and DamagedJob."""
    try:
        return read(connection, job_id)
    except DamagedJob:
        raise
    except NoSuchJobError:
        raise ConfigError(f"no job {job_id!r}: `ebseg jobs list` shows those of the last weeks") from None


def newest_jobs(connection: Redis, count: int) -> list[dict[str, Any]]:
    """Tell of at most ``count`` jobs as ``list --json`` prints them: what is damaged, then the newest."""
    jobs: list[LoopJob] = []
    damaged: list[dict[str, Any]] = []
    for job_id in job_ids(connection):
        try:
            jobs.append(read(connection, job_id))
        except DamagedJob as error:
            damaged.append(_damaged(job_id, error))
        except NoSuchJobError:
            pass  # it ended long ago
    newest = sorted(jobs, key=_since, reverse=True)[:count]
    return [*damaged, *map(_as_dict, newest)][:count]


def _damaged(job_id: str, error: DamagedJob) -> dict[str, Any]:
    told = dict.fromkeys(("since", "due", "what"), "")
    return {"id": job_id, "state": "damaged", **told, "outcome": str(error), "reason": str(error)}


def _as_dict(job: Job) -> dict[str, Any]:
    """Say all that people ask about a job."""
    try:
        return _told(job)
    except RedisConnectionError:
        raise
    except Exception as error:  # of its results, which are kept apart from it
        return _damaged(job.id, DamagedJob(job.id, error))


def _told(job: Job) -> dict[str, Any]:
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
