"""Data in: another system's masks become predictions, or annotations, of tasks that Label Studio has."""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import groupby
from typing import Protocol

import numpy as np

from ebseg.data.mask_sets import MaskSet
from ebseg.data.samples import LabelMap
from ebseg.errors import DataError, FetchError, TokenRefused
from ebseg.file_names import inside
from ebseg.label_studio.fetch import ImageFetcher
from ebseg.label_studio.label_config import normal
from ebseg.label_studio.pipeline import Pipeline
from ebseg.label_studio.questions import Question
from ebseg.label_studio.regions import Region, masks_to_regions, on_page, prediction
from ebseg.label_studio.shown import MOST_WORDS, shown
from ebseg.label_studio.tasks import TaskPhoto, read_label_config
from training.annotations.label_studio import LabelStudioClient, NotInLabelStudio
from training.annotations.one_task import BadTask, one_task
from training.annotations.photo_names import PhotoFinder, Place, photos_of
from training.annotations.photos import PatientFetcher
from training.settings import Settings

VERSION_DIGITS = 12
"""Hexadecimal ones of the digest that names what is imported."""


@dataclass
class Imported:
    """What became of the photos that a source has masks of.

    ``version``: of the predictions. ``unknown``: the source's labels that the project does not have, which
    are left out. ``stored``: tasks that got their masks, ``there``: that had some already. ``empty``: photos
    without a pixel of the project's labels. ``left_out``: reasons, by what the source calls the photo.
    """

    version: str
    unknown: list[str] = field(default_factory=list)
    stored: list[int] = field(default_factory=list)
    there: list[int] = field(default_factory=list)
    empty: list[str] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Masks:
    """A photo's masks, by their place in a source."""

    source: MaskSet
    place: int

    @property
    def photo(self) -> str:
        return shown(self.source.photos[self.place], MOST_WORDS)


def import_masks(
    studio: LabelStudioClient,
    photos: ImageFetcher,
    project_id: int,
    settings: Settings,
    sources: Sequence[MaskSet],
    *,
    annotations: bool = False,
    progress: Callable[[int, int], object] = lambda done, total: None,
) -> Imported:
    """Store masks as predictions of a version that their content names, or as annotations.

    Labels are matched by key, value, ``predicted_values`` and synonyms, photos by their names. A prediction
    that is there, by its version, is not stored again; nor is an annotation where the task has any but
    cancelled ones, whoever made it. ``progress``: called with the tasks done and all there are.

    Raises DataError where no label of the sources is one of the project's, LabelConfigError or
    VocabularyError for a label config that cannot be served, and what LabelStudioClient raises.
    """
    labelling = read_label_config(studio.project(project_id).label_config)
    done = Imported(labelling.version(f"import-{_digest(sources)}"))
    there, _ = photos_of(studio.tasks(project_id), labelling.photos)
    found = _found(sources, PhotoFinder({place: of.url for place, of in there.items()}), done.left_out)
    done.unknown = _unknown(sources, [*labelling.questions, *(there[place].question for place in found)])
    fetcher = PatientFetcher(photos, lambda: studio.project(project_id), settings.patience)
    pipeline = Pipeline(labelling, fetcher, settings.max_pixels)
    target: _Target = _Annotations(studio, project_id) if annotations else _Predictions(studio, done.version)
    tasks = groupby(sorted(found), key=lambda place: place.task)
    for number, (task, places) in enumerate(tasks, start=1):
        photos_of_task = [(there[place], found[place]) for place in places]
        try:
            _store(task, photos_of_task, pipeline, target, done)
        except NotInLabelStudio:
            done.left_out |= {masks.photo: f"task {task} was deleted" for _, masks in photos_of_task}
        except BadTask as error:
            done.left_out |= {masks.photo: f"task {task}: {error}" for _, masks in photos_of_task}
        progress(number, len({place.task for place in found}))
    return done


def _store(
    task: int,
    photos: Sequence[tuple[TaskPhoto, _Masks]],
    pipeline: Pipeline,
    target: "_Target",
    done: Imported,
) -> None:
    """Store the masks of a task's photos, but of those that are bad themselves.

    Raises BadTask, also for a photo that may be had later: else the others would be all that the task gets.
    NotInLabelStudio for a task that was deleted.
    """
    if target.has(task):
        done.there.append(task)
        return
    regions: list[Region] = []
    for of, masks in photos:
        try:
            found = _read(task, of, masks, pipeline)
        except BadTask as error:
            if error.curable:
                raise
            done.left_out[masks.photo] = f"task {task}: {error}"
            continue
        regions += found
        if not found:
            done.empty.append(masks.photo)
    if regions:
        (done.stored if target.store(task, regions) else done.there).append(task)


def _read(task: int, of: TaskPhoto, masks: _Masks, pipeline: Pipeline) -> list[Region]:
    """Make regions of a photo's masks. Raises BadTask."""
    with one_task(f"task {task}"):
        photo = pipeline.photo({"id": task}, of)
        size = photo.shape[0], photo.shape[1]
        label_map = masks.source.read(masks.place, size, _indices(masks.source, of.question))
        return regions_of(label_map, of)


