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
    """Photos of one grey each, a broken one among them."""

    name, vocabulary = "street", Vocabulary(["car"])

    def __init__(self, count, broken=None):
        self.count, self.broken = count, broken

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        if index == self.broken:
            raise DataError(f"photo {index} is broken")
        return SimpleNamespace(
            name=f"photo {index}", image=np.full((4, 6, 3), index, np.uint8), label_map=np.zeros((4, 6))
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
