"""What a person sees: the picture under its masks, in a real browser.

EBSEG_SCREENSHOT=file keeps the whole window as a picture, EBSEG_POLYGONS_SCREENSHOT=file that of
polygons (``make screenshot``).
"""

import numpy as np
import numpy.typing as npt
from PIL import ImageColor
from playwright.sync_api import Page

from backend.demo.label_studio_server import Project
from backend.demo.project import label_config
from backend.processes import ServerProcess
from ebseg.label_studio.label_config import parse
from tests.e2e.editor import PICTURE, VIEW, box, keep_window, open_task
from tests.e2e.projects import Annotated

LabelMap = npt.NDArray[np.int16]


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
    keep_window(page, "EBSEG_SCREENSHOT")

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


def test_polygons_are_seen_on_the_picture(page: Page, drawn: Annotated, backend: ServerProcess) -> None:
    config = label_config(drawn.labels).replace("BrushLabels", "PolygonLabels")
    project = Project(drawn.server, "Polygons", config)
    [task] = project.upload(drawn.files[:1])
    project.connect(backend.url)
    assert project.retrieve_predictions([task]) == [task]
    [prediction] = project.predictions(task)
    assert {region["type"] for region in prediction.result} == {"polygonlabels"}
    open_task(page, project, task, regions=len(prediction.result))
    keep_window(page, "EBSEG_POLYGONS_SCREENSHOT")
