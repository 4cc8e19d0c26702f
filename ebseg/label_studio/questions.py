"""What a label config asks of the model: about each image, the labels of all its controls at once.

One question for all controls, so that stuff in a brush mask and things in polygons compete for each pixel.
What cannot be served is said, and the rest is served.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

from ebseg.ask import Measure, Threshold
from ebseg.errors import LabelConfigError
from ebseg.label_studio.kinds import KINDS, kind_of_type, rank, writable_kind
from ebseg.label_studio.label_config import Control, ImageTag, Label, LabelConfig, Labelled, normal
from ebseg.label_studio.shown import MOST_WORDS, shown
from ebseg.label_studio.style import style
from ebseg.vocabulary import MAX_LABELS, Vocabulary

LABEL_SETTING = "model_score_threshold"
"""What a ``<Label>`` may say: the score below which a region of it is left out."""

MOST_NAMES = 3000
"""Names that the model is asked for, synonyms included: it reads each in 14 sentences, which takes time."""

MOST_NAME_LETTERS = 500
"""Characters of such a name. The model reads some 300; to split a word takes the square of its length."""

SETTINGS = (
    "model_min_area",
    "model_polygon_tolerance",
    "model_regions",
    "model_score",
    "model_score_threshold",
)
"""Our attributes of a control; a ``<Label>`` and an ``<Image>`` have none."""

MOST_TOLD = 3
"""Faults that are told at once."""

_EXAMPLE = '<BrushLabels name="mask" toName="image"><Label value="sky"/></BrushLabels>'


@dataclass(frozen=True)
class Served:
    """A control that gets predictions, and by which rules.

    ``control``: with the labels that it gets them for. ``threshold``: share of the scores, 0..1, under which
    a pixel of these labels stays unlabelled; None: the model's own. ``min_area``: share of the photo's
    pixels, 0..1, below which a region is left out. ``min_confidence``: score, 0..1, below which one is whose
    label has none of its own.
    """

    control: Control
    threshold: float | None
    min_area: float
    min_confidence: float


@dataclass(frozen=True)
class Question(Labelled):
    """What the model is asked about the photos of an image.

    ``labels``: those of all its controls, one control's after the other's.
    """

    image: ImageTag
    controls: tuple[Served, ...]
    labels: tuple[Label, ...]

    @property
    def to_name(self) -> str:
        """The image's name, as regions carry it."""
        return self.image.name

    @property
    def is_dynamic(self) -> bool:
        """Whether tasks bring more labels."""
        return any(served.control.labels_key for served in self.controls)

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """What the model is asked for. Raises VocabularyError for names that it cannot tell apart."""
        return Vocabulary([label.prompts for label in self.labels])

    @property
    def threshold(self) -> Threshold:
        """The controls' threshold, or where theirs differ each label's."""
        thresholds = {served.threshold for served in self.controls}
        if len(thresholds) == 1:
            return thresholds.pop()
        return tuple(served.threshold for served in self.controls for _ in served.control.labels)

    @cached_property
    def measures(self) -> tuple[Measure, ...]:
        """What else its controls' scores need to be told of each pixel."""
        found = {style(served.control)[0].measure for served in self.controls}
        return tuple(sorted(measure for measure in found if measure))

    def parts(self, label_map: npt.NDArray[np.int16]) -> Iterator[tuple[Served, npt.NDArray[np.int16]]]:
        """Give each control that has a part in a label map (H, W) a label map of the control's own labels."""
        first = 0
        for served in self.controls:
            after = first + len(served.control.labels)
            own = (label_map >= first) & (label_map < after)
            if own.any():
                yield served, np.where(own, label_map - np.int16(first), np.int16(-1))
            first = after


def questions(
    config: LabelConfig, *, threshold: float | None, min_area: float, min_confidence: float
) -> tuple[tuple[Question, ...], tuple[str, ...]]:
    """Make the questions of a label config, in the order of its images, and say what of it is not served.

    ``threshold`` and ``min_area`` hold where a control has none of its own, ``min_confidence`` where a label
    has none. Raises LabelConfigError, which
    says what was found and what is needed, where nothing can be served.
    """
    problems: list[str] = []
    images = {image.name: image for image in reversed(config.images)}  # the first of each name
    candidates: dict[str, list[Served]] = {image.name: [] for image in config.images}
    for control in _controls(config, images):
        problem = _problem(control, images)
        if problem is None:
            served, wrong = _with_settings(control, Served(control, threshold, min_area, min_confidence))
            candidates[control.to_name].append(served)
            problems += [*wrong, *_unknown_settings(control)]
        elif problem:
            problems.append(f"{control.title}: {problem}")
    asked = []
    for name, of_image in candidates.items():
        question, wrong = union(images[name], of_image)
        problems += wrong
        if of_image:
            problems += _not_settings(f'Image "{shown(name)}"', images[name].attributes)
        if question:
            asked.append(question)
    if not asked:
        raise LabelConfigError("; ".join(told(problems)) or _nothing(config))
    return tuple(asked), told(problems)


