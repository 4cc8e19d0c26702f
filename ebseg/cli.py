"""The command ``ebseg``.

The rooms above the library add commands of their own through the entry-point group ``ebseg.commands``: an
entry point's name is the command's name, its object a ``typer.Typer`` (one command, or a group of them).
A plugin is imported only when it is asked for or listed, so modules of commands keep PyTorch and other
slow imports inside their functions.
"""

import sys
from collections.abc import Sequence
from functools import cache
from importlib.metadata import EntryPoint, entry_points, version
from typing import Annotated, Any

import typer
from typer.core import TyperGroup
from typer.main import get_command

from ebseg.commands.coco import import_coco
from ebseg.commands.data import app as data_app
from ebseg.commands.evaluate import evaluate
from ebseg.commands.predict import predict
from ebseg.commands.train import train
from ebseg.errors import ConfigError, EBSegError

PLUGIN_GROUP = "ebseg.commands"


@cache
def _plugins() -> dict[str, EntryPoint]:
    return {plugin.name: plugin for plugin in sorted(entry_points(group=PLUGIN_GROUP))}


class _Commands(TyperGroup):
    """The library's commands and the plugins'."""

    def list_commands(self, ctx: Any) -> list[str]:
        return [*super().list_commands(ctx), *_plugins()]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        command = super().get_command(ctx, cmd_name)
        if command is not None or cmd_name not in _plugins():
            return command
        try:
            return get_command(_plugins()[cmd_name].load())
        except Exception as error:  # whatever is wrong with a plugin, the other commands must work
            return get_command(_unavailable(f"{type(error).__name__}: {error}"))


def _unavailable(reason: str) -> typer.Typer:
    """Make a command that only says why the real one cannot be had."""
    app = typer.Typer()

    @app.command(
        help=f"(not available: {reason})",
        context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
    )
    def fail() -> None:
        raise ConfigError(f"this command cannot be loaded ({reason}); reinstall the package it comes from")

    return app


app = typer.Typer(
    cls=_Commands,
    help="Label photos with any words, with EBSeg.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app.command(epilog='Example: ebseg predict street/ --labels "sky,road,car|automobile"')(predict)
app.command(epilog="Example: ebseg train --variant base --data coco-stuff-171 --data-root datasets")(train)
app.command(epilog="Example: ebseg evaluate runs/tiny/model.safetensors --json result.json")(evaluate)

app.add_typer(data_app, name="data")
app.command("import-coco", epilog="Example: ebseg import-coco predictions.json --out label-maps")(import_coco)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"ebseg {version('ebseg')}")
        raise typer.Exit


@app.callback()
def _options(
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; ``arguments`` are those of the process by default.

    Ends the process: status 0, 1 for a failure (one line on standard error), 2 for bad usage.
    """
    try:
        app(arguments, prog_name="ebseg")
    except (EBSegError, OSError) as error:  # an OSError here is a disk's or a port's answer and names it
        typer.echo(f"ebseg: {' '.join(str(error).split())}", err=True)
        sys.exit(1)
