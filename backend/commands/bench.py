"""``ebseg bench``: how fast the service answers Label Studio's short calls, and what the model costs."""

import json
import random
import socket
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from itertools import cycle
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from backend.commands.bench_plots import draw_batches, require_plot
from backend.commands.bench_served import (
    LABELS,
    SCENE_SIZE,
    call,
    draw,
    label_config,
    random_weights,
    served,
)
from backend.commands.bench_stages import stages
from backend.commands.bench_throughput import throughput
from backend.commands.demo import LABEL_STUDIO
from ebseg.config import InferencePrecision, find_variant
from ebseg.data.drawn.synthetic import PHRASES
from ebseg.label_studio.kinds.brush import BRUSH
from ebseg.photo_sizes import photo_size
from ebseg.progress import count
from ebseg.vocabulary import Vocabulary

CONCURRENT_PREDICTIONS = 4
"""As the promise has it: p99 of /health and /setup under 100 ms while four /predict run."""

TASKS_PER_CALL = 4
SCENES = 4
PROMPTS = 20
"""Clicks on a photo, and boxes."""

MOST_AT_ONCE = 64

PAUSE_SECONDS = 0.02
"""Between two short calls, so that the measurement itself takes little of the machine."""

BRUSHES = label_config(BRUSH)

_EVENT = {
    "action": "ANNOTATION_UPDATED",
    "annotation": {"result": [{"value": {"format": "rle", "rle": list(range(256)) * 40}}], "project": 1},
    "project": {"id": 1},
}

_BEGINNING = b"POST /%s HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n"
_BEGINNINGS = (b"", b"GET /hea", _BEGINNING % b"predict" + b"\r\n{", _BEGINNING % b"webhook" + b"\r\n{")

app = typer.Typer(add_completion=False, no_args_is_help=True)
app.command()(stages)
app.command()(throughput)


@dataclass(frozen=True)
class Latency:
    """Seconds that the calls of one path took, each over a connection of its own."""

    path: str
    calls: int
    p50: float
    p99: float
    longest: float


@app.callback()
def _group() -> None:
    """Measure how fast things are."""


@app.command()
def service(
    model: Annotated[str, typer.Option(help="Model name or checkpoint file.")] = "ebseg-tiny",
    variant: Annotated[str, typer.Option(help="Serve random weights of this size instead.")] = "",
    seconds: Annotated[float, typer.Option(min=1, help="How long to measure.")] = 20.0,
    slow: Annotated[int, typer.Option(min=0, help="Connections that send no request to its end.")] = 0,
    megapixels: Annotated[
        float | None, typer.Option(help="Size of a photo, 4 wide to 3 high; by default 480x360.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the numbers as JSON.")] = False,
) -> None:
    """Measure smart tools, then /health, /setup and /webhook while four /predict calls run; over real HTTP.

    Example: ebseg bench service --seconds 30 --slow 200
    """
    with tempfile.TemporaryDirectory() as folder:
        given = random_weights(variant, Path(folder)) if variant else model
        size = SCENE_SIZE if megapixels is None else photo_size(megapixels)
        files = draw(Path(folder), range(SCENES + 1), size)
        with served(given, Path(folder)) as running, _kept_slow(running.address, slow):
            *photos, pointed_at = map(running.photo, files)
            first, prompts = measure_prompts(running.address, pointed_at, size)
            latencies, predicted = measure_latency(running.address, photos, seconds)
    if as_json:
        numbers = {"predicted": predicted, "latencies": [asdict(each) for each in latencies]}
        pointed = {"first_click": first, "prompts": [asdict(each) for each in prompts]}
        typer.echo(json.dumps(numbers | pointed))
        return
    typer.echo(f"the first click on a photo {1000 * first:.0f} ms; later ones on the same photo:")
    _print(prompts)
    typer.echo(f"{predicted} photos in {seconds:g} s, {CONCURRENT_PREDICTIONS} calls of /predict at a time")
    _print(latencies)


def _print(latencies: Sequence[Latency]) -> None:
    for each in latencies:
        typer.echo(
            f"{each.path:8} p50 {1000 * each.p50:6.1f} ms   p99 {1000 * each.p99:6.1f} ms   "
            f"longest {1000 * each.longest:6.1f} ms   ({each.calls} calls)"
        )


