"""The result of a benchmark, and all of it as JSON: what reports are made of."""

import math
import os
import platform
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import torch

from ebseg.config import ModelConfig
from ebseg.data.labelled import ALL_IGNORED
from ebseg.evaluation.metrics import Scores, Shares, scores
from ebseg.evaluation.published import published_miou
from ebseg.evaluation.tally import STAGES, Tally
from ebseg.vocabulary import Vocabulary

CONFUSED_SHOWN = 50
"""Pairs of labels listed, those with most pixels first."""


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What was measured of a system on a data set.

    ``model``: its version. ``asked``: photos that there were, or the first few that were asked for, of which
    ``tally`` has those measured. ``official``: photos of the benchmark, None where it is none. ``config``:
    the model's, where it is known. ``device``: where it ran, in ``processes`` processes.
    """

    model: str
    dataset: str
    vocabulary: Vocabulary
    seen: tuple[bool, ...]
    asked: int
    official: int | None
    tally: Tally
    protocol: dict[str, Any]
    config: ModelConfig | None
    device: torch.device
    processes: int

    @property
    def scores(self) -> Scores:
        """All metrics, in percent."""
        return scores(self.tally.matrix, self.tally.boundary, self.seen)

    @property
    def unlabelled(self) -> bool:
        """Whether photos were read, and none of their pixels has a label."""
        return self.tally.measured > 0 and math.isnan(self.scores.miou)

    @property
    def published(self) -> float | None:
        """The paper's mIoU of this variant on this data set, in percent; None where there is none."""
        return published_miou(self.config.name if self.config else None, self.vocabulary.dataset)

    @property
    def difference(self) -> float | None:
        """Points of mIoU above the paper's; None where the two cannot be compared.

        They can after the same protocol: all photos of the benchmark, no test-time augmentation.
        """
        comparable = self.tally.measured == self.official and not self.protocol["tta"]
        return self.scores.miou - self.published if self.published is not None and comparable else None

    @property
    def photos_per_second(self) -> float:
        """Throughput of all processes together, without what is done once."""
        seconds = self.tally.seconds["total"] / self.processes
        return self.tally.measured / seconds if seconds else float("nan")

    def to_json(self) -> dict[str, Any]:
        """Give all of it as JSON may hold it; None is "not a number", for labels that no truth shows.

        Metrics are percent. Keys: ``model``, ``dataset``, ``labels``, ``seen``, ``photos`` (measured, asked,
        broken, official), ``metrics``, ``published``, ``difference``, ``classes`` (a row for each label),
        ``confusion`` (pairs of labels, ``share`` of the true label's pixels; predicted None is "none"),
        ``best``, ``worst`` (photos), ``broken`` (messages), ``protocol``, ``config``, ``versions``,
        ``hardware`` and ``throughput`` (``shares``, 0..1: busy time of each stage by the whole time; stages
        overlap).
        """
        tally = self.tally
        metrics = self.scores
        content: dict[str, Any] = _without_nan(
            {
                "model": self.model,
                "dataset": self.dataset,
                "labels": list(self.vocabulary.names),
                "seen": list(self.seen),
                "photos": {
                    "measured": tally.measured,
                    "asked": self.asked,
                    "broken": tally.broken,
                    "official": self.official,
                },
                "metrics": {
                    "miou": metrics.miou,
                    "fwiou": metrics.fwiou,
                    "macc": metrics.macc,
                    "pacc": metrics.pacc,
                    "seen": metrics.seen,
                    "unseen": metrics.unseen,
                    "harmonic": metrics.harmonic,
                    "boundary_iou": metrics.boundary,
                },
                "published": self.published,
                "difference": self.difference,
                "classes": self._classes(),
                "confusion": self._confusion(),
                "best": [{"name": p.name, "miou": p.miou, "pixels": p.pixels} for p in tally.best],
                "worst": [{"name": p.name, "miou": p.miou, "pixels": p.pixels} for p in tally.worst],
                "broken": tally.messages,
                "protocol": self.protocol,
                "config": self.config.model_dump(mode="json") if self.config else None,
                "versions": {
                    "ebseg": version("ebseg"),
                    "torch": torch.__version__,
                    "python": platform.python_version(),
                },
                "hardware": {
                    "cpus": os.cpu_count(),
                    "device": _device_name(self.device),
                    "processes": self.processes,
                },
                "throughput": self._throughput(),
            }
        )
        return content

    def _classes(self) -> list[dict[str, Any]]:
        def percent(shares: Shares) -> list[float]:
            return [float(share) for share in shares * 100]

        matrix = self.tally.matrix
        columns = {
            "name": self.vocabulary.names,
            "seen": self.seen,
            "iou": percent(matrix.iou()),
            "boundary_iou": percent(self.tally.boundary.iou()),
            "accuracy": percent(matrix.accuracy()),
            "pixels": matrix.pixels().tolist(),
        }
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]

    def _confusion(self) -> list[dict[str, Any]]:
        names = (*self.vocabulary.names, None)
        true = self.tally.matrix.pixels()
        return [
            {
                "truth": names[row],
                "predicted": names[column],
                "pixels": pixels,
                "share": float(pixels / true[row] * 100),
            }
            for row, column, pixels in self.tally.matrix.confused(CONFUSED_SHOWN)
        ]

    def _throughput(self) -> dict[str, Any]:
        seconds = self.tally.seconds
        return {
            "photos_per_second": self.photos_per_second,
            "seconds": seconds["total"] / self.processes,
            "text_seconds": seconds["text"] / self.processes,
            "shares": {
                stage: seconds[stage] / seconds["total"] if seconds["total"] else float("nan")
                for stage in STAGES
                if stage not in ("text", "total")
            },
        }


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def nothing_labelled(dataset: str) -> str:
    """Say that there is nothing to measure, and what to look at."""
    return f"no pixel of {dataset} is labelled, so nothing is measured: {ALL_IGNORED}"


def _without_nan(value: Any) -> Any:
    """Replace what JSON has no number for by None."""
    if isinstance(value, dict):
        return {key: _without_nan(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_without_nan(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
