"""Pictures of what ``ebseg bench`` measured, as it writes them for --plot."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ebseg.files import require_writable
from ebseg.plots import axes_beside_each_other, require_matplotlib, save

if TYPE_CHECKING:  # PyTorch is slow to import
    from ebseg.stage_timing import Report


def require_plot(path: Path | None) -> None:
    """Raise ConfigError, before long work, where ``--plot`` cannot be drawn or written; None: nobody asks."""
    if path is not None:
        require_matplotlib("--plot")
        require_writable(path)


def draw_photos(report: "Report", titles: Mapping[tuple[float, int], str], path: Path) -> None:
    """Plot the medians of whole photos against their size and against labels.

    ``titles``: the tables' titles by megapixels and number of labels.
    """
    figure, (by_size, by_labels) = axes_beside_each_other(2)
    tables = {key: report.tables[title] for key, title in titles.items()}
    sizes, numbers = (sorted(set(each)) for each in zip(*tables, strict=True))
    for number in numbers:
        by_size.plot(sizes, [tables[size, number].whole for size in sizes], ".-", label=f"{number} labels")
    encoder = [table.encoder for (_, number), table in sorted(tables.items()) if number == numbers[0]]
    by_size.plot(sizes, encoder, ".--", color="grey", label="segment-anything's encoder")
    for size in sizes:
        seconds = [tables[size, number].whole for number in numbers]
        by_labels.plot(numbers, seconds, ".-", label=f"{size:g} megapixels")
    for axis, what in ((by_size, "megapixels"), (by_labels, "labels")):
        _by_doublings(axis, what)
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    by_size.set_ylabel(f"seconds a photo, EBSeg {report.variant}")
    save(figure, path)


def draw_batches(seconds: Mapping[int, float], name: str, path: Path) -> None:
    """Plot the seconds a photo takes, by the number of photos that are encoded at once."""
    figure, [axis] = axes_beside_each_other(1)
    milliseconds = [1000 * each for each in seconds.values()]
    axis.plot(list(seconds), milliseconds, ".-", label=name)
    _by_doublings(axis, "photos at once")
    axis.set_ylabel("milliseconds a photo")
    axis.set_ylim(0, 1.1 * max(milliseconds))
    axis.grid(alpha=0.3)
    axis.legend(loc="lower right")
    save(figure, path)


def draw_memory(memory: Sequence[tuple[str, Sequence[int], Sequence[int]]], path: Path) -> None:
    """Plot a service's memory: lines of a name, numbers of photos, and bytes after so many."""
    figure, [axis] = axes_beside_each_other(1)
    for name, photos, used in memory:
        axis.plot(photos, [each / 2**20 for each in used], ".-", label=name)
    axis.set_xlabel("photos since the service started")
    axis.set_ylabel("resident memory, MiB")
    axis.set_ylim(bottom=0)
    axis.grid(alpha=0.3)
    axis.legend(loc="lower right")
    save(figure, path)


def _by_doublings(axis: Any, what: str) -> None:
    """Let each doubling of what is counted take as much of the x axis."""
    axis.set_xscale("log", base=2)
    axis.xaxis.set_major_formatter("{x:g}")
    axis.set_xlabel(what)
