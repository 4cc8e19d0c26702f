"""How a control's regions are made, as its tag says."""

from dataclasses import dataclass

from ebseg.errors import LabelConfigError
from ebseg.label_studio.label_config import Control
from ebseg.outlines import DEFAULT_TOLERANCE

_MOST_TOLERANCE = 100.0


@dataclass(frozen=True)
class Style:
    """How regions are made.

    ``tolerance``: pixels by which an outline may be off, see ``ebseg.outlines``
    (``model_polygon_tolerance``).
    """

    tolerance: float = DEFAULT_TOLERANCE


def style(control: Control) -> tuple[Style, list[str]]:
    """Read how a control's regions are made; say which settings cannot be used: the defaults hold then."""
    problems: list[str] = []
    tolerance: float | None = None
    try:
        tolerance = control.setting("model_polygon_tolerance", most=_MOST_TOLERANCE)
    except LabelConfigError as error:
        problems.append(str(error))
    return Style(DEFAULT_TOLERANCE if tolerance is None else tolerance), problems
