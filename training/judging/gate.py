"""Whether a candidate takes the champion's place: on numbers alone, which are measured elsewhere.

Both were measured on the same held-out tasks. A gain counts only where it would have shown on other tasks
too, which a paired bootstrap over the tasks estimates (Efron and Tibshirani, "An introduction to the
bootstrap", 1993).

Letters: T tasks, K labels, R resamples.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ebseg.errors import DataError
from ebseg.evaluation.metrics import mean_percent
from training.registry.decision import Decision, Verdict
from training.settings import Settings

RESAMPLES = 2000
PERCENTILE = 2.5
"""Of the resampled gains: the lower end of a 95 % interval."""

FEWEST_CROSS_VALIDATED = 6
"""Tasks that a decision by cross-validation takes at least: of fewer the bootstrap knows no spread."""

ROUNDING = 1e-9
"""Points by which a float may miss a limit that it has reached."""


@dataclass(frozen=True)
class Measured:
    """What a model predicted for the held-out tasks.

    ``tasks``: their numbers (T). ``counts``: pixels (T, K, K + 1), for each task what
    ``ebseg.evaluation.metrics.ConfusionMatrix`` counts.
    """

    tasks: tuple[int, ...]
    counts: npt.NDArray[np.int64]


@dataclass(frozen=True)
class Retention:
    """Mean IoU in percent of champion (``before``) and candidate on what they should not forget."""

    name: str
    before: float
    after: float

    @property
    def lost(self) -> float:
        """Share of the champion's mIoU that the candidate has lost; negative for a gain."""
        return (self.before - self.after) / self.before if self.before else 0.0


@dataclass(frozen=True)
class Rules:
    """What a candidate must do; each is the setting of that name."""

    promote_margin: float
    largest_drop: float
    enough_pixels: int
    largest_forgetting: float
    min_held_out: int
    few_held_out: Literal["wait", "cross-validate"]

    @classmethod
    def of(cls, settings: Settings) -> "Rules":
        """Take the rules from the settings."""
        return cls(
            promote_margin=settings.promote_margin,
            largest_drop=settings.largest_drop,
            enough_pixels=settings.enough_pixels,
            largest_forgetting=settings.largest_forgetting,
            min_held_out=settings.min_held_out,
            few_held_out=settings.few_held_out,
        )


@dataclass(frozen=True)
class _Label:
    """A label's IoU in percent, NaN where no held-out task shows it, and its ground-truth pixels."""

    name: str
    champion: float
    candidate: float
    pixels: int


def decide(
    labels: Sequence[str],
    champion: Measured,
    candidate: Measured,
    kept: Sequence[Retention],
    rules: Rules,
    *,
    cross_validated: bool = False,
) -> Decision:
    """Promote a candidate only if it is better, surely so, and forgets little.

    ``labels``: names (K). ``kept``: both on other data. ``cross_validated``: each task was held out in turn,
    so few of them suffice. Raises DataError for models that were not measured on the same annotations.
    """
    _require_same(labels, champion, candidate)
    tallies = _tally(champion.counts), _tally(candidate.counts)
    ious = [_iou(tally.sum(axis=1)) for tally in tallies]
    before, after = map(mean_percent, ious)
    pixels = tallies[0][1].sum(axis=0).astype(np.int64)
    table = [
        _Label(name, float(old) * 100, float(new) * 100, int(count))
        for name, old, new, count in zip(labels, *ious, pixels, strict=True)
    ]
    lower = _lower_bound(*tallies)
    numbers: dict[str, Any] = {
        "miou": {"champion": before, "candidate": after},
        "gain": after - before,
        "lower_bound": lower,
        "labels": [asdict(label) for label in table],
        "forgetting": [{**asdict(each), "lost": each.lost} for each in kept],
        "held_out_tasks": list(champion.tasks),
        "cross_validated": cross_validated,
        "rules": asdict(rules),
    }
    shown = int((champion.counts.sum(axis=(1, 2)) > 0).sum())
    numbers = {name: _without_nan(value) for name, value in numbers.items()} | {"labelled_tasks": shown}
    if missing := _missing(shown, rules, cross_validated=cross_validated):
        return Decision(Verdict.WAIT, (missing,), numbers)
    against = [
        *_no_gain(before, after, lower, rules),
        *(_fall(label, rules) for label in table if _falls(label, rules)),
        *(_forgotten(each, rules) for each in kept if _is_forgotten(each, rules)),
    ]
    if against:
        return Decision(Verdict.REJECT, tuple(against), numbers)
    gain = (
        f"held-out mIoU {before:.1f} -> {after:.1f} on {_tasks(shown, cross_validated)}: "
        f"{after - before:+.1f} points, "
        f"by the bootstrap at least {lower:+.1f}"
    )
    held = (f"{each.name}: mIoU {each.before:.1f} -> {each.after:.1f}" for each in kept)
    return Decision(Verdict.PROMOTE, (gain, *held), numbers)


