import numpy as np
from PIL import Image

from ebseg.data.folder import FolderSource
from ebseg.data.subset import hold_out, sample_of
from ebseg.vocabulary import Vocabulary


def _folder(path, count):
    for folder in ("photos", "labels"):
        (path / folder).mkdir(exist_ok=True)
    for number in range(count):
        Image.fromarray(np.full((4, 4, 3), number, np.uint8)).save(path / "photos" / f"{number:03}.png")
        Image.fromarray(np.zeros((4, 4), np.uint8)).save(path / "labels" / f"{number:03}.png")
    return FolderSource(path / "photos", path / "labels", Vocabulary(["sky"]))


def _names(part):
    return {part.source.names[index] for index in part.indices}


def test_larger_samples_contain_smaller_ones(tmp_path):
    source = _folder(tmp_path, 30)
    five, twenty = sample_of(source, 5), sample_of(source, 20)
    assert len(five) == 5 and _names(five) < _names(twenty)
    assert five[0].name.endswith(source.names[five.indices[0]])
    assert five.fingerprint() == sample_of(source, 5).fingerprint() != twenty.fingerprint()


def test_a_photo_stays_held_out_when_others_are_added(tmp_path):
    train, held = hold_out(sample_of(_folder(tmp_path, 40), 40), 0.25)
    assert len(train) + len(held) == 40 and 4 <= len(held) <= 16
    more_train, more_held = hold_out(sample_of(_folder(tmp_path, 60), 60), 0.25)
    assert _names(held) < _names(more_held) and _names(train) < _names(more_train)


def test_a_few_photos_have_one_in_each_part(tmp_path):
    for count in (2, 3, 4):
        train, held = hold_out(sample_of(_folder(tmp_path, count), count), 0.01)
        assert len(held) == 1 and len(train) == count - 1
        train, held = hold_out(sample_of(_folder(tmp_path, count), count), 0.99)
        assert len(train) >= 1 and len(held) >= 1
