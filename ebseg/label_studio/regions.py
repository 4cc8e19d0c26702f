"""Label maps to Label Studio's regions and predictions."""

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ebseg.errors import AnnotationError
from ebseg.label_studio.kinds import Written, writable_kind
from ebseg.label_studio.label_config import Control, Label
from ebseg.label_studio.style import style
from ebseg.parts import Part, connected, whole

MOST_PARTS = 100
"""Regions of one label where each is a connected part; the smaller ones are left out. Editors slow down."""


@dataclass(frozen=True)
class Region:
    """One result of a region, exactly as Label Studio stores it.

    ``area``: the region's, in pixels. ``weight``: of its score in the prediction's.
    """

    result: dict[str, Any]
    area: int
    weight: float


def masks_to_regions(
    label_map: NDArray[np.int16],
    scores: NDArray[np.float32],
    control: Control,
    *,
    min_area: float = 0.0,
    min_confidence: float | None = None,
    certainty: NDArray[np.float32] | None = None,
) -> list[Region]:
    """Turn a label map into regions, those of each label present, in the control's order.

    ``label_map``: (H, W) int, index into ``control.labels``, -1 where unsure. ``scores``: (H, W) float,
    0..1; a region's score is its mean over the region's pixels. ``min_area``: share of the photo's pixels,
    0..1, below which a region is left out. ``min_confidence``: score, 0..1, below which one is left out whose
    label has none of its own; None: it stays, whatever its label has. ``certainty``: (H, W) float, 0..1; a
    region's score is its mean instead, while ``min_confidence`` is still a mean of ``scores``.

    A region shows all of a label, or where the control says so or its kind shows no more a connected part
    (8-connected), of which there are the largest ``MOST_PARTS``. Its id is derived from its content, so the
    same prediction has the same ids; with a ``labels_name`` a region is two results of one id.

    Raises AnnotationError for a control that shows no areas, and if the scores of a region are not finite.
    """
    kind = writable_kind(control.kind)
    if kind is None or kind.write is None:
        raise AnnotationError(f'{control.kind} "{control.name}" cannot show a mask; choose another control')
    (how, _), least = style(control), min_area * label_map.size
    areas = np.bincount(label_map.ravel() + 1)[1:]
    in_parts = kind.connected or how.parts
    confidences = dict(how.confidences)
    labels: list[list[Region]] = []
    for index in np.flatnonzero((areas > 0) & (areas >= least)).tolist():
        mask, label = label_map == index, control.labels[index]
        sure = 0.0 if min_confidence is None else confidences.get(label.key, min_confidence)
        parts = connected(mask, least=least, most=MOST_PARTS) if in_parts else [whole(mask)]
        labels.append([])
        for part in parts:
            score = _score(part, label, scores)
            if score >= sure:
                score = score if certainty is None else _score(part, label, certainty)
                labels[-1] += _results(kind.write(part, how.tolerance), part, label, score, control)
    return list(_alike(labels) if how.score == "rarest-label" else chain(*labels))


def _alike(labels: Sequence[Sequence[Region]]) -> Iterator[Region]:
    """Have each label weigh the same, however few pixels it has, and together as much as all pixels."""
    areas = [sum(region.area for region in regions) for regions in labels]
    for regions, area in zip(labels, areas, strict=True):
        for region in regions:
            yield replace(region, weight=region.area / area * sum(areas) / np.count_nonzero(areas))


def _score(part: Part, label: Label, scores: NDArray[np.float32]) -> float:
    score = float(scores[part.box][part.mask].mean(dtype=np.float64))
    if not math.isfinite(score):
        raise AnnotationError(f'the scores of "{label.value}" are not finite: the model is damaged')
    return score


def _results(written: Written, part: Part, label: Label, score: float, control: Control) -> Iterator[Region]:
    height, width = part.size
    content = f"{control.name}\n{label.key}\n{width}\n".encode() + written.content
    result = {
        "id": hashlib.sha256(content).hexdigest()[:10],
        "from_name": control.name,
        "to_name": control.to_name,
        "type": control.kind,
        "value": written.value if control.labels_name else written.value | {control.kind: [label.key]},
        "original_width": width,
        "original_height": height,
        "image_rotation": 0,
        "score": score,
    }
    area = int(np.count_nonzero(part.mask))
    yield Region(result, area, area)
    if control.labels_name:
        value = written.value | {"labels": [label.key]}
        yield Region(
            result | {"from_name": control.labels_name, "type": "labels", "value": value}, area, area
        )


def on_page(region: Region, page: int) -> Region:
    """Say that a region is on a page of an image; on each the same region has another id."""
    name = region.result["id"]
    if page:
        name = hashlib.sha256(f"{name} {page}".encode()).hexdigest()[:10]
    return replace(region, result=region.result | {"id": name, "item_index": page})


def prediction(regions: Sequence[Region], model_version: str) -> dict[str, Any]:
    """Make a task's prediction.

    Its score, 0.0 without regions, is the mean of theirs by weight: by area, so that it is the mean over
    labelled pixels, or alike for each label (``rarest-label``). Sampling the least first, Label Studio's
    uncertainty sampling serves the photos that the model is least sure of.
    """
    total = sum(region.weight for region in regions)
    weighted = sum(region.weight * region.result["score"] for region in regions)
    return {
        "result": [region.result for region in regions],
        "score": float(weighted / total) if total else 0.0,
        "model_version": model_version,
    }
