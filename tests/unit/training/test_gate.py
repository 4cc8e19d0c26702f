import json
import math
from dataclasses import replace

import numpy as np
import pytest

from ebseg.errors import DataError
from ebseg.evaluation.metrics import ConfusionMatrix, mean_percent
from training.judging.gate import Measured, Retention, Rules, decide
from training.registry.decision import Verdict
from training.settings import Settings

LABELS = ("sky", "road", "kerb")
RULES = Rules.of(Settings())


def task(*hits: float, pixels: int = 10_000, shown: int = 2) -> np.ndarray:
    """Count a task that shows the first labels, each a share of whose pixels is found, the rest missed."""
    counts = np.zeros((len(LABELS), len(LABELS) + 1), np.int64)
    for label, share in enumerate(hits[:shown]):
        counts[label, label] = round(share * pixels)
        counts[label, -1] = pixels - counts[label, label]
    return counts


def measured(*tasks: np.ndarray) -> Measured:
    return Measured(tuple(range(1, len(tasks) + 1)), np.stack(tasks))


def even(share: float, tasks: int = 10) -> Measured:
    return measured(*[task(share, share)] * tasks)


def test_the_rules_are_the_settings():
    settings = Settings(promote_margin=2, min_held_out=3, few_held_out="cross-validate")
    rules = Rules.of(settings)
    assert rules == replace(RULES, promote_margin=2, min_held_out=3, few_held_out="cross-validate")


def test_a_surely_better_candidate_is_promoted_with_all_numbers():
    decision = decide(LABELS, even(0.6), even(0.7), [Retention("drawn scenes", 80, 79)], RULES)
    assert decision.verdict is Verdict.PROMOTE
    assert decision.reasons == (
        "held-out mIoU 60.0 -> 70.0 on 10 held-out tasks: +10.0 points, by the bootstrap at least +10.0",
        "drawn scenes: mIoU 80.0 -> 79.0",
    )
    numbers = json.loads(json.dumps(decision.to_dict(), allow_nan=False))
    assert numbers["verdict"] == "promote" and numbers["reasons"] == list(decision.reasons)
    assert numbers["miou"] == {"champion": pytest.approx(60), "candidate": pytest.approx(70)}
    assert [numbers["gain"], numbers["lower_bound"]] == pytest.approx([10, 10])
    assert numbers["labels"][0] == {
        "name": "sky", "champion": pytest.approx(60), "candidate": pytest.approx(70), "pixels": 100_000,
    }  # fmt: skip
    assert numbers["labels"][2] == {"name": "kerb", "champion": None, "candidate": None, "pixels": 0}
    forgetting = {"name": "drawn scenes", "before": 80, "after": 79, "lost": pytest.approx(1 / 80)}
    assert numbers["forgetting"] == [forgetting]
    assert numbers["held_out_tasks"] == list(range(1, 11))
    assert numbers["rules"]["promote_margin"] == 1.0


def test_the_numbers_are_those_of_the_benchmark():
    rng = np.random.default_rng(3)
    sides = [rng.integers(-1, 3, (9, 20, 20)) for _ in range(3)]
    matrices = []
    for predicted in sides[1:]:
        each = []
        for one, truth in zip(predicted, sides[0], strict=True):
            matrix = ConfusionMatrix(3)
            matrix.add(one, truth)
            each.append(matrix.counts)
        matrices.append(each)
    numbers = decide(LABELS, measured(*matrices[0]), measured(*matrices[1]), [], RULES).numbers
    for side, each in zip(("champion", "candidate"), matrices, strict=True):
        whole = ConfusionMatrix(3)
        whole.counts = np.sum(each, axis=0)
        assert numbers["miou"][side] == pytest.approx(mean_percent(whole.iou()))
        assert [label[side] for label in numbers["labels"]] == pytest.approx(whole.iou() * 100)


def lucky() -> tuple[Measured, Measured]:
    """One easy task gains much, the others lose a little."""
    before = [task(0.1, 0.1, pixels=1_000_000), *[task(0.6, 0.6)] * 9]
    after = [task(0.9, 0.9, pixels=1_000_000), *[task(0.59, 0.59)] * 9]
    return measured(*before), measured(*after)


def dropped() -> tuple[Measured, Measured]:
    before, after = [task(0.5, 0.5)] * 10, [task(0.9, 0.4)] * 10
    return measured(*before), measured(*after)


