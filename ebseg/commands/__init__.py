"""The library's commands, one module each, and the table by which ``ebseg.cli`` knows them.

A command's module holds its arguments and what can be told of them at once; it imports plainly, but nothing
that takes long. Where the work needs PyTorch, it is in a module of its own, which the command imports when
its arguments are right: `ebseg train --help` and a mistyped option are answered at once.
"""

from dataclasses import dataclass

INTERRUPTED = 130
"""Exit status of a command that Ctrl-C ended, as shells have it."""

LARGEST_SEED = 2**63 - 1
"""What random generators take."""


@dataclass(frozen=True)
class Command:
    """A command as `ebseg --help` lists it, without importing it.

    ``app``: "module:object" of a ``typer.Typer`` (one command, or a group of them); ``help``: its first line.
    """

    app: str
    help: str


COMMANDS = {
    "predict": Command(
        "ebseg.commands.predict:app", "Label every pixel of photos with words of your choice."
    ),
    "train": Command(
        "ebseg.commands.train:app",
        "Train a model on labelled photos; a run that was stopped goes on from its last checkpoint in OUT.",
    ),
    "evaluate": Command(
        "ebseg.commands.evaluate:app",
        "Measure a model on labelled photos, as the benchmarks of the field do, beside the paper's numbers.",
    ),
    "import-coco": Command(
        "ebseg.commands.coco:app", "Turn a COCO file (masks or polygons, or a panoptic one) into label maps."
    ),
    "data": Command("ebseg.commands.data:app", "List, prepare and check the benchmarks' data."),
}
