"""What tasks' photos are called, and which task another system's file of that name belongs to."""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from pathlib import PurePath

from ebseg.errors import DataError
from ebseg.file_names import inside, one_form
from ebseg.images import OTHER_SUFFIXES, PHOTO_SUFFIXES
from ebseg.label_studio.tasks import Labelling, TaskPhoto
from training.annotations.label_studio import LabelStudioTask

_UPLOADED = re.compile(r"[0-9a-f]{8}-(.+)", re.DOTALL)
"""Label Studio puts eight hexadecimal digits before the name of a file that is uploaded."""

_NUMBERED = re.compile(r"task([0-9]{1,19})-(.+)", re.DOTALL)

_DROPPED = re.compile(r"[^-\w.]")
"""What Label Studio (Django) leaves out of the names of uploads, whose spaces become "_"."""

_MOST_NAMED = 5
"""Tasks of one name that a message lists."""


def photos_of(
    tasks: Iterable[LabelStudioTask], labelling: Labelling
) -> tuple[dict[int, TaskPhoto], dict[int, str]]:
    """List each task's photo, of several the first; and of those tasks that have none the reasons."""
    found, without = dict[int, TaskPhoto](), dict[int, str]()
    for task in tasks:
        first = labelling.photos({"data": task.data})[0]
        if first.fault:
            without[task.id] = str(first.fault)
        else:
            found[task.id] = first
    return found, without


def name_of(task: int, address: str) -> str:
    """Name a task's photo by the last part of its address; by the task where that is no name of a file."""
    if address.startswith("data:"):  # the photo itself
        return f"task{task}"
    try:
        # A path on Label Studio is quoted like the rest of an address.
        return one_form(inside(f"file://{address}" if address.startswith("/") else address).name)
    except DataError:
        return f"task{task}"


def distinct_names(addresses: Mapping[int, str]) -> dict[int, str]:
    """Name tasks' photos; those that would differ in their endings at most get their task's number.

    ``addresses``: of the photos, by task. Two photos of one name become ``task7-a.jpg`` and ``task9-a.jpg``;
    one that is called so already is numbered as well.
    """
    names = {task: name_of(task, address) for task, address in addresses.items()}
    times = Counter(_stem(name).casefold() for name in names.values())
    return {
        task: f"task{task}-{name}" if times[_stem(name).casefold()] > 1 or _NUMBERED.fullmatch(name) else name
        for task, name in names.items()
    }


class TaskFinder:
    """Finds tasks by the names of their photos; ``addresses``: of the photos, by task."""

    def __init__(self, addresses: Mapping[int, str]) -> None:
        self._names = {task: _stem(name_of(task, address)) for task, address in addresses.items()}
        self._by_form = {form: _sorted_by(form, self._names) for form in (str, _stored, _original)}

    def find(self, file_name: str) -> int:
        """Find the task of a photo, by its name without its ending.

        Names are compared as they are, then as Label Studio stores them, then without the digits that it puts
        before uploads. Raises DataError for a name that no task has, and for one that several have.
        """
        stem = _stem(one_form(file_name))
        numbered = _NUMBERED.fullmatch(stem)
        if numbered and self._names.get(int(numbered[1])) == numbered[2]:
            return int(numbered[1])
        for form, tasks in self._by_form.items():
            found = tasks.get(form(stem), ())
            if len(found) == 1:
                return found[0]
            if found:
                some = ", ".join(map(str, found[:_MOST_NAMED])) + (", ..." if found[_MOST_NAMED:] else "")
                raise DataError(f"{len(found)} tasks have a photo of this name ({some}); rename it for one")
        raise DataError("no task has a photo of this name")


def _sorted_by(form: Callable[[str], str], names: Mapping[int, str]) -> dict[str, list[int]]:
    found = defaultdict[str, list[int]](list)
    for task, name in names.items():
        found[form(name)].append(task)
    return found


def _stem(name: str) -> str:
    """Drop the ending of a picture's name, and nothing else that follows a dot."""
    path = PurePath(name)
    return path.stem if path.suffix.lower() in PHOTO_SUFFIXES | OTHER_SUFFIXES else name


def _stored(stem: str) -> str:
    return _DROPPED.sub("", stem.strip().replace(" ", "_"))


def _original(stem: str) -> str:
    stored = _stored(stem)
    uploaded = _UPLOADED.fullmatch(stored)
    return uploaded[1] if uploaded else stored
