"""``ebseg demo``: a Label Studio of one's own with EBSeg's masks, and a worker that learns."""

import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Annotated, NoReturn

import typer

from backend.processes import (
    ServerProcess,
    ServerProcessError,
    end_leftovers,
    reach_this_machine_directly,
)
from ebseg.commands import INTERRUPTED
from ebseg.errors import ConfigError
from ebseg.files import locked

LABEL_STUDIO = Path(".venv-label-studio/bin/label-studio")

app = typer.Typer()


@app.command()
def demo(
    photos: Annotated[
        Path | None,
        typer.Option(exists=True, file_okay=False, help="Folder of your own photos; unset: drawn scenes."),
    ] = None,
    labels: Annotated[
        str | None,
        typer.Option(help="What to find in them, such as 'sky,road,car|automobile', or @FILE with a list."),
    ] = None,
    model: Annotated[str, typer.Option(help="Model name or checkpoint file.")] = "ebseg-tiny",
    once: Annotated[bool, typer.Option("--once", help="End when every picture carries its masks.")] = False,
    folder: Annotated[Path, typer.Option(help="Where the demo keeps its database and logs.")] = Path(".demo"),
    label_studio: Annotated[Path, typer.Option(help="Label Studio's command.")] = LABEL_STUDIO,
) -> None:
    """Start Label Studio with a project whose pictures carry EBSeg's masks; Ctrl-C ends it.

    A worker trains on what you correct, and the backend serves what is better.

    Example: ebseg demo --photos street/ --labels "sky,road,car|automobile" --model ebseg-base
    """
    # Here, as `ebseg --help` imports every command's module.
    from backend.demo.project import (
        BACKEND_PORT,
        choose_pictures,
        loop_settings,
        pre_annotated_project,
        serve_backend,
        start_label_studio,
        start_worker,
    )

    complete = False
    try:
        with only_demo_in(folder):
            _interrupt_on_signals()
            reach_this_machine_directly()
            loop = loop_settings(folder)
            pictures, names = choose_pictures(photos, labels, folder / "scenes")
            with (
                start_label_studio(label_studio, folder) as server,
                serve_backend(server, model, folder, loop, preferred_port=BACKEND_PORT) as backend,
                start_worker(server, model, folder, loop) as worker,
            ):
                project = pre_annotated_project(server, backend, pictures, names, every_one=once)
                complete = True
                typer.echo(f"Label Studio: {project.url}  login: {server.email}  password: {server.password}")
                if not once:
                    typer.echo(
                        f"Correct {loop['EBSEG_MIN_NEW_ANNOTATIONS']} pictures or more and press Submit: the "
                        f"worker trains on them.\n"
                        f"To watch it: EBSEG_HOME={loop['EBSEG_HOME']} .venv/bin/ebseg jobs list"
                    )
                    typer.echo("Ctrl-C ends it; what you annotate is kept for the next start.")
                    _wait_for_interrupt([server.process, backend, worker])
    except KeyboardInterrupt:
        typer.echo("Stopped; nothing is left running.")
        raise typer.Exit(0 if complete else INTERRUPTED) from None
    except ServerProcessError as error:
        typer.echo(error.log_tail, err=True)
        raise


@contextmanager
def only_demo_in(folder: Path) -> Iterator[None]:
    """Hold the folder alone: two servers on one database would damage it."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    refusal = ConfigError(f"a demo already runs in {folder}: end it with Ctrl-C first")
    with locked(folder / "lock", seconds=0, refusal=refusal):
        end_leftovers(folder)
        yield


def _interrupt_on_signals() -> None:
    """Let Ctrl-C, a closed terminal and SIGTERM end the demo in the same orderly way, once."""
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def interrupt(number: int, frame: FrameType | None) -> None:
        for each in signals:
            signal.signal(each, signal.SIG_IGN)  # a second Ctrl-C must not cut the ending short
        raise KeyboardInterrupt

    for number in signals:
        signal.signal(number, interrupt)


def _wait_for_interrupt(processes: Sequence[ServerProcess]) -> NoReturn:
    """Wait until a signal comes. Raises ServerProcessError when a process ends before."""
    while True:
        for process in processes:
            process.check_alive()
        time.sleep(1)
