"""What the demo shows: pictures, their labels, the service that masks them, and the project of all three."""

import colorsys
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from PIL import Image
from rich.console import Console
from rich.progress import track

from backend.demo.label_studio_server import LabelStudioError, LabelStudioServer, Project
from backend.processes import ServerProcess, free_port
from ebseg.children import environment, python
from ebseg.data.drawn.synthetic import PHRASES, draw_scene
from ebseg.data.folder import list_files
from ebseg.errors import ConfigError, ImageError
from ebseg.images import OTHER_SUFFIXES, PHOTO_SUFFIXES, passed_over
from ebseg.label_lists import read_argument
from training.queue.embedded_redis import stop_embedded_redis

SHOWN_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif"})
"""What both a browser and Label Studio's upload take."""

BACKEND_PORT = 9090
MODEL_SECONDS = 3600.0
"""For loading the model, which may mean a download of 1.5 GB."""

SCENE_SEED = 2024
SCENE_COUNT = 12
SCENE_SIZE = (384, 512)
"""Height and width of a sample picture, in pixels."""

PHOTOS_PER_CALL = 4
"""Few enough that a large model on a CPU answers within Label Studio's 100 s."""

LOOP = {
    "EBSEG_MIN_NEW_ANNOTATIONS": "6",
    "EBSEG_MIN_HELD_OUT": "2",
    "EBSEG_HELD_OUT_SHARE": "0.3",
    "EBSEG_DEBOUNCE": "15",
    "EBSEG_FINETUNE_STEPS": "200",
}
"""Thresholds of the loop for somebody who has a few minutes; those in the environment win."""

EBSEG = python("-m", "ebseg")
"""The command ``ebseg`` of this environment."""

Labels = Sequence[Sequence[str]]
"""Names, each with its synonyms behind it."""

console = Console()


def choose_pictures(photos: Path | None, labels: str | None, scenes: Path) -> tuple[list[Path], Labels]:
    """Give the pictures and the labels of the demo: one's own, or drawn scenes and what occurs in them.

    Raises ImageError for a folder without photos, ConfigError for photos without labels, and what
    ``label_lists.read_argument`` raises for those labels.
    """
    if photos is None:
        pictures, present = draw_samples(scenes)
        return pictures, present if labels is None else read_argument(labels).prompts
    pictures = sorted(path for path in photos.rglob("*") if path.suffix.lower() in SHOWN_SUFFIXES)
    others = sorted(list_files(photos, (PHOTO_SUFFIXES | OTHER_SUFFIXES) - SHOWN_SUFFIXES))
    told = passed_over(photos, others) if others else ""
    if not pictures:
        kinds = ", ".join(sorted(SHOWN_SUFFIXES))
        raise ImageError(
            f"{photos} holds no photos: give a folder with files ending in {kinds}. {told}".rstrip()
        )
    if told:
        console.print(told, style="yellow", markup=False, soft_wrap=True)
    if labels is None:
        raise ConfigError('your own photos need labels: add LABELS="sky,road,car" (option --labels)')
    return pictures, read_argument(labels).prompts


def draw_samples(folder: Path) -> tuple[list[Path], Labels]:
    """Draw the sample scenes into ``folder``; give their files and the labels that occur in them."""
    folder.mkdir(exist_ok=True)
    files, present = [], set[int]()
    for index in range(SCENE_COUNT):
        scene = draw_scene(SCENE_SEED, index, size=SCENE_SIZE)
        files.append(folder / f"scene-{index + 1}.png")
        Image.fromarray(scene.image).save(files[-1])
        present.update(np.unique(scene.label_map).tolist())
    return files, [[PHRASES[index]] for index in sorted(present)]


def label_config(labels: Labels) -> str:
    """Write a label config that paints ``labels`` (a name, then its synonyms) on a task's image."""
    view = ElementTree.Element("View")
    ElementTree.SubElement(view, "Image", name="image", value="$image", zoom="true")
    control = ElementTree.SubElement(view, "BrushLabels", name="mask", toName="image")
    for number, (name, *synonyms) in enumerate(labels):
        label = ElementTree.SubElement(control, "Label", value=name, background=_colour(number))
        if synonyms:
            label.set("synonyms", "|".join(synonyms))
    return ElementTree.tostring(view, encoding="unicode")


