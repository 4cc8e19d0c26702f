"""Judging a candidate: on which photos, against whom, and what follows from the decision."""

from dataclasses import replace

import numpy as np
import pytest

from ebseg.errors import TrainingError
from ebseg.vocabulary import Vocabulary
from tests.integration.loop.loop_world import Halves, Model
from training.annotations.manifest import store
from training.finetuning.finetune import General
from training.judging import judge as judging
from training.judging.judge import TRIES, judge
from training.judging.seen import seen_photos
from training.queue import orders
from training.queue.outcomes import Topic, newest
from training.queue.projects import PROJECTS_KEY
from training.queue.queues import find
from training.registry.registry import Registry

BLIND = (
    "what it forgets was not measured: EBSEG_GENERAL_DATA names no data, and the base does not say what it "
    "was trained on"
)

UNSURE = "what it forgets was not measured: the base is not sure enough of what the held-out photos show"


class Case:
    """A candidate of the base, and a reading with so many photos to train on and held-out tasks."""

    def __init__(self, world, train=6, held_out=4, rows=8, **tags):
        self.world = world
        world.annotate(train, held_out)
        self.manifest = world.read()
        base = world.registry.ensure_base()
        given = {"fingerprint": self.manifest.fingerprint, "base": str(base.number)} | tags
        self.candidate = world.register("better-1", rows, **given)

    def judge(self):
        return judge(self.world.loop(), self.candidate, 1, self.manifest.fingerprint)

    def run(self):
        """Have the job do it."""
        order = orders.judge(
            self.world.settings, "1-0a1b", 1, self.manifest.fingerprint, self.candidate.number
        )
        return self.world.ask(order)

    def promoted(self):
        return self.world.registry.champion(1).number == self.candidate.number


def general_of(monkeypatch, general):
    monkeypatch.setattr(judging, "general_data", lambda *_arguments: general and General(None, general))


# What follows


def test_a_better_candidate_is_promoted_and_its_project_alone_gets_its_predictions(world):
    case = Case(world)
    world.connection.sadd(PROJECTS_KEY, 5)
    world.project().train_with("train-1-0a1b", "judge-1-0a1b")
    result = case.run()
    assert result == {
        "outcome": "promote: held-out mIoU 30.0 -> 80.0 on 4 held-out tasks: +50.0 points, by the bootstrap "
        f"at least +50.0; {BLIND}",
        "version": 2,
    }
    told = newest(world.connection)[1][Topic.DECISION].words
    assert told == f"version 2 (better-1): {result['outcome']}"
    assert case.promoted()
    assert world.registry.champion(5).number == world.registry.champion().number == 1
    assert world.registry.history(1)[-1]["reason"] == result["outcome"].removeprefix("promote: ")
    decision = world.registry.decision(case.candidate)
    assert decision["verdict"] == "promote" and decision["compared_with"] == 1
    assert world.project().trained == case.manifest.fingerprint
    assert world.waiting() == ["plan-1-better-1", "snapshot-1-0"]
    find(world.connection, "judge-1-0a1b").set_status("queued")
    assert world.project().training is None  # the jobs are not this project's training any more


def test_annotations_that_came_while_it_was_judged_are_read_after_a_while(world):
    world.change(debounce=60.0)
    Case(world).run()
    assert find(world.connection, "snapshot-1-0").get_status() == "scheduled"


def test_a_worse_candidate_is_not_promoted_and_its_annotations_are_not_trained_on_again(world):
    case = Case(world, rows=2)
    result = case.run()
    assert result["outcome"].startswith("reject: held-out mIoU 30.0 -> 20.0: -10.0 points, wanted are +1.0; ")
    assert not case.promoted()
    assert world.registry.decision(case.candidate)["verdict"] == "reject"
    assert world.project().trained == case.manifest.fingerprint
    assert world.waiting() == ["snapshot-1-0"]


def test_with_too_few_held_out_tasks_nothing_is_promoted(world):
    case = Case(world, held_out=3)
    assert case.run()["outcome"] == (
        "wait: 3 held-out tasks with labels, 1 fewer than the 4 that a decision needs; "
        f"EBSEG_FEW_HELD_OUT=cross-validate decides with fewer; {BLIND}"
    )
    assert not case.promoted()


def test_who_lost_to_a_champion_that_came_between_is_trained_anew_from_that_one(world):
    case = Case(world)
    other = world.register("other-1", 9)
    world.registry.promote(other, "by hand", project=1)
    assert case.run()["outcome"].startswith("reject")
    assert world.project().trained is None


def test_a_job_that_was_killed_after_the_promotion_goes_on(world):
    case = Case(world)
    world.registry.promote(case.candidate, "better", project=1)
    assert case.run()["outcome"] == "promote: it is the champion already"
    assert world.project().trained == case.manifest.fingerprint
    assert world.registry.decision(case.candidate) is None


# Against whom


