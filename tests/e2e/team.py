"""A team that labels: photos whose truth is known, and a person who corrects predictions through the API."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import numpy.typing as npt
from PIL import Image

from backend.demo.label_studio_server import LabelStudioServer, Project
from backend.demo.project import label_config
from ebseg.data.drawn.synthetic import PHRASES, draw_scene
from ebseg.evaluation.metrics import ConfusionMatrix, mean_percent
from ebseg.label_studio.annotations import paint
from ebseg.label_studio.label_config import parse
from ebseg.label_studio.regions import masks_to_regions
from ebseg.render import palette
from tests.e2e import held_back
from tests.e2e.projects import ROOT
from training.annotations.labelling import read_labelling
from training.settings import Settings

CAMVID_LABELS = (
    "sky", "building", "pole", "road", "pavement", "tree",
    "sign symbol", "fence", "car", "pedestrian", "bicyclist",
)  # fmt: skip
CAMVID_UNLABELLED = 11

LabelMap = npt.NDArray[np.int16]


def camvid() -> Path | None:
    """The folder of CamVid's photos, where it is here."""
    folder = Path(os.environ.get("EBSEG_CAMVID") or ROOT.parent / "shared" / "camvid")
    return folder if (folder / "images" / "train").is_dir() else None


def street() -> Path | None:
    """That folder where EBSEG_CAMVID names it: a team of street photos takes three times as long."""
    return camvid() if os.environ.get("EBSEG_CAMVID") else None


@dataclass(frozen=True)
class Pictures:
    """Files and their truth: indices into ``labels``, -1 where it is not known."""

    labels: tuple[str, ...]
    files: list[Path]
    truths: list[LabelMap]


def pictures(folder: Path, count: int) -> Pictures:
    """CamVid's street photos where they are asked for, else a domain that the packaged model never saw."""
    found = street()
    if found is not None:
        names = sorted(path.stem for path in (found / "images" / "train").glob("*.jpg"))
        chosen = [names[index] for index in np.linspace(0, len(names) - 1, count).astype(int)]
        files = [found / "images" / "train" / f"{name}.jpg" for name in chosen]
        maps = [found / "labels" / "train" / f"{name}.png" for name in chosen]
        truths = [np.asarray(Image.open(path)).astype(np.int16) for path in maps]
        return Pictures(CAMVID_LABELS, files, [np.where(t == CAMVID_UNLABELLED, -1, t) for t in truths])
    return drawn(folder, count)


def drawn(folder: Path, count: int) -> Pictures:
    """A drawn domain that the packaged model never saw."""
    files, truths = [], []
    for index in range(count):
        image, truth = held_back.draw(index)
        files.append(folder / f"{index:03d}.png")
        Image.fromarray(image).save(files[-1])
        truths.append(truth)
    return Pictures(held_back.LABELS, files, truths)


def scenes(folder: Path, count: int) -> Pictures:
    """Scenes that the packaged model knows, with the labels that they show."""
    drawings = [draw_scene(31, index) for index in range(count)]
    shown = np.unique([scene.label_map for scene in drawings])
    files = [folder / f"scene {index}.png" for index in range(count)]
    for file, scene in zip(files, drawings, strict=True):
        Image.fromarray(scene.image).save(file)
    truths = [np.searchsorted(shown, scene.label_map).astype(np.int16) for scene in drawings]
    return Pictures(tuple(PHRASES[index] for index in shown), files, truths)


class Team:
    """A project of pictures in a real Label Studio."""

    def __init__(self, server: LabelStudioServer, shown: Pictures) -> None:
        self.server, self.pictures = server, shown
        config = label_config([[label] for label in shown.labels])
        self.control = parse(config).controls[0]
        self.config = config
        self.project = Project(server, "A team's photos", config)
        self.tasks = self.project.upload(shown.files)

    def version(self, model: str) -> str:
        """Name the version of predictions for this project by a model of that version."""
        return read_labelling(self.config, Settings()).version(model)

    def truth(self, task: int) -> LabelMap:
        return self.pictures.truths[self.tasks.index(task)]

    def correct(self, task: int, label_map: LabelMap) -> None:
        """Submit what the picture shows, as a correction of the newest prediction where there is one."""
        regions = masks_to_regions(label_map, np.ones(label_map.shape, np.float32), self.control)
        result = [{k: v for k, v in region.result.items() if k != "score"} for region in regions]
        parents = [prediction.id for prediction in self.project.predictions(task)]
        body = {"result": result, "parent_prediction": max(parents, default=None)}
        answer = httpx.post(
            f"{self.server.url}/api/tasks/{task}/annotations/",
            json=body,
            headers=self.server.authorization(),
            timeout=60,
        )
        assert answer.status_code == 201, answer.text

    def delete_annotations(self, task: int) -> None:
        for annotation in self.server.client.annotations.list(id=task):
            self.server.client.annotations.delete(annotation.id)

    def answer(self, backend: str, task: int) -> dict[str, Any]:
        """What the service at an address answers for a task of this project's; nothing is stored."""
        body = {
            "project": f"{self.project.id}.1",
            "label_config": self.config,
            "tasks": [{"id": task, "data": self.server.client.tasks.get(str(task)).data}],
        }
        answer = httpx.post(f"{backend}/predict", json=body, timeout=100)
        [result] = answer.raise_for_status().json()["results"]
        return dict(result)

    def predicted(self, task: int, version: str) -> LabelMap:
        """What Label Studio stores of one version's prediction."""
        [stored] = [p for p in self.project.predictions(task) if p.model_version == version]
        return paint(stored.result, self.control, *self.truth(task).shape).label_map

    def picture(self, tasks: Sequence[int], versions: Sequence[str], path: Path) -> None:
        """Draw pictures beside the stored predictions of some versions, a row a task."""
        rows = []
        for task in tasks:
            image = np.asarray(Image.open(self.pictures.files[self.tasks.index(task)]).convert("RGB"))
            colours = palette(len(self.pictures.labels))
            cells = [image]
            for version in versions:
                shown = self.predicted(task, version)
                cells.append(np.where(shown[..., None] < 0, image, image // 3 + colours[shown] // 3 * 2))
            rows.append(
                np.hstack([np.pad(cell, ((4, 4), (4, 4), (0, 0)), constant_values=255) for cell in cells])
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.vstack(rows).astype(np.uint8)).quantize(128).save(path, optimize=True)

    def miou(self, tasks: Sequence[int], version: str) -> float:
        """Mean IoU in percent of the predictions that Label Studio stores of one version."""
        matrix = ConfusionMatrix(len(self.pictures.labels))
        for task in tasks:
            matrix.add(self.predicted(task, version), self.truth(task))
        return mean_percent(matrix.iou())
