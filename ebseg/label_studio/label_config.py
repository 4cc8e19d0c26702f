"""Label Studio's label config: which control gets masks, on which image, with which labels.

Every call of Label Studio brings one, so reading it takes time in proportion to its length, which is limited,
as is all that the model is asked for.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from xml.parsers import expat

from ebseg.errors import LabelConfigError
from ebseg.label_studio.kinds import KINDS, writable_kind
from ebseg.label_studio.shown import MOST_WORDS, shown
from ebseg.vocabulary import MAX_LABELS

MOST_LETTERS = 1_000_000
"""Characters of a label config; a thousand labels with synonyms and colours have a tenth."""

MOST_TAGS = 20_000

MOST_NAMES = 3000
"""Names that the model is asked for, synonyms included: it reads each in 14 sentences, which takes time."""

MOST_NAME_LETTERS = 500
"""Characters of such a name. The model reads some 300; to split a word takes the square of its length."""

_SHORTEN = "move what is no label, such as long lists of choices, into another project"

_MOST_TOLD = 3
"""Controls whose faults one message tells."""

_EXAMPLE = '<BrushLabels name="mask" toName="image"><Label value="sky"/></BrushLabels>'
_DATA_KEY = re.compile(r"\$([^$\[\]{}]+)")


@dataclass(frozen=True)
class ImageTag:
    """An ``<Image>``: its name and the key of the task's data that holds the photo's address."""

    name: str
    data_key: str


@dataclass(frozen=True)
class Label:
    """A ``<Label>``: what people see, what results carry, and what the model is asked for."""

    value: str
    alias: str | None = None
    synonyms: tuple[str, ...] = ()
    """More names of the same thing, from our attribute ``synonyms="automobile|auto"``."""
    predicted_values: tuple[str, ...] = ()
    """What a model calls this label, from Label Studio's attribute (comma separated)."""
    attributes: Mapping[str, str] = field(default_factory=dict, hash=False)

    @property
    def key(self) -> str:
        """The name that results carry: the alias where there is one."""
        return self.alias or self.value

    @property
    def prompts(self) -> list[str]:
        """What the model is asked for: ``predicted_values`` or the value, and the synonyms."""
        names = [*(self.predicted_values or (self.value.strip(),)), *self.synonyms]
        return list({_normal(name): name for name in reversed(names)}.values())[::-1]


@dataclass(frozen=True)
class Control:
    """A tag that annotates an object, such as ``<BrushLabels>`` on an image."""

    kind: str
    """The tag in lower case; the ``type`` of its regions."""
    name: str
    to_name: str
    labels: tuple[Label, ...] = ()
    dynamic: bool = False
    """Whether the labels are in each task's data (``value="$labels"``)."""
    attributes: Mapping[str, str] = field(default_factory=dict, hash=False)

    tag: str = ""
    """The tag as the label config has it, for messages."""

    def setting(self, attribute: str) -> float | None:
        """Read a number from 0 to 1 that the tag carries: ``model_score_threshold``, ``model_min_area``.

        None where the tag does not carry it. Raises LabelConfigError for anything but such a number.
        """
        text = self.attributes.get(attribute)
        if text is None:
            return None
        try:
            value = float(text)
        except ValueError:
            value = -1.0
        if not 0.0 <= value <= 1.0:
            raise LabelConfigError(
                f'{self.kind} "{shown(self.name)}": {attribute}="{shown(text)}" must be a number from 0 to 1'
            )
        return value

    def label(self, name: str) -> Label | None:
        """Find the label with this key, or else this value."""
        place = self.place(name)
        return None if place is None else self.labels[place]

    def place(self, name: str) -> int | None:
        """Find the place, in ``labels``, of the label with this key, or else this value."""
        return self._places.get(name)

    @cached_property
    def _places(self) -> dict[str, int]:
        places: dict[str, int] = {}
        for names in ([label.key for label in self.labels], [label.value for label in self.labels]):
            for place, name in enumerate(names):
                places.setdefault(name, place)
        return places


