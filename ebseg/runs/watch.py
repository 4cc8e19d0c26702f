"""Who is told what a training run does, and the first of them: the terminal's progress bar."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as Bar
from rich.text import Text

from ebseg.config import TrainConfig

if TYPE_CHECKING:  # NumPy and PyTorch are slow to import, and the bar does not need them
    from ebseg.data.samples import Source
    from ebseg.model import EBSeg

MAIN_TERMS = {"class_a": "class A", "class_b": "class B", "mask": "mask", "dice": "dice", "ssc": "ssc"}
"""Loss terms of the last prediction, and what people call them."""

LINE_EVERY = 30.0
"""Seconds between lines where standard error is no terminal."""

_MEMORY_OF_PACE = 0.95
"""Share that a step keeps of its part in the smoothed pace one step later: about 20 steps count."""


@dataclass(frozen=True)
class StepReport:
    """What a step did.

    ``step``: steps done so far, of ``steps``. ``terms``: weighted loss terms; those of earlier predictions
    end in their number. ``photos``: over all processes. ``seconds``: wall time of the step. ``memory``: peak
    bytes so far, CUDA's or else the process's resident ones. ``broken``: broken files skipped so far.
    """

    step: int
    steps: int
    terms: Mapping[str, float]
    learning_rate: float
    gradient_norm: float
    photos: int
    seconds: float
    memory: int
    broken: int

    @property
    def loss(self) -> float:
        """The sum of all terms."""
        return sum(self.terms.values())

    @property
    def main(self) -> dict[str, float]:
        """The last prediction's terms."""
        return {name: self.terms[name] for name in MAIN_TERMS if name in self.terms}

    @property
    def earlier(self) -> float:
        """The sum of the earlier predictions' terms."""
        return sum(value for name, value in self.terms.items() if name not in MAIN_TERMS)


class StopTraining(Exception):  # noqa: N818 (no error)
    """Raised by a watcher's ``started`` or ``stored`` to end the run early, as if it had come to its end."""


class Watcher(Protocol):
    """Is told about a training run; in a run of several processes only the main one's watchers are."""

    def started(self, net: "EBSeg", config: TrainConfig, sources: Sequence["Source"], step: int) -> None:
        """Begin. ``step``: steps already done, where the run goes on from a checkpoint."""

    def stepped(self, progress: StepReport) -> None:
        """Note a step."""

    def stored(self, net: "EBSeg", step: int) -> None:
        """Note a checkpoint. ``net`` may be used but must be left as it was found."""

    def finished(self, path: Path) -> None:
        """End well; ``path`` is the model's file."""

    def failed(self, error: BaseException) -> None:
        """End badly. Also told where the start of a run failed, even of this watcher itself."""


class ProgressBar(Watcher):
    """A progress bar on standard error; where that is no terminal, a plain line now and then."""

    def __init__(self, console: Console | None = None, *, line_every: float = LINE_EVERY) -> None:
        self._console = console or Console(stderr=True)
        self._line_every = line_every
        self._since_line = line_every  # the first step has a line: something works
        self._pace = _Pace()
        self._terms = Text()
        columns = (
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("{task.description}", markup=False),
        )
        self._bar = Bar(*columns, console=self._console, expand=True)
        # Rich measures the pace in a window of seconds; a step of a large model may take longer than that.
        self._task = self._bar.add_task("")
        self._live: Live | None = None

    def started(self, net: "EBSeg", config: TrainConfig, sources: Sequence["Source"], step: int) -> None:
        """Show where the run begins."""
        self._bar.update(self._task, total=config.steps, completed=step)
        if self._console.is_interactive:
            self._live = Live(
                get_renderable=lambda: Group(self._bar, self._terms),
                console=self._console,
                refresh_per_second=4,
            )
            self._live.start()
        else:
            self._print(f"training EBSeg {net.config.name}: {step} of {config.steps} steps are done")

    def stepped(self, progress: StepReport) -> None:
        """Show a step."""
        self._pace.add(progress)
        if self._live is not None:
            self._terms = Text(_terms(progress))
            self._bar.update(self._task, completed=progress.step, description=self._pace.line(progress))
            return
        self._since_line += progress.seconds
        if self._since_line >= self._line_every or progress.step == progress.steps:
            self._since_line = 0.0
            told = f"{_terms(progress)}  {self._pace.line(progress)}"
            self._print(f"step {progress.step}/{progress.steps}  {told}")

    def stored(self, net: "EBSeg", step: int) -> None:
        """Show nothing: checkpoints are many."""

    def finished(self, path: Path) -> None:
        """Leave the bar as it is."""
        self._stop()

    def failed(self, error: BaseException) -> None:
        """Leave the bar as it is; who started the run prints the error."""
        self._stop()

    def _stop(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _print(self, line: str) -> None:
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)


class _Pace:
    """How fast the last steps were: sums in which older steps count less and less."""

    def __init__(self) -> None:
        self._steps = self._photos = self._seconds = 0.0

    def add(self, progress: StepReport) -> None:
        self._steps = self._steps * _MEMORY_OF_PACE + 1
        self._photos = self._photos * _MEMORY_OF_PACE + progress.photos
        self._seconds = self._seconds * _MEMORY_OF_PACE + progress.seconds

    def line(self, progress: StepReport) -> str:
        """Say the pace, the memory and the time left."""
        photos = self._photos / max(self._seconds, 1e-9)
        left = (progress.steps - progress.step) * self._seconds / self._steps
        broken = f"  {progress.broken} broken files" if progress.broken else ""
        return (
            f"{photos:.2f} photos/s  {progress.memory / 2**30:.1f} GiB  "
            f"{timedelta(seconds=round(left))} left{broken}"
        )


def _terms(progress: StepReport) -> str:
    main = (f"{MAIN_TERMS[name]} {value:.3f}" for name, value in progress.main.items())
    return "  ".join([f"loss {progress.loss:.2f}", *main])
