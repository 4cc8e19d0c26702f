"""Label Studio's label config: its images, its controls, and their labels.

Every call of Label Studio brings one, so reading it takes time in proportion to its length, which is limited.
What of it is served is said in ``ebseg.label_studio.questions``.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from xml.parsers import expat

from ebseg.errors import LabelConfigError
from ebseg.label_studio.kinds import kind_of_type
from ebseg.label_studio.shown import shown

MOST_LETTERS = 1_000_000
"""Characters of a label config; a thousand labels with synonyms and colours have a tenth."""

MOST_TAGS = 20_000

_SHORTEN = "move what is no label, such as long lists of choices, into another project"

_DATA_KEY = re.compile(r"\$([^$\[\]{}]+)")


@dataclass(frozen=True)
class ImageTag:
    """An ``<Image>``: its name and the key of the task's data that holds the photo's address.

    ``pages``: whether that is a list of addresses (``valueList``), a photo a page.
    """

    name: str
    data_key: str
    pages: bool = False
    attributes: Mapping[str, str] = field(default_factory=dict, compare=False)


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
        return list({normal(name): name for name in reversed(names)}.values())[::-1]

    def setting(self, attribute: str) -> float | None:
        """Read a number from 0 to 1 that the tag carries, as ``Control.setting`` does."""
        return _number(f'the label "{shown(self.value)}"', self.attributes, attribute, 1.0)


class Labelled:
    """What has labels, which are found by the names that results carry."""

    labels: tuple[Label, ...]

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
class Control(Labelled):
    """A tag that annotates an object, such as ``<BrushLabels>`` on an image.

    ``<Labels>`` and the ``<Brush>`` that draws its regions are one: the brush with ``labels_name``.
    """

    kind: str
    """The tag in lower case; the ``type`` of its regions."""
    name: str
    to_name: str
    labels: tuple[Label, ...] = ()
    labels_key: str | None = None
    """Where a task's data has more labels (``value="$labels"``); "" where ``value`` names no key."""
    attributes: Mapping[str, str] = field(default_factory=dict, hash=False)

    tag: str = ""
    """The tag as the label config has it, for messages."""
    labels_name: str = ""
    """The name of the ``<Labels>`` that has the labels; empty where the control has its own."""

    @property
    def title(self) -> str:
        """What people know it by."""
        return f'{self.tag or self.kind} "{shown(self.labels_name or self.name)}"'

    def setting(self, attribute: str, *, most: float = 1.0) -> float | None:
        """Read a number from 0 to ``most`` that the tag carries, such as ``model_score_threshold``.

        None where the tag does not carry it. Raises LabelConfigError for anything but such a number.
        """
        return _number(self.title, self.attributes, attribute, most)

    def choice(self, attribute: str, allowed: Sequence[str]) -> str | None:
        """Read one of some words that the tag carries, None where it does not.

        Raises LabelConfigError for any other word.
        """
        text = self.attributes.get(attribute)
        if text is not None and text not in allowed:
            words = " or ".join(f'"{word}"' for word in allowed)
            raise LabelConfigError(f'{self.title}: {attribute}="{shown(text)}" must be {words}')
        return text


@dataclass(frozen=True)
class LabelConfig:
    """The images and controls of a label config, in document order."""

    images: tuple[ImageTag, ...]
    controls: tuple[Control, ...]


def parse(xml: str) -> LabelConfig:
    """Read a label config. Tag and attribute names are matched ignoring case, as the editor does.

    A label belongs to the innermost control that it is in. Raises LabelConfigError for malformed XML, for
    more than ``MOST_LETTERS`` or ``MOST_TAGS``, and for a document type, without which there are no entities:
    Label Studio never writes it, and it can make a parser read files or exhaust memory. Whether the config
    can be served is said by ``ebseg.label_studio.questions``.
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
            labels_key=_data_key(self.lower["value"]) if self.lower.get("value") else None,
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
            self.images.append(_image(attributes, lower))
        elif kind == "label":
            if control is not None:
                control.labels.append(make_label(attributes))
        elif kind_of_type(kind) or lower.get("toname"):
            control = _OpenControl(tag, attributes, lower)
            self.controls.append(control)
        self._around.append(control)

    def _end(self, _: str) -> None:
        self._around.pop()

    def _refuse(self, *_: object) -> None:
        raise LabelConfigError("the label config is refused: it has a DOCTYPE; remove DOCTYPE and entities")


def _image(attributes: Mapping[str, str], lower: Mapping[str, str]) -> ImageTag:
    pages = lower.get("valuelist")  # it is what the editor looks at where there are both
    key = _data_key(pages or lower.get("value", ""))
    return ImageTag(lower.get("name", ""), key, bool(pages), attributes)


def _data_key(text: str) -> str:
    match = _DATA_KEY.fullmatch(text.strip())
    return match[1] if match else ""


def make_label(attributes: dict[str, str]) -> Label:
    """Make a label of a ``<Label>``'s attributes, whose names are matched ignoring case."""
    lower = {name.lower(): value for name, value in reversed(attributes.items())}  # the first one counts
    return Label(
        value=lower.get("value", ""),
        alias=lower.get("alias") or None,
        synonyms=_names(lower.get("synonyms"), "|"),
        predicted_values=_names(lower.get("predicted_values"), ","),
        attributes=attributes,
    )


def _names(text: str | None, separator: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in (text or "").split(separator) if name.strip())


def _number(title: str, attributes: Mapping[str, str], attribute: str, most: float) -> float | None:
    text = attributes.get(attribute)
    if text is None:
        return None
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0.0 <= value <= most:
        raise LabelConfigError(f'{title}: {attribute}="{shown(text)}" must be a number from 0 to {most:g}')
    return value


def normal(name: str) -> str:
    """Names that differ only in case or white space are one text to the model."""
    return " ".join(name.casefold().split())