@dataclass(frozen=True)
class LabelConfig:
    """The images and controls of a label config, in document order."""

    images: tuple[ImageTag, ...]
    controls: tuple[Control, ...]

    def mask_control(self) -> Control:
        """Choose the control to pre-label: the first one, such as ``<BrushLabels>``, that can be served.

        Like Label Studio's own helpers, this takes the first in document order when there are several.
        Raises LabelConfigError that says what was found and what is needed.
        """
        candidates = [(kind, control) for control in self.controls if (kind := writable_kind(control.kind))]
        if not candidates:
            tags = shown(", ".join(sorted({f"<{control.tag}>" for control in self.controls})), MOST_WORDS)
            found = f"{tags}, which hold no labelled masks" if tags else "no control"
            offered = " or ".join(f"<{kind.labels_tag}>" for kind in KINDS if kind.write)
            raise LabelConfigError(f"the label config has {found}; add {offered}, for example {_EXAMPLE}")
        problems = []
        for kind, control in candidates:
            problem = self._problem(control)
            if problem is None:
                return control
            problems.append(f'{kind.labels_tag} "{shown(control.name)}": {problem}')
        more = [f"and {len(problems) - _MOST_TOLD} more"] if len(problems) > _MOST_TOLD else []
        raise LabelConfigError("; ".join(problems[:_MOST_TOLD] + more))

    @property
    def image(self) -> ImageTag:
        """The image that the mask control draws on. Raises LabelConfigError as ``mask_control`` does."""
        return self._images[self.mask_control().to_name]

    @cached_property
    def _images(self) -> dict[str, ImageTag]:
        """The first of each name."""
        return {image.name: image for image in reversed(self.images)}

    def prompts(self, control: Control) -> list[list[str]]:
        """List for each label of the control its prompts, as ``ebseg.vocabulary.Vocabulary`` takes them."""
        return [label.prompts for label in control.labels]

    def _problem(self, control: Control) -> str | None:
        """Why this control cannot be served, or None."""
        image = self._images.get(control.to_name)
        if image is None:
            names = ", ".join(f'"{shown(image.name)}"' for image in self.images[:_MOST_TOLD]) or "none"
            wanted = shown(control.to_name)
            return (
                f'toName="{wanted}" names no <Image> (found: {names}); add '
                f'<Image name="{wanted or "image"}" value="$image"/>'
            )
        if not image.data_key:
            return f'the <Image> "{shown(image.name)}" needs value="$key", one key of the task\'s data'
        if control.dynamic:
            return (
                'its labels are in each task\'s data (value="$..."), which is not supported; '
                "write them into the label config as <Label> tags"
            )
        return _labels_problem(control.labels)


def parse(xml: str) -> LabelConfig:
    """Read a label config. Tag and attribute names are matched ignoring case, as the editor does.

    A label belongs to the innermost control that it is in. Raises LabelConfigError for malformed XML, for
    more than ``MOST_LETTERS`` or ``MOST_TAGS``, and for a document type, without which there are no entities:
    Label Studio never writes it, and it can make a parser read files or exhaust memory. Whether the config
    can be served is said by ``LabelConfig.mask_control``.
    """
    if not isinstance(xml, str):
        raise LabelConfigError(f"the label config is refused: it is no text but {type(xml).__name__}")
    if len(xml) > MOST_LETTERS:
        raise LabelConfigError(
            f"the label config has {len(xml)} characters, more than {MOST_LETTERS}; {_SHORTEN}"
        )
    reader = _Reader()
    try:
        reader.parser.Parse(xml, True)
    except expat.ExpatError as error:
        raise LabelConfigError(f"the label config is not well-formed XML: {error}; correct it") from error
    except UnicodeEncodeError as error:
        raise LabelConfigError(f"the label config is not Unicode text: {error.reason}; correct it") from error
    return LabelConfig(tuple(reader.images), tuple(control.made() for control in reader.controls))


