"""Smart tools in a real browser: a click and a box each give regions on the photo.

EBSEG_CONTROL_PICTURES=folder keeps a picture of each, EBSEG_POINTING_SCREENSHOT=file that of the window
with a flower (``make screenshot``).
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from playwright.sync_api import Page
from sklearn.datasets import load_sample_image

from backend.demo.label_studio_server import LabelStudioServer, Project
from backend.processes import ServerProcess
from ebseg.data.drawn.synthetic import PHRASES, Scene
from ebseg.label_studio.annotations import paint
from ebseg.label_studio.label_config import parse
from tests.e2e.editor import PICTURE, VIEW, box, keep_picture, keep_window
from tests.e2e.team import CAMVID_LABELS, camvid

Mask = npt.NDArray[np.bool_]
Place = tuple[float, float]

AUTOMATIC = ("autoAnnotation", "autoAcceptSuggestions")
"""The switches in the editor's bottom bar, as the browser remembers them."""

SMART = ".lsf-tool_smart"
LARGE = 400
"""Pixels of an object that is pointed at, at least."""


@dataclass(frozen=True)
class Photo:
    """A picture file, and what is on it: (H, W) index into names."""

    file: Path
    names: list[str]
    truth: npt.NDArray[np.int16]

    def object(self, name: str) -> Mask:
        """The largest connected part of a label."""
        mask = (self.truth == self.names.index(name)).astype(np.uint8)
        _, numbers, stats, _ = cv2.connectedComponentsWithStats(mask)
        largest = 1 + int(np.argmax(stats[1:, cv2.CC_STAT_AREA]))
        assert stats[largest, cv2.CC_STAT_AREA] >= LARGE
        found: Mask = numbers == largest
        return found


@pytest.fixture(scope="module")
def scene(scenes: list[Scene], tmp_path_factory: pytest.TempPathFactory) -> Photo:
    file = tmp_path_factory.mktemp("smart") / "scene.png"
    Image.fromarray(scenes[0].image).save(file)
    present = np.unique(scenes[0].label_map).tolist()
    truth = np.searchsorted(present, scenes[0].label_map).astype(np.int16)
    return Photo(file, [PHRASES[index] for index in present], truth)


@pytest.fixture(scope="module")
def camvid_photo() -> Photo:
    folder = camvid()
    if folder is None:
        pytest.skip("no CamVid photos: set EBSEG_CAMVID to where they are")
    file = sorted((folder / "images" / "val").glob("*.jpg"))[0]
    truth = np.asarray(Image.open(folder / "labels" / "val" / f"{file.stem}.png")).astype(np.int16)
    return Photo(file, list(CAMVID_LABELS), truth)


@pytest.fixture(scope="module")
def flower(tmp_path_factory: pytest.TempPathFactory) -> Photo:
    """A dahlia, nearly round, before dark leaves: a real photo, and what the model was never trained on."""
    file = tmp_path_factory.mktemp("smart") / "flower.png"
    photo = load_sample_image("flower.jpg")
    Image.fromarray(photo).save(file)
    truth = np.zeros(photo.shape[:2], np.uint8)
    cv2.ellipse(truth, (307, 221), (138, 137), 0, 0, 360, 1, cv2.FILLED)
    return Photo(file, ["leaves", "flower"], truth.astype(np.int16))


@pytest.fixture
def automatic(page: Page) -> Iterator[None]:
    """Both switches are on: Label Studio asks for a mask at each prompt, and takes it."""
    page.evaluate("names => names.forEach(name => localStorage.setItem(name, 'true'))", AUTOMATIC)
    yield
    page.evaluate("names => names.forEach(name => localStorage.removeItem(name))", AUTOMATIC)


def config(mask: str, names: Sequence[str]) -> str:
    """A control that gets the masks, and smart tools of the same labels."""
    colours = itertools.cycle(("#0050ff", "#e000c0"))
    labels = "".join(
        f'<Label value="{name}" background="{colour}"/>' for name, colour in zip(names, colours, strict=False)
    )
    return "".join(
        [
            '<View><Image name="image" value="$image"/>',
            f'<{mask} name="mask" toName="image" smart="false">{labels}</{mask}>',
            f'<KeyPointLabels name="click" toName="image" smart="true">{labels}</KeyPointLabels>',
            f'<RectangleLabels name="box" toName="image" smart="true">{labels}</RectangleLabels></View>',
        ]
    )


