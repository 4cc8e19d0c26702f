"""A project's annotations, read from Label Studio and kept with their photos: what is trained and judged on.

In the storage, below ``snapshots/project-<id>/``::

    photos/<sha256>               photos, as they were fetched
    label_maps/<sha256>.png       label maps, named by their content
    manifests/<fingerprint>.json  what was annotated at one reading
    latest.json                   which manifest is the newest
    index.json, photos.json       what has been read so far, also by a reading that was cut off
    held_out.json                 for every photo that was ever in a manifest, whether it is held out

A photo is held out by a hash of its content, so that it is on one side also where two tasks show it. All
photos of a task, pages or images, are on the side of its first one: they are alike. The decision is made when
a photo is first seen, with the share that then holds, and is for ever: a photo that was held out is never
trained on, also where the share is lowered; and one that may have been trained on never judges, also where
the share is raised. A changed share is for photos that come later. Only photos that were decided before they
came together in a task may be on two sides.
"""

import hashlib
import io
import json
import logging
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache, cached_property, partial
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image
from pydantic import TypeAdapter, ValidationError

from ebseg.data.folder import read_values
from ebseg.data.samples import Sample
from ebseg.errors import AnnotationError, DataError, ImageError
from ebseg.images import read_image
from ebseg.label_studio.annotations import PAINTING, Painted, paint
from ebseg.label_studio.fetch import ImageFetcher
from ebseg.label_studio.learnt import ImageLabels, learnt
from ebseg.label_studio.questions import told
from ebseg.label_studio.tasks import TaskPhoto, read_label_config
from ebseg.vocabulary import Vocabulary
from training.annotations.corrections import corrected_prediction, correction
from training.annotations.entry import Entry, LabelEntry, PhotoKey, require_storable
from training.annotations.label_studio import (
    LabelStudioAnnotation,
    LabelStudioClient,
    LabelStudioProject,
    LabelStudioTask,
    NotInLabelStudio,
)
from training.annotations.manifest import Manifest, Part, folder, store
from training.annotations.one_task import BadTask, one_task
from training.annotations.photo_names import said_of
from training.annotations.photos import PatientFetcher
from training.settings import Settings
from training.storage import Storage

SAVE_SECONDS = 30.0
"""Between notes of how far a reading is: what a kill costs at most."""

MOST_NAMED = 20
"""Unknown labels and regions without a pixel of one task that are noted by name."""

_HASH_DIGITS = 13  # hexadecimal ones, as many as a float holds
_PARTS = {"train": "to train on", "held_out": "held out"}

_log = logging.getLogger(__name__)

T = TypeVar("T")


class SnapshotSource:
    """Photos of one part of a manifest with their label maps: an ``ebseg.data.samples.Source``.

    May be handed to other processes. ``tasks``: the number of each photo's task. ``photos``: hashes of them.
    ``groups``: which belong together, see ``Manifest.groups``. ``labelled``: hashes of those that show a
    label.
    """

    def __init__(self, storage: Storage, manifest: Manifest, part: Part) -> None:
        self._storage = storage
        self._folder = folder(manifest.project)
        self._entries = manifest.part(part)
        self._name = f"project {manifest.project}, {_PARTS[part]}"
        self._vocabulary = manifest.vocabulary
        self._fingerprint = manifest.part_fingerprint(part)
        self.tasks = tuple(entry.task for entry in self._entries)
        self.photos = tuple(entry.photo for entry in self._entries)
        self.groups = tuple(manifest.groups[photo] for photo in self.photos)
        self.labelled = frozenset(entry.photo for entry in manifest.labelled(part))

    @property
    def name(self) -> str:
        """What people know it by."""
        return self._name

    @property
    def vocabulary(self) -> Vocabulary:
        """What the label maps' numbers mean."""
        return self._vocabulary

    def __len__(self) -> int:
        return len(self._entries)

    def __getitem__(self, index: int) -> Sample:
        """Read one. Raises DataError, which names the task, where its files are missing or damaged."""
        entry = self._entries[index]
        name = entry.name
        try:
            photo = self._storage.local(f"{self._folder}/photos/{entry.photo}")
            label_map = self._storage.local(f"{self._folder}/label_maps/{entry.label_map}.png")
            image = read_image(photo, max_pixels=sys.maxsize)  # the limit held when it was fetched
            values = read_values(label_map, photo, (image.shape[0], image.shape[1]))
        except (OSError, ImageError, DataError) as error:
            raise DataError(f"{self._name}, {name}: {error}") from error
        unlabelled = values == np.iinfo(values.dtype).max
        return Sample(name, image, np.where(unlabelled, -1, values.astype(np.int16)).astype(np.int16))

    def fingerprint(self) -> str:
        """Name the content: equal for equal photos and label maps."""
        return self._fingerprint