def _colour(number: int) -> str:
    """Give label ``number`` a colour unlike its neighbours': steps of the golden ratio in hue."""
    rgb = colorsys.hsv_to_rgb(0.58 + number * 0.618034, 0.75, 0.9 if number % 2 else 0.7)
    return "#" + "".join(f"{round(255 * channel):02x}" for channel in rgb)


def pre_annotate(project: Project, task_ids: Sequence[int]) -> list[int]:
    """Retrieve predictions, a few pictures a call; give the tasks that got no masks.

    What the backend leaves out for want of time is asked again until two rounds in a row bring nothing:
    the first one of a large model may be spent on embedding the labels, which are kept.
    """
    missing = list(task_ids)
    fruitless_rounds = 0
    while missing and fruitless_rounds < 2:
        chunks = [
            missing[start : start + PHOTOS_PER_CALL] for start in range(0, len(missing), PHOTOS_PER_CALL)
        ]
        done = {
            task
            for chunk in track(chunks, "Pre-annotating", console=console)
            for task in project.retrieve_predictions(chunk)
        }
        fruitless_rounds = 0 if done else fruitless_rounds + 1
        missing = [task for task in missing if task not in done]
    return missing


def pre_annotated_project(
    server: LabelStudioServer,
    backend: ServerProcess,
    pictures: Sequence[Path],
    labels: Labels,
    every_one: bool,
) -> Project:
    """Make the project. Raises LabelStudioError if no picture, or with ``every_one`` any, gets no masks."""
    project = Project(server, f"EBSeg {datetime.now():%Y-%m-%d %H:%M:%S}", label_config(labels))
    task_ids = project.upload(pictures)
    project.connect(backend.url)
    missing = pre_annotate(project, task_ids)
    if missing:
        names = [picture.name for picture, task in zip(pictures, task_ids, strict=True) if task in missing]
        message = (
            f"{len(missing)} of {len(pictures)} pictures got no masks ({', '.join(names[:5])}): "
            f"the model is unsure of everything in them, or {backend.log} tells what went wrong"
        )
        if every_one or len(missing) == len(pictures):
            raise LabelStudioError(message)
        console.print(message, style="yellow")
    annotated = next(task for task in task_ids if task not in missing)
    project.show_scores_of(str(project.predictions(annotated)[0].model_version))
    return project


@contextmanager
def start_label_studio(executable: Path, folder: Path) -> Iterator[LabelStudioServer]:
    """Run Label Studio with its data in ``folder``; end it afterwards."""
    with ExitStack() as stack:
        with console.status("Starting Label Studio ..."):
            server = stack.enter_context(LabelStudioServer(executable, folder).running())
        yield server


def loop_settings(folder: Path) -> dict[str, str]:
    """Give the loop's variables for a demo in ``folder``."""
    chosen = {name: os.environ.get(name, value) for name, value in LOOP.items()}
    return {"EBSEG_HOME": str((folder / "loop").resolve()), **chosen}


@contextmanager
def serve_backend(
    server: LabelStudioServer, model: str, folder: Path, loop: Mapping[str, str], *, preferred_port: int = 0
) -> Iterator[ServerProcess]:
    """Run ``ebseg serve`` for a Label Studio until the model is loaded; end it afterwards."""
    port = free_port(preferred_port)
    process = ServerProcess("The EBSeg backend", f"http://127.0.0.1:{port}", folder / "backend.log")
    variables = _environment(server, model, loop) | {"EBSEG_HOST": "127.0.0.1", "EBSEG_PORT": str(port)}
    with process.running([*EBSEG, "serve"], variables):
        with console.status(f"Loading {model} (progress: {process.log}) ..."):
            process.wait_until_ready("/ready", MODEL_SECONDS)
        yield process


@contextmanager
def start_worker(
    server: LabelStudioServer, model: str, folder: Path, loop: Mapping[str, str]
) -> Iterator[ServerProcess]:
    """Run ``ebseg worker`` for a Label Studio; end it afterwards, and the loop's Redis with it."""
    process = ServerProcess("The worker", "", folder / "worker.log")
    try:
        with process.running([*EBSEG, "worker"], _environment(server, model, loop)):
            yield process
    finally:
        stop_embedded_redis(Path(loop["EBSEG_HOME"]) / "redis")


def _environment(server: LabelStudioServer, model: str, loop: Mapping[str, str]) -> dict[str, str]:
    return environment(
        **loop,
        EBSEG_MODEL=model,
        LABEL_STUDIO_URL=server.url,
        LABEL_STUDIO_API_KEY=server.access_token,
    )
