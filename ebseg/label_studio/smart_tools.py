"""What a smart tool asks for, and the part of a mask that answers it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import ndimage

from ebseg.errors import AnnotationError
from ebseg.label_studio.drawing import Mask
from ebseg.label_studio.kinds import KINDS, kind_of_type
from ebseg.label_studio.label_config import Control, Label
from ebseg.label_studio.prompts import Prompt

_EIGHT_NEIGHBOURS = np.ones((3, 3), dtype=int)


@dataclass(frozen=True)
class InteractiveRequest:
    """What a smart tool asks: the mask of one label, near the prompts if there are any."""

    label: Label
    prompts: tuple[Prompt, ...]


def parse_context(context: Mapping[str, Any] | None, control: Control) -> InteractiveRequest | None:
    """Read ``params.context`` of a /predict call; None where it asks nothing interactive.

    The prompts' label is looked up in ``control``, by key or value: keypoints and rectangles come from
    controls of their own whose labels repeat the mask control's. Raises AnnotationError for damaged
    regions, for tools other than keypoint, rectangle and brush, and for a label that ``control`` lacks.
    """
    try:
        regions = (context or {}).get("result")
        if not regions:
            return None
        names = {name for region in regions for name in _label_names(region)}
        prompts = tuple(_prompt(region) for region in regions)
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise AnnotationError(f"the smart tool's regions cannot be read ({error!r}); draw again") from error
    if len(names) != 1:
        raise AnnotationError(
            f"a smart tool must ask for one label, got {sorted(names)}; choose one and draw again"
        )
    name = names.pop()
    label = control.label(name)
    if label is None:
        known = ", ".join(f'"{label.key}"' for label in control.labels)
        raise AnnotationError(
            f'the smart tool asks for "{name}", but {control.kind} "{control.name}" has {known}; '
            "give both tags the same labels"
        )
    return InteractiveRequest(label, prompts)


def select_region(mask: Mask, request: InteractiveRequest) -> Mask:
    """Keep the connected parts of a label's mask that the prompts ask for.

    ``mask``: (H, W) bool. Parts (8-connected) touched by a positive prompt stay, all of them if no prompt is
    positive; parts touched by a negative prompt go. Returns (H, W) bool, possibly empty.
    """
    parts, _ = ndimage.label(mask, structure=_EIGHT_NEIGHBOURS)
    wanted: set[int] = set()
    unwanted: set[int] = set()
    for prompt in request.prompts:
        touched = set(np.unique(parts[prompt.draw(*mask.shape)]).tolist())
        (wanted if prompt.positive else unwanted).update(touched)
    if any(prompt.positive for prompt in request.prompts):
        kept = wanted - unwanted
    else:
        kept = set(range(1, int(parts.max()) + 1)) - unwanted
    return np.isin(parts, sorted(kept - {0}))


def _label_names(region: Mapping[str, Any]) -> list[str]:
    return list(region["value"].get(region["type"]) or region["value"]["labels"])


def _prompt(region: Mapping[str, Any]) -> Prompt:
    kind = kind_of_type(region["type"])
    if kind is None or kind.prompt is None:
        *others, last = [kind.labels_tag for kind in reversed(KINDS) if kind.prompt]  # the simplest first
        raise AnnotationError(
            f'"{region["type"]}" cannot guide a mask; use a smart {", ".join(others)} or {last}'
        )
    return kind.prompt(region, bool(region.get("is_positive", True)))
