"""Label Studio's label config: which control gets masks, on which image, with which labels."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from xml.etree.ElementTree import Element, ParseError

import defusedxml.ElementTree
from defusedxml.common import DefusedXmlException

from ebseg.errors import LabelConfigError
from ebseg.label_studio.kinds import KINDS, writable_kind

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
                f'{self.kind} "{self.name}": {attribute}="{text}" must be a number from 0 to 1'
            )
        return value

    def label(self, name: str) -> Label | None:
        """Find the label with this key, or else this value."""
        matches = [label for label in self.labels if label.key == name]
        matches += [label for label in self.labels if label.value == name]
        return matches[0] if matches else None


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
            tags = ", ".join(sorted({f"<{control.tag}>" for control in self.controls}))
            found = f"{tags}, which hold no labelled masks" if tags else "no control"
            offered = " or ".join(f"<{kind.labels_tag}>" for kind in KINDS if kind.write)
            raise LabelConfigError(f"the label config has {found}; add {offered}, for example {_EXAMPLE}")
        problems = []
        for kind, control in candidates:
            problem = self._problem(control)
            if problem is None:
                return control
            problems.append(f'{kind.labels_tag} "{control.name}": {problem}')
        raise LabelConfigError("; ".join(problems))

    @property
    def image(self) -> ImageTag:
        """The image that the mask control draws on. Raises LabelConfigError as ``mask_control`` does."""
        to_name = self.mask_control().to_name
        return next(image for image in self.images if image.name == to_name)

    def prompts(self, control: Control) -> list[list[str]]:
        """List for each label of the control its prompts, as ``ebseg.vocabulary.Vocabulary`` takes them."""
        return [label.prompts for label in control.labels]

    def _problem(self, control: Control) -> str | None:
        """Why this control cannot be served, or None."""
        image = next((image for image in self.images if image.name == control.to_name), None)
        if image is None:
            names = ", ".join(f'"{image.name}"' for image in self.images) or "none"
            return (
                f'toName="{control.to_name}" names no <Image> (found: {names}); add '
                f'<Image name="{control.to_name or "image"}" value="$image"/>'
            )
        if not image.data_key:
            return f'the <Image> "{image.name}" needs value="$key", one key of the task\'s data'
        if control.dynamic:
            return (
                'its labels are in each task\'s data (value="$..."), which is not supported; '
                "write them into the label config as <Label> tags"
            )
        return _labels_problem(control.labels)


def parse(xml: str) -> LabelConfig:
    """Read a label config. Tag and attribute names are matched ignoring case, as the editor does.

    Raises LabelConfigError for malformed XML, and for a document type or entities, which Label Studio
    never writes and which can make a parser read files or exhaust memory. Whether the config can be
    served is said by ``LabelConfig.mask_control``.
    """
    try:
        root = defusedxml.ElementTree.fromstring(xml, forbid_dtd=True)
    except ParseError as error:
        raise LabelConfigError(f"the label config is not well-formed XML: {error}; correct it") from error
    except (DefusedXmlException, ValueError, TypeError) as error:
        raise LabelConfigError(
            f"the label config is refused: {error}; remove DOCTYPE and entities"
        ) from error
    images, controls = [], []
    for element in root.iter():
        kind = _kind(element)
        if kind == "image":
            images.append(_image(element))
        elif writable_kind(kind) or _get(element, "toname"):
            controls.append(_control(element))
    return LabelConfig(tuple(images), tuple(controls))


def _kind(element: Element) -> str:
    return element.tag.lower() if isinstance(element.tag, str) else ""


def _get(element: Element, attribute: str) -> str | None:
    """Read an attribute by its name in lower case."""
    return next((value for name, value in element.items() if name.lower() == attribute), None)


def _image(element: Element) -> ImageTag:
    match = _DATA_KEY.fullmatch((_get(element, "value") or "").strip())
    return ImageTag(name=_get(element, "name") or "", data_key=match[1] if match else "")


def _control(element: Element) -> Control:
    return Control(
        kind=_kind(element),
        name=_get(element, "name") or "",
        to_name=_get(element, "toname") or "",
        labels=tuple(_label(child) for child in element.iter() if _kind(child) == "label"),
        dynamic=_get(element, "value") is not None,
        attributes=dict(element.items()),
        tag=element.tag,
    )


def _label(element: Element) -> Label:
    return Label(
        value=_get(element, "value") or "",
        alias=_get(element, "alias") or None,
        synonyms=_names(_get(element, "synonyms"), "|"),
        predicted_values=_names(_get(element, "predicted_values"), ","),
        attributes=dict(element.items()),
    )


def _names(text: str | None, separator: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in (text or "").split(separator) if name.strip())


def _normal(name: str) -> str:
    """Names that differ only in case or white space are one text to the model."""
    return " ".join(name.casefold().split())


def _labels_problem(labels: tuple[Label, ...]) -> str | None:
    """Why these labels cannot be told apart or asked for, or None."""
    if not labels:
        return 'it has no <Label>; add at least one, such as <Label value="sky"/>'
    keys: set[str] = set()
    owners: dict[str, str] = {}
    for position, label in enumerate(labels, start=1):
        if not label.value.strip():
            return f"<Label> number {position} has no value; name it or remove it"
        if label.key in keys:
            return f'the label "{label.key}" is given twice; remove or rename one (alias counts)'
        keys.add(label.key)
        for prompt in label.prompts:
            owner = owners.setdefault(_normal(prompt), label.value)
            if owner is not label.value:
                return (
                    f'the labels "{owner}" and "{label.value}" both ask the model for "{prompt}"; rename one'
                )
    return None
