"""Reading annotations from a real Label Studio, and pushing predictions into it."""

import base64
import io
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from backend.demo.label_studio_server import LabelStudioServer, Project
from ebseg.data.drawn.synthetic import draw_scene
from ebseg.images import read_image
from ebseg.label_studio.regions import masks_to_regions, prediction
from ebseg.label_studio.tasks import read_label_config
from tests.servers import label_studio
from tests.unit.label_studio.http_server import Server, reply
from training.annotations import corrections, snapshot
from training.annotations import label_studio as studio_module
from training.annotations.entry import Entry
from training.annotations.label_studio import LabelStudioClient, NotInLabelStudio
from training.annotations.manifest import Manifest, latest
from training.annotations.photos import photo_fetcher
from training.annotations.snapshot import SnapshotSource
from training.settings import Settings
from training.storage import Storage

HEIGHT, WIDTH = 60, 80
LABELS = '<Label value="sky"/><Label value="car" alias="auto"/>'
CONFIG = f"""
<View>
  <Image name="image" value="$image"/>
  <BrushLabels name="mask" toName="image">{LABELS}</BrushLabels>
  <RectangleLabels name="box" toName="image">{LABELS}</RectangleLabels>
  <PolygonLabels name="outline" toName="image">{LABELS}</PolygonLabels>
  <EllipseLabels name="oval" toName="image">{LABELS}</EllipseLabels>
  <BitmaskLabels name="bits" toName="image">{LABELS}</BitmaskLabels>
  <Labels name="label" toName="image">{LABELS}</Labels>
  <Brush name="brush" toName="image"/>
  <Choices name="weather" toName="image"><Choice value="dry"/><Choice value="wet"/></Choices>
</View>
"""
CONTROL = read_label_config(CONFIG).questions[0].controls[0].control
LabelMap = npt.NDArray[np.int16]


@dataclass
class World:
    """A project of its own with six photos, and what the loop works with."""

    server: LabelStudioServer
    project: Project
    tasks: list[int]
    photos: list[bytes]
    settings: Settings
    storage: Storage
    fetched: list[str] = field(default_factory=list)

    @property
    def studio(self) -> LabelStudioClient:
        return LabelStudioClient(self.settings)

    def annotate(self, task: int, result: list[dict[str, Any]], **more: Any) -> int:
        made = self.server.client.annotations.create(task, result=result, **more)
        return int(made.id)

    def take(self) -> Manifest:
        photos = photo_fetcher(self.settings)
        fetch = photos.fetch

        def counted(url: str, *, task_id: int | None = None) -> bytes:
            self.fetched.append(url)
            return fetch(url, task_id=task_id)

        photos.fetch = counted  # type: ignore[method-assign]
        return snapshot.take(self.studio, photos, self.storage, self.project.id, self.settings)

    def label_map(self, manifest: Manifest, task: int) -> LabelMap:
        for part in ("train", "held_out"):
            source = SnapshotSource(self.storage, manifest, part)
            if task in source.tasks:
                sample = source[source.tasks.index(task)]
                np.testing.assert_array_equal(sample.image, read_image(self.photos[self.tasks.index(task)]))
                return sample.label_map
        raise AssertionError(f"task {task} is in no part")


def entry_of(manifest: Manifest, task: int) -> Entry:
    [entry] = [entry for entry in manifest.entries if entry.task == task]
    return entry


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabelStudioServer]:
    with label_studio(tmp_path_factory.mktemp("server") / "data", tmp_path_factory).running() as running:
        yield running


@pytest.fixture
def world(server: LabelStudioServer, tmp_path: Path) -> World:
    files = [tmp_path / f"scene {number}.png" for number in range(6)]
    for number, file in enumerate(files):
        Image.fromarray(draw_scene(7, number, size=(HEIGHT, WIDTH)).image).save(file)
    project = Project(server, "Snapshot", CONFIG)
    settings = Settings(
        label_studio_url=server.url,
        label_studio_api_key=server.access_token,
        patience=5.0,
        held_out_share=0.3,
    )
    return World(
        server,
        project,
        project.upload(files),
        [file.read_bytes() for file in files],
        settings,
        Storage(str(tmp_path / "storage"), tmp_path / "cache"),
    )


def region(kind: str, control: str, value: dict[str, Any], label: str | None, name: str) -> dict[str, Any]:
    labels = {kind: [label]} if label else {}
    return {
        "id": name, "type": kind, "from_name": control, "to_name": "image", "value": value | labels,
        "original_width": WIDTH, "original_height": HEIGHT, "image_rotation": 0,
    }  # fmt: skip


