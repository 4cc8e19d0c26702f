"""Pictures of numbers. matplotlib is no part of the product, as its tables do without."""

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ebseg.errors import ConfigError
from ebseg.files import whole

if TYPE_CHECKING:  # slow to import
    from matplotlib.figure import Figure

_WIDTH, _HEIGHT = 9, 3.6  # inches


def require_matplotlib(option: str) -> None:
    """Raise ConfigError, which names the option that wants it, where matplotlib is not installed."""
    if importlib.util.find_spec("matplotlib") is None:
        raise ConfigError(f"matplotlib, which {option} draws with, is not here: pip install matplotlib")


def axes_beside_each_other(count: int) -> tuple["Figure", Any]:
    """Make a figure of some axes with one scale of y; give it, and an array (count,) of its Axes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # no display is needed
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_WIDTH, _HEIGHT), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(1, count, sharey=True, squeeze=False)[0]


def save(figure: "Figure", path: Path) -> None:
    """Write a figure as PNG, whole or not at all."""
    with whole(path) as unfinished:
        figure.savefig(unfinished, dpi=120, format="png")
