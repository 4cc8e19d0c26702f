import numpy as np

from ebseg.data.samples import Sample
from ebseg.predictor import Segmentation
from ebseg.vocabulary import Vocabulary
from training.judging.measuring import measure, miou
from training.storage import Storage

TRUTH = np.array([[0, 0], [1, -1]], np.int16)


class Model:
    """Says "sky" everywhere; ``asked``: how many photos."""

    version = "model-1"

    def __init__(self) -> None:
        self.asked = 0

    def predict(self, image, labels, threshold=None):
        self.asked += 1
        shape = image.shape[:2]
        return Segmentation(np.zeros(shape, np.int16), np.ones(shape, np.float32), labels.names)


class Tasks:
    name, vocabulary = "tasks", Vocabulary(["sky", "road"])

    def __init__(self, tasks) -> None:
        self.tasks = tuple(tasks)

    def __len__(self) -> int:
        return len(self.tasks)

    def __getitem__(self, index: int) -> Sample:
        return Sample("photo", np.zeros((2, 2, 3), np.uint8), TRUTH)

    def fingerprint(self) -> str:
        return f"{len(self.tasks)} photos"


def test_each_task_is_counted_once_and_a_model_is_measured_once(tmp_path):
    storage, model, told = Storage(str(tmp_path / "storage"), tmp_path), Model(), []
    first = measure(model, Tasks([7, 9]), storage, told.append)
    assert first.tasks == (7, 9)
    assert first.counts.tolist() == [[[2, 0, 0], [1, 0, 0]]] * 2
    assert told == [1, 2]
    again = measure(model, Tasks([7, 9]), storage, told.append)
    assert (again.tasks, again.counts.tolist(), model.asked) == ((7, 9), first.counts.tolist(), 2)


def test_photos_of_one_task_are_summed_also_where_they_were_measured_before(tmp_path):
    storage, model = Storage(str(tmp_path / "storage"), tmp_path), Model()
    for _ in range(2):
        found = measure(model, Tasks([7, 9, 7]), storage, print)
        assert found.tasks == (7, 9)
        assert found.counts.tolist() == [[[4, 0, 0], [2, 0, 0]], [[2, 0, 0], [1, 0, 0]]]
    assert model.asked == 3


def test_the_same_annotations_under_other_task_numbers_have_those_numbers(tmp_path):
    storage, model = Storage(str(tmp_path / "storage"), tmp_path), Model()
    measure(model, Tasks([7, 9]), storage, print)
    assert measure(model, Tasks([107, 109]), storage, print).tasks == (107, 109)


def test_what_was_measured_is_found_by_the_model_and_the_content_alone(tmp_path):
    """Stores of before hold measurements under these keys."""
    storage, model, other = Storage(str(tmp_path / "storage"), tmp_path), Model(), Model()
    measure(model, Tasks([7, 9]), storage, print)
    miou(model, Tasks(range(6)), range(2, 5), storage, print)
    miou(model, Tasks(range(6)), range(2, 5), storage, print, without=Vocabulary(["road"]))
    assert storage.keys("evaluations") == [
        "evaluations/model-1/2 photos.npz",
        "evaluations/model-1/820efc45d91eadbc69bc084523d6b88b.json",
        "evaluations/model-1/c22510189c8b4d88d4271989f204b94a.json",
    ]
    other.version = "model-2"
    measure(other, Tasks([7, 9]), storage, print)
    miou(other, Tasks(range(6)), range(2, 5), storage, print)
    assert other.asked == 5
    asked = model.asked
    measure(model, Tasks([7, 9, 11]), storage, print)
    miou(model, Tasks(range(7)), range(2, 5), storage, print)
    miou(model, Tasks(range(6)), range(2, 6), storage, print)
    assert model.asked == asked + 3 + 3 + 4


def test_no_tasks_are_no_counts(tmp_path):
    measured = measure(Model(), Tasks([]), Storage(str(tmp_path / "storage"), tmp_path), print)
    assert measured.counts.shape == (0, 2, 3)


def test_miou_of_some_photos_without_some_labels(tmp_path):
    storage, model = Storage(str(tmp_path / "storage"), tmp_path), Model()
    source = Tasks(range(6))
    assert miou(model, source, range(2, 5), storage, print) == np.mean([2 / 3, 0]) * 100
    assert model.asked == 3
    assert miou(model, source, range(2, 5), storage, print, without=Vocabulary(["road"])) == 2 / 3 * 100
    assert np.isnan(miou(model, source, range(1), storage, print, without=source.vocabulary))
    assert np.isnan(miou(model, source, range(1), storage, print, without=source.vocabulary))
    assert model.asked == 7
