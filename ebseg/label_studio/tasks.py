"""Read label configs and tasks, whose content is other people's."""

from collections.abc import Sequence
from dataclasses import astuple, dataclass, replace
from functools import cached_property
from typing import Any
from urllib.parse import urlsplit

from ebseg.errors import EBSegError, VocabularyError
from ebseg.label_studio import version
from ebseg.label_studio.label_config import ImageTag, Label, make_label, parse
from ebseg.label_studio.questions import Question, questions, told, union
from ebseg.label_studio.shown import MOST_WORDS, shown
from ebseg.label_studio.style import style
from ebseg.vocabulary import MAX_LABELS, TEMPLATES

MOST_PAGES = 200
"""Photos of one image of a task; each takes as long as a task."""

_MOST_TASK_ID = 2**63 - 1  # of its database


class TaskError(EBSegError):
    """A task is not one that the label config describes."""


@dataclass(frozen=True)
class TaskPhoto:
    """A photo of a task, and what is asked about it.

    ``url``: its address. ``page``: its place in a list of pages; None where it is no page. ``fault``: why it
    cannot be had; None where it can.
    """

    question: Question
    url: str = ""
    page: int | None = None
    fault: TaskError | None = None

    @property
    def title(self) -> str:
        """What people know it by, among the photos of its task."""
        page = "" if self.page is None else f"page {self.page + 1} of "
        return f'{page}"{shown(self.question.to_name)}"'


@dataclass(frozen=True)
class Labelling:
    """What a label config asks of the model: a question for each image that is served.

    ``problems``: what of it is not served, and why.
    """

    questions: tuple[Question, ...]
    problems: tuple[str, ...] = ()

    def photos(self, task: Any) -> list[TaskPhoto]:
        """List a task's photos, in the order of the label config."""
        return [photo for question in self.questions for photo in _photos(task, question)]

    def addresses(self, task: Any) -> list[TaskPhoto]:
        """List a task's photos, as ``photos`` does, whatever labels it brings."""
        return [photo for question in self.questions for photo in _addresses(task, question)]

    def first_address(self, task: Any) -> str:
        """Give the address of a task's first photo that has one. Raises TaskError where none has."""
        there = self.addresses(task)
        for photo in there:
            if photo.fault is None:
                return photo.url
        raise there[0].fault or TaskError("it has no photo")

    def version(self, model: str) -> str:
        """Name the version of the predictions that a model of that version makes for this label config."""
        return version.join(model, self._decides)

    @cached_property
    def _decides(self) -> list[object]:
        """List all that decides a prediction besides the model and the photo; not how labels look."""
        return [TEMPLATES, [_question_decides(question) for question in self.questions]]


def _photos(task: Any, question: Question) -> list[TaskPhoto]:
    try:
        question = of_task(question, task)
    except TaskError as fault:
        return [TaskPhoto(question, fault=fault)]
    return _addresses(task, question)


def _addresses(task: Any, question: Question) -> list[TaskPhoto]:
    try:
        urls = photo_urls(task, question.image)
    except TaskError as fault:
        return [TaskPhoto(question, fault=fault)]
    paged = question.image.pages
    return [TaskPhoto(question, url, page if paged else None) for page, url in enumerate(urls)]


def _question_decides(question: Question) -> list[object]:
    return [
        question.image.name,
        question.image.data_key,
        question.image.pages,
        [
            [
                served.control.kind,
                served.control.name,
                served.control.labels_name,
                served.control.labels_key,
                sorted((label.key, label.prompts) for label in served.control.labels),
                served.threshold,
                served.min_area,
                served.min_confidence,
                astuple(style(served.control)[0]),
            ]
            for served in question.controls
        ],
    ]


def read_label_config(
    xml: str, *, threshold: float | None = None, min_area: float = 0.0, min_confidence: float = 0.0
) -> Labelling:
    """Read a label config. Raises LabelConfigError or VocabularyError for one that cannot be served.

    ``threshold``, ``min_area`` and ``min_confidence``: hold where a control or a label has none of its own;
    see ``Served``.
    """
    asked, problems = questions(
        parse(xml), threshold=threshold, min_area=min_area, min_confidence=min_confidence
    )
    for question in asked:
        if question.labels:  # they are all in the tasks where there are none
            _ = question.vocabulary  # raises what the model could not be asked for
    return Labelling(asked, problems)


def of_task(question: Question, task: Any) -> Question:
    """Give a question with the labels that a task brings. Raises TaskError for labels that are faulty."""
    if not question.is_dynamic:
        return question
    found, problems = with_labels(question, brought(question, task))
    if problems:
        raise TaskError("; ".join(told(problems)))
    if found is None or not found.labels:
        raise TaskError("it brings no labels, and the label config has none; add some to its data")
    try:
        _ = found.vocabulary
    except VocabularyError as error:
        raise TaskError(str(error)) from error
    return found


def brought(question: Question, task: Any) -> list[tuple[Label, ...]]:
    """List the labels that a task brings for each control. Raises TaskError for what are none."""
    data, keys = _data(task), [served.control.labels_key for served in question.controls]
    return [_task_labels(data, key) if key else () for key in keys]