@pytest.mark.parametrize(
    ("sides", "kept", "reasons"),
    [
        (lucky(), [], ["on other tasks it may be no gain: by the bootstrap -1.0 points at least"]),
        (
            dropped(),
            [],
            ["label 'road' falls from IoU 50.0 to 40.0: allowed are 5.0 points"],
        ),
        (
            (even(0.6), even(0.7)),
            [Retention("drawn scenes", 80, 75), Retention("streets", 60, 60)],
            ["drawn scenes falls from mIoU 80.0 to 75.0, 6.2% of it: allowed are 5.0%"],
        ),
        (
            (even(0.6), even(0.6)),
            [],
            [
                "held-out mIoU 60.0 -> 60.0: +0.0 points, wanted are +1.0",
                "on other tasks it may be no gain: by the bootstrap +0.0 points at least",
            ],
        ),
        (
            (even(0.6), even(0.5)),
            [Retention("drawn scenes", 80, 60)],
            [
                "held-out mIoU 60.0 -> 50.0: -10.0 points, wanted are +1.0",
                "on other tasks it may be no gain: by the bootstrap -10.0 points at least",
                "label 'sky' falls from IoU 60.0 to 50.0: allowed are 5.0 points",
                "label 'road' falls from IoU 60.0 to 50.0: allowed are 5.0 points",
                "drawn scenes falls from mIoU 80.0 to 60.0, 25.0% of it: allowed are 5.0%",
            ],
        ),
    ],
    ids=["a lucky task", "a label falls", "forgetting", "the same model", "everything"],
)
def test_a_candidate_is_rejected_for_all_its_reasons(sides, kept, reasons):
    decision = decide(LABELS, *sides, kept, RULES)
    assert decision.verdict is Verdict.REJECT
    assert list(decision.reasons) == reasons


@pytest.mark.parametrize(
    ("candidate", "kept", "promoted"),
    [
        (even(0.61), [], True),
        (even(0.6099), [], False),
        (measured(*[task(0.72, 0.55)] * 10), [], True),
        (measured(*[task(0.72, 0.5499)] * 10), [], False),
        (even(0.7), [Retention("general", 80, 76)], True),
        (even(0.7), [Retention("general", 80, 75.99)], False),
        (even(0.7), [Retention("nothing shown", math.nan, math.nan), Retention("hopeless", 0, 0)], True),
    ],
)
def test_what_reaches_a_limit_exactly_is_let_through(candidate, kept, promoted):
    verdict = decide(LABELS, even(0.6), candidate, kept, RULES).verdict
    assert verdict is (Verdict.PROMOTE if promoted else Verdict.REJECT)


@pytest.mark.parametrize(("pixels", "verdict"), [(999, Verdict.PROMOTE), (1000, Verdict.REJECT)])
def test_a_label_with_few_pixels_may_fall(pixels, verdict):
    before, after = task(0.5, 0.5), task(0.9, 0.5)
    before[2, 2], after[2, 3] = pixels, pixels
    sides = measured(*[before] * 10), measured(*[after] * 10)
    rules = replace(RULES, promote_margin=-100, enough_pixels=10_000)
    reasons = decide(LABELS, *sides, [], rules).reasons
    assert any("'kerb' falls" in reason for reason in reasons) is (verdict is Verdict.REJECT)


@pytest.mark.parametrize(
    ("tasks", "rules", "cross_validated", "reason"),
    [
        (7, RULES, False, "7 held-out tasks with labels, 1 fewer than the 8 that a decision needs; "
         "EBSEG_FEW_HELD_OUT=cross-validate decides with fewer"),
        (1, replace(RULES, few_held_out="cross-validate"), False,
         "1 held-out task with labels, 7 fewer than the 8 that a decision needs"),
        (7, RULES, True, None),
        (6, RULES, True, None),
        (5, RULES, True,
         "5 held-out or cross-validated tasks with labels, 1 fewer than the 6 that a decision needs"),
        (2, replace(RULES, min_held_out=2), True, None),
        (8, RULES, False, None),
    ],
)  # fmt: skip
def test_with_few_held_out_tasks_it_waits(tasks, rules, cross_validated, reason):
    decision = decide(LABELS, even(0.6, tasks), even(0.7, tasks), [], rules, cross_validated=cross_validated)
    assert (decision.verdict is Verdict.WAIT) is (reason is not None)
    if reason:
        assert decision.reasons == (reason,)
    assert decision.numbers["gain"] == pytest.approx(10)


