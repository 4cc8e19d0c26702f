"""The part of ``ebseg doctor`` that looks at what the learning loop stands on, and at this machine."""

import shutil
from contextlib import suppress
from pathlib import Path

import psutil
from redis import Redis, RedisError
from rq import Worker

from backend.findings import Finding
from ebseg.errors import EBSegError
from training.queue.pause import paused
from training.queue.projects import known_projects
from training.queue.queues import QueueName, connect, queue
from training.registry.registry import Registry
from training.settings import Settings

LEAST_DISK_BYTES = 2e9
"""Free space below which the next checkpoint, or the download of a model, may not find room."""

LEAST_MEMORY_BYTES = 0.5e9
"""Free memory below which a large photo may end the process."""

_CGROUP = Path("/sys/fs/cgroup")


def loop_projects(settings: Settings) -> list[int]:
    """List the projects that have called the service, as far as Redis answers."""
    if settings.learn:
        with suppress(EBSegError, RedisError):  # a finding of its own
            return known_projects(connect(settings), settings)
    return []


def check_jobs(settings: Settings) -> Finding:
    """See whether Redis answers, and somebody does the jobs that wait in it."""
    check = "jobs"
    try:
        connection = connect(settings)
        return _workers(connection)
    except (EBSegError, RedisError) as error:
        return Finding(check, "Redis cannot be used", str(error))


def _workers(connection: Redis) -> Finding:
    check = "jobs"
    if reason := paused(connection):
        return Finding(check, "Redis answers", f"the loop is {reason}; it goes on by itself then")
    workers = Worker.all(connection)  # those that have given a sign of life lately
    served = {name for worker in workers for name in worker.queue_names()}
    waiting = {line.value: len(queue(connection, line)) for line in QueueName if line.value not in served}
    if stuck := {name: count for name, count in waiting.items() if count}:
        jobs = ", ".join(f"{count} in {name}" for name, count in stuck.items())
        remedy = f"start one: ebseg worker {' '.join(f'--queue {name}' for name in stuck)}"
        return Finding(check, f"Redis answers; no worker does the jobs that wait ({jobs})", remedy)
    if not workers:
        return Finding(check, "Redis answers; nothing is learnt until a worker runs (ebseg worker)")
    idle = f"; nobody serves {', '.join(waiting)}" if waiting else ""
    return Finding(check, f"Redis answers, workers: {len(workers)}{idle}")


def check_registry(settings: Settings) -> Finding:
    """See whether MLflow answers, and which version is served."""
    check = "registry"
    registry = Registry(settings)
    try:
        champion, own = registry.champion(), registry.champions()
    except EBSegError as error:
        return Finding(check, "MLflow cannot be used", str(error))
    if champion is None:
        return Finding(check, "no version yet; the first reading of annotations registers the model")
    if not registry.descends(champion):
        origin = champion.tags.get("model")
        return Finding(
            check, f"the champion comes from {origin}; {settings.model} is served, and learns next"
        )
    projects = [f"project {project}: version {own[project].number}" for project in sorted(filter(None, own))]
    others = f"; champions of their own: {', '.join(projects)}" if projects else ""
    return Finding(check, f"version {champion.number} is the base ({champion.name}){others}")


def check_disk(settings: Settings) -> Finding:
    """See whether there is room where the loop writes."""
    try:
        settings.make_home()
        free = shutil.disk_usage(settings.home).free
    except (EBSegError, OSError) as error:
        return Finding("disk", f"{settings.home} cannot be used", str(error))
    detail = f"{free / 1e9:.1f} GB are free at {settings.home}"
    remedy = "" if free >= LEAST_DISK_BYTES else "make room, or set EBSEG_HOME to a larger disk"
    return Finding("disk", detail, remedy)


def check_memory() -> Finding:
    """See whether there is memory for a photo."""
    free = free_memory(_CGROUP)
    remedy = "end other programs, give the container more, or set EBSEG_MAX_PIXELS lower"
    detail = f"{free / 1e9:.1f} GB are free"
    return Finding("memory", detail, "" if free >= LEAST_MEMORY_BYTES else remedy)


def free_memory(cgroup: Path) -> int:
    """Give the bytes that this process can still take: of the machine, or of its container."""
    free = psutil.virtual_memory().available
    with suppress(OSError, ValueError):  # "max": no limit
        limit = int((cgroup / "memory.max").read_text())
        free = min(free, limit - int((cgroup / "memory.current").read_text()))
    return max(free, 0)
