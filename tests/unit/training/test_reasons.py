import pytest

from training.annotations.entry import Entry, LabelEntry
from training.annotations.manifest import Manifest
from training.judging.reasons import reason_to_train
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
    assert found.missing == (3 if "waits for held-out" in why else 0)


def test_the_first_training_wants_annotations_however_many_labels_are_new():
    assert not reason(manifest(4, 4, entry(50, label="road"))).train


def test_a_changed_annotation_is_a_new_one():
    changed = [entry(number) for number in range(10)]
    before = Manifest(1, "Streets", "image", LABELS, tuple(changed))
    later = {"label_map": "other", "time": "later"}
    now = manifest(0, 4, *(Entry(**{**vars(each), **later}) for each in changed))
    assert reason(now, before).why == "14 new annotations"


def test_labels_in_another_order_make_no_new_annotations():
    before = manifest(10, 4)
    other_maps = tuple(
        Entry(**{**vars(each), "label_map": f"{each.label_map}, turned"}) for each in before.entries
    )
    now = Manifest(1, "Streets", "image", LABELS[::-1], other_maps)
    assert reason(now, before).why == "0 new annotations, 10 start a training"


def test_annotations_that_show_no_label_are_nothing_to_train_on_or_to_judge_by():
    blank = [Entry(**{**vars(entry(number)), "pixels": {}}) for number in range(60, 70)]
    assert reason(manifest(1, 9, *blank), forced=True).why == (
        "1 annotated tasks to train on: 2 are needed at least; 10 more show none of the labels"
    )
    held_out = [Entry(**{**vars(each), "held_out": True}) for each in blank]
    assert "waits for held-out tasks: 1 of 4" in reason(manifest(20, 1, *held_out)).why


def test_who_forces_a_training_gets_one_where_it_can_be_judged():
    assert reason(manifest(2, 4), manifest(2, 4), forced=True).train
    assert not reason(manifest(2, 3), forced=True).train


def test_with_cross_validation_few_held_out_tasks_suffice():
    validated = {"few_held_out": "cross-validate"}
    assert reason(manifest(10, 0), **validated).train
    assert reason(manifest(5, 0), forced=True, **validated).why.endswith("6 are needed at least")


def test_cross_validation_judges_by_what_the_champion_has_not_seen():
    settings = Settings(few_held_out="cross-validate", min_new_annotations=1)
    seen = {f"photo {number}" for number in range(10)}
    for train, held_out, enough in ((10, 7, False), (11, 4, False), (12, 4, True), (16, 0, True)):
        found = reason_to_train(manifest(train, held_out), None, settings, forced=True, seen=seen)
        assert found.train is enough
    why = reason_to_train(manifest(11, 4), None, settings, forced=True, seen=seen).why
    assert why == (
        "cross-validation has 4 held-out tasks and 1 that the champion was not trained on: "
        "6 are needed, or 8 held-out ones"
    )


def test_pages_of_a_task_count_as_one():
    pages = [
        Entry(**{**vars(entry(50, held_out=held_out)), "photo": f"page {held_out} {page}", "page": page}
              | {"task": 50 + held_out, "annotation": 50 + held_out, "label_map": f"page {held_out} {page}"})
        for page in range(20)
        for held_out in (False, True)
    ]  # fmt: skip
    assert reason(manifest(0, 9, *pages), forced=True).why == (
        "1 annotated tasks to train on: 2 are needed at least"
    )
    assert "waits for held-out tasks: 1 of 4" in reason(manifest(20, 0, *pages)).why
    assert reason(manifest(4, 4, *pages), manifest(4, 4)).why == ("2 new annotations, 10 start a training")
