import json
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from ebseg.config import BASE
from ebseg.data.folder import FolderSource
from ebseg.data.samples import Sample
from ebseg.errors import ConfigError
from ebseg.evaluation import benchmark
from ebseg.evaluation.benchmark import AHEAD, BEHIND, run_benchmark
from ebseg.evaluation.labellers import ModelLabeller
from ebseg.evaluation.metrics import BoundaryCounts, ConfusionMatrix
from ebseg.evaluation.result import Evaluation
from ebseg.evaluation.tally import BROKEN_SHOWN, EXTREMES, Tally
from ebseg.predictor import Predictor
from ebseg.vocabulary import Vocabulary

VOCABULARY = Vocabulary(["sky", "water", "road"])
PHOTOS = 5
SECONDS = 30


@pytest.fixture
def folder(tmp_path):
    """Write photos of different sizes with label maps."""
    random = np.random.default_rng(0)
    for kind in ("photos", "labels"):
        (tmp_path / kind).mkdir()
    for number in range(PHOTOS):
        size = (40 + 6 * number, 70 - 5 * number)
        Image.fromarray(random.integers(0, 255, (*size, 3), dtype=np.uint8)).save(
            tmp_path / "photos" / f"{number}.png"
        )
        labels = random.integers(0, 3, size, dtype=np.uint8)
        labels[:9] = 255
        Image.fromarray(labels).save(tmp_path / "labels" / f"{number}.png")
    return tmp_path


@pytest.fixture
def source(folder):
    return FolderSource(folder / "photos", folder / "labels", VOCABULARY, name="street val")


@pytest.fixture
def predictor(random_tiny):
    return Predictor(random_tiny, version="random", device="cpu", threshold=1.0)


@pytest.fixture
def labeller(predictor):
    return ModelLabeller(predictor, VOCABULARY)


class Echo:
    """Labels every pixel with label 0, without a model; may be told to do more."""

    name, config, device = "echo", None, torch.device("cpu")
    seen = (True, False, True)
    protocol = {"tta": False}

    def __init__(self):
        self.prepared, self.labelled = [], 0

    def start(self):
        pass

    def prepare(self, sample):
        self.prepared.append(sample.name)
        return sample.label_map.shape

    def infer(self, prepared):
        self.labelled += 1
        return lambda: np.zeros(prepared, np.int16)


class Constant:
    """Photos of 4 x 4 pixels whose truth is label 0 in as many pixels as their number."""

    name, vocabulary = "constant", VOCABULARY

    def __init__(self, count):
        self.count = count

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        truth = np.where(np.arange(16).reshape(4, 4) < index, 0, 1).astype(np.int16)
        return Sample(str(index), np.zeros((4, 4, 3), np.uint8), truth)

    def fingerprint(self):
        return str(self.count)


@pytest.mark.parametrize("workers", [1, 3])
def test_counts_are_those_of_predicting_photo_by_photo(source, predictor, labeller, workers):
    matrix, boundary = ConfusionMatrix(3), BoundaryCounts(3)
    for index in range(PHOTOS):
        sample = source[index]
        predicted = predictor.predict(sample.image, VOCABULARY, threshold=0.0).label_map
        matrix.add(predicted, sample.label_map)
        boundary.add(predicted, sample.label_map)
    found = run_benchmark(labeller, source, workers=workers)
    assert (found.tally.matrix.counts == matrix.counts).all() and matrix.counts.sum() > 0
    assert (found.tally.boundary.union == boundary.union).all()
    assert (found.tally.measured, found.tally.done, found.asked) == (PHOTOS, PHOTOS, PHOTOS)
    assert found.seen == (True, False, True)
    with pytest.raises(ConfigError, match="0 threads"):
        run_benchmark(labeller, source, workers=0)


def test_limit_takes_the_first_photos(source):
    echo = Echo()
    assert run_benchmark(echo, source, limit=2).tally.measured == 2
    assert sorted(echo.prepared) == [str(source.photos / name) for name in ("0.png", "1.png")]
    assert run_benchmark(Echo(), source, limit=99).asked == PHOTOS