def _require_same(labels: Sequence[str], champion: Measured, candidate: Measured) -> None:
    if champion.tasks != candidate.tasks:
        differing = sorted(set(champion.tasks) ^ set(candidate.tasks))
        raise DataError(
            "champion and candidate were measured on different held-out tasks "
            f"({', '.join(map(str, differing[:5])) or 'in another order'}): measure both on the same"
        )
    wanted = (len(champion.tasks), len(labels), len(labels) + 1)
    for measured in (champion, candidate):
        if measured.counts.shape != wanted:
            raise DataError(f"pixel counts are {measured.counts.shape} and should be {wanted}: measure again")
    if not np.array_equal(champion.counts.sum(axis=2), candidate.counts.sum(axis=2)):
        raise DataError("champion and candidate were measured on different annotations: measure both again")


def _tally(counts: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Sum what IoU needs of each task: pixels hit, true and predicted, (3, T, K)."""
    hit = counts[:, :, :-1].diagonal(axis1=1, axis2=2)
    return np.stack([hit, counts.sum(axis=2), counts[:, :, :-1].sum(axis=1)]).astype(np.float64)


def _iou(tally: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Intersection over union (..., K), 0..1, of a tally (3, ..., K); NaN for labels that no truth shows."""
    hit, true, predicted = tally
    return np.where(true > 0, hit / np.maximum(true + predicted - hit, 1), np.nan)


def _lower_bound(champion: npt.NDArray[np.float64], candidate: npt.NDArray[np.float64]) -> float:
    """Estimate the gain in points of mIoU that other tasks would have shown at the least; NaN without labels.

    Two tallies (3, T, K). Both models are looked at on the same resampled tasks: how hard a task is for both
    does not blur the difference. A resample that shows no label says nothing and is left out.
    """
    tasks = champion.shape[1]
    if tasks == 0:
        return math.nan
    draws = np.random.default_rng(0).multinomial(tasks, np.full(tasks, 1 / tasks), RESAMPLES)
    weights = draws.astype(np.float64)  # (R, T): how often each task was drawn
    # (R, T) @ (3, T, K) -> (3, R, K): sums of tallies, never of whole confusion matrices, fit into memory.
    before, after = (_iou(weights @ tally) for tally in (champion, candidate))
    present = ~np.isnan(before)
    labels = present.sum(axis=1)
    gain = np.where(present, after - before, 0).sum(axis=1)[labels > 0] / labels[labels > 0]
    return float(np.percentile(gain, PERCENTILE) * 100) if gain.size else math.nan


def _missing(shown: int, rules: Rules, *, cross_validated: bool) -> str | None:
    """Say what is missing for a decision; tasks without a labelled pixel tell nothing."""
    needed = min(rules.min_held_out, FEWEST_CROSS_VALIDATED) if cross_validated else rules.min_held_out
    if shown >= needed:
        return None
    other = ""
    if rules.few_held_out == "wait" and not cross_validated:
        other = "; EBSEG_FEW_HELD_OUT=cross-validate decides with fewer"
    return (
        f"{_tasks(shown, cross_validated)} with labels, {needed - shown} fewer than the {needed} that a "
        f"decision needs{other}"
    )


def _tasks(count: int, cross_validated: bool) -> str:
    kind = "held-out or cross-validated" if cross_validated else "held-out"
    return f"{count} {kind} task{'' if count == 1 else 's'}"


def _no_gain(before: float, after: float, lower: float, rules: Rules) -> list[str]:
    reasons = []
    if after - before < rules.promote_margin - ROUNDING:
        reasons.append(
            f"held-out mIoU {before:.1f} -> {after:.1f}: {after - before:+.1f} points, "
            f"wanted are {rules.promote_margin:+.1f}"
        )
    if not lower > ROUNDING:
        reasons.append(f"on other tasks it may be no gain: by the bootstrap {lower:+.1f} points at least")
    return reasons


def _falls(label: _Label, rules: Rules) -> bool:
    fall = label.champion - label.candidate
    return label.pixels >= rules.enough_pixels and fall > rules.largest_drop + ROUNDING


def _fall(label: _Label, rules: Rules) -> str:
    return (
        f"label {label.name!r} falls from IoU {label.champion:.1f} to {label.candidate:.1f}: "
        f"allowed are {rules.largest_drop:.1f} points"
    )


def _is_forgotten(each: Retention, rules: Rules) -> bool:
    kept_enough = each.after >= each.before * (1 - rules.largest_forgetting) - ROUNDING
    return not math.isnan(each.before) and not kept_enough


def _forgotten(each: Retention, rules: Rules) -> str:
    return (
        f"{each.name} falls from mIoU {each.before:.1f} to {each.after:.1f}, {each.lost:.1%} of it: "
        f"allowed are {rules.largest_forgetting:.1%}"
    )


def _without_nan(value: Any) -> Any:
    """Replace NaN, which JSON does not know, by None."""
    if isinstance(value, dict):
        return {key: _without_nan(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_without_nan(each) for each in value]
    return None if isinstance(value, float) and math.isnan(value) else value
