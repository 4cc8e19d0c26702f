"""How a control's regions are made, as its tag says."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, get_args

from ebseg.ask import Measure
from ebseg.errors import LabelConfigError
from ebseg.label_studio.label_config import Control
from ebseg.outlines import DEFAULT_TOLERANCE

SCORES = ("confidence", "margin", "entropy", "rarest-label")
"""What scores may be made of: the best label's share (and the label's mean, however few pixels it has), or
a measure of ``ebseg.certainty``. By default the first."""

_MOST_TOLERANCE = 100.0


@dataclass(frozen=True)
class Style:
    """How regions are made.

    ``parts``: whether each is a connected part of a label, or all of it (``model_regions="part"``,
    ``"label"``). ``tolerance``: pixels by which an outline may be off, see ``ebseg.outlines``
    (``model_polygon_tolerance``). ``confidences``: of labels, by their keys, the score, 0..1, below which a
    region of theirs is left out (``model_score_threshold`` on the ``<Label>``). ``score``: what a region's
    score, and so a prediction's, is made of, one of ``SCORES`` (``model_score``).
    """

    parts: bool = False
    tolerance: float = DEFAULT_TOLERANCE
    confidences: tuple[tuple[str, float], ...] = ()
    score: str = SCORES[0]

    @property
    def measure(self) -> Measure | None:
        """What the model must tell of each pixel for it, besides its share for the best label."""
        return next((measure for measure in get_args(Measure) if measure == self.score), None)


_READ: dict[str, Callable[[Control], object]] = {
    "parts": lambda control: control.choice("model_regions", ("label", "part")) == "part",
    "score": lambda control: control.choice("model_score", SCORES),
    "tolerance": lambda control: control.setting("model_polygon_tolerance", most=_MOST_TOLERANCE),
}
"""How each field of a style is read; None: as it is by default."""


def style(control: Control) -> tuple[Style, list[str]]:
    """Read how a control's regions are made; say which settings cannot be used: the defaults hold then."""
    problems = []
    values: dict[str, Any] = {}
    for name, read in _READ.items():
        try:
            values[name] = read(control)
        except LabelConfigError as error:
            problems.append(str(error))
    confidences, wrong = _confidences(control)
    return Style(
        confidences=confidences, **{name: value for name, value in values.items() if value is not None}
    ), problems + wrong


def _confidences(control: Control) -> tuple[tuple[tuple[str, float], ...], list[str]]:
    found, problems = {}, []
    for label in control.labels:
        try:
            confidence = label.setting("model_score_threshold")
        except LabelConfigError as error:
            problems.append(f"{control.title}: {error}")
            continue
        if confidence is not None:
            found[label.key] = confidence
    return tuple(sorted(found.items())), problems
