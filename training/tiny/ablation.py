"""The paper's ablation on drawn scenes: `python -m training.tiny.ablation --out DIR`, then `--report`.

Four rows, each adding one part of the method to the row above, each trained with several seeds and
measured on the benchmark's scenes. Runs are independent and each has a folder: what is missing is run, a
run that was stopped goes on from its checkpoint, and several processes may share the work. Every run
starts from the encoders of one small model, frozen but for their positions, and from a decoder whose
first weights depend on the seed alone: rows are compared seed by seed.
"""

import hashlib
import json
import logging
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor

from ebseg.config import RECIPES, TINY, BalanceConfig, ModelConfig, TrainConfig
from ebseg.data.drawn.scenes import SceneSource, benchmark_scenes, benchmark_vocabulary, renamed_vocabulary
from ebseg.data.samples import Source
from ebseg.encoders import load_encoders
from ebseg.errors import ConfigError, InUse
from ebseg.evaluation.in_memory import evaluate
from ebseg.files import locked, write_whole, write_whole_json
from ebseg.loading import PACKAGED, checkpoint_path
from ebseg.model import EBSeg
from ebseg.predictor import Predictor
from ebseg.runs.watch import StepReport, Watcher
from ebseg.sam import STRIDES, SpatialEncoder
from ebseg.train import train
from ebseg.vocabulary import Vocabulary
from training.tiny.ablation_report import write_report
from training.tiny.exponents import choose_exponents

logger = logging.getLogger(__name__)

A_ALONE = BalanceConfig(alpha=0, beta=0, gamma=0)


@dataclass(frozen=True)
class Row:
    """A row of the table: which parts of the method it has.

    `adab`: the B embeddings' loss, and classes balanced from A, B and C; without, A says the class alone.
    `ssc`: the semantic structure consistency loss. `spatial`: the SAM-style encoder; without, only CLIP's
    features enter the pixel decoder.
    """

    name: str
    adab: bool
    ssc: bool
    spatial: bool


ROWS = (
    Row("mask-decoder", adab=False, ssc=False, spatial=False),
    Row("adab", adab=True, ssc=False, spatial=False),
    Row("ssc", adab=True, ssc=True, spatial=False),
    Row("spatial", adab=True, ssc=True, spatial=True),
)

ALL_ROWS = ",".join(row.name for row in ROWS)


@dataclass(frozen=True)
class Plan:
    """What all runs of a table have in common.

    `training`: but for the seed, which is the run's. `encoders`: model whose encoders every run starts
    from. `validation`: scenes that exponents are chosen on. `scenes`: of the benchmark.
    """

    training: TrainConfig = RECIPES["tiny"].model_copy(update={"steps": 500, "crop": 160})
    encoders: str = PACKAGED
    validation: int = 40
    scenes: int = 100


