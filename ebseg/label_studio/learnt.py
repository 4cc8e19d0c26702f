"""What a project's annotations teach: the labels of all its images and tasks, one for each thing."""

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from ebseg.errors import LabelConfigError
from ebseg.label_studio.label_config import Label, normal
from ebseg.label_studio.questions import MOST_NAMES, Question, told
from ebseg.label_studio.tasks import Labelling, TaskError, brought, of_task, with_labels
from ebseg.vocabulary import MAX_LABELS, Vocabulary


@dataclass(frozen=True)
class ImageLabels:
    """An image's labels, placed among all that are learnt: ``ebseg.label_studio.annotations.Labels``."""

    to_name: str
    places: Mapping[str, int]

    def place(self, name: str) -> int | None:
        """Find the place of the label that regions of this image call so."""
        return self.places.get(name)


@dataclass(frozen=True)
class Learnt:
    """The labels that are learnt, and the place of each image's among them."""

    labels: tuple[Label, ...]
    images: Mapping[str, ImageLabels]

    @property
    def vocabulary(self) -> Vocabulary:
        """What the model is asked for."""
        return Vocabulary([label.prompts for label in self.labels])


def learnt(labelling: Labelling, tasks: Callable[[], Iterable[Any]]) -> Learnt:
    """Give the labels of all images and of ``tasks``, which are listed only where they may bring some.

    Labels of one key are one, of whatever images. So are labels that ask the model for the same name: several
    tasks may call one thing differently, and what people annotate under either key teaches it. Raises
    LabelConfigError for more than a model is asked for.
    """
    dynamic = any(question.is_dynamic for question in labelling.questions)
    listed = list(tasks()) if dynamic else []
    merged, images = _Merged(), dict[str, ImageLabels]()
    for question in labelling.questions:
        places = [(label, merged.place(label)) for label in _labels(question, listed)]
        names = dict[str, int]()
        for label, place in places:
            names.setdefault(label.key, place)
        for label, place in places:
            names.setdefault(label.value, place)
        images[question.to_name] = ImageLabels(question.to_name, names)
    return Learnt(tuple(merged.labels), images)


@dataclass
class _Merged:
    """Labels so far, and the place of each key and of each name that the model is asked for."""

    labels: list[Label] = field(default_factory=list)
    keys: dict[str, int] = field(default_factory=dict)
    names: dict[str, int] = field(default_factory=dict)

    def place(self, label: Label) -> int:
        """Give a label's place, a new one where it is none that is known."""
        prompts = [normal(prompt) for prompt in label.prompts]
        same = (self.names[prompt] for prompt in prompts if prompt in self.names)
        place = self.keys.get(label.key, next(same, None))
        if place is None:
            place = len(self.labels)
            self.labels.append(label)
            self.names |= dict.fromkeys(prompts, place)
            self._require_few()
        self.keys.setdefault(label.key, place)
        return place

    def _require_few(self) -> None:
        if len(self.labels) > MAX_LABELS or len(self.names) > MOST_NAMES:
            raise LabelConfigError(
                f"the project's images have more than {MAX_LABELS} labels, or {MOST_NAMES} names, together; "
                "use several projects"
            )


def _labels(question: Question, tasks: Iterable[Any]) -> list[Label]:
    """List a question's labels, with all that tasks bring, in their order.

    Labels of tasks that are faulty are left out. Raises LabelConfigError for more than a model is asked for.
    """
    if not question.is_dynamic:
        return list(question.labels)
    found: list[dict[str, Label]] = [{} for _ in question.controls]
    for task in tasks:
        with suppress(TaskError):
            of_task(question, task)
            for known, labels in zip(found, brought(question, task), strict=True):
                for label in labels:
                    known.setdefault(label.key, label)
        if sum(map(len, found)) + len(question.labels) > MAX_LABELS:
            raise LabelConfigError(
                f"the project's tasks bring more than {MAX_LABELS} labels together; use several projects"
            )
    whole, problems = with_labels(question, [tuple(labels.values()) for labels in found])
    if whole is None or (any(found) and not whole.labels):
        raise LabelConfigError("; ".join(told(problems)))
    repeated = [label for labels in found for label in labels.values()]  # also what asks for another's name
    return [*whole.labels, *(label for label in repeated if label not in whole.labels)]
