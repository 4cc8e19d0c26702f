"""What ``ebseg export`` and ``ebseg import`` share: the way to photos, and telling what is left out."""

import logging
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated

import typer
from redis import RedisError
from rich.console import Console
from rich.progress import Progress

from ebseg.errors import ConfigError
from ebseg.label_studio.fetch import ImageFetcher
from ebseg.label_studio.shown import MOST_WORDS, shown
from training.annotations.photos import photo_fetcher
from training.queue.projects import hostname
from training.queue.queues import connect
from training.settings import Settings

MOST_TOLD = 20
"""Tasks or photos that are left out and named."""

Project = Annotated[int, typer.Argument(min=1, help="Number of the project in Label Studio.")]


def photos(settings: Settings) -> ImageFetcher:
    """Build the fetcher of photos, with what Label Studio calls itself where the service has noted it."""
    try:
        name = hostname(connect(settings))
    except (ConfigError, RedisError):  # no learning loop here: paths on Label Studio are fetched without it
        name = ""
    return photo_fetcher(settings, name)


@contextmanager
def progress_bar() -> Iterator[Progress]:
    """Show a progress bar on standard error, where people are looking.

    Warnings of single tasks are kept out of the log meanwhile: they are told at the end.
    """
    console, log = Console(stderr=True), logging.getLogger("training.annotations")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
            yield bar
    finally:
        log.setLevel(level)


def tell_unknown(labels: Collection[str]) -> None:
    """Name labels whose masks are left out, on standard error."""
    if labels:
        names = shown(", ".join(sorted(labels)), MOST_WORDS)
        typer.echo(f"ebseg: labels that the project does not have are left out: {names}", err=True)


def tell(left_out: Mapping[int, str] | Mapping[str, str], what: str) -> None:
    """Name what is left out, with the reasons, on standard error; end with status 1 if there is any."""
    for name, reason in list(left_out.items())[:MOST_TOLD]:
        typer.echo(f"ebseg: {what} {name} is left out: {reason}", err=True)
    if len(left_out) > MOST_TOLD:
        typer.echo(f"ebseg: and {len(left_out) - MOST_TOLD} more", err=True)
    if left_out:
        raise typer.Exit(1)