@dataclass
class _OpenControl:
    """A control whose labels are still being read."""

    tag: str
    attributes: Mapping[str, str]
    lower: Mapping[str, str]
    labels: list[Label] = field(default_factory=list)

    def made(self) -> Control:
        return Control(
            kind=self.tag.lower(),
            name=self.lower.get("name", ""),
            to_name=self.lower.get("toname", ""),
            labels=tuple(self.labels),
            dynamic="value" in self.lower,
            attributes=self.attributes,
            tag=self.tag,
        )


class _Reader:
    """Takes what is needed from the tags as they pass by: no tree of them is made."""

    def __init__(self) -> None:
        self.images: list[ImageTag] = []
        self.controls: list[_OpenControl] = []
        self.parser = expat.ParserCreate()
        self.parser.StartElementHandler = self._begin
        self.parser.EndElementHandler = self._end
        self.parser.StartDoctypeDeclHandler = self._refuse
        self._around: list[_OpenControl | None] = [None]  # the innermost control, for each tag that is open
        self._tags = 0

    def _begin(self, tag: str, attributes: dict[str, str]) -> None:
        self._tags += 1
        if self._tags > MOST_TAGS:
            raise LabelConfigError(f"the label config has more than {MOST_TAGS} tags; {_SHORTEN}")
        lower = {name.lower(): value for name, value in reversed(attributes.items())}  # the first one counts
        kind, control = tag.lower(), self._around[-1]
        if kind == "image":
            self.images.append(_image(lower))
        elif kind == "label":
            if control is not None:
                control.labels.append(_label(attributes, lower))
        elif writable_kind(kind) or lower.get("toname"):
            control = _OpenControl(tag, attributes, lower)
            self.controls.append(control)
        self._around.append(control)

    def _end(self, _: str) -> None:
        self._around.pop()

    def _refuse(self, *_: object) -> None:
        raise LabelConfigError("the label config is refused: it has a DOCTYPE; remove DOCTYPE and entities")


def _image(attributes: Mapping[str, str]) -> ImageTag:
    match = _DATA_KEY.fullmatch(attributes.get("value", "").strip())
    return ImageTag(name=attributes.get("name", ""), data_key=match[1] if match else "")


def _label(attributes: Mapping[str, str], lower: Mapping[str, str]) -> Label:
    return Label(
        value=lower.get("value", ""),
        alias=lower.get("alias") or None,
        synonyms=_names(lower.get("synonyms"), "|"),
        predicted_values=_names(lower.get("predicted_values"), ","),
        attributes=attributes,
    )


def _names(text: str | None, separator: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in (text or "").split(separator) if name.strip())


def _normal(name: str) -> str:
    """Names that differ only in case or white space are one text to the model."""
    return " ".join(name.casefold().split())


def _labels_problem(labels: Sequence[Label]) -> str | None:
    """Why these labels cannot be told apart or asked for, or None."""
    if not labels:
        return 'it has no <Label>; add at least one, such as <Label value="sky"/>'
    if len(labels) > MAX_LABELS:
        return f"it has {len(labels)} labels, more than {MAX_LABELS}; use several projects"
    keys: set[str] = set()
    owners: dict[str, str] = {}
    for position, label in enumerate(labels, start=1):
        if not label.value.strip():
            return f"<Label> number {position} has no value; name it or remove it"
        if label.key in keys:
            return f'the label "{shown(label.key)}" is given twice; remove or rename one (alias counts)'
        keys.add(label.key)
        for prompt in label.prompts:
            if len(prompt) > MOST_NAME_LETTERS:
                return (
                    f'<Label> number {position} has the name "{shown(prompt)}" of {len(prompt)} characters, '
                    f"more than {MOST_NAME_LETTERS}; the model reads some 300: shorten it"
                )
            owner = owners.setdefault(_normal(prompt), label.value)
            if owner is not label.value:
                return (
                    f'the labels "{shown(owner)}" and "{shown(label.value)}" both ask the model for '
                    f'"{shown(prompt)}"; rename one'
                )
    if len(owners) > MOST_NAMES:
        return f"its labels have {len(owners)} names with all synonyms, more than {MOST_NAMES}; remove some"
    return None
