from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Page

import ebseg
from backend.demo.label_studio_server import LabelStudioServer
from backend.demo.project import serve_backend
from backend.processes import ServerProcess
from ebseg.data.drawn.synthetic import PHRASES, Scene, draw_scene
from ebseg.predictor import Predictor
from tests.e2e.editor import window
from tests.e2e.projects import Annotated, annotate
from tests.e2e.team import CAMVID_LABELS, camvid
from tests.servers import label_studio

MODEL = "ebseg-tiny"
SCENES = 4
SCENE_SEED = 11  # neither the demo's nor the training's
CAMVID_PHOTOS = 3


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabelStudioServer]:
    with label_studio(tmp_path_factory.mktemp("server") / "data", tmp_path_factory).running() as running:
        yield running


@pytest.fixture(scope="session")
def page(server: LabelStudioServer) -> Iterator[Page]:
    """A window in which the user is logged in."""
    with window(server) as page:
        yield page


@pytest.fixture(scope="session")
def backend(server: LabelStudioServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("backend")
    alone = {"EBSEG_HOME": str(folder / "home"), "EBSEG_LEARN": "false", "EBSEG_FOLLOW": "false"}
    with serve_backend(server, MODEL, folder, alone) as process:
        yield process


@pytest.fixture(scope="session")
def model() -> Predictor:
    return ebseg.load(MODEL)


@pytest.fixture(scope="session")
def scenes() -> list[Scene]:
    return [draw_scene(SCENE_SEED, index, size=(384, 512)) for index in range(SCENES)]


@pytest.fixture(scope="session")
def drawn(
    server: LabelStudioServer,
    backend: ServerProcess,
    scenes: list[Scene],
    tmp_path_factory: pytest.TempPathFactory,
) -> Annotated:
    """Drawn scenes, with the labels that occur in them."""
    folder = tmp_path_factory.mktemp("scenes")
    files = [folder / f"scene {number}.png" for number in range(len(scenes))]
    for file, scene in zip(files, scenes, strict=True):
        Image.fromarray(scene.image).save(file)
    present = np.unique([scene.label_map for scene in scenes]).tolist()
    return annotate(server, backend.url, "Drawn scenes", files, [[PHRASES[index]] for index in present])


@pytest.fixture(scope="session")
def street(server: LabelStudioServer, backend: ServerProcess) -> Annotated:
    """CamVid's street photos with its classes."""
    folder = camvid()
    if folder is None:
        pytest.skip("no CamVid photos: set EBSEG_CAMVID to where they are")
    files = sorted((folder / "images" / "val").glob("*.jpg"))[:CAMVID_PHOTOS]
    return annotate(server, backend.url, "Street photos", files, [[label] for label in CAMVID_LABELS])