def take(
    studio: LabelStudioClient, photos: ImageFetcher, storage: Storage, project_id: int, settings: Settings
) -> Manifest:
    """Read a project's annotations, as far as they are new, and store what they show.

    Of several annotations of a task the one flagged as ground truth counts, else the newest; cancelled ones
    do not. Each image and page of a task is a photo. A task whose photo or annotation is bad is left out, see
    ``Manifest.skipped``, in whatever way it is bad; of several photos only those that are. A photo is fetched
    once for a task and address.

    Raises StudioUnavailable where Label Studio is away for longer than our patience; what was read by then
    stays read. Raises NotInStudio for a project that is not there, LabelConfigError or VocabularyError for a
    label config that cannot be served, and FetchError where Label Studio refuses the token.
    """
    project = studio.project(project_id)
    reading = _Reading(studio, photos, storage, project, settings)
    entries: list[Entry] = []
    skipped: dict[int, str] = {}
    try:
        for task in studio.annotated(project_id):
            try:
                found, faults = reading.read(task)
            except NotInLabelStudio:
                continue  # it was deleted since it was listed
            except BadTask as error:
                found, faults = [], [str(error)]
            entries += found
            if faults:
                skipped[task.id] = "; ".join(told(faults))
                _log.warning("task %d is left out: %s", task.id, skipped[task.id])
    finally:
        reading.save()
    return _store(storage, replace(reading.empty, entries=tuple(entries), skipped=skipped), settings)


