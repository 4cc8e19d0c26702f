"""Which task is annotated next: typical photos in front, scores in order, and what is kept for that."""

import logging
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from ebseg.errors import ConfigError
from training.commands import simulate_work
from training.commands.simulate import app
from training.memory.samples import Samples
from training.selection import files
from training.selection.embeddings import embedding
from training.selection.simulation import Photo, Simulation
from training.selection.strategies import FEW, GRID, ahead, most_telling, most_typical, score
from training.settings import Select
from training.storage import Storage


@pytest.fixture
def storage(tmp_path):
    return Storage(str(tmp_path / "storage"), tmp_path / "cache")


def test_what_stands_for_most_comes_first_and_what_is_like_an_annotated_photo_last():
    here, there, alone = [0.0, 0.1, 0.2], [5.0, 5.1, 5.2, 5.3, 5.4], [9.0]
    places = np.array([*here, *there, *alone])[:, None]
    assert most_typical(places, [], 3) == [4, 1, 8]
    assert most_typical(places, [1], 3)[:2] == [5, 8]
    assert most_typical(places, [1, 5], 20)[0] == 8
    assert sorted([1, 5, *most_typical(places, [1, 5], 20)]) == list(range(9))
    assert most_typical(places, range(9), 3) == []


def looking_like(*parts):
    """Make a photo's embedding: its parts by turns look like these directions, of three."""
    directions = np.eye(3)[[parts[number % len(parts)] for number in range(GRID**2)]]
    return directions.T.flatten()


def test_what_few_annotated_photos_show_comes_first():
    meadow, road, sea = 0, 1, 2
    photos = np.stack([
        looking_like(meadow), looking_like(meadow), looking_like(meadow), looking_like(meadow, road),
        looking_like(road), looking_like(road, sea, sea, sea), looking_like(meadow, meadow, meadow, sea),
    ])  # fmt: skip
    assert most_telling(photos, [0, 1], 2) == [5, 4]  # by what is new, though photo 2 is more typical
    assert most_telling(photos, [], 1) == most_typical(photos, [], 1) == [0]  # groups tell little yet
    assert most_telling(photos, [0, 4, 5], 9)[-1] == 2
    assert sorted(most_telling(photos, [3], 9)) == [0, 1, 2, 4, 5, 6]
    assert most_telling(photos, range(7), 3) == []


def test_photos_alike_and_those_without_features_are_ordered_too():
    assert sorted(most_telling(np.zeros((3, GRID**2)), [0], 5)) == [1, 2]
    assert most_telling(np.ones((1, 2 * GRID**2)), [], 5) == [0]


def test_the_padding_is_no_part_of_an_embedding():
    features = torch.zeros(1, 2, 8, 8, dtype=torch.half)
    features[:, :, :4, :8] = 1  # the photo: 16 x 32 pixels
    found = embedding(SimpleNamespace(features=features, sizes=((16, 32),)))
    assert found.dtype == np.float16 and found.tolist() == [1] * 32


def test_scores_are_in_the_order_in_which_tasks_come():
    front = [7, 3]
    assert [score(Select.DIVERSE, task, 0.4, front) for task in (7, 3, 5)] == [0, 0.25, 0.7]
    assert score(Select.DIVERSE, 5, 0.4, []) == score(Select.UNCERTAIN, 5, 0.4, []) == 0.4
    assert score(Select.MIXED, 3, 0.4, front) == 0.25 and score(Select.MIXED, 5, 0.4, front) > 0.5
    assert score(Select.MIXED, 5, 0.4, []) == score(Select.RANDOM, 5, 0.4, [])
    drawn = [score(Select.RANDOM, task, 0.4, []) for task in range(100)]
    assert drawn == [score(Select.RANDOM, task, 0.9, []) for task in range(100)]
    assert 0 <= min(drawn) < 0.1 and 0.9 < max(drawn) < 1


def test_mixed_goes_by_diversity_while_few_are_annotated():
    assert [ahead(Select.MIXED, count) for count in (0, FEW - 1, FEW, 50)] == [FEW, 1, 0, 0]
    assert ahead(Select.DIVERSE, 50) == 50
    assert ahead(Select.UNCERTAIN, 0) == ahead(Select.RANDOM, 0) == 0


def test_embeddings_are_gathered_and_those_of_another_model_dropped(storage):
    first, second = np.ones(3, np.float16), np.zeros(3, np.float16)
    files.keep(storage, 7, "older", {1: second})
    files.put_in_front(storage, 7, "older", [1])
    files.keep(storage, 7, "model", {4: first, 2: first})
    files.keep(storage, 7, "model", {3: second})
    for _ in range(2):
        found = files.collect(storage, 7, "model")
        assert {task: each.tolist() for task, each in found.items()} == {
            2: [1, 1, 1], 3: [0, 0, 0], 4: [1, 1, 1],
        }  # fmt: skip
    [key] = storage.keys("selection")
    assert key.endswith("embeddings/all.npz")


def test_what_is_damaged_costs_the_order_alone(storage, caplog):
    files.keep(storage, 7, "model", {1: np.ones(3, np.float16)})
    files.keep(storage, 7, "model", {2: np.ones(3, np.float16)})
    files.put_in_front(storage, 7, "model", [1])
    for key in (key for key in storage.keys("selection") if "/2.npz" in key or "front" in key):
        storage.write(key, b"[")
    with caplog.at_level(logging.WARNING):
        assert list(files.collect(storage, 7, "model")) == [1]
        assert files.front(storage, 7, "model") == []
    assert len(caplog.records) == 2


# Simulation


def simulated(count=12):
    """Make a project of photos with two labels, which the text knows one way round and the features tell."""
    photos = []
    for seed in range(count):
        rng = np.random.default_rng(seed)
        truth = rng.permutation(np.repeat([0, 1], 20)).astype(np.int16)
        features = rng.normal(0, 0.1, (40, 4)).astype(np.float16)
        features[np.arange(40), truth] += 1
        text = np.zeros((40, 2), np.float16)
        text[np.arange(40), 1 - truth] = 0.9
        samples = Samples(features, truth, np.full(40, 1 / 40, np.float32), text)
        photos.append(Photo(samples, rng.normal(size=2 * GRID**2).astype(np.float16), 1000))
    return Simulation(photos[:-2], photos[-2:], ("sky", "road"), "model", 0.3)


def test_a_replay_tells_what_was_learnt_and_what_it_cost():
    """The first photo is all wrong, by the text; what comes after it is right, by the memory."""
    project = simulated()
    for select in Select:
        points = list(project.replay(select, 0, (1, 3, 10)))
        assert [point.photos for point in points] == [1, 3, 10]
        assert [point.corrected for point in points] == [1000] * 3
        assert [point.miou for point in points] == [100] * 3


def test_the_results_are_told_and_drawn(tmp_path):
    project = simulated()
    curves = {
        select: [list(project.replay(select, seed, (1, 4))) for seed in (0, 1)]
        for select in (Select.RANDOM, Select.MIXED)
    }
    assert simulate_work.table(curves)[2:] == [
        f"| {select} | {count} | 100.0 | 100.0 to 100.0 | 0.00 |" for select in curves for count in (1, 4)
    ]
    simulate_work.draw(curves, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    "faulty", [["--strategies", "best"], ["--photos", "1,x"], ["--photos", "0,2"], ["--photos", "1,200"]]
)
def test_faulty_arguments_are_told_before_the_work(faulty):
    result = CliRunner().invoke(app, ["--data", "street.toml", *faulty])
    assert isinstance(result.exception, ConfigError) and faulty[0] in str(result.exception)
