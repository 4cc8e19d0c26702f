"""The ablation's table and plot, from the results of its runs."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from textwrap import wrap
from typing import Any

from ebseg.errors import ConfigError
from ebseg.plots import axes_beside_each_other, save

TITLES = {
    "mask-decoder": "mask decoder, classes by A alone",
    "adab": "+ AdaB balancing of A, B, C",
    "ssc": "+ SSC loss",
    "spatial": "+ SAM-style encoder (EBSeg)",
}
METRICS = {
    "seen": "seen phrases",
    "unseen": "unseen combinations",
    "harmonic": "harmonic mean",
    "new_names": "unseen names",
}
SHARED = ("training", "encoders", "encoders_sha256", "validation_scenes", "benchmark_scenes")

_PURPOSE = """
Written by `python -m training.tiny.ablation --report`. As in the paper's ablation, each row adds one part of
the method to the row above.
"""
_MEASURED = """
**What is measured.** {benchmark_scenes} held-out scenes that mix seen phrases and combinations that no
training scene shows, all 114 phrases asked for at once. *Seen phrases* and *unseen combinations*: mean IoU
over the phrases of each kind. *Harmonic mean*: of these two. *Unseen names*: the same scenes, every word of
every phrase replaced by another name that no scene is labelled with ("crimson sphere" for "red ball"); mean
IoU over all phrases present. The text tower knows these names from `training/tiny/new_words.py`; EBSeg's own
training never meets them.
"""
_HOW = """
**How.** Every run starts from the encoders of `{encoders}`, frozen but for their positions, and from a fresh
decoder whose first weights depend on the seed alone: {training[steps]} steps of {training[batch]} scenes,
crops of {training[crop]} pixels. That is less than the shipped model's training: the rows are to be compared
with each other, not with it. Rows with AdaB have alpha, beta and gamma chosen, run by run, on
{validation_scenes} validation scenes that are neither training's nor the benchmark's, all by the same grid
and rule: the largest harmonic mean (`training/tiny/exponents.py`). The first row has A alone, and no loss of
the B embeddings. Without SSC its term is dropped; without the SAM-style encoder zeros enter the pixel decoder
in place of its maps.
"""
_LIMITS = """
**Limits.** A few seeds of short runs on drawn scenes: a gain that is smaller than the spread, or of another
sign for another seed, shows nothing. The encoders' positions that all rows start from were once trained by
the full method. Rows with AdaB are a little favoured in the first three numbers: their exponents were chosen
by the same unseen combinations, though in other scenes. Nothing was chosen by the unseen names. What SSC
does and does not do here is in [ssc.md](ssc.md).
"""
_COST = """
At most {minutes:.1f} minutes of training a run, on so many threads: {threads}; a machine that has other
work to do takes longer for the same steps. Code: {code}.
"""

Runs = dict[str, list[dict[str, Any]]]
"""Results by row, each row's by seed."""