def regions_of(label_map: LabelMap, of: TaskPhoto) -> list[Region]:
    """Make regions of all that a label map shows, however small, each by its label's control."""
    scores = np.ones(label_map.shape, np.float32)
    regions: list[Region] = []
    for served, own in of.question.parts(label_map):
        regions += masks_to_regions(own, scores, served.control)
    return regions if of.page is None else [on_page(region, of.page) for region in regions]


class _Target(Protocol):
    """What masks become."""

    def has(self, task: int) -> bool:
        """Tell whether a task needs nothing."""

    def store(self, task: int, regions: Sequence[Region]) -> bool:
        """Store regions; tell whether nothing was there. Raises BadTask where they are refused."""


class _Predictions:
    """Predictions of a version."""

    def __init__(self, studio: LabelStudioClient, version: str) -> None:
        self._studio, self._version = studio, version

    def has(self, task: int) -> bool:
        return any(each.version == self._version for each in self._studio.predictions_of(task))

    def store(self, task: int, regions: Sequence[Region]) -> bool:
        with _refusals():
            self._studio.push_prediction(task, prediction(regions, self._version))
        return True


class _Annotations:
    """Annotations of tasks that nobody has annotated."""

    def __init__(self, studio: LabelStudioClient, project_id: int) -> None:
        self._studio = studio
        self._open = {task.id for task in studio.unlabelled(project_id)}

    def has(self, task: int) -> bool:
        return task not in self._open

    def store(self, task: int, regions: Sequence[Region]) -> bool:
        with _refusals():
            return self._studio.push_annotation(task, [region.result for region in regions])


@contextmanager
def _refusals() -> Iterator[None]:
    """Take what Label Studio refuses for its task's fault, and no other's; but for the token."""
    try:
        yield
    except TokenRefused:
        raise
    except FetchError as error:
        raise BadTask(str(error)) from error


def _digest(sources: Sequence[MaskSet]) -> str:
    content = "\n".join(sorted(source.digest for source in sources))
    return hashlib.sha256(content.encode()).hexdigest()[:VERSION_DIGITS]


def _unknown(sources: Sequence[MaskSet], questions: Sequence[Question]) -> list[str]:
    """Name the sources' labels that no question has. Raises DataError where none has any."""
    different = {id(question): question for question in questions}.values()  # mostly one and the same
    known = {
        names
        for question in different
        for source in sources
        for names, index in zip(source.labels, _indices(source, question), strict=True)
        if index is not None
    }
    unknown = sorted({shown(names[0]) for source in sources for names in source.labels if names not in known})
    if not known:
        theirs = ", ".join(unknown)
        ours = ", ".join(dict.fromkeys(label.key for question in different for label in question.labels))
        raise DataError(
            f"none of the source's labels ({shown(theirs, MOST_WORDS) or 'it has none'}) is one of the "
            f"project's ({shown(ours, MOST_WORDS)}): rename them, or add predicted_values to the project's"
        )
    return unknown


def _indices(source: MaskSet, question: Question) -> list[int | None]:
    """Find each label of a source among those of a question."""
    places = _places(question)
    return [_place(names, question, places) for names in source.labels]


def _place(names: Sequence[str], question: Question, places: Mapping[str, int]) -> int | None:
    """Find a label by any of its names: as they are first, then whatever their case and spaces."""
    exact = (question.place(name) for name in names)
    alike = (places.get(normal(name)) for name in names)
    return next((index for index in (*exact, *alike) if index is not None), None)


def _places(question: Question) -> dict[str, int]:
    places: dict[str, int] = {}
    keys, values, prompts = (
        [[label.key] for label in question.labels],
        [[label.value] for label in question.labels],
        [label.prompts for label in question.labels],
    )
    for names_of in (keys, values, prompts):  # a key goes before another label's synonym
        for place, names in enumerate(names_of):
            for name in names:
                places.setdefault(normal(name), place)
    return places


def _found(
    sources: Sequence[MaskSet],
    photos: PhotoFinder,
    left_out: dict[str, str],
) -> dict[Place, _Masks]:
    """Find which photo each of theirs is. Those that are none, and those that are one, are left out."""
    found = defaultdict[Place, list[_Masks]](list)
    for source in sources:
        for place, photo in enumerate(source.photos):
            masks = _Masks(source, place)
            try:
                found[photos.find(inside(photo).name)].append(masks)
            except DataError as error:
                left_out[masks.photo] = str(error)
    for of, several in found.items():
        if len(several) > 1:
            names = shown(", ".join(masks.photo for masks in several), MOST_WORDS)
            why = f"{names} are all task {of.task}'s by name; keep one"
            left_out |= {masks.photo: why for masks in several}
    return {of: masks for of, [masks, *more] in found.items() if not more}
