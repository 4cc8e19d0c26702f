"""A model's answers as general data: asked once, by the names that it was trained on, read as a source."""

from types import SimpleNamespace

import numpy as np
import pytest

from ebseg.errors import DataError
from ebseg.predictor import Segmentation
from ebseg.vocabulary import Vocabulary
from training.finetuning.own_answers import own_answers
from training.storage import Storage


class Photos:
    """Photos of one grey each, a broken one among them. People labelled the first two columns of each."""

    name, vocabulary = "street", Vocabulary(["kerb", "Skies"])

    def __init__(self, count, broken=None, people=(-1, -1), height=4):
        self.count, self.broken, self.people, self.height = count, broken, people, height

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        if index == self.broken:
            raise DataError(f"photo {index} is broken")
        label_map = np.full((self.height, 6), -1, np.int16)
        label_map[:, :2] = self.people
        return SimpleNamespace(
            name=f"photo {index}", image=np.full((self.height, 6, 3), index, np.uint8), label_map=label_map
        )

    def fingerprint(self):
        return f"{self.count} photos"


class Model:
    """Says grey's label, and nothing of the first row."""

    version = "base-0"

    def __init__(self, names=("grass", "sky", "Grass ", "mud")):
        vocabulary = Vocabulary.union([Vocabulary([name]) for name in names]) if names else None
        self.net = SimpleNamespace(training_vocabulary=vocabulary)
        self.asked = []

    def predict(self, image, labels, threshold=None):
        self.asked.append(int(image[0, 0, 0]))
        label_map = np.full(image.shape[:2], image[0, 0, 0] % len(labels), np.int16)
        label_map[0] = -1
        return Segmentation(label_map, np.ones(label_map.shape, np.float32), labels.names)


@pytest.fixture
def storage(tmp_path):
    return Storage(str(tmp_path / "storage"), tmp_path / "cache")


def test_answers_are_read_in_place_of_peoples_label_maps(storage):
    answers = own_answers(Model(), Photos(3), 10, storage)
    assert answers.vocabulary.names == ("grass", "sky", "mud")
    sample = answers[2]
    assert (sample.name, sample.image[0, 0, 0], len(answers)) == ("photo 2", 2, 3)
    assert (sample.label_map[0] == -1).all() and (sample.label_map[1:] == 2).all()


@pytest.mark.parametrize(
    ("photo", "expected"), [(0, [0, 2, 0]), (2, [-1, 2, 2])], ids=["another name", "a name of the project"]
)
def test_people_are_believed_on_the_names_that_the_project_uses_too(storage, photo, expected):
    answers = own_answers(Model(("grass", "mud", "sky")), Photos(3, people=(0, 1)), 3, storage)
    assert answers[photo].label_map[2, :3].tolist() == expected


def test_a_photo_is_asked_about_once(storage):
    model = Model()
    first = own_answers(model, Photos(3), 2, storage)
    assert model.asked == [0, 2] and len(first) == 2
    told = []
    again = own_answers(model, Photos(3), 3, storage, told.append)
    assert model.asked == [0, 2, 1] and told == [1, 2, 3]
    assert again.fingerprint() != first.fingerprint()
    assert own_answers(Model(), Photos(3), 3, storage).fingerprint() == again.fingerprint()


def test_a_photo_that_cannot_be_read_is_left_to_whoever_reads_it(storage):
    answers = own_answers(Model(), Photos(3, broken=1), 3, storage)
    assert (answers[2].label_map[1:] == 2).all()
    with pytest.raises(DataError, match="photo 1 is broken"):
        answers[1]
    answers.photos.broken = None
    with pytest.raises(DataError, match="photo 1: the base was not asked about it"):
        answers[1]


def test_a_model_of_unknown_training_is_not_asked(storage):
    assert own_answers(Model(names=()), Photos(2), 2, storage) is None


@pytest.mark.parametrize(("height", "measures"), [(5, True), (4, False)])
def test_agreement_is_a_measure_where_the_model_is_sure_of_most(storage, height, measures):
    """It says nothing of the first row."""
    assert own_answers(Model(), Photos(2, height=height), 2, storage).measures() is measures