def brushed(label_map: LabelMap) -> list[dict[str, Any]]:
    scores = np.full(label_map.shape, 0.75, np.float32)
    return [each.result for each in masks_to_regions(label_map, scores, CONTROL)]


def bitmask(mask: npt.NDArray[np.bool_]) -> str:
    rgba = np.zeros((*mask.shape, 4), np.uint8)
    rgba[..., 3] = mask * 255
    content = io.BytesIO()
    Image.fromarray(rgba).save(content, "PNG")
    return "data:image/png;base64," + base64.b64encode(content.getvalue()).decode()


def every_kind() -> tuple[list[dict[str, Any]], LabelMap]:
    """Regions of all kinds, some over others, and what they show."""
    y, x = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    bits = (x > 60) & (y > 40)
    stroke = np.full((HEIGHT, WIDTH), -1, np.int16)
    stroke[50:, :20] = 0
    [brush] = brushed(stroke)
    shape = {"format": "rle", "rle": brush["value"]["rle"]}
    corner = {"x": 0, "y": 0, "width": 50, "height": 50, "rotation": 0}
    middle = {"x": 50, "y": 50, "radiusX": 20, "radiusY": 20, "rotation": 0}
    triangle = {"points": [[50, 0], [100, 0], [100, 40]], "closed": True}
    weather = {"id": "f", "type": "choices", "from_name": "weather", "to_name": "image"}
    regions = [
        region("rectanglelabels", "box", corner, "sky", "a"),
        region("ellipselabels", "oval", middle, "auto", "b"),
        region("polygonlabels", "outline", triangle, "sky", "c"),
        region("bitmasklabels", "bits", {"imageDataURL": bitmask(bits)}, "auto", "d"),
        region("brush", "brush", shape, None, "e"),
        region("labels", "label", shape, "auto", "e"),
        weather | {"value": {"choices": ["dry"]}},
    ]
    shown = np.full((HEIGHT, WIDTH), -1, np.int16)
    shown[(x < 40) & (y < 30)] = 0
    shown[((x - 40) / 16) ** 2 + ((y - 30) / 12) ** 2 <= 1] = 1
    shown[y < (x - 40) * 24 / 40 + 1e-9] = 0  # a centre on a shape's left edge is inside
    shown[bits] = 1
    shown[50:, :20] = 1
    return regions, shown


def test_a_project_is_read_twice(world: World) -> None:
    corrected, kinds, several, cancelled, unlabelled, wrong = world.tasks
    said = np.zeros((HEIGHT, WIDTH), np.int16)
    meant = said.copy()
    meant[:, 20:] = 1
    answer = {"result": brushed(said), "score": 0.75, "model_version": "v1"}
    world.studio.push_prediction(corrected, answer)
    [found] = world.studio.predictions_of(corrected)
    number, version = found.id, found.version
    assert version == "v1"
    world.annotate(corrected, brushed(meant), parent_prediction=number)
    regions, shown = every_kind()
    world.annotate(kinds, regions)
    truth = world.annotate(several, brushed(meant), ground_truth=True)
    newest = world.annotate(several, brushed(said))
    world.annotate(several, brushed(said), was_cancelled=True)
    world.annotate(cancelled, brushed(said), was_cancelled=True)
    bad = region("rectanglelabels", "box", {"x": 0, "y": 0, "width": 9, "height": 9}, "sky", "x")
    world.annotate(wrong, [bad | {"original_width": WIDTH + 1}])

    first = world.take()
    assert {entry.task for entry in first.entries} == {corrected, kinds, several}
    assert list(first.skipped) == [wrong] and 'region "x"' in first.skipped[wrong]
    np.testing.assert_array_equal(world.label_map(first, corrected), meant)
    np.testing.assert_array_equal(world.label_map(first, kinds), shown)
    np.testing.assert_array_equal(world.label_map(first, several), meant)
    assert entry_of(first, several).annotation == truth
    assert entry_of(first, corrected).pixels == {"sky": 20 * HEIGHT, "auto": 60 * HEIGHT}
    live = corrections.summarise(first.entries)["v1"]
    assert (live.corrections, live.mean_iou, live.changed, live.untouched_share) == (1, 0.125, 0.75, 0.0)
    assert [task.id for task in world.studio.unlabelled(world.project.id)] == [cancelled, unlabelled]
    assert len(world.fetched) == 4

    world.fetched.clear()
    assert world.take() == first == latest(world.storage, world.project.id)
    assert len(world.fetched) == 0

    world.server.client.annotations.update(truth, ground_truth=False)
    world.server.client.predictions.delete(number)
    second = world.take()
    assert entry_of(second, several).annotation == truth, "it is the one that was changed last"
    world.server.client.annotations.update(newest, result=brushed(said))
    third = world.take()
    assert entry_of(third, several).annotation == newest
    np.testing.assert_array_equal(world.label_map(third, several), said)
    assert entry_of(third, several).held_out == entry_of(first, several).held_out
    assert entry_of(third, corrected).correction == entry_of(first, corrected).correction
    assert first.fingerprint == second.fingerprint != third.fingerprint

    world.server.client.annotations.delete(newest)
    world.server.client.annotations.delete(truth)
    assert {entry.task for entry in world.take().entries} == {corrected, kinds}
    assert [task.id for task in world.studio.unlabelled(world.project.id)] == [several, cancelled, unlabelled]
    assert len(world.fetched) == 0, "no photo is fetched twice"