def test_the_champion_of_the_moment_is_who_it_is_compared_with(world, monkeypatch):
    case = Case(world)
    other = world.register("other-1", 5)
    promote = Registry.promote

    def meanwhile(registry, version, reason, *, project, expected_champion):
        if world.registry.champion(1).number == 1:
            promote(registry, other, "by hand", project=1)
        promote(registry, version, reason, project=project, expected_champion=expected_champion)

    monkeypatch.setattr(Registry, "promote", meanwhile)
    decision = case.judge()
    assert decision.reasons[0].startswith("held-out mIoU 50.0 -> 80.0")
    assert world.registry.decision(case.candidate)["compared_with"] == other.number
    assert [entry["version"] for entry in world.registry.history(1)] == [other.number, 2]


def test_a_champion_that_changes_all_the_time_ends_it(world, monkeypatch):
    case = Case(world)
    rivals = [world.register(f"rival-{number}", 4) for number in range(2)]
    promote, tries = Registry.promote, []

    def meanwhile(registry, version, reason, *, project, expected_champion):
        tries.append(expected_champion)
        promote(registry, rivals[len(tries) % 2], "by hand", project=1)
        promote(registry, version, reason, project=project, expected_champion=expected_champion)

    monkeypatch.setattr(Registry, "promote", meanwhile)
    with pytest.raises(TrainingError, match=f"the champion changed {TRIES} times while version 2"):
        case.judge()
    assert len(tries) == TRIES


def test_without_a_champion_there_is_nobody_to_compare_with(world, monkeypatch):
    case = Case(world)
    monkeypatch.setattr(Registry, "champion", lambda _registry, _project=None: None)
    with pytest.raises(TrainingError, match="lost its champion"):
        case.judge()


def test_where_all_share_a_champion_everybody_gets_its_predictions(world):
    world.change(share="all")
    case = Case(world)
    world.connection.sadd(PROJECTS_KEY, 5)
    assert case.run()["outcome"].startswith("promote")
    assert world.registry.champion(5).number == world.registry.champion().number == case.candidate.number
    assert world.registry.history(1) == world.registry.history()
    assert world.waiting() == ["plan-1-better-1", "plan-5-better-1", "snapshot-1-0"]


# On which photos


def test_the_candidate_is_judged_by_held_out_photos_alone(world):
    case = Case(world)
    decision = case.judge()
    held_out = [entry.task for entry in case.manifest.part("held_out")]
    assert decision.numbers["held_out_tasks"] == sorted(held_out)
    assert decision.numbers["cross_validated"] is False
    assert world.jobs.stages == [
        "measuring base-0 on project 1, held out", "measuring better-1 on project 1, held out",
        "asking the base",
    ]  # fmt: skip


def cross_validated(world, *, seen=0, rows=8):
    """Give a case whose candidate's training had folds; its champion has seen some of the photos."""
    world.change(few_held_out="cross-validate", min_held_out=8)
    world.annotate(seen, 0)
    if seen:
        fingerprint = world.read().fingerprint
        champion = world.register("street-7", 3, base="1", fingerprint=fingerprint)
        world.registry.promote(champion, "by hand", project=1)
    world.annotate(6, 2)
    fingerprint = world.read().fingerprint
    base = world.registry.ensure_base(1)
    world.rows["better-1"] = rows
    world.ask(orders.finetune(world.settings, "1-0a1b", 1, fingerprint, base.number, ""))
    return world.registry.version("candidate-1")


def test_cross_validated_photos_judge_beside_the_held_out_ones(world):
    candidate = cross_validated(world)
    manifest = world.read()
    decision = judge(world.loop(), candidate, 1, manifest.fingerprint)
    assert decision.numbers["held_out_tasks"] == sorted(entry.task for entry in manifest.entries)
    assert decision.numbers["cross_validated"] is True
    assert decision.reasons[0] == (
        "held-out mIoU 30.0 -> 80.0 on 8 held-out or cross-validated tasks: +50.0 points, by the bootstrap "
        "at least +50.0"
    )


def test_photos_that_the_champion_was_trained_on_judge_nothing(world):
    candidate = cross_validated(world, seen=5)
    manifest = world.read()
    champion = world.registry.champion(1)
    seen = seen_photos(world.loop().storage, world.registry, champion)
    decision = judge(world.loop(), candidate, 1, manifest.fingerprint)
    judged = {entry.task for entry in manifest.entries if entry.photo not in seen}
    assert len(seen) == 5 and len(judged) == 8
    assert decision.numbers["held_out_tasks"] == sorted(judged)
    assert "on 8 held-out or cross-validated tasks" in decision.reasons[0]


def test_what_a_version_has_seen_is_what_it_and_its_forebears_were_trained_on(world):
    world.annotate(2, 1)
    first = world.read()
    one = world.register("one", 4, base="1", fingerprint=first.fingerprint)
    world.annotate(1, 1)
    second = world.read()
    gone = world.fake.annotations.pop(1)["task"]
    third = world.read()
    two = world.register("two", 4, base=str(one.number), fingerprint=third.fingerprint)
    storage = world.loop().storage
    train = {entry.photo for entry in second.part("train")}
    assert len(train) == 3 and gone not in {entry.task for entry in third.entries}
    assert seen_photos(storage, world.registry, two) == train
    assert seen_photos(storage, world.registry, one) == {entry.photo for entry in first.part("train")}
    assert seen_photos(storage, world.registry, world.registry.version("1")) == set()


