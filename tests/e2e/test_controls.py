"""Label configs of every kind: what Label Studio stores is what the model said, and the editor shows it.

EBSEG_CONTROL_PICTURES=folder keeps a picture of each.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import httpx
import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from playwright.sync_api import Page

from backend.demo.label_studio_server import LabelStudioServer, Project
from backend.processes import ServerProcess
from ebseg.data.drawn.synthetic import PHRASES, Scene
from ebseg.images import read_image
from ebseg.label_studio.annotations import paint
from ebseg.label_studio.kinds import kind_of_value
from ebseg.label_studio.tasks import TaskPhoto, read_label_config
from ebseg.predictor import Predictor
from ebseg.render import palette
from tests.e2e.editor import PICTURE, VIEW, box, keep_picture, open_task
from training.annotations.label_studio import LabelStudioClient
from training.annotations.labelled_photos import annotated
from training.annotations.photos import photo_fetcher
from training.settings import Settings
from training.storage import Storage

LabelMap = npt.NDArray[np.int16]
Config = Callable[[Sequence[str]], str]

STORE = '<View><Image name="image" value="$image"/><Rating name="stars" toName="image"/></View>'
OPAQUE = 'opacity="0.5"'
"""For polygons and the like, of which one sees little else than the outline."""

SMALLEST_IOU = 0.98
"""Of a label's polygons with its mask."""


def colour(name: str) -> tuple[int, int, int]:
    red, green, blue = palette(len(PHRASES))[PHRASES.index(name)].tolist()
    return red, green, blue


def attributes(name: str) -> dict[str, str]:
    return {"value": name, "background": "#" + "".join(f"{channel:02x}" for channel in colour(name))}


def labels(names: Sequence[str]) -> str:
    return "".join(
        f'<Label value="{each["value"]}" background="{each["background"]}"/>'
        for each in map(attributes, names)
    )


def view(controls: str, image: str = 'value="$image"') -> str:
    return f'<View><Image name="image" {image}/>{controls}</View>'


def of_kind(tag: str, settings: str = "") -> Config:
    return lambda names: view(f'<{tag} name="shape" toName="image" {settings}>{labels(names)}</{tag}>')


def paired(tag: str, settings: str = "") -> Config:
    return lambda names: view(
        f'<Labels name="labels" toName="image">{labels(names)}</Labels>'
        f'<{tag} name="shape" toName="image" {settings}/>'
    )


CONFIGS = {
    "brush": of_kind("BrushLabels"),
    "bitmask": of_kind("BitmaskLabels"),
    "polygons": of_kind("PolygonLabels", OPAQUE),
    "parts": of_kind("BrushLabels", 'model_regions="part"'),
    "labels and brush": paired("Brush"),
    "labels and bitmask": paired("Bitmask"),
    "labels and polygons": paired("Polygon", OPAQUE),
    "brush and polygons": lambda names: view(
        f'<BrushLabels name="stuff" toName="image">{labels(names[:3])}</BrushLabels>'
        f'<PolygonLabels name="things" toName="image" {OPAQUE}>{labels(names[3:])}</PolygonLabels>'
    ),
    "labels of the task": lambda names: view('<BrushLabels name="shape" toName="image" value="$labels"/>'),
}


@dataclass(frozen=True)
class World:
    """A Label Studio with photos, the service, and its model."""

    server: LabelStudioServer
    backend: ServerProcess
    model: Predictor
    names: list[str]
    photos: dict[str, str]
    """Their addresses in Label Studio."""

    def predicted(self, title: str, config: str, data: dict[str, Any]) -> "Shown":
        """Make a project of one task, and have it predicted."""
        project = Project(self.server, title, config)
        project.connect(self.backend.url)
        answer = httpx.post(
            f"{self.server.url}/api/projects/{project.id}/import",
            params={"return_task_ids": "true"},
            json=[{"data": data}],
            headers=self.server.authorization(),
            timeout=60,
        )
        [task] = answer.raise_for_status().json()["task_ids"]
        assert project.retrieve_predictions([task]) == [task]
        [prediction] = project.predictions(task)
        photos = read_label_config(config).photos({"id": task, "data": data})
        return Shown(self, project, task, prediction.result, photos)

    def photo(self, address: str) -> npt.NDArray[np.uint8]:
        """Fetch a photo: (H, W, 3), turned as its EXIF says."""
        answer = httpx.get(self.server.url + address, headers=self.server.authorization())
        return read_image(answer.raise_for_status().content)