def test_tasks_without_a_labelled_pixel_do_not_count():
    before, after = [*[task(0.6, 0.6)] * 6, *[task()] * 9], [*[task(0.7, 0.7)] * 6, *[task()] * 9]
    assert decide(LABELS, measured(*before), measured(*after), [], RULES).verdict is Verdict.WAIT
    crossed = decide(LABELS, measured(*before), measured(*after), [], RULES, cross_validated=True)
    assert crossed.verdict is Verdict.PROMOTE  # resamples without these tasks are left out, not counted as 0
    assert crossed.numbers["lower_bound"] == pytest.approx(10)


def test_one_labelled_pixel_of_one_label_is_something_to_judge_by():
    tasks = [task(1.0, pixels=1, shown=1)] * 8
    missed = measured(*[task(0.0, pixels=1, shown=1)] * 8)
    decision = decide(LABELS, missed, measured(*tasks), [], RULES)
    assert decision.verdict is Verdict.PROMOTE
    assert decision.numbers["lower_bound"] == pytest.approx(100)


@pytest.mark.parametrize("tasks", [0, 3])
def test_no_label_at_all_is_a_reason_to_wait(tasks):
    empty = Measured(tuple(range(tasks)), np.zeros((tasks, 3, 4), np.int64))
    decision = decide(LABELS, empty, empty, [], RULES, cross_validated=True)
    assert decision.verdict is Verdict.WAIT
    assert decision.numbers["gain"] is None and decision.numbers["lower_bound"] is None
    json.dumps(decision.to_dict(), allow_nan=False)


def test_the_bootstrap_is_paired_and_repeatable():
    """Tasks differ widely in how hard they are; the candidate is a little better on each."""
    shares = np.linspace(0.1, 0.9, 12)
    before = measured(*[task(share, share) for share in shares])
    after = measured(*[task(share + 0.02, share + 0.02) for share in shares])
    first, second = (decide(LABELS, before, after, [], RULES) for _ in range(2))
    assert first == second
    assert first.verdict is Verdict.PROMOTE
    assert first.numbers["lower_bound"] == pytest.approx(2)


def test_the_lower_bound_is_the_percentile_of_the_resampled_gains():
    """As an independent, slow count of what 2000 resamples of the tasks would have shown."""
    rng = np.random.default_rng(5)
    sides = []
    for better in (0.0, 0.05):
        shares = np.clip(rng.normal(0.5 + better, 0.2, (7, 2)), 0.05, 0.95)
        tasks = [task(*each, pixels=1000 * number) for number, each in enumerate(shares, start=1)]
        sides.append(measured(*tasks))
    gains = []
    for draw in np.random.default_rng(0).multinomial(7, np.full(7, 1 / 7), 2000):
        means = []
        for side in sides:
            whole = ConfusionMatrix(3)
            whole.counts = (draw[:, None, None] * side.counts).sum(axis=0)
            means.append(mean_percent(whole.iou()))
        gains.append(means[1] - means[0])
    expected = np.percentile(gains, 2.5)
    assert decide(LABELS, *sides, [], RULES).numbers["lower_bound"] == pytest.approx(expected, abs=1e-9)
    assert abs(expected - np.percentile(gains, 3.5)) > 0.05


def test_many_labels_fit_into_memory():
    rng = np.random.default_rng(0)
    labels = [f"label {number}" for number in range(847)]
    counts = np.zeros((8, 847, 848), np.int64)
    counts[:, np.arange(847), np.arange(847)] = rng.integers(0, 2, (8, 847))
    assert decide(labels, *[Measured(tuple(range(8)), counts)] * 2, [], RULES).verdict is Verdict.REJECT


@pytest.mark.parametrize(
    ("candidate", "complaint"),
    [
        (Measured((1, 2, 4), even(0.6, 3).counts), r"different held-out tasks \(3, 4\): measure both"),
        (Measured((1, 3, 2), even(0.6, 3).counts), "in another order"),
        (Measured((1, 2, 3), even(0.6, 3).counts[:, :2, :3]), r"\(3, 2, 3\) and should be \(3, 3, 4\)"),
        (measured(*[task(0.6, 0.6, pixels=9_999)] * 3), "different annotations"),
    ],
)
def test_what_was_not_measured_alike_is_refused(candidate, complaint):
    with pytest.raises(DataError, match=complaint):
        decide(LABELS, even(0.6, 3), candidate, [], RULES)