@app.command()
def model(
    variant: Annotated[str, typer.Option(help="Size of the model; its weights are random.")] = "base",
    rounds: Annotated[int, typer.Option(min=1, help="Photos to measure.")] = 5,
    as_json: Annotated[bool, typer.Option("--json", help="Print the numbers as JSON.")] = False,
) -> None:
    """Measure a 640x640 photo, side by side with segment-anything's own image encoder.

    Example: ebseg bench model --variant base
    """
    config = find_variant(variant)
    from ebseg.timing import time_model  # PyTorch is slow to import and `ebseg --help` does not need it

    times = time_model(config, Vocabulary.from_dataset("ade20k-150"), rounds)
    if as_json:
        typer.echo(json.dumps({**asdict(times), "ratio": times.ratio}))
        return
    typer.echo(
        f"EBSeg {variant}: {times.photo:.2f} s a photo, segment-anything's encoder {times.encoder:.2f} s: "
        f"{times.ratio:.2f} times"
    )


@app.command()
def precision(
    model: Annotated[str, typer.Option(help="Model name or checkpoint file.")] = "ebseg-tiny",
    variant: Annotated[str, typer.Option(help="Use random weights of this size instead.")] = "",
    rounds: Annotated[int, typer.Option(min=1, help="Photos to measure.")] = 5,
    scenes: Annotated[int, typer.Option(min=1, help="Drawn scenes to compare labels on.")] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="Print the numbers as JSON.")] = False,
) -> None:
    """Measure what each EBSEG_PRECISION takes on this machine, and how far its labels are float32's.

    Random weights answer nothing: of these only the time is measured. Example: ebseg bench precision
    """
    from ebseg.timing import compare_precisions  # as above

    with tempfile.TemporaryDirectory() as folder:
        used = random_weights(variant, Path(folder)) if variant else model
        costs = compare_precisions(used, rounds, 0 if variant else scenes)
    if as_json:
        typer.echo(json.dumps({name: asdict(cost) for name, cost in costs.items()}))
        return
    whole = costs[InferencePrecision.FLOAT32].seconds
    for name, cost in costs.items():
        line = f"{name:8} {cost.seconds:.3f} s a photo, {whole / cost.seconds:.2f} times as fast as float32"
        if cost.agreement is not None:
            line += f"; {cost.agreement:.2%} of the pixels have its labels, mIoU {cost.miou:.1f}"
        typer.echo(line)


@app.command()
def batches(
    *,
    variant: Annotated[str, typer.Option(help="Size of the model; its weights are random.")] = "base",
    sizes: Annotated[
        list[int],
        typer.Option(
            "--size",
            min=1,
            max=MOST_AT_ONCE,
            help="Photos at once; may be given several times.",
            default_factory=lambda: [1, 2, 4],
            show_default="1, 2, 4",
        ),
    ],
    rounds: Annotated[int, typer.Option(min=1, help="Times that each is measured.")] = 5,
    precision: Annotated[InferencePrecision, typer.Option(help="As EBSEG_PRECISION.")] = (
        InferencePrecision.FLOAT32
    ),
    as_json: Annotated[bool, typer.Option("--json", help="Print the numbers as JSON.")] = False,
    plot: Annotated[
        Path | None, typer.Option(help="Draw milliseconds a photo by photos at once (PNG; with matplotlib).")
    ] = None,
) -> None:
    """Measure 640x640 photos that are encoded one, two or more at once, on a GPU where there is one.

    Example: ebseg bench batches --size 1 --size 32 --precision bf16 --plot batches.png
    """
    config = find_variant(variant)
    require_plot(plot)
    from ebseg.timing import time_batches  # as above

    seconds = time_batches(config, sizes, rounds, precision)
    if as_json:
        typer.echo(json.dumps(seconds))
    else:
        for size, each in seconds.items():
            typer.echo(f"EBSeg {variant}, {size} at once: {1000 * each:.1f} ms a photo")
    if plot is not None:
        draw_batches(seconds, f"EBSeg {variant}, {precision}", plot)


