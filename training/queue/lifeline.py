"""End a process when the one that it works for has ended, however that came about: orphans would go on."""

import os
import threading
import time

import psutil

LOOK_SECONDS = 1.0
"""Between looks at who the parent is."""

ORPHANED = 1
"""Exit status of a process whose parent has ended."""


def die_with_parent(generations: int = 1, *, parent: int | None = None) -> None:
    """End this process about a second after its parent has ended, even if that was killed.

    ``generations``: 2 also watches the parent's parent, for a process that a launcher has started.
    ``parent``: who the oldest of them should be; it may have ended before this is called, which nothing else
    tells. Only this process is ended, at once and whatever it does; its children see to themselves.
    """
    ancestors = _ancestors(generations)
    if parent is not None and ancestors[-1] != parent:
        os._exit(ORPHANED)
    threading.Thread(target=_watch, args=(generations, ancestors), name="lifeline", daemon=True).start()


def _watch(generations: int, ancestors: list[int]) -> None:
    while _ancestors(generations) == ancestors:
        time.sleep(LOOK_SECONDS)
    os._exit(ORPHANED)


def _ancestors(generations: int) -> list[int]:
    """List the process ids of the parent, its parent and so on; whoever ends is replaced at once."""
    found = [os.getppid()]
    try:
        while len(found) < generations:
            found.append(psutil.Process(found[-1]).ppid())
    except psutil.NoSuchProcess:  # it has just ended
        pass
    return found
