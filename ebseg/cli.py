"""The command ``ebseg``.

Each package has a table of its commands (``ebseg.commands.COMMANDS`` is the library's). The rooms above the
library, and whoever else, add theirs through the entry-point group ``ebseg.commands``, whose objects are such
tables; an entry point may also be one command's ``typer.Typer``. `ebseg --help` is written from the tables: a
command's module is imported only when the command is asked for.
"""

import atexit
import os
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.metadata import EntryPoint, entry_points, version
from pkgutil import resolve_name
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup
from typer.main import get_command

from ebseg.commands import COMMANDS, INTERRUPTED, Command
from ebseg.errors import ConfigError, EBSegError
from ebseg.lean import do_without

PLUGIN_GROUP = "ebseg.commands"


@cache
def _plugins() -> list[EntryPoint]:
    return sorted(entry_points(group=PLUGIN_GROUP))


def _commands() -> dict[str, Command]:
    """List all commands: the library's, which no other package replaces, then the others by their names."""
    added: dict[str, Command] = {}
    for plugin in _plugins():
        added |= _table(plugin)
    return COMMANDS | {name: added[name] for name in sorted(added) if name not in COMMANDS}


def _table(plugin: EntryPoint) -> Mapping[str, Command]:
    """Load a package's table; whatever is wrong with it, the other commands must work."""
    try:
        found = plugin.load()
        if isinstance(found, typer.Typer):
            help_ = get_command(found).help or ""
            return {plugin.name: Command(plugin.value, help_.partition("\n")[0])}
        return {name: Command(command.app, command.help) for name, command in found.items()}
    except Exception as error:
        return {plugin.name: Command(plugin.value, f"(not available: {_told(error)})")}


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


class _Commands(TyperGroup):
    """The commands of all tables."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(_commands())

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        command = _commands().get(cmd_name)
        if command is None:
            return None
        try:
            return get_command(resolve_name(command.app))
        except Exception as error:  # whatever is wrong with a command, the others must work
            return get_command(_unavailable(_told(error)))

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, command.help) for name, command in _commands().items()])


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
    if arguments is None:
        do_without()
    try:
        app(arguments, prog_name="ebseg")
    except (EBSegError, OSError) as error:  # an OSError here is a disk's or a port's answer and names it
        typer.echo(f"ebseg: {' '.join(str(error).split())}", err=True)
        sys.exit(1)
    except SystemExit as end:
        if arguments is None and end.code == INTERRUPTED:
            _end_at_once()
        raise


def _end_at_once() -> NoReturn:
    """End an interrupted process in order, but for taking the interpreter apart.

    PyTorch's threads may be in the middle of a step then, and C++ calls it an error when they are cut off
    ("terminate called without an active exception").
    """
    atexit._run_exitfuncs()  # processes that read photos, the embedded Redis: what was registered to be ended
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(INTERRUPTED)
