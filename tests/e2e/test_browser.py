"""What a person sees: the picture under its masks, in a real browser.

EBSEG_SCREENSHOT=file keeps the whole window as a picture (``make screenshot``).
"""

import io
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageColor
from playwright.sync_api import FloatRect, Page, sync_playwright

from backend.demo.label_studio_server import LabelStudioServer, Project
from backend.demo.project import label_config
from ebseg.label_studio.label_config import parse
from tests.e2e.projects import Annotated

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
WAIT_MS = 60_000
VIEW = ".konvajs-content"
PICTURE = "img[src^='blob:']"
REGIONS = ".lsf-outliner-tree .lsf-outliner-item"

Pixels = npt.NDArray[np.float64]
LabelMap = npt.NDArray[np.int16]


@pytest.fixture(scope="module")
def page(server: LabelStudioServer) -> Iterator[Page]:
    """A window in which the user is logged in."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=next(filter(None, map(shutil.which, BROWSERS)), None),
            args=["--no-sandbox"],  # Chromium's sandbox does not work for root, which CI is
        )
        page = browser.new_page(viewport={"width": 1600, "height": 1000})
        page.set_default_timeout(WAIT_MS)
        page.goto(f"{server.url}/user/login/")
        page.fill("input[name=email]", server.email)
        page.fill("input[name=password]", server.password)
        page.click("button[type=submit]")
        page.wait_for_url(lambda url: "login" not in url)
        yield page
        browser.close()


def open_task(page: Page, project: Project, task_id: int, regions: int) -> Pixels:
    """Open a task, wait until so many regions are drawn, give what is seen of it: (H, W, 3), 0..255."""
    page.goto(f"{project.url}?task={task_id}")
    page.wait_for_selector(VIEW)
    page.wait_for_function(
        "([query, count]) => document.querySelectorAll(query).length == count", arg=[REGIONS, regions]
    )
    before, after = b"", page.screenshot(clip=box(page, VIEW))
    while before != after:  # masks are decoded and drawn one after the other
        page.wait_for_timeout(1000)
        before, after = after, page.screenshot(clip=box(page, VIEW))
    with Image.open(io.BytesIO(after)) as image:
        return np.asarray(image.convert("RGB"), dtype=np.float64)


def box(page: Page, query: str) -> FloatRect:
    found = page.locator(query).bounding_box()
    assert found is not None
    return found


def seen(page: Page, label_map: LabelMap) -> LabelMap:
    """The labels of the pixels of the view, of which the picture, enlarged, overlaps the edges."""
    view, picture = box(page, VIEW), box(page, PICTURE)
    height, width = label_map.shape
    y = np.arange(int(view["height"])) + 0.5 + view["y"] - picture["y"]
    x = np.arange(int(view["width"])) + 0.5 + view["x"] - picture["x"]
    rows = (y / picture["height"] * height).astype(int)
    columns = (x / picture["width"] * width).astype(int)
    return label_map[rows[:, None], columns]


def test_masks_are_seen_on_the_picture(page: Page, drawn: Annotated) -> None:
    task_id = drawn.task_ids[0]
    bare_project = Project(drawn.server, "No predictions", label_config(drawn.labels))
    [bare_task] = bare_project.upload(drawn.files[:1])
    bare = open_task(page, bare_project, bare_task, regions=0)
    masked = open_task(page, drawn.project, task_id, regions=len(drawn.prediction(task_id).result))
    if screenshot := os.environ.get("EBSEG_SCREENSHOT"):
        Path(screenshot).parent.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=screenshot)

    shown = seen(page, drawn.label_map(task_id))
    assert masked.shape == bare.shape == (*shown.shape, 3)
    # The editor blends each mask's colour with the picture, everywhere with the same opacity.
    control = parse(label_config(drawn.labels)).controls[0]
    colours = np.array([ImageColor.getrgb(label.attributes["background"]) for label in control.labels])
    tint = np.where(shown[..., None] >= 0, colours[shown] - bare, 0.0)
    opacity = ((masked - bare) * tint).sum() / (tint**2).sum()
    assert 0.3 < opacity < 0.9
    error = np.abs(bare + opacity * tint - masked).max(axis=2)
    assert (error < 24).mean() > 0.97  # not at the masks' smoothed edges and under the editor's tools