def union(image: ImageTag, candidates: Sequence[Served]) -> tuple[Question | None, list[str]]:
    """Join the labels of an image's controls; say which labels and controls are left out. None: all are.

    A label, by its key, that several controls have is predicted by one of them: by the finest kind (see
    ``rank``), the first of these in the document. So a tool that repeats the labels of another control gets
    none of them.
    """
    problems: list[str] = []
    taken = _Taken()
    kept: dict[int, tuple[Label, ...]] = {}
    for place in sorted(range(len(candidates)), key=lambda each: rank(candidates[each].control.kind)):
        control = candidates[place].control
        kept[place], wrong = taken.add(control)
        problems += [f"{control.title}: {problem}" for problem in wrong]
    controls = tuple(
        replace(served, control=replace(served.control, labels=kept[place]))
        for place, served in enumerate(candidates)
        if kept[place] or served.control.labels_key
    )
    if not controls:
        return None, problems
    return Question(
        image, controls, tuple(label for each in controls for label in each.control.labels)
    ), problems


def told(problems: Sequence[str]) -> tuple[str, ...]:
    """Shorten a list of faults to what people read."""
    more = (f"and {len(problems) - MOST_TOLD} more",) if len(problems) > MOST_TOLD else ()
    return (*problems[:MOST_TOLD], *more)


class _Taken:
    """The labels of an image that its controls have taken so far: their keys, and who asks for which name."""

    def __init__(self) -> None:
        self._keys: set[str] = set()
        self._owners: dict[str, Label] = {}

    def add(self, control: Control) -> tuple[tuple[Label, ...], list[str]]:
        """Take a control's labels that are not taken; give these, and say which cannot be served."""
        problem = self._too_many(control)
        if problem:
            return (), [problem]
        own: dict[str, Label] = {}
        problems = []
        for position, label in enumerate(control.labels, start=1):
            problem = self._problem(position, label, own)
            if problem:
                problems.append(problem)
            elif label.key not in self._keys:
                own[label.key] = label
                self._owners |= dict.fromkeys(map(normal, label.prompts), label)
        self._keys |= own.keys()
        return tuple(own.values()), problems

    def _too_many(self, control: Control) -> str | None:
        new = {label.key: label for label in control.labels if label.key not in self._keys}
        count, names = len(new), len({name for label in new.values() for name in map(normal, label.prompts)})
        besides = " with those of the image's other controls" if self._keys else ""
        if not control.labels and not control.labels_key:
            return 'it has no <Label>; add at least one, such as <Label value="sky"/>'
        if len(self._keys) + count > MAX_LABELS:
            return f"it has {count} labels, more than {MAX_LABELS}{besides}; use several projects"
        if len(self._owners) + names > MOST_NAMES:
            return (
                f"its labels have {names} names with all synonyms, more than {MOST_NAMES}{besides}; "
                "remove some"
            )
        return None

    def _problem(self, position: int, label: Label, own: Mapping[str, Label]) -> str | None:
        """Why this label cannot be told from the others or asked for, or None."""
        if not label.value.strip():
            return f"<Label> number {position} has no value; name it or remove it"
        if label.key in own:
            return f'the label "{shown(label.key)}" is given twice; remove or rename one (alias counts)'
        if label.key in self._keys:
            return None
        for prompt in label.prompts:
            if len(prompt) > MOST_NAME_LETTERS:
                return (
                    f'<Label> number {position} has the name "{shown(prompt)}" of {len(prompt)} characters, '
                    f"more than {MOST_NAME_LETTERS}; the model reads some 300: shorten it"
                )
            owner = self._owners.get(normal(prompt))
            if owner:
                return (
                    f'the labels "{shown(owner.value)}" and "{shown(label.value)}" both ask the model for '
                    f'"{shown(prompt)}"; rename one'
                )
        return None


