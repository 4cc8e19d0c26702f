"""What Label Studio stores is what the model said, and on drawn scenes it is right."""

import httpx
import numpy as np
import pytest

from backend.demo.label_studio_server import Project
from backend.demo.project import label_config
from ebseg.data.drawn.synthetic import PHRASES, Scene
from ebseg.images import read_image
from ebseg.label_studio.version import model_of
from ebseg.predictor import Predictor
from tests.e2e.projects import Annotated
from training.settings import Settings


@pytest.fixture(params=["drawn", "street"])
def annotated(request: pytest.FixtureRequest) -> Annotated:
    project: Annotated = request.getfixturevalue(request.param)
    return project


def test_stored_regions_are_the_models_own_masks(annotated: Annotated, model: Predictor) -> None:
    for task_id in annotated.task_ids:
        expected = model.predict(read_image(annotated.photo(task_id)), annotated.labels)
        label_map = expected.label_map.copy()
        for index in range(len(annotated.labels)):
            mask = label_map == index
            if mask.sum() < Settings().min_area * mask.size:
                label_map[mask] = -1
        np.testing.assert_array_equal(annotated.label_map(task_id), label_map)

        prediction = annotated.prediction(task_id)
        assert model_of(prediction.model_version) == model.version != prediction.model_version
        names = [names[0] for names in annotated.labels]
        for region in prediction.result:
            mask = label_map == names.index(region["value"]["brushlabels"][0])
            assert region["score"] == pytest.approx(expected.scores[mask].mean(), abs=1e-4)


def test_drawn_scenes_are_labelled_well(drawn: Annotated, scenes: list[Scene]) -> None:
    indices = np.array([PHRASES.index(names[0]) for names in drawn.labels])
    found = [drawn.label_map(task_id) for task_id in drawn.task_ids]
    for label_map in found:
        assert len(np.unique(label_map[label_map >= 0])) >= 3
        assert (label_map >= 0).mean() >= 0.5
    predicted = np.stack([np.where(label_map >= 0, indices[label_map], -1) for label_map in found])
    truth = np.stack([scene.label_map for scene in scenes])
    overlaps = [
        ((predicted == index) & (truth == index)).sum() / ((predicted == index) | (truth == index)).sum()
        for index in indices
    ]
    assert np.mean(overlaps) >= 0.5


def test_every_picture_has_a_task(annotated: Annotated) -> None:
    assert len(annotated.task_ids) == len(annotated.files) > 1
    for file, task_id in zip(annotated.files, annotated.task_ids, strict=True):
        assert annotated.photo(task_id) == file.read_bytes()


def test_retrieving_again_keeps_one_prediction_a_task(drawn: Annotated) -> None:
    before = [drawn.prediction(task_id).id for task_id in drawn.task_ids]
    assert drawn.project.retrieve_predictions(drawn.task_ids) == drawn.task_ids
    assert [drawn.prediction(task_id).id for task_id in drawn.task_ids] == before


def test_uncertainty_sampling_serves_the_least_sure_photo_first(drawn: Annotated) -> None:
    project = Project(drawn.server, "Uncertainty sampling", label_config(drawn.labels))
    drawn.server.client.projects.update(project.id, sampling="Uncertainty sampling")
    tasks = project.upload(drawn.files)
    predictions = [drawn.prediction(task_id) for task_id in drawn.task_ids]
    version = predictions[0].model_version
    scores = {}
    for task, stored in zip(tasks, predictions, strict=True):
        drawn.server.client.predictions.create(
            task=task, result=stored.result, score=stored.score, model_version=version
        )
        scores[task] = stored.score
    assert len(set(scores.values())) == len(scores)
    by_score = sorted(tasks, key=lambda task: scores[task])
    drawn.server.client.predictions.create(
        task=by_score[-1], result=[], score=0.0, model_version="another"
    )  # a version that is not shown counts for nothing
    project.show_scores_of(version)
    for expected in by_score[:2]:
        answer = httpx.get(
            f"{drawn.server.url}/api/projects/{project.id}/next",
            headers=drawn.server.authorization(),
            timeout=60,
        )
        assert answer.raise_for_status().json()["id"] == expected
        drawn.server.client.annotations.create(id=expected, result=predictions[0].result)
