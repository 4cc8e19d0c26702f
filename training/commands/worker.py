"""``ebseg worker`` and ``ebseg scheduler``: the processes that do the learning loop's work."""

import logging
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Annotated

import redis
import typer

from ebseg.config import VARIANTS
from ebseg.errors import ConfigError
from ebseg.runs.mlflow_store import ENVIRONMENT
from training.annotations.reach import why_away
from training.queue.mending import mend
from training.queue.queues import QueueName, connect
from training.queue.queues import queue as open_queue
from training.queue.schedule import keep_time, plan_next
from training.queue.worker import LoopWorker
from training.settings import Settings, load_settings

RECONNECT_SECONDS = 3.0
"""Between tries to reach a Redis that went away."""

worker_app = typer.Typer(add_completion=False)
scheduler_app = typer.Typer(add_completion=False)
_log = logging.getLogger(__name__)


@worker_app.command()
def worker(
    queue: Annotated[
        list[str] | None,
        typer.Option(help="Serve this queue only: ebseg, ebseg-label or ebseg-train; repeatable."),
    ] = None,
    burst: Annotated[bool, typer.Option("--burst", help="End when nothing is left to do.")] = False,
) -> None:
    """Do the learning loop's jobs: read annotations, fine-tune, judge, push predictions.

    Start as many as you like, on as many machines as share REDIS_URL, MLFLOW_TRACKING_URI and
    EBSEG_STORAGE. A worker that dies loses nothing: its job goes on in another one.

    Example: ebseg worker --queue ebseg-train
    """
    known = {line.value for line in QueueName}
    if unknown := sorted(set(queue or ()) - known):
        raise typer.BadParameter(f"no queue {unknown[0]!r}; there are {', '.join(sorted(known))}")
    settings = _prepared()
    settings.make_home()
    _require_known_model(settings.base_model)
    served = [line for line in QueueName if not queue or line.value in queue]
    with _schedule(settings):
        # Jobs are done in forks of this process; most need PyTorch, MLflow and Label Studio's SDK: imported
        # here, once, they take 10 s of CPU and half a gigabyte, which the forks share; else each would take
        # both. (A training has a process of its own.) It is safe before a fork as long as nothing here runs
        # PyTorch: only that starts its threads. After options and settings, whose faults are told at once.
        if served != [QueueName.TRAIN]:
            for variable, value in ENVIRONMENT.items():
                os.environ.setdefault(variable, value)
            import training.commands.preloaded  # noqa: F401

        while _work(settings, served, burst=burst):
            time.sleep(RECONNECT_SECONDS)


def _work(settings: Settings, lines: list[QueueName], *, burst: bool) -> bool:
    """Work until told to stop, or until Redis goes away; tell whether to try again."""
    loop: LoopWorker | None = None
    try:
        connection = connect(settings)
        mend(connection)
        served = [open_queue(connection, line) for line in lines]
        loop = LoopWorker(served, connection)
        loop.work(burst=burst)
    except (redis.ConnectionError, redis.TimeoutError, ConfigError) as error:
        if burst:
            raise ConfigError(f"Redis is away: {error}") from error
        _log.warning("Redis is away: %s", error)
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):  # RQ's own would call upon a worker that is no more
            signal.signal(number, signal.default_int_handler)
        if loop is not None:
            loop.end_horse()
    return not burst and (loop is None or not loop.told_to_stop)


@contextmanager
def _schedule(settings: Settings) -> Iterator[threading.Thread]:
    """Keep the schedule in a thread."""
    connection = connect(settings)
    mend(connection)
    plan_next(connection, settings)  # what is wrong with the settings is said at once
    stop = threading.Event()
    clock = threading.Thread(
        target=keep_time, args=(settings, stop, partial(why_away, settings)), name="schedule", daemon=True
    )
    clock.start()
    try:
        yield clock
    finally:
        stop.set()
        clock.join(timeout=5)


@scheduler_app.command()
def scheduler() -> None:
    """Keep the schedule without working: start what is due, and plan the next look at all projects.

    Every worker does the same; this is for workers that come and go. Of several, one at a time is in charge.

    Example: EBSEG_SCHEDULE="0 */6 * * *" ebseg scheduler
    """
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    settings = _prepared()
    if settings.redis_url is None:
        settings.make_home()
    with _schedule(settings):
        _log.info("keeping the schedule")
        stop.wait()


def _prepared() -> Settings:
    """Read the settings and begin to log."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)  # it logs addresses whole, with their signatures
    # PyTorch's threads wait by spinning. Where the cores are shared with the service or with other workers,
    # they then keep each other from working; jobs' processes inherit this.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    return load_settings()


def _require_known_model(model: str) -> None:
    """Raise what ``ebseg.load`` would for a word that names no model; nothing is downloaded.

    A path or MLflow's name is left to the jobs: a worker that has the champion needs no file of the model
    that it comes from.
    """
    if "/" in model or ":" in model or model in {f"ebseg-{variant}" for variant in VARIANTS}:
        return
    from ebseg.loading import checkpoint_path  # PyTorch is slow to import, and most settings need no look

    checkpoint_path(model)
