import pytest

from training.manifest import Entry, LabelEntry, Manifest
from training.reasons import reason_to_train
from training.settings import Settings

LABELS = (LabelEntry("sky", ("sky",)), LabelEntry("road", ("road",)))


def entry(number: int, *, held_out: bool = False, label: str = "sky") -> Entry:
    return Entry(
        task=number, annotation=number, time="", photo=f"photo {number}", label_map=f"map {number}",
        held_out=held_out, pixels={label: 9}, unknown=(), correction=None, revision="", address="",
    )  # fmt: skip


def manifest(train: int, held_out: int, *more: Entry) -> Manifest:
    entries = [entry(number) for number in range(train)]
    entries += [entry(100 + number, held_out=True) for number in range(held_out)]
    return Manifest(1, "Streets", "image", LABELS, (*entries, *more))


def reason(now: Manifest, before: Manifest | None = None, *, forced: bool = False, **settings: object):
    given = {"min_new_annotations": 10, "min_held_out": 4} | settings
    return reason_to_train(now, before, Settings(**given), forced=forced)


@pytest.mark.parametrize(
    ("now", "before", "train", "why"),
    [
        (manifest(6, 4), None, True, "10 new annotations"),
        (manifest(5, 4), None, False, "9 new annotations, 10 start a training"),
        (manifest(16, 4), manifest(6, 4), True, "10 new annotations"),
        (manifest(15, 4), manifest(6, 4), False, "9 new annotations, 10 start a training"),
        (manifest(6, 4), manifest(6, 4), False, "0 new annotations, 10 start a training"),
        (manifest(6, 4, entry(50, label="road")), manifest(6, 4), True, "1 new labels: road"),
        (manifest(16, 1), None, False, "waits for held-out tasks: 1 of 4 are annotated, 3 more are needed"),
        (manifest(1, 9), None, False, "1 annotated tasks to train on: 2 are needed at least"),
    ],
)
def test_thresholds(now, before, train, why):
    found = reason(now, before)
    assert (found.train, found.why) == (train, why)


def test_the_first_training_wants_annotations_however_many_labels_are_new():
    assert not reason(manifest(4, 4, entry(50, label="road"))).train


def test_a_changed_annotation_is_a_new_one():
    changed = [entry(number) for number in range(10)]
    before = Manifest(1, "Streets", "image", LABELS, tuple(changed))
    now = manifest(0, 4, *(Entry(**{**vars(each), "label_map": "other"}) for each in changed))
    assert reason(now, before).why == "14 new annotations"


def test_who_forces_a_training_gets_one_where_it_can_be_judged():
    assert reason(manifest(2, 4), manifest(2, 4), forced=True).train
    assert not reason(manifest(2, 3), forced=True).train


def test_with_cross_validation_few_held_out_tasks_suffice():
    validated = {"few_held_out": "cross-validate"}
    assert reason(manifest(10, 0), **validated).train
    assert reason(manifest(5, 0), forced=True, **validated).why.endswith("6 are needed at least")
