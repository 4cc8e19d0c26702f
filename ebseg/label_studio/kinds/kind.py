"""What is known of a kind of region."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ebseg.ask import Mask
from ebseg.label_studio.prompts import Prompt
from ebseg.parts import Part

Value = Mapping[str, Any]
"""A region's ``value``, whose content is other people's: what reads it raises as Python does."""


@dataclass(frozen=True)
class Written:
    """One region to be stored.

    ``value``: without its labels. ``content``: what its id is derived from, another one for other pixels.
    """

    value: dict[str, Any]
    content: bytes


@dataclass(frozen=True)
class Kind:
    """A kind of region; what it cannot do is None.

    ``tag``: of the control that makes it, ``<Brush>``; with labels of its own it is ``<BrushLabels>``.
    ``key``: what the ``value`` of such a region has, whichever control made it.

    ``draw(value, height, width)``: the pixels, (height, width) bool, that it shows in a photo of this size;
    a kind without it is no area. ``write(part, tolerance)``: the region that shows some pixels, at least one;
    an outline may be off by ``tolerance``, in pixels. A control whose kind is without it gets no predictions.
    ``connected``: whether such a region shows connected (8-connected) pixels only. ``prompt(region,
    positive)``: what a whole region, with its sizes, points at; a kind without it cannot guide a smart tool.
    """

    tag: str
    key: str
    draw: Callable[[Value, int, int], Mask] | None = None
    write: Callable[[Part, float], Written] | None = None
    connected: bool = False
    prompt: Callable[[Mapping[str, Any], bool], Prompt] | None = None

    @property
    def labels_tag(self) -> str:
        """The tag that has labels of its own."""
        return f"{self.tag}Labels"

    @property
    def types(self) -> tuple[str, str]:
        """The ``type`` of its results, by either control."""
        return self.tag.lower(), self.labels_tag.lower()