def test_broken_photos_are_named_and_the_others_measured(source, folder):
    whole = run_benchmark(Echo(), source).tally.matrix.counts
    photo, label_map = folder / "photos" / "1.png", folder / "labels" / "3.png"
    photo.write_bytes(photo.read_bytes()[:200])
    Image.fromarray(np.full((58, 55), 7, np.uint8)).save(label_map)
    found = run_benchmark(Echo(), source)
    assert (found.tally.measured, found.tally.broken, found.asked) == (3, 2, 5)
    assert "1.png" in found.tally.messages[0] and "value 7" in found.tally.messages[1]
    assert 0 < found.tally.matrix.counts.sum() < whole.sum()
    content = found.to_json()
    assert content["photos"] == {"measured": 3, "asked": 5, "broken": 2, "official": None}
    assert content["broken"] == found.tally.messages


def test_reading_runs_ahead_of_the_model_and_counting_behind_it():
    echo, counted = Echo(), threading.Event()
    two_read = threading.Event()
    real_prepare, real_infer = echo.prepare, echo.infer
    most = 0

    def prepare(sample):
        nonlocal most
        shape = real_prepare(sample)
        most = max(most, len(echo.prepared) - echo.labelled)
        if sample.name == "1":
            two_read.set()
        return shape

    def infer(prepared):
        if echo.labelled == 0:
            assert two_read.wait(SECONDS), "the second photo is read while the first is labelled"
        if echo.labelled == BEHIND:
            assert counted.wait(SECONDS), "the first photo is counted while another is labelled"
        return real_infer(prepared)

    echo.prepare, echo.infer = prepare, infer
    assert (
        run_benchmark(echo, Constant(40), workers=2, progress=lambda done: counted.set()).tally.measured == 40
    )
    assert most <= AHEAD * 2 + 2, "memory is bounded"


def test_a_failure_of_the_model_ends_the_run(source):
    echo = Echo()

    def infer(prepared):
        raise RuntimeError("out of memory")

    echo.infer = infer
    before = set(threading.enumerate())
    with pytest.raises(RuntimeError, match="out of memory"):
        run_benchmark(echo, source)
    assert not set(threading.enumerate()) - before


def stop_at(count):
    def progress(done):
        if done == count:
            raise KeyboardInterrupt

    return progress


def test_a_stopped_run_goes_on_where_it_was(source, labeller, tmp_path, monkeypatch):
    monkeypatch.setattr(benchmark, "SAVE_SECONDS", 0.0)
    expected = run_benchmark(labeller, source)
    with pytest.raises(KeyboardInterrupt):
        run_benchmark(labeller, source, out=tmp_path / "out", progress=stop_at(2))
    stored = Tally.load(tmp_path / "out" / "process-0.npz", _identity(tmp_path / "out" / "process-0.npz"))
    assert stored.done == 2
    done = []
    found = run_benchmark(labeller, source, out=tmp_path / "out", progress=done.append)
    assert done == [3, 4, 5]
    assert (found.tally.matrix.counts == expected.tally.matrix.counts).all()
    assert (found.tally.boundary.intersection == expected.tally.boundary.intersection).all()
    assert (found.tally.best, found.tally.worst) == (expected.tally.best, expected.tally.worst)
    assert found.tally.seconds["total"] > stored.seconds["total"] > 0
    again = run_benchmark(
        labeller, source, out=tmp_path / "out", progress=lambda done: pytest.fail("it is done")
    )
    assert again.to_json()["metrics"] == expected.to_json()["metrics"]


def _identity(path):
    with np.load(path) as found:
        return json.loads(str(found["rest"]))["identity"]


