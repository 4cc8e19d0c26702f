"""The library's commands, one module each; ``ebseg.cli`` puts them together."""

INTERRUPTED = 130
"""Exit status of a command that Ctrl-C ended, as shells have it."""

LARGEST_SEED = 2**63 - 1
"""What random generators take."""
