import base64
import io
import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from flask.testing import FlaskClient
from PIL import Image

from backend.app import create_app
from ebseg.ask import Memory
from ebseg.checkpoint import save_checkpoint
from ebseg.data.drawn.synthetic import draw_scene
from ebseg.label_studio.tasks import read_label_config
from ebseg.model import EBSeg
from ebseg.predictor import Predictor
from ebseg.vocabulary import Vocabulary
from tests.unit.label_studio.http_server import Server, reply
from tests.unit.shallow import SHALLOW
from training.queue.outcomes import Outcomes
from training.settings import Settings

READY_SECONDS = 20

MEMORY = Memory(
    "abcdef", "tiny-untrained", ("sky", "road"), np.zeros((2 * SHALLOW.decoder.width, 2), np.float32),
    np.array([-9, 9], np.float32), np.ones(2, np.float32),
)  # fmt: skip
"""That all is road."""


class Shelf:
    """Memories by project; ``read`` lists what was read."""

    def __init__(self, **memories: Memory | None) -> None:
        self.memories = {int(project[1:]): memory for project, memory in memories.items() if memory}
        self.read: list[int] = []
        self.broken = False

    def stamp(self, project):
        if self.broken:
            raise OSError("the storage is away")
        return self.memories[project].name if project in self.memories else ""

    def used(self, project):
        self.read.append(project)
        return self.memories.get(project)


def png(image: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="session")
def scenes() -> list[np.ndarray]:
    return [draw_scene(7, number, size=(60, 80)).image for number in range(3)]


def untrained(seed: int, version: str) -> Predictor:
    """A real model, small and untrained; its masks are sharpened, so that two labels share a photo."""
    torch.manual_seed(seed)
    config = SHALLOW.model_copy(update={"test_size": 64, "test_max_size": 128})
    net = EBSeg(config, training_vocabulary=Vocabulary(["sky", "road"]))
    with torch.no_grad():
        net.text.logit_scale.fill_(5.5)
        for parameter in net.mask_decoder.mask_mlp.parameters():
            parameter.mul_(20)
    return Predictor(net, version=version)


@pytest.fixture(scope="session")
def predictor() -> Predictor:
    return untrained(12, "tiny-untrained")


@pytest.fixture(scope="session")
def successor() -> Predictor:
    """Another such model, whose masks are others."""
    return untrained(15, "tiny-successor")


@pytest.fixture(scope="session")
def checkpoint(predictor, tmp_path_factory) -> Path:
    """The untrained model as a file."""
    path = tmp_path_factory.mktemp("model") / "untrained.safetensors"
    save_checkpoint(predictor.net, path)
    return path


@pytest.fixture
def label_studio(scenes) -> Iterator[Server]:
    """A server that plays Label Studio's media: three uploads, no token needed."""
    server = Server()
    for number, scene in enumerate(scenes):
        server.routes[f"/data/upload/1/{number}.png"] = reply(png(scene))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def make_client(label_studio, predictor) -> Iterator[Callable[..., FlaskClient]]:
    """Build a client of the service; ``load`` gives another model than the untrained one.

    No champion is followed, no hints are taken and Label Studio is not watched but where ``champions``,
    ``connect`` and ``watch`` are given; no memory is used but those of ``memories``.
    """

    made = []

    def make(
        load=None, wait=True, champions=None, connect=None, watch=None, memories=None, **settings
    ) -> FlaskClient:
        chosen = Settings(**{"label_studio_url": label_studio.url, "min_area": 0.0, **settings})
        load = load or (lambda: predictor)
        client = create_app(
            chosen, load=load, champions=champions, connect=connect, watch=watch, memories=memories
        ).test_client()
        made.append(client)
        if wait:
            until(lambda: client.application.extensions["ebseg"].model.ready, "the model loads")
        return client

    yield make
    for client in made:
        client.application.extensions["ebseg"].stop()


class Sink:
    """Writes down what it is told; while ``away`` is set, it fails."""

    def __init__(self) -> None:
        self.told: list[tuple] = []
        self.connected = 0
        self.away = threading.Event()
        self.outcomes_of: dict[int, Outcomes] = {}
        self.jobs = {"train-1": {"status": "started", "progress": {"step": 3}}}

    def __call__(self) -> "Sink":
        self._require()
        self.connected += 1
        return self

    def _require(self) -> None:
        if self.away.is_set():
            raise ConnectionError("Redis is away")

    def note_event(self, project_id: int, events: int, forced: bool, uploaded: bool) -> None:
        self._tell("uploaded" if uploaded else "event", project_id, events, forced)

    def note_project(self, project_id: int, version: str) -> None:
        self._tell("project", project_id, version)

    def note_hostname(self, hostname: str) -> None:
        self._tell("hostname", hostname)

    def finish(self, project_id: int, task_ids: list[int], version: str) -> None:
        self._tell("finish", project_id, task_ids, version)

    def outcomes(self) -> dict[int, Outcomes]:
        self._require()
        return self.outcomes_of

    def paused(self) -> str:
        return "paused since 2026-01-31 10:00:00Z, until Label Studio is well: it answers 503"

    def job_status(self, job_id: str) -> dict | None:
        return self.jobs.get(job_id)

    def _tell(self, *what) -> None:
        self._require()
        self.told.append(what)


@pytest.fixture
def sink() -> Sink:
    return Sink()


def until(holds: Callable[[], object], what: str) -> None:
    """Wait until another thread has done its part."""
    end = time.monotonic() + READY_SECONDS
    while not holds():
        assert time.monotonic() < end, f"{what}: this did not come"
        time.sleep(0.005)


@pytest.fixture
def client(make_client) -> FlaskClient:
    return make_client()


def basic(user: str, password: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}


def label_config(*labels: str, control: str = "") -> str:
    tags = "".join(f'<Label value="{label}"/>' for label in labels or ("sky", "road"))
    return (
        '<View><Image name="photo" value="$image"/>'
        f'<BrushLabels name="mask" toName="photo" model_score_threshold="0" {control}>{tags}</BrushLabels>'
        "</View>"
    )


def named(model: str, config: str = "") -> str:
    """Name the version of a model's predictions, with the label config above unless told otherwise."""
    return read_label_config(config or label_config()).version(model)


def task(number: int, image: object) -> dict[str, object]:
    return {"id": number, "data": {"image": image}}


def upload(number: int) -> str:
    return f"/data/upload/1/{number}.png"


def predict(
    client: FlaskClient, tasks: list, config: str | None = None, context=None, project: int = 1, **options
):
    body = {
        "tasks": tasks,
        "project": f"{project}.1700000000",
        "label_config": label_config() if config is None else config,
        "params": {"login": None, "password": None, "context": context},
    }
    return client.post("/predict", data=json.dumps(body), content_type="application/json", **options)


def results(response) -> list[dict]:
    assert response.status_code == 200, response.data
    return response.json["results"]
