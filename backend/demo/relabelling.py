"""How fast a worker relabels a project, side by side with the model alone: in a Label Studio of its own."""

import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import psutil
from PIL import Image
from redis import Redis

from backend.demo.label_studio_server import Project
from backend.demo.project import SCENE_SEED, label_config, loop_settings, start_label_studio, start_worker
from backend.processes import ServerProcess, reach_this_machine_directly
from ebseg.data.drawn.synthetic import draw_scene
from ebseg.errors import TrainingError
from ebseg.images import read_image
from ebseg.loading import load
from ebseg.progress import count, doing
from ebseg.vocabulary import Vocabulary
from training.queue.orders import Which
from training.queue.plans import submit_plan
from training.queue.queues import ACTIVE, connect, find
from training.registry.registry import Registry
from training.settings import load_settings

LOOK_SECONDS = 0.1
SIZE = (360, 480)
"""Height and width of a drawn photo, in pixels."""


@dataclass(frozen=True)
class Cost:
    """Seconds a photo, and seconds of CPU: of the model alone, or of the worker with all its processes."""

    seconds: float
    cpu: float


@dataclass(frozen=True)
class Relabelling:
    """What relabelling ``photos`` photos takes in a worker that runs already, and what the model takes.

    ``label_studio``: its own seconds of CPU for a photo meanwhile.
    """

    photos: int
    model: Cost
    worker: Cost
    label_studio: float

    @property
    def speed(self) -> float:
        """Share of the model's own speed that is reached."""
        return self.model.seconds / self.worker.seconds


def measure_relabelling(
    model: str, labels: list[str], photos: int, label_studio: Path, folder: Path
) -> Relabelling:
    """Have a worker predict drawn photos twice, the model alone in between; the second time counts.

    For that the label config is changed, as a promotion changes the model: predictions are of another
    version then.
    ``label_studio``: its command; ``folder``: for all that this writes. Raises LabelStudioError,
    ServerProcessError, and TrainingError where a job fails.
    """
    reach_this_machine_directly()
    files = [folder / f"{number}.png" for number in range(photos)]
    for number, file in zip(count(photos, "Drawing photos"), files, strict=True):
        Image.fromarray(draw_scene(SCENE_SEED, number, size=SIZE).image).save(file)
    variables = {**loop_settings(folder), "EBSEG_MEMORY": "false"}
    settings = load_settings(home=Path(variables["EBSEG_HOME"]), model=model)
    settings.make_home()
    with (
        start_label_studio(label_studio, folder) as server,
        start_worker(server, model, folder, variables) as worker,
    ):
        config = label_config([[label] for label in labels])
        project = Project(server, "Relabelling", config)
        project.upload(files)
        version = Registry(settings).ensure_base().name
        connection = connect(settings)

        def relabel() -> None:
            _wait(connection, submit_plan(connection, project.id, version, Which.MISSING), worker)

        with doing("The worker predicts all photos for the first time"):
            relabel()
        with (
            doing("The model alone predicts them"),
            ProcessPoolExecutor(1, mp_context=get_context("spawn")) as fresh,
        ):
            alone = fresh.submit(_model_alone, model, labels, files, settings.precision).result()
        before = _cpu_of(server.process)
        project.change_label_config(config.replace(" toName", ' model_score_threshold="0.31" toName'))
        with doing("The worker predicts all photos anew"):
            relabelled = _cost(relabel, photos, lambda: _cpu_of(worker))
        return Relabelling(photos, alone, relabelled, (_cpu_of(server.process) - before) / photos)


def _cost(call: Callable[[], None], photos: int, cpu: Callable[[], float]) -> Cost:
    begun, used = time.monotonic(), cpu()
    call()
    return Cost((time.monotonic() - begun) / photos, (cpu() - used) / photos)


def _model_alone(model: str, labels: list[str], files: list[Path], precision: str) -> Cost:
    predictor, vocabulary = load(model, precision=precision), Vocabulary(labels)
    photos = [read_image(file) for file in files]
    predictor.predict(photos[0], vocabulary)  # the labels' embeddings are kept from then on

    def predict() -> None:
        for photo in photos:
            predictor.predict(photo, vocabulary)

    return _cost(predict, len(photos), time.process_time)


def _wait(connection: Redis, plan: str, worker: ServerProcess) -> None:
    """Wait for a plan and its jobs. Raises TrainingError where one fails."""
    waiting = [plan]
    while waiting:
        job = find(connection, waiting[0])
        if job is not None and job.get_status(refresh=False) in ACTIVE:
            worker.check_alive()
            time.sleep(LOOK_SECONDS)
            continue
        result = job.return_value() if job is not None else None
        if not isinstance(result, dict):
            raise TrainingError(f"{waiting[0]} failed; {worker.log} says why")
        waiting = [*waiting[1:], *result.get("chunks", ())]


def _cpu_of(process: ServerProcess) -> float:
    """Give the seconds of CPU that a process, its children and those that have ended have used."""
    leader = psutil.Process(process.pid)
    ended = leader.cpu_times()
    used = [each.cpu_times() for each in [leader, *leader.children(recursive=True)]]
    return ended.children_user + ended.children_system + sum(each.user + each.system for each in used)
