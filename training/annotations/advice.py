"""Which tasks to annotate next, where too few are held out to judge a model by."""

import hashlib
import time
from collections.abc import Callable, Iterable
from itertools import islice

from ebseg.errors import EBSegError
from training.annotations.label_studio import LabelStudioTask
from training.annotations.snapshot import decided, is_held_out
from training.storage import Storage

LOOKED_AT = 40
"""Tasks whose photos are fetched at most to find some whose annotations would judge."""

LOOK_SECONDS = 60.0
"""After which no further one is fetched."""


def advise(
    tasks: Iterable[LabelStudioTask],
    fetch: Callable[[LabelStudioTask], bytes],
    storage: Storage,
    project: int,
    share: float,
    count: int,
) -> str:
    """Name up to ``count`` tasks without an annotation whose photos are, or would be, held out.

    ``tasks``: those without an annotation. ``share``: of the photos that are held out. Raises DataError where
    nobody knows what was held out so far, and what listing tasks raises.
    """
    known, found = decided(storage, project), list[int]()
    end = time.monotonic() + LOOK_SECONDS
    for task in islice(tasks, LOOKED_AT):
        try:
            photo = hashlib.sha256(fetch(task)).hexdigest()
        except EBSegError:
            continue  # it is told where the photo is needed; others do not hold this up
        if known.get(photo, is_held_out(photo, share)):
            found.append(task.id)
        if len(found) == count or time.monotonic() > end:
            break
    if not found:
        return "none of the other tasks would judge: add some"
    return f"annotate task{'' if len(found) == 1 else 's'} {', '.join(map(str, found))} next"
