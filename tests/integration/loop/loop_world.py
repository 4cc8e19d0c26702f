"""The learning loop in one process: a real Redis, registry and storage; Label Studio and models from memory.

No worker and no training process: ``work`` does what waits in the queues, job by job, and a training is what
``World.train`` says. Models are scripted: how many rows of a photo each gets right.
"""

import hashlib
import io
import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import redis
import torch
from PIL import Image
from rq.job import JobStatus
from rq.utils import import_attribute
from safetensors.torch import save_file

from ebseg.config import TINY
from ebseg.data.samples import Sample
from ebseg.errors import FetchError
from ebseg.loading import version_name
from ebseg.predictor import Segmentation
from ebseg.vocabulary import Vocabulary
from tests.unit.training.fake_label_studio import FakeLabelStudio
from training.annotations import snapshot
from training.annotations.label_studio import LabelStudioClient
from training.annotations.labelling import read_labelling
from training.annotations.manifest import Manifest
from training.annotations.snapshot import is_held_out
from training.finetuning import parent
from training.finetuning.folder import FinetuneFolder
from training.jobs import labelling
from training.judging import cross_validation, judge
from training.loop import JobProgress, Loop
from training.queue.orders import Order
from training.queue.projects import PROJECTS_KEY, Project
from training.queue.queues import QueueName, find, queue, queues
from training.registry.version import Version
from training.settings import Settings

ROWS = 10
NOW = 1_800_000_000.0
LEFT, RIGHT = (
    {
        "type": "rectanglelabels", "to_name": "image", "from_name": "box", "id": name,
        "value": {"x": x, "y": 0, "width": 50, "height": 100, "rectanglelabels": [name]},
    }
    for x, name in ((0, "sky"), (50, "car"))
)  # fmt: skip


class Photos:
    """Hands out photos by their address."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}

    def fetch(self, url: str, *, task_id: int | None = None) -> bytes:
        if url not in self.files:
            raise FetchError(f"{url}: not found (404)")
        return self.files[url]


class Model:
    """Knows that the left half is the first label and the right half the second, in its first rows alone.

    ``trained_on``: what it says that it was trained on.
    """

    trained_on: Vocabulary | None = None
    photos_at_once = 1

    def __init__(self, version: str, rows: int) -> None:
        self.version, self.rows = version, rows
        self.net = SimpleNamespace(training_vocabulary=self.trained_on)
        self.asked = 0

    def encode(self, photo):
        features = torch.from_numpy(photo[..., 0].copy())[None, None].half() / 255
        encoded = SimpleNamespace(features=features, sizes=((4 * photo.shape[0], 4 * photo.shape[1]),))
        return SimpleNamespace(encoded=encoded, nbytes=photo.nbytes)

    def encode_many(self, photos):
        return [self.encode(photo) for photo in photos]

    def answer(self, ask, encoded, pixels):
        return self.predict(pixels, ask.vocabulary, ask.threshold)

    def predict(self, image, labels, threshold=None):
        self.asked += 1
        label_map = halves(image.shape[0], image.shape[1])
        label_map[self.rows :] = -1
        return Segmentation(label_map, np.ones(label_map.shape, np.float32), labels.names)


class Halves:
    """Photos of two labels that are no project's: general data."""

    def __init__(self, count: int = 4, labels: tuple[str, ...] = ("tree", "grass")) -> None:
        self.name, self.vocabulary, self.count = "general photos", Vocabulary(list(labels)), count
        self.read: list[int] = []

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Sample:
        self.read.append(index)
        return Sample(f"photo {index}", np.zeros((ROWS, 4, 3), np.uint8), halves(ROWS, 4))

    def fingerprint(self) -> str:
        return f"{self.count} general photos"