# What it must not forget


def test_who_forgets_general_photos_is_not_promoted(world, monkeypatch):
    general = Halves(4)
    general_of(monkeypatch, general)
    case = Case(world)
    monkeypatch.setattr(judging, "load_model", lambda path, **_options: Forgetful(world.load(path)))
    decision = case.judge()
    assert decision.reasons == ("general photos falls from mIoU 60.0 to 50.0, 16.7% of it: allowed are 5.0%",)
    assert not case.promoted()


class Forgetful:
    """Gets 6 rows of general photos right if it is the base, else 5."""

    def __init__(self, model):
        self.model, self.version = model, model.version

    def predict(self, image, labels, threshold=None):
        if "tree" not in labels.names:
            return self.model.predict(image, labels, threshold)
        rows = 6 if self.version == "base-0" else 5
        return type(self.model)(self.version, rows).predict(image, labels, threshold)


def test_what_was_kept_is_told(world, monkeypatch):
    general_of(monkeypatch, Halves(4))
    decision = Case(world).judge()
    assert decision.reasons[1:] == ("general photos: mIoU 30.0 -> 80.0",)
    assert "measuring base-0 on general photos" in world.jobs.stages


@pytest.mark.parametrize(
    ("there", "wanted", "looked_at"), [(4, 2, [2, 3]), (3, 2, [0, 1]), (9, 2, [2, 3]), (1, 2, [0])]
)
def test_general_photos_that_chose_the_weights_judge_only_where_there_are_no_others(
    world, monkeypatch, there, wanted, looked_at
):
    general = Halves(there)
    general_of(monkeypatch, general)
    world.change(general_photos=wanted)
    Case(world).judge()
    assert general.read == looked_at * 2


@pytest.mark.parametrize("rows", [9, 3])
def test_without_general_data_what_the_base_is_sure_of_must_not_be_forgotten(world, monkeypatch, rows):
    world.rows["base-0"] = rows
    case = Case(world, rows=9)
    world.registry.promote(world.register("street-2", 9, base="1"), "by hand", project=1)
    monkeypatch.setattr(Model, "trained_on", Vocabulary(["tree", "grass"]))
    monkeypatch.setattr(judging, "load_model", lambda path, **_options: Turned(world.load(path)))
    decision = case.judge()
    if rows == 3:
        assert decision.reasons[-1] == UNSURE
        return
    (kept,) = decision.numbers["forgetting"]
    assert kept["name"] == "project 1, held out, as the base names it"
    assert (kept["before"], kept["after"]) == (100.0, 0.0)
    assert decision.reasons[-1].startswith(f"{kept['name']} falls from mIoU 100.0 to 0.0")


class Turned:
    """Takes the base's names for each other where it is the candidate."""

    def __init__(self, model):
        self.model, self.version, self.net = model, model.version, model.net

    def predict(self, image, labels, threshold=None):
        found = self.model.predict(image, labels, threshold)
        if "tree" in labels.names and self.version == "better-1":
            found.label_map[:] = np.where(found.label_map < 0, -1, 1 - found.label_map)
        return found


def test_labels_of_the_project_are_not_what_it_may_forget(world, monkeypatch):
    general_of(monkeypatch, Halves(4, labels=("sky", "tree")))
    decision = Case(world).judge()
    (kept,) = decision.numbers["forgetting"]
    assert (kept["before"], kept["after"]) == (30.0, 80.0)


def test_general_photos_of_nothing_but_the_projects_labels_are_not_said_to_be_missing(world, monkeypatch):
    general_of(monkeypatch, Halves(4, labels=("sky", "Auto")))
    assert Case(world).judge().reasons[-1] == (
        "what it forgets was not measured: the photos of general photos show no label that the project does "
        "not use"
    )


def other_project(world, held_out):
    """Store another project's reading, of the first one's photos and so many of its held-out tasks."""
    found = world.read()
    entries = (*found.part("train"), *found.part("held_out")[:held_out])
    storage = world.loop().storage
    store(storage, replace(found, project=5, entries=entries))
    for key in storage.keys("snapshots/project-1"):
        if "photos/" in key or "label_maps/" in key:
            storage.write(key.replace("project-1", "project-5"), storage.read(key))
    world.connection.sadd(PROJECTS_KEY, 5)


@pytest.mark.parametrize(
    ("share", "held_out", "told"), [("all", 4, True), ("all", 3, False), ("project", 4, False)]
)
def test_other_projects_with_enough_held_out_tasks_are_not_forgotten_where_all_share(
    world, share, held_out, told
):
    world.change(share=share)
    case = Case(world)
    other_project(world, held_out)
    decision = case.judge()
    expected = [{"name": "project 5, held out", "before": 30.0, "after": 80.0, "lost": pytest.approx(-5 / 3)}]
    assert decision.numbers["forgetting"] == (expected if told else [])
    assert decision.reasons[1:] == (("project 5, held out: mIoU 30.0 -> 80.0",) if told else (BLIND,))