@app.command()
def train(
    variant: Annotated[str, typer.Option(help="Size of the model; its weights are random.")] = "base",
    precision: Annotated[Literal["float32", "bf16"], typer.Option(help="As --precision of ebseg train.")] = (
        "float32"
    ),
    rounds: Annotated[int, typer.Option(min=1, help="Steps to measure.")] = 5,
    as_json: Annotated[bool, typer.Option("--json", help="Print the numbers as JSON.")] = False,
) -> None:
    """Measure a training step on a 640x640 photo, side by side with segment-anything's image encoder.

    Example: ebseg bench train --variant base --precision bf16
    """
    config = find_variant(variant)
    from ebseg.timing import time_training_step  # as above

    vocabulary = Vocabulary.from_dataset("coco-stuff-171")
    cost = time_training_step(config, vocabulary, rounds, bf16=precision == "bf16")
    if as_json:
        typer.echo(json.dumps({**asdict(cost), "ratio": cost.ratio}))
        return
    typer.echo(
        f"EBSeg {variant}: {cost.step:.2f} s a training step, segment-anything's encoder "
        f"{cost.encoder:.2f} s: {cost.ratio:.2f} times; {cost.peak_gib:.2f} GiB of memory"
    )


@app.command()
def projects(
    variant: Annotated[str, typer.Option(help="Size of the model; its weights are random.")] = "base",
    number: Annotated[int, typer.Option("--projects", min=1, help="Projects with their own champion.")] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="Print the numbers as JSON.")] = False,
) -> None:
    """Measure the memory of projects' champions beside the base, whose backbone they share.

    Example: ebseg bench projects --variant base --projects 20
    """
    config = find_variant(variant)
    from ebseg.timing import measure_projects  # as above

    cost = measure_projects(config, Vocabulary(PHRASES[:LABELS]), number)
    if as_json:
        typer.echo(json.dumps(asdict(cost)))
        return
    typer.echo(
        f"EBSeg {variant}: a file of {cost.file / 1e6:.0f} MB, a head of {cost.head / 1e6:.0f} MB; in memory "
        f"{cost.base / 1e6:.0f} MB, and {cost.others / 1e6:.0f} MB more for {number} projects; naming the "
        f"backbone took {cost.named:.2f} s, loading the first head {cost.first:.2f} s, another one "
        f"{cost.seconds:.2f} s"
    )


@app.command()
def relabelling(
    model: Annotated[str, typer.Option(help="Model name or checkpoint file.")] = "ebseg-tiny",
    variant: Annotated[str, typer.Option(help="Use random weights of this size instead.")] = "",
    photos: Annotated[int, typer.Option(min=1, help="Drawn photos to predict.")] = 64,
    label_studio: Annotated[Path, typer.Option(help="Label Studio's command.")] = LABEL_STUDIO,
    as_json: Annotated[bool, typer.Option("--json", help="Print the numbers as JSON.")] = False,
) -> None:
    """Measure a worker that predicts a project of Label Studio's anew, side by side with the model alone.

    Example: ebseg bench relabelling --photos 16
    """
    from backend.demo.relabelling import measure_relabelling  # as above

    with tempfile.TemporaryDirectory() as folder:
        used = random_weights(variant, Path(folder)) if variant else model
        cost = measure_relabelling(used, list(PHRASES[:LABELS]), photos, label_studio, Path(folder))
    if as_json:
        typer.echo(json.dumps({**asdict(cost), "speed": cost.speed}))
        return
    typer.echo(
        f"{photos} photos: the model alone {cost.model.seconds:.2f} s a photo "
        f"({cost.model.cpu:.2f} s of CPU), the worker {cost.worker.seconds:.2f} s "
        f"({cost.worker.cpu:.2f} s of CPU, and {cost.label_studio:.2f} s of Label Studio's): "
        f"{cost.speed:.0%} of the model's own speed"
    )


