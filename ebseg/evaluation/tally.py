"""What an evaluation has counted so far: small, whatever the number of photos, and kept on disk."""

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import gather_object, reduce

from ebseg.errors import ConfigError
from ebseg.evaluation.metrics import BoundaryCounts, ConfusionMatrix, Labels, count_pairs
from ebseg.files import whole

EXTREMES = 10
"""Photos kept at each end: the best and the worst ones."""

BROKEN_SHOWN = 100
"""Messages kept of photos that could not be measured; all are counted."""

STAGES = ("text", "read", "network", "scores", "metrics", "wait", "total")
"""What takes time: encoding the labels' names; reading and resizing, in several threads; the network, and
the pixels' scores by its masks and classes; counting, in a thread; waiting for photos to be read; and all
photos from first to last, which the text is not in."""


@dataclass(frozen=True, order=True)
class PhotoScore:
    """A photo's own mIoU, in percent. ``index``: its place in the source. ``pixels``: those with a truth."""

    miou: float
    index: int
    name: str
    pixels: int


@dataclass
class Tally:
    """Counts of the first ``done`` photos of one process, of ``labels`` labels.

    ``measured``: photos counted; the others are ``broken``, of which ``messages`` says more. ``best`` and
    ``worst`` by mIoU. ``seconds``: busy seconds of each of ``STAGES``.
    """

    labels: int
    done: int = 0
    measured: int = 0
    broken: int = 0
    messages: list[str] = field(default_factory=list)
    best: list[PhotoScore] = field(default_factory=list)
    worst: list[PhotoScore] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))

    def __post_init__(self) -> None:
        self.matrix = ConfusionMatrix(self.labels)
        self.boundary = BoundaryCounts(self.labels)

    def add(self, index: int, name: str, predicted: Labels, truth: Labels) -> None:
        """Count a photo."""
        pairs = count_pairs(predicted, truth, self.labels)
        self.matrix.add_pairs(pairs)
        self.boundary.add(predicted, truth)
        self.done += 1
        self.measured += 1
        if len(pairs.pixels):
            self._rank([PhotoScore(pairs.miou(), index, name, int(pairs.pixels.sum()))])

    def add_broken(self, message: str) -> None:
        """Count a photo that cannot be measured."""
        self.done += 1
        self.broken += 1
        self.messages = [*self.messages, message][:BROKEN_SHOWN]

    def save(self, path: Path, identity: Mapping[str, str]) -> None:
        """Write all of it, whole or not at all. ``identity``: what was evaluated, and how."""
        with whole(path) as unfinished, unfinished.open("wb") as file:
            np.savez_compressed(
                file,
                counts=self.matrix.counts,
                intersection=self.boundary.intersection,
                union=self.boundary.union,
                rest=np.array(json.dumps({"identity": dict(identity), **self._rest()})),
            )

    @classmethod
    def load(cls, path: Path, identity: Mapping[str, str]) -> "Tally | None":
        """Read what ``save`` wrote; None where there is nothing.

        Raises ConfigError for a file that is damaged or of another evaluation.
        """
        if not path.exists():
            return None
        content = io.BytesIO(path.read_bytes())  # of a damaged file, NumPy would leave the handle open
        try:
            with np.load(content, allow_pickle=False) as found:
                rest = json.loads(str(found["rest"]))
                found_identity = rest.pop("identity")
                arrays = [found[name] for name in ("counts", "intersection", "union")]
        except Exception as error:  # a damaged archive makes NumPy raise nearly anything
            raise ConfigError(
                f"{path} is damaged ({type(error).__name__}): remove it, and the evaluation starts again"
            ) from error
        other = [key for key in identity | found_identity if identity.get(key) != found_identity.get(key)]
        if other:
            raise ConfigError(
                f"{path} is of another evaluation, which differs in: {', '.join(sorted(other))}. Choose "
                "another folder, or give what that one was given"
            )
        return cls._of(arrays, rest)

    def gathered(self, device: torch.device) -> "Tally":
        """Add up all processes' tallies, which each of them gets. ``device``: this process's."""
        arrays = [
            reduce(torch.from_numpy(array).to(device), reduction="sum").cpu().numpy()
            for array in (self.matrix.counts, self.boundary.intersection, self.boundary.union)
        ]
        together = Tally._of(arrays, self._rest())
        parts = [Tally._of(arrays, rest) for rest in gather_object([self._rest()])]
        for name in ("done", "measured", "broken"):
            setattr(together, name, sum(getattr(part, name) for part in parts))
        together.messages = [message for part in parts for message in part.messages][:BROKEN_SHOWN]
        together.seconds = {stage: sum(part.seconds[stage] for part in parts) for stage in STAGES}
        together._rank([photo for part in parts for photo in (*part.best, *part.worst)])
        return together

    def _rank(self, photos: Sequence[PhotoScore]) -> None:
        """Let photos take their places among the best and the worst."""
        self.best = sorted({*self.best, *photos}, key=lambda photo: (-photo.miou, photo.index))[:EXTREMES]
        self.worst = sorted({*self.worst, *photos})[:EXTREMES]

    def _rest(self) -> dict[str, Any]:
        """Give what is in no array, as JSON may hold it."""
        return asdict(self)

    @classmethod
    def _of(cls, arrays: Sequence[Any], rest: Mapping[str, Any]) -> "Tally":
        ranked = {name: [PhotoScore(**photo) for photo in rest[name]] for name in ("best", "worst")}
        tally = cls(**{**rest, **ranked})
        tally.matrix.counts, tally.boundary.intersection, tally.boundary.union = arrays
        return tally
