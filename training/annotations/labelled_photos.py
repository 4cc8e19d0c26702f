"""A project's labelled photos as they leave the house: what people annotated, or what was predicted."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Any

from ebseg.data.open import Split
from ebseg.data.samples import LabelMap
from ebseg.errors import DataError
from ebseg.images import read_image
from ebseg.label_studio.annotations import paint
from ebseg.label_studio.fetch import ImageFetcher
from ebseg.label_studio.learnt import learnt
from ebseg.label_studio.tasks import TaskPhoto, read_label_config
from ebseg.vocabulary import Vocabulary
from training.annotations.entry import PhotoKey
from training.annotations.label_studio import LabelStudioClient, LabelStudioProject, NotInLabelStudio
from training.annotations.manifest import Manifest, Part, folder
from training.annotations.one_task import BadTask, one_task
from training.annotations.photo_names import Place, distinct_names, photos_of
from training.annotations.photos import PatientFetcher
from training.annotations.snapshot import SnapshotSource, decided, is_held_out, take
from training.settings import Settings
from training.storage import Storage


@dataclass(frozen=True, eq=False)
class LabelledPhoto:
    """A task's photo and what it shows.

    ``name``: of the photo's file. ``split``: "val" where it is held out. ``file``: the photo as it was
    uploaded, in a file of the storage that must not be written to, or its content. ``label_map``: (H, W)
    int16, index into the labels, -1 where there is none.
    """

    task: int
    name: str
    split: Split
    file: Path | bytes
    label_map: LabelMap


class LabelledPhotos(ABC):
    """The labelled photos of a project, in the order of their places; each is read when its turn comes.

    ``labels``: their keys. ``vocabulary``: what a model is asked for. ``left_out``: tasks that cannot be
    read, with the reasons, and ``unknown``: labels of regions that the project does not have (any more),
    which show nothing; what is found while reading is added. ``addresses``: of the photos.
    """

    def __init__(
        self,
        labels: tuple[str, ...],
        vocabulary: Vocabulary,
        addresses: Mapping[Place, str],
        left_out: Mapping[int, str],
    ) -> None:
        self.labels, self.vocabulary = labels, vocabulary
        self.left_out, self.unknown = dict(left_out), set[str]()
        self._names = distinct_names(addresses)
        self._has_several = any(place.number > 1 for place in addresses)

    def __len__(self) -> int:
        return len(self._names)

    def __iter__(self) -> Iterator[LabelledPhoto]:
        """Read them. Raises LabelStudioUnavailable where Label Studio is away for longer than we wait."""
        for place, name in sorted(self._names.items()):
            try:
                photo = self._read(place, name)
            except NotInLabelStudio:
                continue  # it was deleted since it was listed
            except BadTask as error:
                reasons = (
                    self.left_out.get(place.task),
                    f"{name}: {error}" if self._has_several else str(error),
                )
                self.left_out[place.task] = "; ".join(filter(None, reasons))
            else:
                if photo is not None:
                    yield photo

    @abstractmethod
    def _read(self, place: Place, name: str) -> LabelledPhoto | None:
        """Read one; None where the task has no part. Raises BadTask, or NotInLabelStudio if deleted."""


class AnnotatedPhotos(LabelledPhotos):
    """What people annotated, as a snapshot has it; photos of which nothing is left are left out.

    ``there``: the photos of the project, by their places. One that is not there any more is no part of it.
    """

    def __init__(self, storage: Storage, manifest: Manifest, there: Mapping[Place, TaskPhoto]) -> None:
        places = {_key(place, photo, manifest.image): place for place, photo in there.items()}
        lost = {entry.task: entry.lost for entry in manifest.entries if entry.lost}
        addresses = {
            place: there[place].url
            for entry in manifest.entries
            if not entry.lost and (place := places.get(entry.key))
        }
        labels = tuple(label.key for label in manifest.labels)
        super().__init__(labels, manifest.vocabulary, addresses, manifest.skipped | lost)
        self.unknown.update(name for entry in manifest.entries for name in entry.unknown)
        self._storage, self._folder = storage, folder(manifest.project)
        self._found: dict[Place, tuple[SnapshotSource, int, Split]] = {}
        parts: dict[Part, Split] = {"train": "train", "held_out": "val"}
        for part, split in parts.items():
            source = SnapshotSource(storage, manifest, part)
            for index, entry in enumerate(manifest.part(part)):
                if place := places.get(entry.key):
                    self._found[place] = source, index, split

    def _read(self, place: Place, name: str) -> LabelledPhoto:
        source, index, split = self._found[place]
        with one_task(f"task {place.task}"):
            label_map = source[index].label_map
        file = self._storage.local(f"{self._folder}/photos/{source.photos[index]}")
        return LabelledPhoto(place.task, name, split, file, label_map)


def _key(place: Place, photo: TaskPhoto, first_image: str) -> PhotoKey:
    image = photo.question.to_name
    return place.task, "" if image == first_image else image, photo.page or 0


class PredictedPhotos(LabelledPhotos):
    """The newest prediction of each task by the version that the project shows; others have no part."""

    def __init__(
        self,
        studio: LabelStudioClient,
        photos: ImageFetcher,
        storage: Storage,
        project: LabelStudioProject,
        settings: Settings,
    ) -> None:
        labelling, tasks = read_label_config(project.label_config), list(studio.predicted(project.id))
        self._learnt = learnt(labelling, lambda: ({"data": task.data} for task in tasks))
        self._there, without = photos_of(tasks, labelling.addresses)
        labels = tuple(label.key for label in self._learnt.labels)
        addresses = {place: photo.url for place, photo in self._there.items()}
        super().__init__(labels, self._learnt.vocabulary, addresses, without)
        self._studio, self._version = studio, project.model_version
        self._photos = PatientFetcher(photos, lambda: studio.project(project.id), settings.patience)
        self._decided, self._settings = decided(storage, project.id), settings
        self._sides: dict[int, bool] = {}
        self._newest = lru_cache(maxsize=1)(self._prediction)  # a task's photos follow each other

    def _read(self, place: Place, name: str) -> LabelledPhoto | None:
        result = self._newest(place.task)
        if result is None:
            return None
        of = self._there[place]
        with one_task(f"task {place.task}"):
            content = self._photos.fetch(of.url, task_id=place.task)
            height, width = read_image(
                content, max_pixels=self._settings.max_pixels, limited_by="EBSEG_MAX_PIXELS", name="its photo"
            ).shape[:2]
            labels = self._learnt.images[of.question.to_name]
            painted = paint(result, labels, height, width, page=of.page or 0)
        self.unknown.update(painted.unknown)
        split: Split = "val" if self._is_held_out(place.task, content) else "train"
        return LabelledPhoto(place.task, name, split, content, painted.label_map)

    def _prediction(self, task: int) -> list[dict[str, Any]] | None:
        found = [each.id for each in self._studio.predictions_of(task) if each.version == self._version]
        return self._studio.prediction(max(found))["result"] if found else None

    def _is_held_out(self, task: int, content: bytes) -> bool:
        """Tell as the loop does: a task's photos are on the side of its first one."""
        photo = sha256(content).hexdigest()
        new = self._sides.get(task, is_held_out(photo, self._settings.held_out_share))
        held_out = self._decided.get(photo, new)
        self._sides.setdefault(task, held_out)
        return held_out


