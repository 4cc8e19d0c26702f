"""What callers see of a change of the model while they ask without a pause."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from tests.unit.backend.conftest import named, predict, results, task, upload
from tests.unit.backend.test_swap import LABELS, masks, service_of

CALLERS = 8
CALLS = 13
"""Of each caller before the swap, and again after it: 208 in all."""


def expected_masks(model, scene) -> dict[str, np.ndarray]:
    label_map = model.predict(scene, LABELS, threshold=0.0).label_map
    return {label: label_map == index for index, label in enumerate(LABELS) if (label_map == index).any()}


def test_under_load_no_request_fails_and_each_answer_is_of_the_version_it_names(
    make_client, predictor, successor, scenes
):
    client = make_client()
    halfway = threading.Barrier(CALLERS + 1)
    answers: list[tuple[int, dict]] = []

    def call(scene: int) -> None:
        own = client.application.test_client()
        for number in range(2 * CALLS):
            if number == CALLS:
                halfway.wait(60)
            [answer] = results(predict(own, [task(number, upload(scene))]))
            answers.append((scene, answer))

    with ThreadPoolExecutor(CALLERS) as pool:
        calls = [pool.submit(call, number % len(scenes)) for number in range(CALLERS)]
        halfway.wait(60)
        service_of(client).model.replace(lambda: successor, "the successor")
        for each in calls:
            each.result()

    models = {model.version: model for model in (predictor, successor)}
    expected = {
        (named(version), number): expected_masks(model, scene)
        for version, model in models.items()
        for number, scene in enumerate(scenes)
    }
    assert len(answers) == 2 * CALLERS * CALLS > 200
    assert {answer["model_version"] for _, answer in answers} == {named(version) for version in models}
    for scene, answer in answers:
        wanted, found = expected[answer["model_version"], scene], masks(answer)
        assert found.keys() == wanted.keys()
        assert all(np.array_equal(found[label], wanted[label]) for label in wanted)
