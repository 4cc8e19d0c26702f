"""What a smart tool asks for, and the part of a mask that answers it."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ebseg.ask import Mask, Pointed
from ebseg.errors import AnnotationError
from ebseg.label_studio.kinds import KINDS, kind_of_type
from ebseg.label_studio.label_config import Label
from ebseg.label_studio.prompts import Box, Prompt
from ebseg.label_studio.questions import Question
from ebseg.label_studio.shown import MOST_WORDS, shown
from ebseg.label_studio.tasks import TaskPhoto
from ebseg.parts import touched

MOST_PROMPTS = 100
"""Clicks, boxes and strokes of one request; each takes as long as the photo has pixels."""


@dataclass(frozen=True)
class InteractiveRequest:
    """What a smart tool asks: the mask of one label, near the prompts if there are any.

    ``label``: as regions name it. ``to_name``: of the image that is pointed at; None where it is not said.
    ``page``: of that image, where it has several.
    """

    label: str
    prompts: tuple[Prompt, ...]
    to_name: str | None = None
    page: int = 0

    @property
    def is_unguided(self) -> bool:
        """Whether nothing says where the label is: only, if anything, where it is not."""
        return not any(prompt.positive for prompt in self.prompts)

    def choose(self, photos: Sequence[TaskPhoto]) -> TaskPhoto:
        """Choose the photo that is pointed at.

        Raises AnnotationError where that photo's controls do not have the label.
        """
        of_image = [photo for photo in photos if self.to_name in (None, photo.question.to_name)]
        here = [photo for photo in of_image if photo.fault or (photo.page or 0) == self.page]
        for photo in here:
            if photo.fault or photo.question.place(self.label) is not None:
                return photo
        raise self._unknown([label for photo in here for label in photo.question.labels])

    def place(self, question: Question) -> int:
        """Find the label's place among a question's. Raises AnnotationError where it is none of them."""
        place = question.place(self.label)
        if place is None:
            raise self._unknown(question.labels)
        return place

    def _unknown(self, labels: Iterable[Label]) -> AnnotationError:
        known = shown(", ".join(f'"{label.key}"' for label in labels), MOST_WORDS) or "none"
        return AnnotationError(
            f'the smart tool asks for "{shown(self.label)}", but the labels that are predicted there are '
            f"{known}; give both tags the same labels"
        )

    def nothing_found(self) -> AnnotationError:
        """Make the error for who would see nothing happen."""
        return AnnotationError(
            f'the model finds no "{shown(self.label)}" there by itself; '
            "point at it with a positive click or a box"
        )

    def pointed(self, index: int) -> Pointed | None:
        """Say what is pointed at; ``index``: of the label in the vocabulary. None where nothing is."""
        if self.is_unguided:
            return None
        boxes = [prompt for prompt in self.prompts if isinstance(prompt, Box)]
        others = [prompt for prompt in self.prompts if not isinstance(prompt, Box)]
        return Pointed(
            index,
            positive=tuple(prompt for prompt in others if prompt.positive),
            negative=tuple(prompt for prompt in others if not prompt.positive),
            boxes=tuple(prompt for prompt in boxes if prompt.positive),
            negative_boxes=tuple(prompt for prompt in boxes if not prompt.positive),
        )


def parse_context(context: Mapping[str, Any] | None) -> InteractiveRequest | None:
    """Read ``params.context`` of a /predict call; None where it asks nothing interactive.

    Keypoints and rectangles come from controls of their own whose labels repeat those of the control that
    gets the mask. Raises AnnotationError for damaged regions, for more than ``MOST_PROMPTS``, for tools other
    than keypoint, rectangle and brush, and for several labels or images. What regions say of their size is
    not believed: nothing of it is allocated.
    """
    try:
        regions = (context or {}).get("result")
        if not regions:
            return None
        if len(regions) > MOST_PROMPTS:
            raise AnnotationError(
                f"the smart tool sends {len(regions)} regions, more than {MOST_PROMPTS}; remove some of them"
            )
        names = {name for region in regions for name in _label_names(region)}
        prompts = tuple(_prompt(region) for region in regions if region["type"] != "labels")
        images = {(region.get("to_name"), region.get("item_index") or 0) for region in regions}
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        why = shown(repr(error))
        raise AnnotationError(f"the smart tool's regions cannot be read ({why}); draw again") from error
    if len(names) != 1:
        raise AnnotationError(
            f"a smart tool must ask for one label, got {shown(str(sorted(names)))}; choose one and draw again"
        )
    if len(images) != 1:
        raise AnnotationError("a smart tool must point at one image; draw again")
    [(to_name, page)] = images
    return InteractiveRequest(names.pop(), prompts, to_name if isinstance(to_name, str) else None, page)


def less(mask: Mask, prompts: Sequence[Prompt]) -> Mask:
    """Take the connected parts (8-connected) that prompts touch from a label's mask, (H, W) bool."""
    left = mask.copy()
    for prompt in prompts:
        left &= ~touched(left, prompt.draw(*mask.shape))
    return left


def _label_names(region: Mapping[str, Any]) -> list[str]:
    """List a result's labels: none in that of a ``<Rectangle>``, whose ``<Labels>`` have another one."""
    names = list(region["value"].get(region["type"]) or region["value"].get("labels") or ())
    if not all(isinstance(name, str) for name in names):
        raise TypeError("a label is no text")
    return names


def _prompt(region: Mapping[str, Any]) -> Prompt:
    kind = kind_of_type(region["type"])
    if kind is None or kind.prompt is None:
        *others, last = [kind.labels_tag for kind in reversed(KINDS) if kind.prompt]  # the simplest first
        raise AnnotationError(
            f'"{shown(region["type"])}" cannot guide a mask; use a smart {", ".join(others)} or {last}'
        )
    return kind.prompt(region, bool(region.get("is_positive", True)))
