"""The fine-tuning job around its process: what it is told, what it registers, and what it leaves behind."""

import pytest

from ebseg.errors import DataError, TrainingError
from training.finetuning import parent
from training.judging import cross_validation
from training.queue import orders
from training.queue.queues import find


@pytest.fixture
def order(world):
    def make(train=6, held_out=4):
        world.annotate(train, held_out)
        manifest = world.read()
        base = world.registry.ensure_base()
        return orders.finetune(world.settings, "1-0a1b", 1, manifest.fingerprint, base.number, "")

    return make


def test_what_came_of_a_training_is_registered_and_judged_next(world, order):
    asked = order()
    fingerprint = asked.arguments[1]
    result = world.ask(asked)
    assert result == {"outcome": "version 2 (better-1) after 7 steps", "version": 2}
    (spec,) = world.trained
    assert (spec["project"], spec["fingerprint"], spec.get("fold")) == (1, fingerprint, None)
    assert spec["out"] == str(world.home / "runs" / "train-1-0a1b")
    assert spec["base"] == str(world.registry.checkpoint(world.registry.version("1")))
    assert spec["backbone"] == "models:/ebseg/1"
    candidate = world.registry.version("candidate-1")
    expected = {
        "project": "1", "fingerprint": fingerprint, "base": "1", "job": "train-1-0a1b", "key": "train-1-0a1b",
    }  # fmt: skip
    assert expected.items() <= candidate.tags.items()
    job = find(world.connection, "judge-1-0a1b")
    assert (job.args, job.timeout) == ([1, fingerprint, 2], 24 * 3600)
    assert job.description == "compare version 2 with the champion, for project 1"
    assert world.jobs.meta["log"] == ["a line of its log"]
    assert world.jobs.meta["progress"] == {"stage": "starting", "total": None, "step": 1}


def test_the_backbone_is_that_of_the_model_that_the_line_began_with(world, order):
    fingerprint = order().arguments[1]
    first = world.register("street-2", 5, base="1")
    world.ask(orders.finetune(world.settings, "1-0a1b", 1, fingerprint, first.number, ""))
    assert world.trained[0]["base"] == str(world.registry.checkpoint(first))
    assert world.trained[0]["backbone"] == "models:/ebseg/1"


def test_a_released_models_backbone_is_known_by_its_name_everywhere(world, order):
    world.change(model="ebseg-tiny")
    world.registry.start_over()
    world.ask(order())
    assert world.trained[0]["backbone"] == "ebseg-tiny"


def test_a_job_that_is_run_again_trains_and_registers_once(world, order):
    asked = order()
    first = world.ask(asked)
    assert world.ask(asked) == first
    assert len(world.trained) == 1 and len(world.registry.versions()) == 2


def test_a_training_that_was_cut_off_goes_on(world, order, monkeypatch):
    asked = order()

    def fail(*_arguments):
        raise TrainingError("the process was killed")

    with monkeypatch.context() as patch:
        patch.setattr(parent, "run_process", fail)
        with pytest.raises(TrainingError):
            world.ask(asked)
    assert len(world.registry.versions()) == 1
    assert world.ask(asked)["version"] == 2


def test_checkpoints_of_a_finished_training_are_not_kept(world, order):
    storage = world.loop().storage
    storage.write("runs/train-1-0a1b/mirror/a/checkpoint.pt", b"weights")
    world.ask(order())
    assert storage.keys("runs") == []
    assert (world.home / "runs" / "train-1-0a1b" / "outcome.json").exists()


@pytest.mark.parametrize(("held_out", "trainings"), [(4, 1), (3, 4)])
def test_folds_are_trained_where_too_few_tasks_are_held_out(world, order, held_out, trainings):
    result = world.ask(order(held_out=held_out))
    assert result["version"] == 2
    assert len(world.trained) == trainings
    assert [spec.get("fold") for spec in world.trained] == [0, 1, 2, None][-trainings:]
    folds = cross_validation.folds_measured(world.loop().storage, "train-1-0a1b")
    assert (folds is None) is (trainings == 1)
    assert ("cross-validating" in world.jobs.stages) is (trainings == 4)


def test_held_out_tasks_without_labels_do_not_count(world, order):
    world.fake.annotate(world.add_task(held_out=True), [])
    world.ask(order(held_out=3))
    assert len(world.trained) == 4


def test_each_fold_is_predicted_by_the_model_that_did_not_see_it_and_is_then_removed(world, order):
    world.train = lambda spec: f"fold-{spec['fold']}" if "fold" in spec else "better-1"
    world.rows |= {"fold-0": 2, "fold-1": 4, "fold-2": 6}
    asked = order(held_out=3)
    world.ask(asked)
    storage = world.loop().storage
    measured = cross_validation.folds_measured(storage, "train-1-0a1b")
    assert list(measured.tasks) == sorted(measured.tasks) and len(measured.tasks) == 6
    assert sorted(counts[0, 0] for counts in measured.counts) == [4, 4, 8, 8, 12, 12]  # two photos a fold
    assert all(spec["mlflow"] is None for spec in world.trained[:3]) and world.trained[3]["mlflow"]
    outs = [spec["out"] for spec in world.trained]
    runs = world.home / "runs"
    assert outs == [
        *(str(runs / f"train-1-0a1b-fold-{number}") for number in (1, 2, 3)),
        str(runs / "train-1-0a1b"),
    ]
    assert [path.name for path in runs.iterdir()] == ["train-1-0a1b"]
    assert storage.exists("runs/train-1-0a1b/folds.npz")  # where judgements of before look too
    world.trained.clear()
    world.ask(asked)
    assert world.trained == []


def test_folds_that_were_trained_are_not_trained_again(world, order, monkeypatch):
    asked = order(held_out=3)
    run = world.run

    def killed_in_the_second(folder, spec, *more):
        if spec.get("fold") == 1:
            raise TrainingError("the process was killed")
        run(folder, spec, *more)

    with monkeypatch.context() as patch:
        patch.setattr(parent, "run_process", killed_in_the_second)
        with pytest.raises(TrainingError):
            world.ask(asked)
    world.ask(asked)
    assert [spec.get("fold") for spec in world.trained] == [0, 1, 2, None]


def test_a_reading_that_is_gone_is_told(world, order):
    asked = order()
    world.loop().storage.remove("snapshots/project-1/manifests")
    with pytest.raises(DataError, match="have the annotations read again"):
        world.ask(asked)
    assert world.trained == []
