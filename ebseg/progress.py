"""What a command shows while it works: on a terminal, on standard error, and gone when it is done."""

from collections.abc import Iterable

from rich.console import Console
from rich.progress import track
from rich.status import Status


def count(number: int, what: str) -> Iterable[int]:
    """Give the numbers below ``number``, with a progress bar that says what is counted."""
    console = Console(stderr=True)
    return track(
        range(number),
        what,
        console=console,
        transient=True,
        auto_refresh=False,  # drawn between two numbers: no thread runs beside what is measured
        disable=not console.is_terminal,
    )


def doing(what: str) -> Status:
    """Give a context that says what is being done, for what is not counted."""
    return Status(what, console=Console(stderr=True))