@dataclass(frozen=True)
class Shown:
    """A task with its prediction."""

    world: World
    project: Project
    task: int
    result: list[dict[str, Any]]
    photos: list[TaskPhoto]

    @property
    def count(self) -> int:
        return len({each["id"] for each in self.result})

    def stored(self, number: int = 0) -> LabelMap:
        """Paint what Label Studio stores of a photo, as indices into its labels."""
        of = self.photos[number]
        own = [dict(each) for each in self.result if each.get("item_index") == of.page]
        for each in own:
            each.pop("item_index", None)  # what is painted is the first page
        return paint(own, of.question, *self.world.photo(of.url).shape[:2]).label_map

    def expected(self, number: int = 0, *, parts: bool = False) -> LabelMap:
        """What the model says of it, without what is too small."""
        of = self.photos[number]
        names = [label.value for label in of.question.labels]
        found = self.world.model.predict(self.world.photo(of.url), names).label_map
        least = Settings().min_area * found.size
        for index in range(len(names)):
            mask = found == index
            _, numbers, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
            small = stats[numbers, cv2.CC_STAT_AREA] < least if parts else mask.sum() < least
            found = np.where(mask & small, -1, found)
        return found.astype(np.int16)

    def look(self, page: Page, name: str) -> None:
        """Open the task: on the photo there is what is stored, and nothing elsewhere."""
        window = open_task(page, self.project, self.task, regions=self.count)
        keep_picture(page, name)
        picture, view = box(page, PICTURE), box(page, VIEW)
        size = round(picture["width"]), round(picture["height"])
        photo = self.world.photo(self.photos[0].url)
        assert size[0] / size[1] == pytest.approx(photo.shape[1] / photo.shape[0], rel=0.01)
        bare = np.asarray(Image.fromarray(photo).resize(size, Image.Resampling.BILINEAR), dtype=np.float64)
        stored = Image.fromarray(self.stored()).resize(size, Image.Resampling.NEAREST)
        left, top = round(picture["x"] - view["x"]), round(picture["y"] - view["y"])
        place = np.s_[max(-top, 0) : window.shape[0] - top, max(-left, 0) : window.shape[1] - left]
        bare, shown = bare[place], np.asarray(stored)[place]
        window = window[max(top, 0) :, max(left, 0) :][: bare.shape[0], : bare.shape[1]]
        # The editor blends each region's colour with the photo, everywhere with the same opacity.
        colours = np.array(
            [colour(label.value) for label in self.photos[0].question.labels], dtype=np.float64
        )
        tint = np.where(shown[..., None] >= 0, colours[shown] - bare, 0.0)
        opacity = ((window - bare) * tint).sum() / (tint**2).sum()
        error = np.abs(bare + opacity * tint - window).max(axis=2)
        print(f"{name}: opacity {opacity:.2f}, {(error < 24).mean():.1%} of the photo as expected")
        assert 0.15 < opacity < 0.95
        assert (error < 24).mean() > 0.95  # not at the regions' borders and under the editor's tools


@pytest.fixture(scope="module")
def world(
    server: LabelStudioServer,
    backend: ServerProcess,
    model: Predictor,
    scenes: list[Scene],
    tmp_path_factory: pytest.TempPathFactory,
) -> World:
    folder = tmp_path_factory.mktemp("photos")
    turned = Image.Exif()
    turned[0x0112] = 6  # the camera was held upright
    files = [folder / "first.png", folder / "second.png", folder / "turned.jpg"]
    Image.fromarray(scenes[0].image).save(files[0])
    Image.fromarray(scenes[1].image).save(files[1])
    Image.fromarray(np.rot90(scenes[0].image)).save(files[2], quality=95, exif=turned)
    store = Project(server, "Photos", STORE)
    tasks = [server.client.tasks.get(str(task)) for task in store.upload(files)]
    present = np.unique([scene.label_map for scene in scenes[:2]]).tolist()
    addresses = {file.stem: task.data["image"] for file, task in zip(files, tasks, strict=True)}
    return World(server, backend, model, [PHRASES[index] for index in present], addresses)


def ious(first: LabelMap, second: LabelMap) -> dict[int, float]:
    """IoU of each label of the second."""
    return {
        label: ((first == label) & (second == label)).sum() / ((first == label) | (second == label)).sum()
        for label in np.unique(second[second >= 0]).tolist()
    }


