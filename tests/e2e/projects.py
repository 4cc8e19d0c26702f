"""Projects of a real Label Studio that the real service has pre-annotated."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import numpy.typing as npt
from label_studio_sdk import Prediction
from label_studio_sdk.converter.brush import decode_rle

from backend.demo.label_studio_server import LabelStudioServer, Project
from backend.demo.project import label_config
from ebseg.images import read_image

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Annotated:
    """A project whose predictions were retrieved; its tasks in the order of ``files``."""

    server: LabelStudioServer
    project: Project
    labels: list[list[str]]
    files: list[Path]
    task_ids: list[int]

    def prediction(self, task_id: int) -> Prediction:
        """The one prediction that the task carries."""
        [prediction] = self.project.predictions(task_id)
        return prediction

    def photo(self, task_id: int) -> bytes:
        """The task's picture, downloaded from Label Studio."""
        address = self.server.url + self.server.client.tasks.get(str(task_id)).data["image"]
        return httpx.get(address, headers=self.server.authorization()).raise_for_status().content

    def label_map(self, task_id: int) -> npt.NDArray[np.int16]:
        """The stored regions as (H, W) indices into ``labels``, -1 where there is none."""
        names = [names[0] for names in self.labels]
        height, width, _ = read_image(self.photo(task_id)).shape
        label_map = np.full((height, width), -1, np.int16)
        for region in self.prediction(task_id).result:
            assert (region["original_height"], region["original_width"]) == (height, width)
            rgba = np.asarray(decode_rle(region["value"]["rle"])).reshape(height, width, 4)
            mask = rgba[..., 3] == 255
            assert not (label_map[mask] >= 0).any(), "two regions overlap"
            [label] = region["value"]["brushlabels"]
            label_map[mask] = names.index(label)
        return label_map


def annotate(
    server: LabelStudioServer,
    backend_url: str,
    title: str,
    files: Sequence[Path],
    labels: Sequence[Sequence[str]],
) -> Annotated:
    """Make a project of photo files, connect the backend and retrieve predictions for all at once."""
    project = Project(server, title, label_config(labels))
    task_ids = project.upload(files)
    project.connect(backend_url)
    project.retrieve_predictions(task_ids)
    return Annotated(server, project, [list(label) for label in labels], list(files), task_ids)
