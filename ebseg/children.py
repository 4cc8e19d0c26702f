"""Python processes that this one starts: how, and in which environment.

`python -m` and `python -c` look for modules in the working directory first. There the user may have a folder
`training` or `backend` of their own, which would be imported in place of ours.
"""

import os
import sys


def python(*arguments: str) -> list[str]:
    """Give the command of a Python process that imports nothing from its working directory."""
    return [sys.executable, "-P", *arguments]


def environment(**variables: str) -> dict[str, str]:
    """Give such a process's environment: this one's, with ``variables``.

    What the process starts in its turn, as launchers do by `python -m`, looks in no working directory either.
    """
    return {**os.environ, "PYTHONSAFEPATH": "1", **variables}