def measure_prompts(address: str, photo: str, size: tuple[int, int]) -> tuple[float, list[Latency]]:
    """Give the seconds of the first click on a photo, and those of clicks and boxes after it.

    ``address``, ``photo``: as in ``measure_latency``; a photo that was not asked for yet. ``size``: its
    height and width, in pixels.
    """
    chance = random.Random(0)

    def seconds(kind: str, side: float) -> float:
        value: dict[str, Any] = {"x": chance.uniform(0, 100 - side), "y": chance.uniform(0, 100 - side)}
        value |= {"width": side, "height": side, "rotation": 0, kind: [chance.choice(PHRASES[:LABELS])]}
        region: dict[str, Any] = {"type": kind, "to_name": "image", "value": value}
        region |= {"original_width": size[1], "original_height": size[0]}
        body = {"tasks": [{"id": 1, "data": {"image": photo}}], "label_config": BRUSHES}
        return _timed(address, "POST", "/predict", {**body, "params": {"context": {"result": [region]}}})

    first = seconds("keypointlabels", 0)
    clicks = [seconds("keypointlabels", 0) for _ in count(PROMPTS, "Clicks")]
    boxes = [seconds("rectanglelabels", 40) for _ in count(PROMPTS, "Boxes")]
    return first, [_latency("click", clicks), _latency("box", boxes)]


def measure_latency(address: str, photos: list[str], seconds: float) -> tuple[list[Latency], int]:
    """Give the latencies of the short calls during ``seconds`` of predictions, and the photos predicted.

    ``address``: host:port of a service that is ready. ``photos``: addresses that it can fetch.
    """
    end = time.monotonic() + seconds
    predicted: list[int] = []
    tasks = [
        {"id": number, "data": {"image": photos[number % len(photos)]}} for number in range(TASKS_PER_CALL)
    ]

    def predict() -> None:
        while time.monotonic() < end:
            answer = call(address, "POST", "/predict", {"tasks": tasks, "label_config": BRUSHES})
            predicted.append(sum(bool(result) for result in json.loads(answer)["results"]))

    workers = [threading.Thread(target=predict) for _ in range(CONCURRENT_PREDICTIONS)]
    for worker in workers:
        worker.start()
    times: dict[str, list[float]] = {"/health": [], "/setup": [], "/webhook": []}
    for _ in count(int(seconds), "Short calls while photos are predicted"):
        second = time.monotonic() + 1
        while time.monotonic() < second:
            times["/health"].append(_timed(address, "GET", "/health", None))
            times["/setup"].append(_timed(address, "POST", "/setup", {"schema": BRUSHES}))
            times["/webhook"].append(_timed(address, "POST", "/webhook", _EVENT))
            time.sleep(PAUSE_SECONDS)
    for worker in workers:
        worker.join()
    return [_latency(path, values) for path, values in times.items()], sum(predicted)


def _latency(path: str, values: list[float]) -> Latency:
    percentiles = statistics.quantiles(values, n=100, method="inclusive")
    return Latency(path, len(values), percentiles[49], percentiles[98], max(values))


def _timed(address: str, method: str, path: str, body: Any) -> float:
    begun = time.perf_counter()
    call(address, method, path, body)
    return time.perf_counter() - begun


def open_slow(address: str, number: int) -> list[socket.socket]:
    """Open connections that send, in turn, nothing, half a head, half a body to /predict and to /webhook."""
    host, _, port = address.partition(":")
    connections = [socket.create_connection((host, int(port)), timeout=100) for _ in range(number)]
    for connection, beginning in zip(connections, cycle(_BEGINNINGS), strict=False):
        connection.sendall(beginning)
    return connections


@contextmanager
def _kept_slow(address: str, number: int) -> Iterator[None]:
    """Keep that many slow connections, which send a byte a second; who is dropped comes again."""
    ended = threading.Event()

    def keep() -> None:
        connections: list[socket.socket] = []
        while not ended.wait(1):
            connections = [each for each in connections if _is_open(each)]
            connections += open_slow(address, number - len(connections))
        for connection in connections:
            connection.close()

    keeper = threading.Thread(target=keep)
    keeper.start()
    try:
        yield
    finally:
        ended.set()
        keeper.join()


def _is_open(connection: socket.socket) -> bool:
    """Send a byte; close the connection if the other side has."""
    with suppress(OSError):
        connection.sendall(b"x")
        return True
    connection.close()
    return False