@dataclass(frozen=True)
class Spread:
    """A number over seeds: mean, sample standard deviation (None for one run), least and largest."""

    mean: float
    std: float | None
    least: float
    largest: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Describe at least one value."""
        std = stdev(values) if len(values) > 1 else None
        return cls(mean(values), std, min(values), max(values))

    def __str__(self) -> str:
        if self.std is None:
            return f"{self.mean:.1f}"
        return f"{self.mean:.1f} ± {self.std:.1f} ({self.least:.1f}–{self.largest:.1f})"


def read_runs(folder: Path, rows: Sequence[str]) -> Runs:
    """Read the results of the rows in order; rows without any are left out.

    Raises ConfigError where there are none, and where they were made with different settings.
    """
    found = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    runs = {
        row: sorted((run for run in found if run["row"] == row), key=lambda run: int(run["seed"]))
        for row in rows
    }
    runs = {row: results for row, results in runs.items() if results}
    if not runs:
        raise ConfigError(
            f"no results in {folder}: run `python -m training.tiny.ablation --out {folder}` first"
        )
    differing = [
        name
        for name in SHARED
        if len({json.dumps(run[name], sort_keys=True) for results in runs.values() for run in results}) > 1
    ]
    if differing:
        raise ConfigError(f"the results in {folder} differ in {', '.join(differing)}: keep those of one plan")
    return runs


def write_report(folder: Path, rows: Sequence[str], docs: Path) -> tuple[Path, Path]:
    """Write `tiny/ablation.md` and `images/ablation.png` into the folder `docs`; returns both paths."""
    runs = read_runs(folder, rows)
    table, plot = docs / "tiny" / "ablation.md", docs / "images" / "ablation.png"
    for path in (table, plot):
        path.parent.mkdir(parents=True, exist_ok=True)
    table.write_text(report(runs))
    draw(runs, plot)
    return table, plot


def report(runs: Runs) -> str:
    """Say in Markdown what was done, with what result, and how far that may be trusted."""
    some = next(iter(runs.values()))[0]
    all_runs = [run for results in runs.values() for run in results]
    blocks = [
        ["# Ablation of the small model"],
        _paragraph(_PURPOSE),
        results_table(runs),
        ["mIoU in percent: mean ± sample standard deviation over the seeds (least–largest)."],
        ["![The same numbers as a plot](../images/ablation.png)"],
        _paragraph(_MEASURED.format(**some)),
        _paragraph(_HOW.format(**some)),
        gains(runs),
        _paragraph(_LIMITS),
        runs_table(runs),
        _paragraph(
            _COST.format(
                minutes=max(run["training_seconds"] for run in all_runs) / 60,
                threads=_listed(run["threads"] for run in all_runs),
                code=_listed(run["code"] for run in all_runs),
            )
        ),
    ]
    return "\n\n".join("\n".join(lines) for lines in blocks) + "\n"


def _paragraph(text: str) -> list[str]:
    return wrap(" ".join(text.split()), 110, break_long_words=False, break_on_hyphens=False)


def _listed(values: Iterable[Any]) -> str:
    return ", ".join(sorted({str(value) for value in values}))


def results_table(runs: Runs) -> list[str]:
    """One line a row: spreads of all metrics."""
    lines = [
        f"| | {' | '.join(METRICS.values())} | seeds |",
        f"| --- |{' --- |' * (len(METRICS) + 1)}",
    ]
    for row, results in runs.items():
        cells = [str(Spread.of([run[metric] for run in results])) for metric in METRICS]
        lines.append(f"| {TITLES[row]} | {' | '.join(cells)} | {len(results)} |")
    return lines


def gains(runs: Runs) -> list[str]:
    """Say seed by seed what each row gains over the one above, for the seeds that both have."""
    lines = ["**Gain over the row above, seed by seed** (harmonic mean; unseen names):", ""]
    for (_, before), (row, after) in zip(list(runs.items())[:-1], list(runs.items())[1:], strict=True):
        earlier = {run["seed"]: run for run in before}
        pairs = [(earlier[run["seed"]], run) for run in after if run["seed"] in earlier]
        changes = [
            ", ".join(f"{new[metric] - old[metric]:+.1f}" for old, new in pairs)
            for metric in ("harmonic", "new_names")
        ]
        lines.append(f"- {TITLES[row]}: {'; '.join(changes) if pairs else 'no seed in common'}")
    return lines


def runs_table(runs: Runs) -> list[str]:
    """One line a run: what it was measured at and the exponents chosen for it."""
    lines = [
        f"| run | seed | {' | '.join(METRICS.values())} | alpha, beta, gamma | minutes |",
        f"| --- | --- |{' --- |' * (len(METRICS) + 2)}",
    ]
    for row, results in runs.items():
        for run in results:
            numbers = " | ".join(f"{run[metric]:.1f}" for metric in METRICS)
            exponents = ", ".join(f"{run['exponents'][name]:g}" for name in ("alpha", "beta", "gamma"))
            minutes = run["training_seconds"] / 60
            lines.append(f"| {row} | {run['seed']} | {numbers} | {exponents} | {minutes:.1f} |")
    return lines


def draw(runs: Runs, path: Path) -> None:
    """Plot every run as a dot and each row's mean as a line, metric by metric (PNG)."""
    figure, axes = axes_beside_each_other(len(METRICS))
    for axis, (metric, title) in zip(axes, METRICS.items(), strict=True):
        means = []
        for place, results in enumerate(runs.values()):
            values = [run[metric] for run in results]
            means.append(mean(values))
            axis.plot([place] * len(values), values, "o", color="tab:blue", alpha=0.6, markersize=5)
        axis.plot(range(len(means)), means, "_-", color="black", linewidth=1, markersize=16)
        axis.set_title(title, fontsize=10)
        axis.set_xticks(range(len(runs)), list(runs), rotation=45, ha="right", fontsize=8)
        axis.grid(axis="y", alpha=0.3)
    axes[0].set_ylabel("mIoU, percent")
    save(figure, path)