def test_pushed_predictions_fill_the_score_column(world: World) -> None:
    studio, project = world.studio, world.project.id
    assert not studio.set_model_version(project, "v1"), "no prediction is of this version yet"
    for task, score in zip(world.tasks[:3], (0.9, 0.25, 0.5), strict=True):
        label_map = np.zeros((HEIGHT, WIDTH), np.int16)
        regions = masks_to_regions(label_map, np.full(label_map.shape, score, np.float32), CONTROL)
        studio.push_prediction(task, prediction(regions, "v1"))
    assert [task.id for task in studio.unlabelled(project, without="v1")] == world.tasks[3:]
    assert [task.id for task in studio.unlabelled(project, without="v2")] == world.tasks
    assert studio.set_model_version(project, "v1")
    assert studio.project(project).model_version == "v1"
    columns = {"explore": [], "labeling": []}  # nothing is hidden, so all columns are computed
    answer = httpx.get(
        f"{world.server.url}/api/tasks/",
        params={"project": project, "query": f'{{"hiddenColumns": {columns}}}'.replace("'", '"')},
        headers=world.server.authorization(),
    )
    scores = {task["id"]: task["predictions_score"] for task in answer.json()["tasks"]}
    assert scores == dict(zip(world.tasks, (pytest.approx(0.9), 0.25, 0.5, None, None, None), strict=True))


def test_listings_are_whole_in_small_pages(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(studio_module, "PAGE_SIZE", 2)
    listed = []
    for task in world.studio.unlabelled(world.project.id):
        listed.append(task.id)
        world.annotate(task.id, [])  # it leaves the list that is being read
    assert listed == world.tasks
    assert [task.id for task in world.studio.annotated(world.project.id)] == world.tasks


def test_what_is_not_there(world: World) -> None:
    studio, missing = world.studio, 10**6
    answer = {"result": [], "score": 0.0, "model_version": "v1"}
    for ask in (
        lambda: studio.project(missing),
        lambda: studio.task(world.project.id, missing),
        lambda: studio.annotations(missing),
        lambda: studio.prediction(missing),
        lambda: studio.predictions_of(missing),
        lambda: studio.push_prediction(missing, answer),
        lambda: next(studio.unlabelled(missing)),
        lambda: studio.set_model_version(missing, "v1"),
    ):
        with pytest.raises(NotInLabelStudio):
            ask()


def test_reading_a_task_has_no_backend_predict_it(world: World) -> None:
    """Label Studio's own address of a task does: it would make a second prediction of the same version."""
    backend = Server()
    threading.Thread(target=backend.serve_forever, daemon=True).start()
    for path in ("/health", "/setup", "/predict"):
        backend.routes[path] = reply(
            b'{"model_version": "v1", "results": []}', Content_Type="application/json"
        )
    try:
        world.project.connect(backend.url)
        [task] = [each for each in world.studio.unlabelled(world.project.id) if each.id == world.tasks[0]]
        assert world.studio.task(world.project.id, task.id) == task
        world.studio.predictions_of(task.id)
        assert "/predict" not in [path for path, _ in backend.seen]
        world.server.client.tasks.get(str(task.id))
        assert "/predict" in [path for path, _ in backend.seen]
    finally:
        backend.shutdown()
        backend.server_close()