class Editor:
    """An open task in which one points at things with smart tools."""

    def __init__(self, page: Page, photo: Photo, config: str) -> None:
        self._page, self._photo = page, photo
        self._controls = ["mask", "click", "box"]
        self._control = next(c for c in parse(config).controls if c.name == "mask")

    def choose(self, tool: str, control: str, label: str) -> None:
        """Choose a label, then the smart tool of its control."""
        self._page.keyboard.press("Escape")  # of the region that was made last
        row = self._page.locator(".lsf-labels").nth(self._controls.index(control))
        row.locator(".lsf-label", has_text=label).click()
        self._page.hover(f".lsf-toolbar > .lsf-toolbar__group > {SMART}")
        self._page.click(f".lsf-toolbar__smart [aria-label={tool}]")

    def point(self, *places: Place) -> None:
        """Drag from the first place (x, y), in the photo's pixels, to the last; wait for what comes of it."""
        self._page.locator(VIEW).scroll_into_view_if_needed()
        picture = box(self._page, PICTURE)
        height, width = self._photo.truth.shape
        size = np.array([picture["width"] / width, picture["height"] / height])
        at = np.array(places) * size + (picture["x"], picture["y"])
        with self._page.expect_response(lambda answer: "interactive-annotating" in answer.url) as asked:
            self._page.mouse.move(*at[0])
            self._page.mouse.down()
            for place in at[1:]:
                self._page.mouse.move(*place, steps=5)
            self._page.mouse.up()
        assert asked.value.ok
        self._page.wait_for_function("!window.Htx.awaitingSuggestions")

    def results(self) -> list[dict[str, Any]]:
        """List what would be submitted."""
        results: list[dict[str, Any]] = self._page.evaluate(
            "window.Htx.annotationStore.selected.serializeAnnotation()"
        )
        return results

    def mask(self, label: str) -> Mask:
        """Paint the regions of a label."""
        painted = paint(self.results(), self._control, *self._photo.truth.shape)
        mask: Mask = painted.label_map == self._photo.names.index(label)
        return mask


def middle(mask: Mask) -> Place:
    """The deepest point (x, y) of an object."""
    deep = cv2.distanceTransform(np.pad(mask, 1).astype(np.uint8), cv2.DIST_L2, 5)[1:-1, 1:-1]
    row, column = np.unravel_index(np.argmax(deep), deep.shape)
    return float(column) + 0.5, float(row) + 0.5


def iou(first: Mask, second: Mask) -> float:
    return float((first & second).sum() / (first | second).sum())


def around(mask: Mask) -> tuple[Place, Place]:
    """The box of an object: left and top, right and bottom."""
    rows, columns = np.nonzero(mask)
    return (float(columns.min()), float(rows.min())), (float(columns.max() + 1), float(rows.max() + 1))


def open_editor(
    page: Page, server: LabelStudioServer, backend: ServerProcess, photo: Photo, tag: str
) -> Editor:
    """Open the only task of a new project, which has no regions."""
    label_config = config(tag, photo.names)
    project = Project(server, f"Smart tools and {tag}", label_config)
    server.client.projects.update(project.id, show_collab_predictions=False)  # nothing to begin with
    [task] = project.upload([photo.file])
    server.client.ml.create(project=project.id, url=backend.url, title="EBSeg", is_interactive=True)
    page.goto(f"{project.url}?task={task}")
    page.wait_for_selector(PICTURE)
    editor = Editor(page, photo, label_config)
    assert not editor.results()
    return editor


@pytest.mark.parametrize("tag", ["BrushLabels", "PolygonLabels"])
@pytest.mark.parametrize(
    ("photo", "clicked", "boxed", "least_iou"),
    [("scene", "orange ball", "blue cup", 0.9), ("camvid_photo", "building", "car", 0.15)],
)
@pytest.mark.usefixtures("automatic")
def test_a_click_and_a_box_give_regions(
    server: LabelStudioServer,
    backend: ServerProcess,
    page: Page,
    request: pytest.FixtureRequest,
    tag: str,
    photo: str,
    clicked: str,
    boxed: str,
    least_iou: float,
) -> None:
    shown: Photo = request.getfixturevalue(photo)
    editor = open_editor(page, server, backend, shown, tag)

    part = shown.object(clicked)
    editor.choose("key-point-tool", "click", clicked)
    editor.point(middle(part))
    mask = editor.mask(clicked)
    assert mask[tuple(int(place) for place in reversed(middle(part)))]
    assert iou(mask, part) >= least_iou

    part = shown.object(boxed)
    editor.choose("rectangle-tool", "box", boxed)
    editor.point(*around(part))
    mask = editor.mask(boxed)
    (left, top), (right, bottom) = around(mask)
    assert np.all(np.abs(np.array(around(part)) - [(left, top), (right, bottom)]) < shown.truth.shape[1] / 8)
    assert iou(mask, part) >= least_iou

    assert {each["from_name"] for each in editor.results()} == {"mask"}  # the prompts themselves are gone
    page.wait_for_timeout(500)
    keep_picture(page, f"smart tools, {photo}, {tag}")


@pytest.mark.usefixtures("automatic")
def test_a_box_around_a_thing_on_a_real_photo_gives_its_outline(
    server: LabelStudioServer, backend: ServerProcess, page: Page, flower: Photo
) -> None:
    editor = open_editor(page, server, backend, flower, "PolygonLabels")
    part = flower.object("flower")
    editor.choose("rectangle-tool", "box", "flower")
    editor.point(*around(part))
    [region] = editor.results()
    assert region["type"] == "polygonlabels" and len(region["value"]["points"]) <= 200
    assert iou(editor.mask("flower"), part) >= 0.9
    page.wait_for_timeout(500)
    keep_window(page, "EBSEG_POINTING_SCREENSHOT")
