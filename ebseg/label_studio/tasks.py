"""Read label configs and tasks, whose content is other people's."""

from dataclasses import astuple, dataclass
from functools import cached_property
from typing import Any
from urllib.parse import urlsplit

from ebseg.errors import EBSegError
from ebseg.label_studio import version
from ebseg.label_studio.label_config import parse
from ebseg.label_studio.questions import Question, questions
from ebseg.label_studio.shown import MOST_WORDS, shown
from ebseg.label_studio.style import style
from ebseg.vocabulary import TEMPLATES

_MOST_TASK_ID = 2**63 - 1  # of its database


class TaskError(EBSegError):
    """A task is not one that the label config describes."""


@dataclass(frozen=True)
class TaskPhoto:
    """A photo of a task, and what is asked about it.

    ``url``: its address. ``fault``: why it cannot be had; None where it can.
    """

    question: Question
    url: str = ""
    fault: TaskError | None = None


@dataclass(frozen=True)
class Labelling:
    """What a label config asks of the model: a question for each image that is served.

    ``problems``: what of it is not served, and why.
    """

    questions: tuple[Question, ...]
    problems: tuple[str, ...] = ()

    @property
    def learnt(self) -> Question:
        """What is learnt from annotations: the labels of the first image."""
        return self.questions[0]

    def photos(self, task: Any) -> list[TaskPhoto]:
        """List a task's photos, in the order of the label config."""
        return [_photo(task, question) for question in self.questions]

    def version(self, model: str) -> str:
        """Name the version of the predictions that a model of that version makes for this label config."""
        return version.join(model, self._decides)

    @cached_property
    def _decides(self) -> list[object]:
        """List all that decides a prediction besides the model and the photo; not how labels look."""
        return [TEMPLATES, [_question_decides(question) for question in self.questions]]


def _photo(task: Any, question: Question) -> TaskPhoto:
    try:
        return TaskPhoto(question, photo_url(task, question.image.data_key))
    except TaskError as fault:
        return TaskPhoto(question, fault=fault)


def _question_decides(question: Question) -> list[object]:
    return [
        question.image.name,
        question.image.data_key,
        [
            [
                served.control.kind,
                served.control.name,
                sorted((label.key, label.prompts) for label in served.control.labels),
                served.threshold,
                served.min_area,
                astuple(style(served.control)[0]),
            ]
            for served in question.controls
        ],
    ]


def read_label_config(xml: str, *, threshold: float | None = None, min_area: float = 0.0) -> Labelling:
    """Read a label config. Raises LabelConfigError or VocabularyError for one that cannot be served.

    ``threshold`` and ``min_area``: hold where a control has none of its own; see ``Served``.
    """
    asked, problems = questions(parse(xml), threshold=threshold, min_area=min_area)
    for question in asked:
        _ = question.vocabulary  # raises what the model could not be asked for
    return Labelling(asked, problems)


def photo_url(task: Any, data_key: str) -> str:
    """Give the address of a task's photo, ``task["data"][data_key]``. Raises TaskError if it has none.

    Like Label Studio's editor, it takes ``meta.image`` for a key of that name, and else for the key ``image``
    of what is in ``meta``.
    """
    data = task.get("data") if isinstance(task, dict) else None
    if not isinstance(data, dict):
        raise TaskError('it is no task: it has no "data"; import it again')
    url = _at(data, data_key)
    if url is None:
        known = shown(", ".join(f'"{key}"' for key in data), MOST_WORDS) or "nothing"
        raise TaskError(f'its data has {known}, but the label config takes the photo from "{data_key}"')
    if not isinstance(url, str) or not url:
        raise TaskError(f'its "{data_key}" must be the address of one photo, not {type(url).__name__}')
    return url


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
