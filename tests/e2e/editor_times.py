"""How long Label Studio's editor takes to open a task: ``python -m tests.e2e.editor_times``.

One photo of 1280 x 960 pixels is cut into 5 or 30 regions, which are stored as brush masks, bitmasks or
polygons. Prints a row for each: seconds until all of them are drawn (the median of ``TIMES`` openings, the
kinds by turns), and the prediction's bytes.
"""

import json
import statistics
import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image
from playwright.sync_api import Page

from backend.demo.label_studio_server import LabelStudioServer, Project
from backend.processes import free_port, reach_this_machine_directly
from ebseg.data.drawn.synthetic import draw_scene
from ebseg.label_studio.label_config import parse
from ebseg.label_studio.regions import masks_to_regions, prediction
from tests.e2e.editor import VIEW, box, window
from tests.e2e.projects import ROOT

HEIGHT, WIDTH = 960, 1280
TAGS = ("BrushLabels", "BitmaskLabels", "PolygonLabels")
COUNTS = (5, 30)
TIMES = 3
QUIET_SECONDS = 1.5
"""For which nothing changes once all is drawn."""


@dataclass(frozen=True)
class Opened:
    """A task that is opened again and again."""

    tag: str
    count: int
    project: Project
    task: int
    size: int
    """Bytes of the prediction's results, as JSON."""


def cells(count: int) -> npt.NDArray[np.int16]:
    """Cut the photo into so many parts with curved borders: (HEIGHT, WIDTH), 0..count - 1; -1 for none."""
    if count == 0:
        return np.full((HEIGHT, WIDTH), -1, np.int16)
    rows, columns = np.mgrid[:HEIGHT, :WIDTH].astype(np.float32)
    rows, columns = rows + 8 * np.sin(columns / 25), columns + 8 * np.sin(rows / 20)
    centres = np.random.default_rng(0).uniform((0, 0), (HEIGHT, WIDTH), (count, 2))
    distances = [(rows - y) ** 2 + (columns - x) ** 2 for y, x in centres]
    return np.argmin(distances, axis=0).astype(np.int16)


def make(server: LabelStudioServer, photo: Path, tag: str, count: int) -> Opened:
    """Store a prediction of so many regions."""
    labels = "".join(f'<Label value="label {number}"/>' for number in range(max(count, 1)))
    config = (
        f'<View><Image name="image" value="$image"/><{tag} name="mask" toName="image">{labels}</{tag}></View>'
    )
    project = Project(server, f"{count} {tag}", config)
    [task] = project.upload([photo])
    regions = masks_to_regions(cells(count), np.ones((HEIGHT, WIDTH), np.float32), parse(config).controls[0])
    assert len(regions) == count
    made = prediction(regions, "cells")
    server.client.predictions.create(task=task, **made)
    return Opened(tag, count, project, task, len(json.dumps(made["result"])))


def seconds_to_open(page: Page, opened: Opened) -> float:
    """Open the task; give the seconds until what is seen changes no more."""
    page.goto("about:blank")
    start = time.perf_counter()
    page.goto(f"{opened.project.url}?task={opened.task}")
    page.wait_for_selector(VIEW)
    page.wait_for_function(  # the list beside the photo shows only as many as it has room for
        "count => window.Htx.annotationStore.selected?.regions.length == count", arg=opened.count
    )
    view, seen, since = box(page, VIEW), b"", time.perf_counter()
    while time.perf_counter() - since < QUIET_SECONDS:
        taken = time.perf_counter()
        now = page.screenshot(clip=view)
        if now != seen:
            seen, since = now, taken
    return since - start


def main() -> None:
    """Start Label Studio, measure, print the table."""
    reach_this_machine_directly()
    executable = ROOT / ".venv-label-studio" / "bin" / "label-studio"
    with tempfile.TemporaryDirectory() as folder:
        photo = Path(folder, "photo.jpg")
        Image.fromarray(draw_scene(0, 0, size=(HEIGHT, WIDTH)).image).save(photo, quality=90)
        with (
            LabelStudioServer(executable, Path(folder), free_port()).running() as server,
            window(server) as page,
        ):
            all_opened = [make(server, photo, TAGS[0], 0)]
            all_opened += [make(server, photo, tag, count) for count in COUNTS for tag in TAGS]
            seconds_to_open(page, all_opened[0])  # the editor's own files are fetched once
            seconds: dict[tuple[str, int], list[float]] = defaultdict(list)
            for _ in range(TIMES):
                for opened in all_opened:
                    seconds[opened.tag, opened.count].append(seconds_to_open(page, opened))
    print("| control | regions | seconds | bytes |\n| --- | --- | --- | --- |")
    for opened in all_opened:
        median = statistics.median(seconds[opened.tag, opened.count])
        print(f"| `<{opened.tag}>` | {opened.count} | {median:.1f} | {opened.size:,} |")


if __name__ == "__main__":
    main()