class NoSpatialEncoder(SpatialEncoder):
    """Zero maps in the shapes of the spatial encoder's, whose weights stay but are not used."""

    def forward(self, images: Tensor) -> list[Tensor]:
        """Give four (B, C, height / stride, width / stride) maps of zeros."""
        batch, _, height, width = images.shape
        return [
            images.new_zeros(batch, self.config.width, height // stride, width // stride)
            for stride in (self.config.patch_size, *STRIDES)
        ]


class AblatedEBSeg(EBSeg):
    """EBSeg with the parts of one row."""

    def __init__(
        self, config: ModelConfig, row: Row, *, training_vocabulary: Vocabulary | None = None
    ) -> None:
        super().__init__(config, training_vocabulary=training_vocabulary)
        self.row = row
        if not row.spatial:  # after everything else, so that all rows draw the same first weights
            self.sam = NoSpatialEncoder(config.sam)
            self._freeze()
            self.eval()

    def losses(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """Give the loss terms that the row has; see EBSeg."""
        terms = super().losses(*args, **kwargs)
        return {name: term for name, term in terms.items() if self._has(name)}

    def _has(self, term: str) -> bool:
        if term.startswith("class_b"):
            return self.row.adab
        return self.row.ssc or term != "ssc"


class Stopwatch(Watcher):
    """Adds up the seconds of a run's steps, over all processes that worked on it one after the other."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.seconds = float(path.read_text()) if path.exists() else 0.0

    def started(self, net: EBSeg, config: TrainConfig, sources: Sequence[Source], step: int) -> None:
        """Count from what is stored."""

    def stepped(self, progress: StepReport) -> None:
        """Count a step."""
        self.seconds += progress.seconds

    def stored(self, net: EBSeg, step: int) -> None:
        """Keep the sum with each checkpoint: what is done again after a stop is not counted twice."""
        write_whole(self.path, str(self.seconds))

    def finished(self, path: Path) -> None:
        """Nothing is left to do: the last step was stored."""

    def failed(self, error: BaseException) -> None:
        """Nothing is left to do: the next process goes on from what was stored."""


@contextmanager
def claimed(path: Path) -> Iterator[bool]:
    """Claim a run for this process by locking a file; False where another process has it.

    The operating system gives the lock back when the process ends, however it ends.
    """
    with ExitStack() as held:
        try:
            held.enter_context(locked(path, seconds=0))
        except InUse:
            yield False
            return
        yield True


def run_missing(out: Path, rows: Sequence[Row], seeds: Sequence[int], plan: Plan) -> list[Path]:
    """Do the runs whose result is not in `out` and that no other process does; returns the new results.

    All rows of the first seed come first. Raises ConfigError where `out` has results of another plan.
    """
    out.mkdir(parents=True, exist_ok=True)
    written = []
    for seed in seeds:
        for row in rows:
            path = out / f"{row.name}-{seed}.json"
            with claimed(path.with_suffix(".lock")) as free:
                if not free:
                    logger.info("%s, seed %d: another process is at it", row.name, seed)
                elif path.exists():
                    _check_plan(path, plan)
                else:
                    found = {"row": row.name, "seed": seed, **run(row, seed, plan, out)}
                    write_whole_json(path, found)
                    written.append(path)
    return written


def run(row: Row, seed: int, plan: Plan, out: Path) -> dict[str, Any]:
    """Train a row with a seed, choose its exponents on validation scenes, and measure it."""
    folder = out / f"{row.name}-{seed}"
    folder.mkdir(exist_ok=True)
    watch = Stopwatch(folder / "seconds.txt")
    config = plan.training.model_copy(update={"seed": seed})
    torch.manual_seed(seed)
    net = AblatedEBSeg(TINY, row)
    load_encoders(net, plan.encoders)
    train(net, [SceneSource(seed, config.steps * config.batch)], config, folder, watchers=[watch])
    net.cpu()  # the same exponents and numbers wherever it was trained
    balance = choose_exponents(net, plan.validation).best if row.adab else A_ALONE
    net = net.with_balance(balance)
    result = evaluate(
        Predictor(net, version=f"{row.name}-{seed}", device="cpu"),
        benchmark_scenes(plan.scenes),
        benchmark_vocabulary(),
        renamed=renamed_vocabulary(),
    )
    found = {
        **_described(plan),
        "exponents": balance.model_dump(),
        **asdict(result),
        "harmonic": result.harmonic,
        "training_seconds": round(watch.seconds, 1),
        "threads": torch.get_num_threads(),
        "code": code_version(),
    }
    logger.info("%s, seed %d: %s", row.name, seed, json.dumps(found))
    return found


def _described(plan: Plan) -> dict[str, Any]:
    """Give what results must share to stand in one table."""
    return {
        "training": plan.training.model_dump(mode="json", exclude={"seed"}),
        "encoders": plan.encoders,
        "encoders_sha256": _sha256(checkpoint_path(plan.encoders)),
        "validation_scenes": plan.validation,
        "benchmark_scenes": plan.scenes,
    }


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check_plan(path: Path, plan: Plan) -> None:
    found, wanted = json.loads(path.read_text()), _described(plan)
    other = [name for name, value in wanted.items() if found.get(name) != value]
    if other:
        raise ConfigError(f"{path} was made with other settings ({', '.join(other)}): choose another folder")


def code_version() -> str:
    """Name the commit that this file is of, with "-dirty" where files differ from it."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        found = subprocess.run(
            command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True, timeout=30
        )
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return found.stdout.strip()


def _chosen(names: str) -> list[Row]:
    rows = {row.name: row for row in ROWS}
    unknown = [name for name in names.split(",") if name not in rows]
    if unknown:
        raise typer.BadParameter(f"unknown rows {', '.join(unknown)}; there are {', '.join(rows)}")
    return [rows[name] for name in names.split(",")]


def main(
    out: Annotated[Path, typer.Option(help="folder of runs and results")] = Path("runs/ablation"),
    rows: Annotated[str, typer.Option(help="rows to run, with commas")] = ALL_ROWS,
    seeds: Annotated[str, typer.Option(help="seeds to run, with commas")] = "0,1,2",
    threads: Annotated[int, typer.Option(min=1, help="processor threads")] = 2,
    model: Annotated[str, typer.Option(help="model whose encoders the runs start from")] = PACKAGED,
    report: Annotated[bool, typer.Option("--report", help="write docs from the results instead")] = False,
) -> None:
    """Do the runs that OUT does not have yet, or write the table and the plot of those that it has."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    if report:
        table, plot = write_report(out, [row.name for row in ROWS], Path("docs"))
        typer.echo(f"wrote {table} and {plot}")
        return
    torch.set_num_threads(threads)
    run_missing(out, _chosen(rows), [int(seed) for seed in seeds.split(",")], Plan(encoders=model))


if __name__ == "__main__":
    typer.run(main)