@pytest.mark.parametrize("name", CONFIGS)
def test_every_kind_of_control_shows_the_models_masks(world: World, page: Page, name: str) -> None:
    data = {"image": world.photos["first"], "labels": list(map(attributes, world.names))}
    shown = world.predicted(name, CONFIGS[name](world.names), data)
    kinds = {kind_of_value(each["value"]).tag for each in shown.result if kind_of_value(each["value"])}
    parts = name == "parts" or "Polygon" in kinds
    stored, expected = shown.stored(), shown.expected(parts=parts)
    assert len(np.unique(expected)) >= 3
    if kinds <= {"Brush", "Bitmask"}:
        np.testing.assert_array_equal(stored, expected)
    else:
        assert min(ious(stored, expected).values()) >= SMALLEST_IOU
    shown.look(page, name)


@pytest.mark.parametrize("tag", ["RectangleLabels", "EllipseLabels"])
def test_shapes_stand_around_the_parts_of_each_label(world: World, page: Page, tag: str) -> None:
    names = [name for name in world.names if name not in ("sky", "sand", "water", "cloud")]
    shown = world.predicted(tag, of_kind(tag)(names), {"image": world.photos["first"]})
    expected = shown.expected(parts=True)
    height, width = expected.shape
    around = {  # left, top, width, height
        (name, *stats[[cv2.CC_STAT_LEFT, cv2.CC_STAT_TOP, cv2.CC_STAT_WIDTH, cv2.CC_STAT_HEIGHT]].tolist())
        for index, name in enumerate(names)
        for stats in cv2.connectedComponentsWithStats((expected == index).astype(np.uint8))[2][1:]
    }
    assert len(shown.result) == len(around) >= 2
    if tag == "RectangleLabels":
        size = np.array([width, height, width, height]) / 100
        keys = ("x", "y", "width", "height")
        found = {
            (
                *each["value"]["rectanglelabels"],
                *np.round([each["value"][key] for key in keys] * size).astype(int),
            )
            for each in shown.result
        }
        assert found == around
    else:
        for each in shown.result:
            x, y = each["value"]["x"] / 100 * width, each["value"]["y"] / 100 * height
            assert any(
                name in each["value"]["ellipselabels"] and left < x < left + across and top < y < top + down
                for name, left, top, across, down in around
            )
    open_task(page, shown.project, shown.task, regions=shown.count)
    keep_picture(page, tag)


@pytest.mark.parametrize("name", ["brush", "polygons"])
def test_a_photo_that_was_taken_upright_is_masked_as_it_is_seen(world: World, page: Page, name: str) -> None:
    data = {"image": world.photos["turned"]}
    shown = world.predicted(f"{name}, turned", CONFIGS[name](world.names), data)
    expected = shown.expected(parts=name == "polygons")
    assert expected.shape == world.photo(world.photos["first"]).shape[:2]
    assert min(ious(shown.stored(), expected).values()) >= SMALLEST_IOU
    shown.look(page, f"{name}, turned")


def test_each_page_and_each_image_has_its_own_masks_and_is_learnt_from(
    world: World, page: Page, tmp_path: Path
) -> None:
    first, second = world.photos["first"], world.photos["second"]
    config = (
        '<View><Image name="image" valueList="$pages"/><Image name="other" value="$other"/>'
        f'<BrushLabels name="mask" toName="image">{labels(world.names)}</BrushLabels>'
        f'<BitmaskLabels name="bitmask" toName="other">{labels(world.names)}</BitmaskLabels></View>'
    )
    shown = world.predicted("pages", config, {"pages": [first, second], "other": second})
    assert [of.url for of in shown.photos] == [first, second, second]
    for number in range(3):
        np.testing.assert_array_equal(shown.stored(number), shown.expected(number))
    page.goto(f"{shown.project.url}?task={shown.task}")
    page.wait_for_selector(VIEW)
    page.wait_for_timeout(3000)
    keep_picture(page, "pages")

    world.server.client.annotations.create(id=shown.task, result=shown.result)
    settings = Settings(
        home=tmp_path, label_studio_url=world.server.url, label_studio_api_key=world.server.access_token
    )
    storage = Storage(settings.storage_url, tmp_path / "cache")
    studio, project = LabelStudioClient(settings), shown.project.id
    learnt = list(annotated(studio, photo_fetcher(settings), storage, project, settings))
    assert len(learnt) == 3 and len({each.split for each in learnt}) == 1
    for number, each in enumerate(learnt):
        np.testing.assert_array_equal(each.label_map, shown.expected(number))
