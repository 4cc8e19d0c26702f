"""``EBSEG_FEW_HELD_OUT=cross-validate`` from the first annotation to the promotion, without processes."""

import pytest

from training.queue.projects import Project


@pytest.fixture
def validated(world):
    world.change(few_held_out="cross-validate", min_held_out=8)
    world.train = lambda spec: "better-1" if "fold" not in spec else f"fold-{spec['fold']}"
    world.rows |= {"fold-0": 7, "fold-1": 7, "fold-2": 7}
    return world


def learn(world):
    """Have the annotations read, and all that follows done; give the jobs' outcomes by their kind."""
    world.project().note(1, forced=False)
    world.project().request_round(0.0)
    return {name.partition("-")[0]: result["outcome"] for name, result in world.work().items()}


def test_few_held_out_tasks_and_the_folds_promote_a_better_candidate(validated):
    validated.annotate(7, 2)
    waiting = validated.add_task()
    outcomes = learn(validated)
    assert outcomes["train"] == "version 2 (better-1) after 7 steps"
    # 2 held-out tasks at 8 rows of 10 by the candidate, 7 at 7 rows by the folds' models, all of one size.
    assert outcomes["judge"].startswith(
        "promote: held-out mIoU 30.0 -> 72.2 on 9 held-out or cross-validated tasks: +42.2 points, by the "
        "bootstrap at least +40.0; "
    )
    assert validated.registry.champion(1).name == "better-1"
    decision = validated.registry.decision(validated.registry.champion(1))
    assert decision["cross_validated"] is True and len(decision["held_out_tasks"]) == 9
    assert decision["rules"]["few_held_out"] == "cross-validate"
    assert [spec.get("fold") for spec in validated.trained] == [0, 1, 2, None]
    assert [each["task"] for each in validated.fake.predictions.values()] == [waiting]
    assert validated.fake.model_version == validated.version("better-1")
    assert outcomes["snapshot"].startswith(
        "no training: cross-validation has 2 held-out tasks and 0 that the champion was not trained on"
    )


def test_folds_that_are_no_better_keep_a_candidate_back_that_knows_the_photos_by_heart(validated):
    validated.rows |= {"better-1": 10, "fold-0": 3, "fold-1": 3, "fold-2": 3}
    validated.annotate(8, 0)
    outcome = learn(validated)["judge"]
    assert outcome.startswith("reject: held-out mIoU 30.0 -> 30.0: +0.0 points, wanted are +1.0; ")
    assert validated.registry.champion(1).name == "base-0"


def test_one_bad_fold_counts_for_its_photos_alone(validated):
    validated.rows |= {"fold-1": 0}
    validated.annotate(6, 0)
    outcome = learn(validated)["judge"]
    decision = validated.registry.decision(validated.registry.version("2"))
    assert decision["miou"]["candidate"] == pytest.approx(100 * 4 * 7 / 60)  # two of six photos have nothing
    assert outcome.startswith("reject: on other tasks it may be no gain")


def test_too_few_tasks_start_no_training(validated):
    validated.annotate(5, 2)
    assert learn(validated) == {
        "snapshot": "no training: 5 annotated tasks to train on: 6 are needed at least"
    }
    assert Project(validated.connection, 1).training is None


def test_with_enough_held_out_tasks_there_are_no_folds(validated):
    validated.annotate(6, 8)
    assert "80.0 on 8 held-out tasks" in learn(validated)["judge"]
    assert len(validated.trained) == 1