def halves(height: int, width: int) -> np.ndarray:
    label_map = np.zeros((height, width), np.int16)
    label_map[:, width // 2 :] = 1
    return label_map


def write_model(folder: Path, version: str) -> Path:
    """Write a file that has the header of a checkpoint and no weights to speak of."""
    path = folder / f"{version}.safetensors"
    folder.mkdir(exist_ok=True)
    header = {
        "ebseg_format": "1", "version": version, "config": TINY.model_dump_json(),
        "training_vocabulary": Vocabulary(["sky"]).to_json(),
    }  # fmt: skip
    save_file({"weight": torch.zeros(1)}, path, metadata=header)
    return path


class Watched:
    """A job that nobody looks at; ``stages``: what it said that it does."""

    def __init__(self) -> None:
        self.meta: dict[str, Any] = {}
        self.stages: list[str] = []

    def save_meta(self) -> None:
        self.stages.append(self.meta["progress"]["stage"])


class World:
    """Project 1 in Label Studio, and a loop around it that begins with the model in ``base``.

    ``rows``: of ROWS, how many each model gets right, by its version. ``train``: called with a training's
    spec, gives the name of the version that comes of it. ``now``: what the clock says.
    """

    def __init__(self, home: Path, connection: redis.Redis, base: Path) -> None:
        self.home, self.connection, self.now = home, connection, NOW
        self.fake, self.photos, self.jobs = FakeLabelStudio(), Photos(), Watched()
        self.rows = {"base-0": 3, "better-1": 8}
        self.train = lambda spec: "better-1"
        self.trained: list[dict[str, Any]] = []
        self.settings = Settings(
            home=home, model=str(base), redis_url="redis://nobody", label_studio_url="http://studio",
            label_studio_api_key="key", patience=0.0, debounce=0.0, min_new_annotations=4, min_held_out=4,
            memory=False,
        )  # fmt: skip
        self.registry = self.loop().registry
        connection.sadd(PROJECTS_KEY, 1)

    def model_file(self, version: str) -> Path:
        return write_model(self.home / "files", version)

    def load(
        self,
        path: Path,
        device: str | None = None,
        precision: str | None = None,
        beside: Model | None = None,
    ) -> Model:
        version = version_name(Path(path))
        return Model(version, self.rows[version])

    def run(self, folder: Path, spec: dict[str, Any], processes: int, report: Any) -> None:
        """Stand for the training process."""
        self.trained.append(spec)
        report({"step": 1}, ["a line of its log"])
        folder.mkdir(parents=True, exist_ok=True)
        made = shutil.copy(self.model_file(self.train(spec)), folder / "model.safetensors")
        FinetuneFolder(folder).outcome.write_text(json.dumps({"path": str(made), "steps": 7}))

    def version(self, model: str) -> str:
        """Name the version of the project's predictions by a model, as of now."""
        return read_labelling(self.fake.config, self.settings).version(model)

    def change(self, **settings: Any) -> None:
        self.settings = self.settings.model_copy(update=settings)
        self.registry = self.loop().registry

    def loop(self, job_id: str = "job-1") -> Loop:
        return replace(
            Loop.of(self.settings, self.connection, job_id, JobProgress(self.jobs)),
            studio=lambda: LabelStudioClient(self.settings, http=self.fake.http),
            photos=lambda: self.photos,
            clock=lambda: self.now,
        )

    def project(self, number: int = 1) -> Project:
        return Project(self.connection, number, lambda: self.now)

    def add_task(self, *, held_out: bool = False) -> int:
        """Add a task whose photo is, or is not, held out."""
        seed = len(self.fake.tasks) * 1000
        while True:
            content = io.BytesIO()
            pixels = np.random.default_rng(seed).integers(0, 256, (ROWS, 4, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(content, "PNG")
            photo = hashlib.sha256(content.getvalue()).hexdigest()
            if is_held_out(photo, self.settings.held_out_share) is held_out:
                self.photos.files[f"/{seed}.png"] = content.getvalue()
                return self.fake.add_task(image=f"/{seed}.png")
            seed += 1

    def annotate(self, train: int, held_out: int) -> list[int]:
        """Add so many annotated tasks of each part; give their numbers."""
        tasks = [self.add_task(held_out=number >= train) for number in range(train + held_out)]
        for task in tasks:
            self.fake.annotate(task, [LEFT, RIGHT])
        return tasks

    def register(self, version: str, rows: int, project: int = 1, **tags: str) -> Version:
        """Register a model as a training for a project would have."""
        self.rows[version] = rows
        self.registry.ensure_base()
        return self.registry.register(
            self.model_file(version), key=version, run_id=None, tags=tags, project=project
        )

    def read(self) -> Manifest:
        """Read the annotations, and start nothing."""
        loop = self.loop()
        return snapshot.take(loop.studio(), loop.photos(), loop.storage, 1, self.settings)

    def ask(self, order: Order) -> Any:
        """Submit a job and do it, nothing else."""
        order.resubmit(self.connection)
        return self.do(order.job_id)

    def waiting(self) -> list[str]:
        """List the jobs that wait in queues, the most urgent first."""
        return [job_id for line in queues(self.connection) for job_id in line.get_job_ids()]

    def work(self, *, most: int = 20) -> dict[str, Any]:
        """Do what waits, and what follows from it; give the results in the order in which they came."""
        done: dict[str, Any] = {}
        while (waiting := self.waiting()) and len(done) < most:
            done[waiting[0]] = self.do(waiting[0])
        return done

    def do(self, job_id: str) -> Any:
        """Do one job as a worker would, in this process."""
        job = find(self.connection, job_id)
        queue(self.connection, QueueName(job.origin)).remove(job_id)
        job.set_status(JobStatus.STARTED)
        plain = import_attribute(job.func_name).__wrapped__
        result = plain(self.loop(job_id), *json.loads(json.dumps(job.args)))
        job.set_status(JobStatus.FINISHED)
        return result


def put_in_place(world: World, patch: pytest.MonkeyPatch) -> None:
    """Have the loop load the world's models, and run its trainings."""
    patch.setattr(judge, "load_model", world.load)
    patch.setattr(cross_validation, "load", world.load)
    patch.setattr(labelling, "load", world.load)
    patch.setattr(parent, "run_process", world.run)
