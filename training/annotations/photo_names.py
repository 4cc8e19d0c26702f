"""What tasks' photos are called, and which of them another system's file of that name belongs to."""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import PurePath
from typing import Any, NamedTuple

from ebseg.errors import DataError
from ebseg.file_names import inside, one_form
from ebseg.images import OTHER_SUFFIXES, PHOTO_SUFFIXES
from ebseg.label_studio.questions import told
from ebseg.label_studio.tasks import TaskPhoto
from training.annotations.label_studio import LabelStudioTask

_UPLOADED = re.compile(r"[0-9a-f]{8}-(.+)", re.DOTALL)
"""Label Studio puts eight hexadecimal digits before the name of a file that is uploaded."""

_NUMBERED = re.compile(r"task([0-9]{1,19})(?:\.([0-9]{1,9}))?-(.+)", re.DOTALL)

_DROPPED = re.compile(r"[^-\w.]")
"""What Label Studio (Django) leaves out of the names of uploads, whose spaces become "_"."""

_MOST_NAMED = 5
"""Tasks of one name that a message lists."""


class Place(NamedTuple):
    """A photo by its place: ``number`` counts those of a task from 1, in the order of the label config."""

    task: int
    number: int = 1

    def __str__(self) -> str:
        return f"task{self.task}" if self.number == 1 else f"task{self.task}.{self.number}"


def photos_of(
    tasks: Iterable[LabelStudioTask], photos: Callable[[Any], list[TaskPhoto]]
) -> tuple[dict[Place, TaskPhoto], dict[int, str]]:
    """List the photos of tasks; and of those tasks that lack some the reasons.

    ``photos``: lists those of one, as ``Labelling.photos`` and ``Labelling.addresses`` do.
    """
    found, without = dict[Place, TaskPhoto](), dict[int, str]()
    for task in tasks:
        listed = photos({"data": task.data})
        for number, photo in enumerate(listed, start=1):
            if photo.fault is None:
                found[Place(task.id, number)] = photo
        if faults := [said_of(listed, photo, str(photo.fault)) for photo in listed if photo.fault]:
            without[task.id] = "; ".join(told(faults))
    return found, without


def said_of(listed: Sequence[TaskPhoto], photo: TaskPhoto, fault: str) -> str:
    """Say of which photo of a task a fault is, where it has several."""
    return f"{photo.title}: {fault}" if len(listed) > 1 else fault


def name_of(place: Place, address: str) -> str:
    """Name a photo by the last part of its address; by its place where that is no name of a file."""
    if address.startswith("data:"):  # the photo itself
        return str(place)
    try:
        # A path on Label Studio is quoted like the rest of an address.
        return one_form(inside(f"file://{address}" if address.startswith("/") else address).name)
    except DataError:
        return str(place)


def distinct_names(addresses: Mapping[Place, str]) -> dict[Place, str]:
    """Name photos; those that would differ in their endings at most get their task's number.

    Two photos of one name become ``task7-a.jpg`` and ``task9-a.jpg``, the third photo of task 9
    ``task9.3-a.jpg``; one that is called so already is numbered as well.
    """
    names = {place: name_of(place, address) for place, address in addresses.items()}
    times = Counter(_stem(name).casefold() for name in names.values())
    return {
        place: f"{place}-{name}" if times[_stem(name).casefold()] > 1 or _NUMBERED.fullmatch(name) else name
        for place, name in names.items()
    }


class PhotoFinder:
    """Finds tasks' photos by their names; ``addresses``: of the photos."""

    def __init__(self, addresses: Mapping[Place, str]) -> None:
        self._names = {place: _stem(name_of(place, address)) for place, address in addresses.items()}
        self._by_form = {form: _sorted_by(form, self._names) for form in (str, _stored, _original)}

    def find(self, file_name: str) -> Place:
        """Find a photo by its name without its ending.

        Names are compared as they are, then as Label Studio stores them, then without the digits that it puts
        before uploads. Raises DataError for a name that no photo has, and for one that several have.
        """
        stem = _stem(one_form(file_name))
        numbered = _NUMBERED.fullmatch(stem)
        if numbered:
            place = Place(int(numbered[1]), int(numbered[2] or 1))
            if self._names.get(place) == numbered[3]:
                return place
        for form, places in self._by_form.items():
            found = places.get(form(stem), ())
            if len(found) == 1:
                return found[0]
            if found:
                raise DataError(_several(found))
        raise DataError("no task has a photo of this name")


def _several(found: Sequence[Place]) -> str:
    tasks = list(dict.fromkeys(place.task for place in found))
    some = ", ".join(map(str, tasks[:_MOST_NAMED])) + (", ..." if tasks[_MOST_NAMED:] else "")
    if len(tasks) == 1:
        return f"task {some} has {len(found)} photos of this name; call it {found[0]}-..., or {found[1]}-..."
    return f"{len(tasks)} tasks have a photo of this name ({some}); rename it for one"


def _sorted_by(form: Callable[[str], str], names: Mapping[Place, str]) -> dict[str, list[Place]]:
    found = defaultdict[str, list[Place]](list)
    for place, name in names.items():
        found[form(name)].append(place)
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