def test_broken_photos_are_remembered_by_a_stopped_run(source, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(benchmark, "SAVE_SECONDS", 0.0)
    (folder / "photos" / "0.png").write_bytes(b"nothing")
    with pytest.raises(KeyboardInterrupt):
        run_benchmark(Echo(), source, out=tmp_path / "out", progress=stop_at(1))
    found = run_benchmark(Echo(), source, out=tmp_path / "out").tally
    assert (found.measured, found.broken, found.done) == (4, 1, 5) and "0.png" in found.messages[0]


def test_another_evaluations_state_is_refused(source, labeller, tmp_path):
    run_benchmark(labeller, source, out=tmp_path / "out", limit=2)
    for changes, what in (({"limit": 3}, "photos"), ({"labeller": Echo(), "limit": 2}, "model, protocol")):
        with pytest.raises(ConfigError, match=f"process-0.npz is of another .* differs in: {what}\\. Choose"):
            run_benchmark(**{"labeller": labeller, "source": source, "out": tmp_path / "out", **changes})
    (tmp_path / "out" / "process-0.npz").write_bytes(b"PK\3\4 half")
    with pytest.raises(ConfigError, match="process-0.npz is damaged"):
        run_benchmark(labeller, source, out=tmp_path / "out", limit=2)


def test_only_the_best_and_the_worst_photos_are_kept():
    found = run_benchmark(Echo(), Constant(17)).tally
    assert [photo.index for photo in found.best] == list(range(16, 16 - EXTREMES, -1))
    assert [photo.index for photo in found.worst] == list(range(EXTREMES))
    assert found.best[0].miou == 100.0 and found.worst[0].miou == 0.0
    assert found.best[1].miou == pytest.approx(100 * 15 / 16 / 2) and found.best[1].pixels == 16
    for number in range(BROKEN_SHOWN + 5):
        found.add_broken(str(number))
    assert (found.broken, len(found.messages)) == (BROKEN_SHOWN + 5, BROKEN_SHOWN)


def test_a_photo_without_truth_is_measured_and_in_no_ranking():
    tally = Tally(2)
    tally.add(0, "a", np.zeros((3, 3), np.int16), np.full((3, 3), -1, np.int16))
    assert (tally.measured, tally.best, tally.worst) == (1, [], [])


def test_json_has_all_of_it(source, labeller):
    content = run_benchmark(labeller, source, limit=3).to_json()
    assert json.loads(json.dumps(content, allow_nan=False)) == content
    assert (content["model"], content["dataset"], content["labels"]) == (
        "random", "street val", ["sky", "water", "road"],
    )  # fmt: skip
    assert content["protocol"] == {
        "short_edges": [64], "longest_edge": 160, "mirrored": False, "tta": False,
    }  # fmt: skip
    assert [row["name"] for row in content["classes"]] == content["labels"]
    ious = [row["iou"] for row in content["classes"]]
    assert content["metrics"]["miou"] == pytest.approx(np.mean(ious))
    assert set(content["throughput"]["shares"]) == {"read", "network", "scores", "metrics", "wait"}
    assert content["throughput"]["photos_per_second"] > 0
    assert content["published"] is None and content["difference"] is None
    first = content["confusion"][0]
    assert first["pixels"] == max(pair["pixels"] for pair in content["confusion"])
    row = next(row for row in content["classes"] if row["name"] == first["truth"])
    assert first["share"] == pytest.approx(100 * first["pixels"] / row["pixels"])
    assert content["config"]["test_size"] == 64


@pytest.mark.parametrize(
    ("changes", "difference"),
    [
        ({}, 100 - 30.0),
        ({"config": None}, None),
        ({"protocol": {"tta": True}}, None),
        ({"official": 4}, None),
        ({"vocabulary": VOCABULARY}, None),
    ],
)
def test_the_papers_number_is_compared_with_the_same_protocol_alone(changes, difference):
    vocabulary = Vocabulary.from_dataset("ade20k-150")
    tally = Tally(150)
    for index in range(3):
        tally.add(index, str(index), np.zeros((4, 4), np.int16), np.zeros((4, 4), np.int16))
    evaluation = replace(
        Evaluation(
            model="m", dataset="d", vocabulary=vocabulary, seen=(True,) * 150, asked=3, official=3,
            tally=tally, protocol={"tta": False}, config=BASE, device=torch.device("cpu"), processes=1,
        ),
        **changes,
    )  # fmt: skip
    assert evaluation.difference == difference
    known = evaluation.config is not None and evaluation.vocabulary is vocabulary
    assert evaluation.published == (30.0 if known else None)