def annotated(
    studio: LabelStudioClient,
    photos: ImageFetcher,
    storage: Storage,
    project_id: int,
    settings: Settings,
    *,
    reviewed_only: bool = False,
) -> AnnotatedPhotos:
    """Read a project's annotations as the learning loop does, which goes on from what is in the storage.

    What is held out is decided as the loop does, and for ever, if it was not. ``reviewed_only``: those alone
    that a person marked as ground truth. Raises what ``snapshot.take`` raises.
    """
    manifest = take(studio, photos, storage, project_id, settings)
    if reviewed_only:
        reviewed = [entry for entry in manifest.entries if _is_reviewed(studio, entry.task, entry.annotation)]
        manifest = replace(manifest, entries=tuple(reviewed))
    labelling = read_label_config(studio.project(project_id).label_config)
    there, _ = photos_of(studio.annotated(project_id), labelling.addresses)
    return AnnotatedPhotos(storage, manifest, there)


def _is_reviewed(studio: LabelStudioClient, task: int, annotation: int) -> bool:
    try:
        return any(each.id == annotation and each.ground_truth for each in studio.annotations(task))
    except NotInLabelStudio:
        return False


def predicted(
    studio: LabelStudioClient, photos: ImageFetcher, storage: Storage, project_id: int, settings: Settings
) -> PredictedPhotos:
    """Read the predictions of the version that a project shows; their photos are fetched.

    Raises DataError where it shows none, and LabelConfigError or VocabularyError for a label config that
    cannot be served.
    """
    project = studio.project(project_id)
    if not project.model_version:
        raise DataError(
            f"project {project_id} shows no version of predictions: choose one in its settings (Annotation, "
            "Use predictions to prelabel tasks), or leave --predictions out"
        )
    return PredictedPhotos(studio, photos, storage, project, settings)