def _controls(config: LabelConfig, images: Mapping[str, ImageTag]) -> Iterator[Control]:
    """Give the controls, each ``<Labels>`` on an image together with the tag that draws its regions there.

    Of several such tags that is the finest that gets predictions: each label is predicted once.
    """
    shapes: dict[str, Control] = {}
    for control in filter(_is_shape, config.controls):
        shapes[control.to_name] = min(shapes.get(control.to_name, control), control, key=_preference)
    labelled = {control.to_name for control in config.controls if control.kind == "labels"}
    for control in config.controls:
        if control.kind == "labels":
            if control.to_name in images:
                yield _paired(control, shapes.get(control.to_name))
        elif control.to_name not in labelled or not _is_shape(control):
            yield control


def _is_shape(control: Control) -> bool:
    """Tell whether it draws regions and has no labels, as ``<Brush>``."""
    kind = kind_of_type(control.kind)
    return kind is not None and control.kind == kind.tag.lower()


def _preference(shape: Control) -> tuple[bool, int]:
    return writable_kind(shape.kind) is None, rank(shape.kind)


def _paired(labels: Control, shape: Control | None) -> Control:
    if shape is None:
        return labels
    attributes = {**labels.attributes, **shape.attributes}
    return replace(labels, kind=shape.kind, name=shape.name, labels_name=labels.name, attributes=attributes)


def _problem(control: Control, images: Mapping[str, ImageTag]) -> str | None:
    """Why this control is not served; "" where it is none that shows areas, None where it is."""
    if control.kind == "labels":
        return 'no tag draws its regions; add one, such as <Brush name="brush" toName="image"/>'
    kind = kind_of_type(control.kind)
    if kind is None or kind.draw is None:
        return ""
    if kind.write is None:
        return f"no predictions are made for <{kind.tag}>; use {_offered()}"
    if _is_shape(control) and not control.labels_name:
        return f'it has no labels; add <Labels name="labels" toName="{shown(control.to_name)}">'
    return _image_problem(control, images)


def _image_problem(control: Control, images: Mapping[str, ImageTag]) -> str | None:
    image = images.get(control.to_name)
    if image is None:
        names = ", ".join(f'"{shown(name)}"' for name in list(images)[:MOST_TOLD]) or "none"
        wanted = shown(control.to_name)
        return (
            f'toName="{wanted}" names no <Image> (found: {names}); add '
            f'<Image name="{wanted or "image"}" value="$image"/>'
        )
    if not image.data_key:
        return (
            f'the <Image> "{shown(image.name)}" needs value="$key", or valueList="$key", one key of the '
            "task's data"
        )
    if control.labels_key == "":
        return 'its value names no key of the task\'s data; write value="$labels", or remove it'
    return None


def _with_settings(control: Control, default: Served) -> tuple[Served, list[str]]:
    """Read a control's settings; say which cannot be used, and use the default."""
    values: dict[str, float | None] = {}
    _, problems = style(control)
    for name in ("model_score_threshold", "model_min_area"):
        try:
            values[name] = control.setting(name)
        except LabelConfigError as error:
            problems.append(str(error))
    threshold, area = values.get("model_score_threshold"), values.get("model_min_area")
    served = replace(
        default,
        threshold=default.threshold if threshold is None else threshold,
        min_area=default.min_area if area is None else area,
    )
    return served, problems


def _unknown_settings(control: Control) -> list[str]:
    """Name the attributes of a control and its labels that are meant as settings, and are none."""
    known = ", ".join(SETTINGS)
    problems = [
        f"{control.title}: {shown(name)} is no setting; there are {known}"
        for name in control.attributes
        if _is_ours(name) and name not in SETTINGS
    ]
    for label in control.labels:
        others = {name: value for name, value in label.attributes.items() if name != LABEL_SETTING}
        problems += _not_settings(f'{control.title}: the label "{shown(label.value)}"', others)
    return problems


def _not_settings(title: str, attributes: Mapping[str, str]) -> list[str]:
    return [
        f"{title} has {shown(name)}, which is a setting of controls only"
        if name in SETTINGS
        else f"{title} has {shown(name)}, which is no setting; controls have {', '.join(SETTINGS)}"
        for name in attributes
        if _is_ours(name)
    ]


def _is_ours(attribute: str) -> bool:
    return attribute.lower().startswith("model_")


def _offered() -> str:
    return " or ".join(f"<{kind.labels_tag}>" for kind in KINDS if kind.write)


def _nothing(config: LabelConfig) -> str:
    tags = shown(", ".join(sorted({f"<{control.tag}>" for control in config.controls})), MOST_WORDS)
    found = f"{tags}, which hold no labelled masks" if tags else "no control"
    return f"the label config has {found}; add {_offered()}, for example {_EXAMPLE}"
