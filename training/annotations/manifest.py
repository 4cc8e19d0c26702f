"""What a reading of a project's annotations found, and where it is kept."""

import hashlib
import json
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import ClassVar, Literal

from pydantic import ConfigDict, TypeAdapter, ValidationError

from ebseg.errors import DataError
from ebseg.vocabulary import Vocabulary
from training.annotations.entry import Entry, LabelEntry
from training.storage import Storage

Part = Literal["train", "held_out"]


@dataclass(frozen=True)
class Manifest:
    """What a reading found.

    ``image``: name of the label config's first image. ``entries``: ordered by their content. ``skipped``: for
    each annotated task that could not be read, or not all photos of, the reason. ``painting``: of
    ``ebseg.label_studio.annotations``, by which the label maps were made; those of before it had a number
    are 1.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    project: int
    title: str
    image: str
    labels: tuple[LabelEntry, ...]
    entries: tuple[Entry, ...] = ()
    skipped: dict[int, str] = field(default_factory=dict)
    painting: int = 1

    @cached_property
    def fingerprint(self) -> str:
        """Name the content: equal for equal labels, photos, label maps and held-out photos."""
        return content_hash(
            [self._labels(), sorted((*entry.content, entry.held_out) for entry in self.entries)]
        )

    @property
    def rules(self) -> tuple[str, tuple[LabelEntry, ...], int]:
        """What else than its annotation decides a task's entry."""
        return self.image, self.labels, self.painting

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """What the label maps' numbers mean."""
        return Vocabulary([list(label.prompts) for label in self.labels])

    @property
    def shown_labels(self) -> set[str]:
        """Keys of the labels that at least one pixel shows."""
        return {label for entry in self.entries for label in entry.pixels}

    def part(self, part: Part) -> tuple[Entry, ...]:
        """Give the entries to train on, or those that are held out."""
        return tuple(entry for entry in self.entries if entry.held_out == (part == "held_out"))

    def labelled(self, part: Part) -> tuple[Entry, ...]:
        """Give the entries of a part that show a label; the others say nothing about how good a model is."""
        return tuple(entry for entry in self.part(part) if entry.pixels)

    def judging(self, part: Part) -> set[int]:
        """Give the tasks of a part that show a label: models are judged by tasks, not by their photos."""
        return {entry.task for entry in self.labelled(part)}

    @cached_property
    def groups(self) -> dict[str, str]:
        """Give each photo the name of its group: photos of a task belong together, and so on through others.

        A photo that is alone in its tasks is a group of its own.
        """
        leader: dict[str, str] = {}

        def first(photo: str) -> str:
            while leader.setdefault(photo, photo) != photo:
                photo = leader[photo]
            return photo

        of_task: dict[int, str] = {}
        for entry in self.entries:
            mine, theirs = first(entry.photo), first(of_task.setdefault(entry.task, entry.photo))
            leader[max(mine, theirs)] = min(mine, theirs)
        return {photo: first(photo) for photo in leader}

    def part_fingerprint(self, part: Part) -> str:
        """Name the content of a part."""
        return content_hash([self._labels(), sorted(entry.content for entry in self.part(part))])

    def to_json(self) -> bytes:
        """Write it as JSON."""
        return _manifests().dump_json(self, indent=1)

    @classmethod
    def from_json(cls, content: bytes, name: str) -> "Manifest":
        """Read what ``to_json`` wrote. Raises DataError, with ``name``, for anything else."""
        try:
            return _manifests().validate_json(content)
        except ValidationError as error:
            raise DataError(
                f"{name}: cannot be read ({error.errors()[0]['msg']}); restore it, or remove it and have the "
                "annotations read again"
            ) from error

    def _labels(self) -> list[list[str]]:
        return [[label.key, *label.prompts] for label in self.labels]


@cache
def _manifests() -> TypeAdapter[Manifest]:
    return TypeAdapter(Manifest)


def store(storage: Storage, manifest: Manifest) -> None:
    """Write a manifest, which is the project's newest from then on."""
    storage.write(_manifest_key(manifest.project, manifest.fingerprint), manifest.to_json())
    newest = json.dumps({"fingerprint": manifest.fingerprint})
    storage.write(_latest_key(manifest.project), newest.encode())


def load(storage: Storage, project_id: int, fingerprint: str) -> Manifest:
    """Read a manifest. Raises DataError where it is missing or damaged."""
    key = _manifest_key(project_id, fingerprint)
    try:
        content = storage.read(key)
    except FileNotFoundError as error:
        raise DataError(f"{key} is not in {storage}: have the annotations read again") from error
    return Manifest.from_json(content, key)


def latest(storage: Storage, project_id: int) -> Manifest | None:
    """Read a project's newest manifest; None where its annotations were never read."""
    key = _latest_key(project_id)
    try:
        content = storage.read(key)
    except FileNotFoundError:
        return None
    try:
        fingerprint = json.loads(content)["fingerprint"]
    except (ValueError, TypeError, KeyError) as error:
        raise DataError(f"{key}: cannot be read ({error!r}); have the annotations read again") from error
    return load(storage, project_id, fingerprint)


def folder(project_id: int) -> str:
    """Give the folder of all that is kept of a project's annotations."""
    return f"snapshots/project-{project_id}"


def _manifest_key(project_id: int, fingerprint: str) -> str:
    return f"{folder(project_id)}/manifests/{fingerprint}.json"


def _latest_key(project_id: int) -> str:
    return f"{folder(project_id)}/latest.json"


def content_hash(content: object) -> str:
    """Name something that can be written as JSON by its content."""
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()
