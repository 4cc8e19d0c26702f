"""Which of a project's unlabelled tasks come first, as its plans say it."""

from collections.abc import Callable, Collection

import numpy as np

from training.selection import files
from training.selection.strategies import ahead, is_by_diversity, most_telling
from training.settings import Select
from training.storage import Storage


def plan_order(
    storage: Storage, project: int, model: str, select: Select, unlabelled: Callable[[], Collection[int]]
) -> None:
    """Say which of a project's unlabelled tasks come first, by what a version of the model saw of them.

    ``unlabelled`` lists them all; it is called where their photos were seen.
    Tasks of which it saw the photo and which are unlabelled no more are taken for annotated.
    """
    if not is_by_diversity(select):
        return
    known = files.collect(storage, project, model)
    chosen: list[int] = []
    if known:
        tasks, waiting = list(known), set(unlabelled())
        annotated = [place for place, task in enumerate(tasks) if task not in waiting]
        if count := ahead(select, len(annotated)):
            chosen = most_telling(np.stack(list(known.values())), annotated, count)
    files.put_in_front(storage, project, model, [tasks[place] for place in chosen])
