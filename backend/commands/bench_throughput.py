"""``ebseg bench throughput``: what the service costs beside its model, by kinds of regions and by callers."""

import json
import statistics
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from itertools import count as numbers
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import psutil
import typer

from backend.commands.bench_plots import draw_memory, require_plot
from backend.commands.bench_served import (
    LABELS,
    SCENE_SIZE,
    Service,
    call,
    draw,
    label_config,
    random_weights,
    served,
)
from ebseg.data.drawn.synthetic import PHRASES
from ebseg.errors import ConfigError
from ebseg.label_studio.kinds import KINDS, Kind
from ebseg.photo_sizes import photo_size
from ebseg.progress import doing
from ebseg.vocabulary import Vocabulary
from training.settings import load_settings

if TYPE_CHECKING:
    from ebseg.predictor import Predictor

WRITTEN = {kind.tag.lower(): kind for kind in KINDS if kind.write}
"""The kinds of regions that are predicted, by name."""

MOST_CALLERS = 32
ROUND = 24
"""Photos over HTTP at a stretch; the model predicts some before them: machines change by the minute."""

ALONE = 12
"""Photos of a round that the model predicts alone."""

LOOK_EVERY = 50
"""Photos after which the service's memory is read."""


@dataclass(frozen=True)
class Throughput:
    """Seconds a photo over HTTP, and of the model alone on some of these photos: medians of their turns.

    ``memory``: the service's bytes at the beginning, after each LOOK_EVERY photos, and at the end.
    """

    kind: str
    callers: int
    photos: int
    alone: float
    http: float
    memory: list[int]

    @property
    def ratio(self) -> float:
        """How many times as long it takes over HTTP."""
        return self.http / self.alone


def throughput(
    *,
    model: Annotated[str, typer.Option(help="Model name or checkpoint file.")] = "ebseg-tiny",
    variant: Annotated[str, typer.Option(help="Serve random weights of this size instead.")] = "",
    kinds: Annotated[
        list[str],
        typer.Option(
            "--kind",
            help=f"Kind of regions ({', '.join(WRITTEN)}); may be given several times.",
            default_factory=lambda: list(WRITTEN),
            show_default="all",
        ),
    ],
    callers: Annotated[
        list[int],
        typer.Option(
            min=1,
            max=MOST_CALLERS,
            help="Calls of /predict at a time; may be given several times.",
            default_factory=lambda: [1, 8],
            show_default="1, 8",
        ),
    ],
    photos: Annotated[int, typer.Option(min=1, help="Photos of each measurement, one a call.")] = 48,
    megapixels: Annotated[
        float | None, typer.Option(help="Size of a photo, 4 wide to 3 high; by default 480x360.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the numbers as JSON.")] = False,
    plot: Annotated[
        Path | None, typer.Option(help="Draw the service's memory photo by photo (PNG; with matplotlib).")
    ] = None,
) -> None:
    """Measure predictions over HTTP, side by side with the model alone, and the service's memory.

    Each photo is new to the service, which fetches, decodes and predicts it and writes its regions. Example:
    ebseg bench throughput --kind polygon --callers 8
    """
    if unknown := set(kinds) - WRITTEN.keys():
        raise ConfigError(f"no kind of regions {sorted(unknown)}; known: {', '.join(WRITTEN)}")
    require_plot(plot)
    size = SCENE_SIZE if megapixels is None else photo_size(megapixels)
    done: list[Throughput] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        given = random_weights(variant, folder) if variant else model
        with (
            served(given, folder) as service,
            ProcessPoolExecutor(1, get_context("spawn"), _load, (given,)) as fresh,
        ):
            unused = numbers()
            for number in callers:
                for kind in kinds:
                    measured = _measure(service, fresh, kind, number, islice(unused, photos), folder, size)
                    typer.echo(json.dumps(_report(measured)) if as_json else _line(measured))
                    done.append(measured)
    if plot is not None:
        draw_memory(list(memory_lines(done)), plot)


