import hashlib

import numpy as np
import pytest

from ebseg.vocabulary import Vocabulary
from training.annotations.parts import FOLDS, folds, training_and_validation
from training.judging.cross_validation import only, pool
from training.judging.gate import Measured


class Photos:
    """Stands for a snapshot of so many photos."""

    name = "project 1, to train on"
    vocabulary = Vocabulary(["sky"])

    def __init__(self, count: int) -> None:
        self.photos = tuple(f"photo {number}" for number in range(count))
        self.of_group: dict[str, str] = {}
        self.tasks = tuple(range(100, 100 + count))
        self.blank = set[str]()

    @property
    def groups(self) -> tuple[str, ...]:
        return tuple(self.of_group.get(photo, photo) for photo in self.photos)

    @property
    def labelled(self) -> set[str]:
        return set(self.photos) - self.blank

    def __len__(self) -> int:
        return len(self.photos)

    def __getitem__(self, index: int) -> str:
        return self.photos[index]

    def fingerprint(self) -> str:
        return str(self.photos)


def test_a_fifth_is_for_validation_and_nothing_is_in_both():
    train, validation = training_and_validation(Photos(50))
    assert len(validation) == 10
    assert sorted(train.indices + validation.indices) == list(range(50))
    assert [validation[0], validation.tasks[0]] == [
        f"photo {validation.indices[0]}",
        100 + validation.indices[0],
    ]


def test_two_photos_are_one_and_one():
    train, validation = training_and_validation(Photos(2))
    assert (len(train), len(validation)) == (1, 1)


def test_folds_have_every_photo_once_and_are_not_trained_on():
    source = Photos(20)
    parts = folds(source)
    assert sorted(index for part in parts for index in part.indices) == list(range(20))
    assert {len(part) for part in parts} == {6, 7}
    for number in range(FOLDS):
        train, validation = training_and_validation(source, fold=number)
        assert not set(parts[number].indices) & set(train.indices + validation.indices)
        assert len(train) + len(validation) + len(parts[number]) == 20


def test_parts_follow_from_the_photos_whatever_their_order():
    source, turned = Photos(30), Photos(30)
    turned.photos = turned.photos[::-1]
    (_, first), (_, second) = training_and_validation(source), training_and_validation(turned)
    assert {source[index] for index in first.indices} == {turned[index] for index in second.indices}
    assert first.fingerprint() != second.fingerprint()


def test_parts_are_those_of_runs_and_measurements_of_before():
    train, validation = training_and_validation(Photos(6))
    assert (train.indices, validation.indices) == ((0, 1, 3, 4, 5), (2,))
    parts = folds(Photos(6))
    assert [part.indices for part in parts] == [(1, 5), (2, 4), (0, 3)]
    assert [part.name for part in parts][0] == "project 1, to train on, fold 1"
    assert [train.name, validation.name] == [
        "project 1, to train on, training", "project 1, to train on, validation",
    ]  # fmt: skip
    assert parts[0].fingerprint() == hashlib.sha256(f"{Photos(6).photos} (1, 5)".encode()).hexdigest()


def test_the_same_photo_in_two_tasks_is_in_one_part():
    source = Photos(20)
    source.photos = source.photos[:10] * 2
    for parts in (folds(source), training_and_validation(source), training_and_validation(source, fold=1)):
        shown = [{source[index] for index in part.indices} for part in parts]
        assert sum(map(len, shown)) == len(set.union(*shown))
        assert all(len(part) == 2 * len(photos) for part, photos in zip(parts, shown, strict=True))


def test_photos_that_show_no_label_are_trained_on_and_judge_nothing():
    source = Photos(9)
    source.blank = {f"photo {number}" for number in range(5)}
    for fold in (None, 0, 1, 2):
        train, validation = training_and_validation(source, fold=fold)
        assert set(range(5)) <= set(train.indices)
        assert validation.indices and any(index >= 5 for index in train.indices)
    assert sorted(index for part in folds(source) for index in part.indices) == [5, 6, 7, 8]


def test_measurements_of_other_tasks_are_left_out():
    counts = np.arange(3 * 6).reshape(3, 2, 3)
    kept = only({7, 3, 99}, Measured((3, 5, 7), counts))
    assert kept.tasks == (3, 7)
    assert kept.counts.tolist() == [counts[0].tolist(), counts[2].tolist()]


def test_no_held_out_tasks_leave_the_numbers_of_the_others():
    none = Measured((), np.zeros((0, 2, 3), np.int64))
    pooled = pool([none, Measured((5, 3), np.zeros((2, 2, 3), np.int64))])
    assert pooled.tasks == (3, 5)
    assert all(isinstance(task, int) for task in pooled.tasks)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_measurements_are_pooled_in_the_order_of_the_tasks(order):
    parts = [
        Measured((7, 3), np.arange(2 * 6).reshape(2, 2, 3)),
        Measured((5,), np.arange(6).reshape(1, 2, 3) + 100),
    ]
    pooled = pool([parts[index] for index in order])
    assert pooled.tasks == (3, 5, 7)
    assert pooled.counts[:, 0, 0].tolist() == [6, 100, 0]


def test_photos_that_belong_together_are_in_one_part():
    source = Photos(40)
    source.of_group = {f"photo {number}": f"group {number // 4}" for number in range(40)}
    source.blank = {"photo 0", "photo 39"}
    for fold in (None, *range(FOLDS)):
        parts = list(training_and_validation(source, fold=fold))
        if fold is not None:
            parts.append(folds(source)[fold])
        groups = [{source.of_group[source[index]] for index in part.indices} for part in parts]
        assert sum(map(len, groups)) == len(set.union(*groups)) == 10
    assert sorted(len({index // 4 for index in part.indices}) for part in folds(source)) == [3, 3, 4]
    assert all(source[index] not in source.blank for part in folds(source) for index in part.indices)