class _Reading:
    """Turns annotated tasks into entries, and knows those that earlier readings made."""

    def __init__(
        self,
        studio: LabelStudioClient,
        photos: ImageFetcher,
        storage: Storage,
        project: LabelStudioProject,
        settings: Settings,
    ) -> None:
        self._studio, self._storage = studio, storage
        self._photos = PatientFetcher(photos, lambda: studio.project(project.id), settings.patience)
        self._max_pixels = settings.max_pixels
        self._folder = folder(project.id)
        self._labelling = read_label_config(project.label_config)
        self._learnt = learnt(
            self._labelling, lambda: ({"data": task.data} for task in studio.annotated(project.id))
        )
        labels = tuple(LabelEntry(label.key, tuple(label.prompts)) for label in self._learnt.labels)
        first = self._labelling.questions[0].to_name
        self.empty = Manifest(project.id, project.title, first, labels, painting=PAINTING)
        index = self._earlier("index.json", Manifest.from_json, self.empty)
        alike = index.rules == self.empty.rules
        self._known = {entry.key: entry for entry in index.entries} if alike else {}
        self._fetched: dict[str, tuple[str, str]] = self._earlier("photos.json", _fetched_from_json, {})
        self._saved_at = time.monotonic()

    def read(self, task: LabelStudioTask) -> tuple[list[Entry], list[str]]:
        """Give the entries of a task's photos, and what is wrong with others; none if nobody annotated it.

        Raises BadTask for what is wrong with all.
        """
        with one_task(f"task {task.id}"):
            listed = self._labelling.addresses({"data": task.data})
        photos = [_Photo(task, photo, self._key(task, photo)) for photo in listed if photo.fault is None]
        faults = [said_of(listed, photo, str(photo.fault)) for photo in listed if photo.fault]
        known = [self._known_of(photo) for photo in photos]
        current = [entry for entry in known if entry is not None and entry.revision == task.revision]
        if photos and len(current) == len(photos):
            return current, faults
        annotations = self._studio.annotations(task.id) if photos else []
        with one_task(f"task {task.id}"):
            annotation = choose(annotations)
        if annotation is None:
            return [], [] if photos else faults
        found = []
        predicted = cache(partial(corrected_prediction, self._studio, annotation.parent_prediction))
        for photo, entry in zip(photos, known, strict=True):
            try:
                found.append(self._entry(photo, annotation, entry, predicted))
            except BadTask as error:
                faults.append(said_of(listed, photo.of, str(error)))
        return found, faults

    def _key(self, task: LabelStudioTask, photo: TaskPhoto) -> PhotoKey:
        image = photo.question.to_name
        return task.id, "" if image == self.empty.image else image, photo.page or 0

    def _known_of(self, photo: "_Photo") -> Entry | None:
        known = self._known.get(photo.key)
        return known if known is not None and known.address == photo.address else None

    def _entry(
        self,
        photo: "_Photo",
        annotation: LabelStudioAnnotation,
        known: Entry | None,
        predicted: Callable[[], dict[str, Any] | None],
    ) -> Entry:
        """Give a photo's entry, the one that is known where it says the same. Raises BadTask."""
        if known is not None and (known.annotation, known.time) == (annotation.id, annotation.updated_at):
            entry = replace(known, revision=photo.task.revision)
        else:
            entry = self._convert(photo, annotation, predicted)
        self._known[photo.key] = entry
        if time.monotonic() - self._saved_at > SAVE_SECONDS:
            self.save()
        return entry

    def save(self) -> None:
        """Note what was read so far."""
        index = replace(self.empty, entries=tuple(self._known.values()))
        self._storage.write(f"{self._folder}/index.json", index.to_json())
        self._storage.write(f"{self._folder}/photos.json", json.dumps(self._fetched, indent=1).encode())
        self._saved_at = time.monotonic()

    def _earlier(self, name: str, read: Callable[[bytes, str], T], none: T) -> T:
        """Read what an earlier reading has noted; all that is lost without it is time."""
        key = f"{self._folder}/{name}"
        try:
            return read(self._storage.read(key), key)
        except FileNotFoundError:
            return none
        except DataError as error:
            _log.warning("everything is read anew: %s", error)
            return none

    def _convert(
        self,
        photo: "_Photo",
        annotation: LabelStudioAnnotation,
        predicted: Callable[[], dict[str, Any] | None],
    ) -> Entry:
        """Fetch the photo and turn the annotation into a label map; store both."""
        number, image, page = photo.key
        labels = self._learnt.images[photo.of.question.to_name]
        digest, content = self._photo(photo)
        with one_task(f"task {number}"):
            painted = self._paint(annotation, content, labels, page)
        if painted.unknown:
            names = ", ".join(f'"{name}"' for name in painted.unknown[:MOST_NAMED])
            _log.warning("task %d has regions of labels that the label config lacks: %s", number, names)
        counts = np.bincount(painted.label_map[painted.label_map >= 0]).tolist()
        entry = Entry(
            task=number,
            annotation=annotation.id,
            time=annotation.updated_at,
            photo=digest,
            label_map=self._keep_label_map(painted.label_map),
            held_out=False,  # until all photos are known
            pixels={self._learnt.labels[index].key: count for index, count in enumerate(counts) if count},
            regions=painted.regions,
            unknown=painted.unknown[:MOST_NAMED],
            blank=painted.blank[:MOST_NAMED],
            correction=correction(predicted(), labels, painted.label_map, page=page),
            revision=photo.task.revision,
            address=photo.address,
            image=image,
            page=page,
        )
        with one_task(f"task {number}"):
            require_storable(entry)
        return entry

    def _paint(
        self, annotation: LabelStudioAnnotation, photo: bytes, labels: ImageLabels, page: int
    ) -> Painted:
        height, width = read_image(
            photo, max_pixels=self._max_pixels, limited_by="EBSEG_MAX_PIXELS", name="its photo"
        ).shape[:2]
        try:
            return paint(annotation.result, labels, height, width, page=page)
        except AnnotationError as error:
            raise AnnotationError(f"annotation {annotation.id}, {error}") from error

    def _photo(self, photo: "_Photo") -> tuple[str, bytes]:
        """Give a photo's hash and its file, fetched now or before."""
        fetched_from, digest = self._fetched.get(photo.fetched_as, ("", ""))
        if fetched_from == photo.address:
            with suppress(FileNotFoundError):
                return digest, self._storage.read(f"{self._folder}/photos/{digest}")
        with one_task(f"task {photo.task.id}"):
            content = self._photos.fetch(photo.of.url, task_id=photo.task.id)
        digest = hashlib.sha256(content).hexdigest()
        self._keep(f"photos/{digest}", content)
        self._fetched[photo.fetched_as] = (photo.address, digest)
        return digest, content

    def _keep_label_map(self, label_map: npt.NDArray[np.int16]) -> str:
        """Store a label map; its name is its content's, whichever way it is compressed."""
        dtype = np.uint8 if len(self.empty.labels) < 256 else np.uint16
        values = np.where(label_map < 0, np.iinfo(dtype).max, label_map).astype(dtype)
        name = hashlib.sha256(f"{label_map.shape}\n".encode() + label_map.astype("<i2").tobytes()).hexdigest()
        png = io.BytesIO()
        Image.fromarray(values).save(png, "PNG")
        self._keep(f"label_maps/{name}.png", png.getvalue())
        return name

    def _keep(self, name: str, content: bytes) -> None:
        """Write a file that is named by its content, unless it is there."""
        key = f"{self._folder}/{name}"
        if not self._storage.exists(key):
            self._storage.write(key, content)