def _report(measured: Throughput) -> dict[str, Any]:
    return {**asdict(measured), "ratio": measured.ratio}


def memory_lines(done: list[Throughput]) -> Iterator[tuple[str, list[int], list[int]]]:
    """Give the lines of a plot: a name, photos since the service started, its bytes after so many."""
    before = 0
    for each in done:
        photos = [before + min(place * LOOK_EVERY, each.photos) for place in range(len(each.memory))]
        yield f"{each.kind}, {each.callers} at a time", photos, each.memory
        before += each.photos


def _line(measured: Throughput) -> str:
    before, after = (used / 2**20 for used in (measured.memory[0], measured.memory[-1]))
    return (
        f"{measured.kind:9} {measured.callers:2} at a time: {1000 * measured.http:6.0f} ms a photo, "
        f"the model alone {1000 * measured.alone:6.0f} ms: {measured.ratio:.2f} times; "
        f"the service has {before:.0f} MiB before, {after:.0f} after"
    )


def _measure(
    service: Service,
    fresh: ProcessPoolExecutor,
    kind: str,
    callers: int,
    scenes: Iterator[int],
    folder: Path,
    size: tuple[int, int],
) -> Throughput:
    with doing("Drawing photos"):
        files = draw(folder, scenes, size)
    alone, over_http = [], []
    memory = _Memory(service.process.pid)
    with doing(f"The service, {kind}, {callers} at a time, and the model alone, in turns"):
        for first in range(0, len(files), ROUND):
            some = files[first : first + ROUND]
            alone.append(fresh.submit(_alone, some[:ALONE]).result())
            over_http.append(_over_http(service, WRITTEN[kind], callers, some, memory))
    for file in files:
        file.unlink()
    seconds = statistics.median(over_http)
    return Throughput(kind, callers, len(files), statistics.median(alone), seconds, memory.all())


class _Memory:
    """A process's bytes of memory: at first, after each LOOK_EVERY photos, and now."""

    def __init__(self, process: int) -> None:
        self._process = psutil.Process(process)
        self._done, self._used = 0, [self._process.memory_info().rss]

    def photo_done(self) -> None:
        self._done += 1
        if self._done % LOOK_EVERY == 0:
            self._used.append(self._process.memory_info().rss)

    def all(self) -> list[int]:
        return [*self._used, self._process.memory_info().rss]


def _over_http(service: Service, kind: Kind, callers: int, files: list[Path], memory: _Memory) -> float:
    """Have photos predicted over HTTP; give the seconds of each."""
    predict = partial(_predict, service, label_config(kind))
    begun = time.perf_counter()
    with ThreadPoolExecutor(callers) as pool:
        for _ in pool.map(predict, files):
            memory.photo_done()
    return (time.perf_counter() - begun) / len(files)


def _predict(service: Service, config: str, file: Path) -> None:
    task = {"id": int(file.stem), "data": {"image": service.photo(file)}}
    answer = json.loads(call(service.address, "POST", "/predict", {"tasks": [task], "label_config": config}))
    if not answer["results"][0]:
        raise RuntimeError(f"{file.name} got no prediction: {service.process.log} says why")


_loaded: "Predictor"
"""The model of the process that has it alone."""


def _load(model: str) -> None:
    from ebseg.loading import load  # PyTorch is slow to import

    global _loaded
    _loaded = load(model, precision=load_settings().precision)  # as the service does


def _alone(files: list[Path]) -> float:
    """Predict decoded photos; give the seconds of each."""
    from ebseg.images import read_image  # as above

    vocabulary, photos = Vocabulary(PHRASES[:LABELS]), [read_image(file) for file in files]
    _loaded.texts(vocabulary)
    begun = time.perf_counter()
    for photo in photos:
        _loaded.predict(photo, vocabulary)
    return (time.perf_counter() - begun) / len(photos)
