"""Label Studio's editor in a real browser."""

import io
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image
from playwright.sync_api import FloatRect, Page, sync_playwright

from backend.demo.label_studio_server import LabelStudioServer, Project

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
WAIT_MS = 60_000
VIEW = ".konvajs-content"
PICTURE = "img[src^='blob:']"
REGIONS = ".lsf-outliner-tree .lsf-outliner-item"

Pixels = npt.NDArray[np.float64]


@contextmanager
def window(server: LabelStudioServer) -> Iterator[Page]:
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


def keep_picture(page: Page, name: str) -> None:
    """Keep what is seen, where EBSEG_CONTROL_PICTURES names a folder."""
    if folder := os.environ.get("EBSEG_CONTROL_PICTURES"):
        Path(folder).mkdir(parents=True, exist_ok=True)
        page.screenshot(path=Path(folder, f"{name}.png"))


def keep_window(page: Page, variable: str) -> None:
    """Keep the window where an environment variable names a file, in 256 colours."""
    if screenshot := os.environ.get(variable):
        Path(screenshot).parent.mkdir(parents=True, exist_ok=True)
        with Image.open(io.BytesIO(page.screenshot())) as image:
            image.convert("RGB").quantize(256).save(screenshot, optimize=True)