@dataclass(frozen=True)
class _Photo:
    """A photo of an annotated task that has an address."""

    task: LabelStudioTask
    of: TaskPhoto
    key: PhotoKey

    @cached_property
    def address(self) -> str:
        """A hash of its address."""
        return hashlib.sha256(self.of.url.encode(errors="replace")).hexdigest()

    @property
    def fetched_as(self) -> str:
        """Its name in ``photos.json``, whose earlier form knows one photo a task: the first image's first."""
        number, image, page = self.key
        return f"{number} {page} {image}" if image or page else str(number)


def _fetched_from_json(content: bytes, name: str) -> dict[str, tuple[str, str]]:
    """Read for each photo the hashes of its address and of the photo."""
    try:
        return TypeAdapter(dict[str, tuple[str, str]]).validate_json(content)
    except ValidationError as error:
        raise DataError(f"{name}: cannot be read ({error.errors()[0]['msg']})") from error


def choose(annotations: Sequence[LabelStudioAnnotation]) -> LabelStudioAnnotation | None:
    """Choose the annotation that counts: one flagged as ground truth first, else the newest."""
    return max(annotations, key=lambda each: (each.ground_truth, each.updated_at, each.id), default=None)


def _store(storage: Storage, manifest: Manifest, settings: Settings) -> Manifest:
    """Decide what is held out, order the entries by their content, and write the manifest."""
    held_out = _held_out(storage, manifest, settings.held_out_share)
    entries = [replace(entry, held_out=held_out[entry.photo]) for entry in manifest.entries]
    entries.sort(key=lambda entry: (*entry.content, *entry.key))
    manifest = replace(manifest, entries=tuple(entries))
    store(storage, manifest)
    return manifest


def is_held_out(photo: str, share: float) -> bool:
    """Tell by the hash of a photo's content whether it is held out when it is first seen."""
    place: float = int(photo[:_HASH_DIGITS], 16) / 16**_HASH_DIGITS
    return place < share


def _held_out(storage: Storage, manifest: Manifest, share: float) -> dict[str, bool]:
    """Tell for each photo whether it is held out: as ever, as its group is, or by the hash of its first."""
    held_out = decided(storage, manifest.project)
    new = [entry.photo for entry in manifest.entries if entry.photo not in held_out]
    sides = dict[str, bool]()
    for photo in [entry.photo for entry in manifest.entries if entry.photo in held_out]:
        sides.setdefault(manifest.groups[photo], held_out[photo])
    for photo in new:
        held_out[photo] = sides.setdefault(manifest.groups[photo], is_held_out(photo, share))
    if new:
        content = json.dumps(held_out, sort_keys=True, indent=1).encode()
        storage.write(_decided_key(manifest.project), content)
    return held_out


def decided(storage: Storage, project_id: int) -> dict[str, bool]:
    """Read for each photo that was seen, by its hash, whether it is held out. Raises DataError if damaged."""
    key = _decided_key(project_id)
    try:
        return TypeAdapter(dict[str, bool]).validate_json(storage.read(key))
    except FileNotFoundError:
        return {}
    except ValidationError as error:
        raise DataError(
            f"{key} in {storage} is damaged: restore it; without it nobody knows which photos may judge the "
            "models that were trained"
        ) from error


def _decided_key(project_id: int) -> str:
    return f"{folder(project_id)}/held_out.json"