def with_labels(question: Question, more: Sequence[tuple[Label, ...]]) -> tuple[Question | None, list[str]]:
    """Ask for more labels of each control, too; say which cannot be served."""
    return union(
        question.image,
        [
            replace(served, control=replace(served.control, labels=served.control.labels + labels))
            for served, labels in zip(question.controls, more, strict=True)
        ],
    )


def _task_labels(data: dict[str, Any], key: str) -> tuple[Label, ...]:
    """Read labels of a task's data: names, or objects such as Label Studio takes."""
    found = _found(data, key, "the labels")
    if not isinstance(found, list):
        raise TaskError(
            f'its "{key}" must be a list of labels, such as [{{"value": "sky"}}], not {type(found).__name__}'
        )
    if len(found) > MAX_LABELS:
        raise TaskError(f'its "{key}" has {len(found)} labels, more than {MAX_LABELS}; remove some')
    return tuple(_task_label(item, position, key) for position, item in enumerate(found, start=1))


def _task_label(item: Any, position: int, key: str) -> Label:
    attributes = {"value": item} if isinstance(item, str) else item
    if not isinstance(attributes, dict) or not isinstance(attributes.get("value"), str):
        raise TaskError(
            f'number {position} of its "{key}" is neither a name nor an object such as {{"value": "sky"}}'
        )
    return make_label({name: text for name, text in attributes.items() if isinstance(text, str)})


def photo_urls(task: Any, image: ImageTag) -> list[str]:
    """List the addresses of a task's photos for an image: one, or one a page. Raises TaskError for none."""
    if not image.pages:
        return [photo_url(task, image.data_key)]
    found = _found(_data(task), image.data_key, "the pages")
    pages = [found] if isinstance(found, str) else found  # as the editor takes it
    if not isinstance(pages, list) or not pages or not all(isinstance(page, str) and page for page in pages):
        raise TaskError(f'its "{image.data_key}" must be a list of the addresses of photos')
    if len(pages) > MOST_PAGES:
        raise TaskError(
            f'its "{image.data_key}" has {len(pages)} pages, more than {MOST_PAGES}; make several tasks of it'
        )
    return pages


def photo_url(task: Any, data_key: str) -> str:
    """Give the address of a task's photo, ``task["data"][data_key]``. Raises TaskError if it has none.

    Like Label Studio's editor, it takes ``meta.image`` for a key of that name, and else for the key ``image``
    of what is in ``meta``.
    """
    url = _found(_data(task), data_key, "the photo")
    if not isinstance(url, str) or not url:
        raise TaskError(f'its "{data_key}" must be the address of one photo, not {type(url).__name__}')
    return url


def _data(task: Any) -> dict[str, Any]:
    data = task.get("data") if isinstance(task, dict) else None
    if not isinstance(data, dict):
        raise TaskError('it is no task: it has no "data"; import it again')
    return data


def _found(data: dict[str, Any], key: str, what: str) -> Any:
    """Look up a key of a task's data. Raises TaskError where it is not there."""
    found = _at(data, key)
    if found is None:
        known = shown(", ".join(f'"{name}"' for name in data), MOST_WORDS) or "nothing"
        raise TaskError(f'its data has {known}, but the label config takes {what} from "{key}"')
    return found


def _at(data: dict[str, Any], key: str) -> Any:
    if key in data:
        return data[key]
    found: Any = data
    for part in key.split("."):
        if not isinstance(found, dict):
            return None
        found = found.get(part)
    return found


def language_hint(labelling: Labelling) -> str | None:
    """Say which labels are not English, as far as letters tell it, and what the model could be asked for."""
    labels = (label for question in labelling.questions for label in question.labels)
    foreign = [label.value for label in labels if _foreign(label.value) and not label.predicted_values]
    if not foreign:
        return None
    return (
        f"the model knows English best, and these labels have other letters: {shown(', '.join(foreign))}; "
        'add the English name to each <Label>, such as predicted_values="road"'
    )


def _foreign(name: str) -> bool:
    return any(letter.isalpha() and not letter.isascii() for letter in name)


def task_id(task: Any) -> int | None:
    """Give a task's id, if it is one: it becomes part of an address on Label Studio."""
    found = task.get("id") if isinstance(task, dict) else None
    if not isinstance(found, int) or isinstance(found, bool):
        return None
    return found if 0 < found <= _MOST_TASK_ID else None


def describe(task: Any, url: str = "") -> str:
    """Name a task for the log: its id and its photo's address without credentials or signatures."""
    where = f" ({shown(without_secrets(url), MOST_WORDS)})" if url else ""
    return f"task {task_id(task) or '?'}{where}"


def without_secrets(url: str) -> str:
    """Leave out what may be secret in an address: user and password, the query, the content of a data URL."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "an unreadable address"
    if parts.scheme == "data":
        return "data:..."
    host = parts.netloc.rpartition("@")[2]
    return parts._replace(netloc=host, query="..." if parts.query else "", fragment="").geturl()
