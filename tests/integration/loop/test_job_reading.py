"""Reading annotations: when it is done, what it starts, and what it remembers."""

import pytest
from pydantic import SecretStr
from rq import Retry

from ebseg.errors import ConfigError
from tests.integration.loop.loop_world import LEFT, RIGHT
from training.finetuning import parent
from training.queue import orders
from training.queue.outcomes import Topic, newest
from training.queue.projects import PROJECTS_KEY, known_projects, tell_the_model
from training.queue.queues import find
from training.queue.triggers import Triggers


def read(world, number=0):
    return world.ask(orders.snapshot(1, number))


def name_of(world, result, base=1):
    return parent.name(world.settings, 1, result["fingerprint"], base)


def test_while_events_come_nothing_is_read(world):
    world.change(debounce=60.0)
    world.annotate(6, 4)
    world.project().note(1, forced=False)
    world.now += 17.5
    answer = read(world)
    assert isinstance(answer, Retry)
    assert (answer.intervals, answer.max > 1000) == ([43], True)  # whole seconds, none too few
    assert world.fake.seen == []
    world.now += 42.25
    assert read(world).intervals == [1]
    world.now += 0.25
    assert read(world)["tasks"] == 10


def test_enough_new_annotations_start_a_training_of_the_champion(world):
    world.annotate(6, 4)
    result = read(world)
    name = name_of(world, result)
    assert result == {
        "outcome": f"train-{name}: 10 new annotations", "fingerprint": result["fingerprint"], "tasks": 10,
        "skipped": {}, "unknown_labels": [], "blank_regions": {}, "lost": {},
    }  # fmt: skip
    job = find(world.connection, f"train-{name}")
    assert job.args == [1, result["fingerprint"], 1]
    assert job.description == "fine-tune version 1 for project 1: 10 new annotations"
    assert (job.timeout, job.retries_left) == (24 * 3600, 3)
    assert world.project().training == f"train-{name}"
    assert world.connection.hget("ebseg:project:1", "training").decode() == f"train-{name} judge-{name}"
    assert world.jobs.stages == ["reading annotations"]


def test_what_could_not_be_read_is_told(world):
    tasks = world.annotate(1, 0)
    world.fake.annotate(world.add_task(), [{**LEFT, "value": {**LEFT["value"], "rectanglelabels": ["boat"]}}])
    world.photos.files.clear()
    world.fake.tasks[2]["data"] = {"image": 7}
    result = read(world)
    assert list(result["skipped"]) == [str(task) for task in (*tasks, 2)]
    assert result["tasks"] == 0


def test_labels_that_the_config_lacks_are_told_once(world):
    for _ in range(2):
        region = {**LEFT, "value": {**LEFT["value"], "rectanglelabels": ["boat"]}}
        world.fake.annotate(world.add_task(), [LEFT, region])
    assert read(world)["unknown_labels"] == ["boat"]


def test_the_same_annotations_are_trained_on_once(world):
    world.annotate(6, 4)
    first = read(world)
    world.project().train_with()
    world.project().trained = first["fingerprint"]
    assert read(world, 1)["outcome"] == "no training: 0 new annotations, 4 start a training"


def test_an_order_to_train_is_obeyed_once(world):
    world.annotate(2, 4)
    world.change(min_new_annotations=100)
    world.project().note(1, forced=True)
    assert "asked for, with 6 new annotations" in read(world)["outcome"]
    assert world.project().begin_reading() == (1, False)


def test_an_order_that_cannot_be_obeyed_is_no_order_any_more(world):
    world.annotate(1, 4)
    world.project().note(1, forced=True)
    result = read(world)
    assert result["outcome"].startswith("no training: 1 annotated tasks to train on")
    told = newest(world.connection)[1]
    assert (told[Topic.TITLE].words, told[Topic.TRAINING].words) == ("Streets", result["outcome"])
    assert world.project().begin_reading() == (1, False)


@pytest.mark.parametrize(("held_out", "verb"), [(3, "1 more is"), (2, "2 more are")])
def test_tasks_to_annotate_are_named_where_too_few_are_held_out(world, held_out, verb):
    world.annotate(6, held_out)
    ids = [world.add_task(held_out=part) for part in (False, True, False, True, True)]
    ids = [ids[1], ids[3]][: 4 - held_out]
    outcome = read(world)["outcome"]
    tasks = f"task{'s' * (len(ids) > 1)} {', '.join(map(str, ids))}"
    assert outcome.endswith(f"{held_out} of 4 are annotated, {verb} needed; annotate {tasks} next")


def test_where_tasks_cannot_be_looked_at_the_reading_is_told_all_the_same(world):
    world.annotate(6, 3)
    world.add_task()
    world.photos.files.popitem()
    assert read(world)["outcome"].endswith("1 more is needed; none of the other tasks would judge: add some")


def test_while_a_training_is_under_way_an_order_waits_for_its_end(world):
    world.annotate(6, 4)
    read(world)
    under_way = world.project().training
    world.annotate(1, 0)
    world.project().note(1, forced=True)
    outcome = read(world, 1)["outcome"]
    assert outcome == f"{under_way} is under way; these annotations are looked at when it has ended"
    assert world.project().begin_reading() == (1, True)
    assert world.project().training == under_way


def test_an_order_to_train_on_what_is_being_trained_on_is_obeyed_already(world):
    world.annotate(6, 4)
    read(world)
    under_way = world.project().training
    world.project().note(1, forced=True)
    assert read(world, 1)["outcome"] == f"{under_way} is under way with these annotations"
    assert world.project().begin_reading() == (1, False)


def test_a_round_makes_way_for_the_next_which_begins_where_events_came_meanwhile(world, monkeypatch):
    world.annotate(1, 0)
    world.project().note(1, forced=False)
    assert world.project().request_round(0.0) == "snapshot-1-0"
    world.do("snapshot-1-0")
    assert world.waiting() == []
    assert not world.project().has_news
    assert world.project().request_round(0.0) == "snapshot-1-1"

    studio = world.fake.serve

    def meanwhile(request):
        world.fake.serve = studio
        world.project().note(1, forced=False)
        return studio(request)

    world.fake.serve = meanwhile
    world.do("snapshot-1-1")
    assert world.waiting() == ["snapshot-1-2"]


def test_a_project_that_is_gone_is_forgotten(world):
    world.connection.sadd(PROJECTS_KEY, 2)
    result = world.ask(orders.snapshot(2, 0))
    assert result == {"outcome": "project 2 is not in Label Studio (any more)"}
    assert known_projects(world.connection, world.settings) == [1]


def test_what_corrections_say_is_kept_with_the_version(world):
    version = world.register("street-7", 5)
    task = world.annotate(1, 0)[0]
    prediction = world.fake.predict(task, [LEFT], "street-7")
    world.fake.change(1, result=[LEFT, RIGHT], parent_prediction=prediction)
    read(world)
    tags = world.registry.version(str(version.number)).tags
    assert tags["live.corrections"] == "1" and tags["live.changed"] == "0.5"
    live = newest(world.connection)[1][Topic.LIVE].words
    assert live.startswith("street-7: predictions that people went over: 1, ")


def test_a_worker_of_another_model_reads_nothing(world):
    tell_the_model(world.connection, world.settings.model_copy(update={"model": "ebseg-base"}))
    with pytest.raises(ConfigError, match="the service serves ebseg-base"):
        read(world)
    assert world.fake.seen == []


def test_who_changes_the_model_starts_over_from_that_one(world):
    world.register("street-7", 5)
    world.change(model=str(world.model_file("other-0")))
    world.annotate(6, 4)
    result = read(world)
    assert world.registry.champion().name == "other-0"
    assert f"train-{name_of(world, result, base=3)}" == world.project().training


def test_in_another_storage_all_annotations_are_new(world, caplog):
    world.annotate(6, 4)
    world.project().trained = "of another storage"
    assert read(world)["outcome"].endswith(": 10 new annotations")
    assert "what project 1 was trained on is not known" in caplog.text


def test_cross_validation_wants_photos_that_the_champion_has_not_seen(world):
    world.change(few_held_out="cross-validate", min_held_out=8)
    world.annotate(6, 1)
    manifest = world.read()
    champion = world.register("street-7", 5, base="1", fingerprint=manifest.fingerprint)
    world.registry.promote(champion, "by hand", project=1)
    assert read(world)["outcome"] == (
        "no training: cross-validation has 1 held-out tasks and 0 that the champion was not trained on: "
        "6 are needed, or 8 held-out ones"
    )
    world.change(few_held_out="wait")
    assert "waits for held-out tasks: 1 of 8" in read(world, 1)["outcome"]


# A change of what is predicted


def test_tasks_of_a_project_that_has_no_part_in_the_champion_of_all_get_the_bases_predictions(world):
    """Once each project has its own; the project that it was trained for keeps it."""
    world.change(share="all")
    learnt = world.register("other-1", 9, project=5, base="1")
    world.registry.promote(learnt, "better there")
    world.add_task()
    read(world)
    assert world.project().version == world.version("other-1") and world.waiting() == []
    world.change(share="project")
    read(world, 1)
    assert world.waiting() == ["plan-1-base-0"]
    assert world.registry.champion(5).name == "other-1"


def test_a_label_that_was_added_has_the_unlabelled_tasks_predicted_anew(world):
    """Label Studio asks for none of them again by itself."""
    task = world.add_task()
    world.ask(orders.plan(1, world.registry.ensure_base().name))
    world.work()
    before = world.version("base-0")
    world.fake.config = world.fake.config.replace("</Brush", '<Label value="road"/></Brush')
    world.project().note(1, forced=False)  # PROJECT_UPDATED
    read(world)
    assert "plan-1-base-0" in world.waiting()
    world.work()
    versions = [each["model_version"] for each in world.fake.predictions.values() if each["task"] == task]
    assert versions == [before, world.version("base-0")] and before != versions[1]
    assert world.fake.model_version == versions[1]
    read(world, 1)
    assert world.waiting() == []


def test_a_first_reading_knows_nothing_of_a_change(world):
    world.add_task()
    read(world)
    assert world.waiting() == []
    world.change(score_threshold=0.4)
    read(world, 1)
    assert world.waiting() == ["plan-1-base-0"]


def test_a_change_since_the_service_was_told_is_known_at_the_first_reading(world, redis_url):
    settings = world.settings.model_copy(update={"redis_url": SecretStr(redis_url)})
    Triggers(settings).note_project(1, world.version("base-0"))
    world.fake.config = world.fake.config.replace('value="sky"', 'value="clouds"')
    read(world)
    assert world.waiting() == ["plan-1-base-0"]


def test_work_for_the_labels_of_before_stops_by_itself(world):
    tasks, version = [world.add_task()], world.version(world.registry.ensure_base().name)
    world.fake.config = world.fake.config.replace('value="sky"', 'value="clouds"')
    outcome = {"outcome": f"{version} is not served any more"}
    assert world.ask(orders.predict(1, tasks, version, "plan-1-base-0")) == outcome
    # What a request had no time for is predicted, with the labels as they are now.
    assert world.ask(orders.predict(1, tasks, version))["outcome"] == "1 predictions pushed"
    [stored] = world.fake.predictions.values()
    assert stored["model_version"] == world.version("base-0") != version


# Tasks that are added


def test_photos_that_are_uploaded_later_are_predicted_when_it_is_quiet(world, redis_url):
    old = world.add_task()
    world.ask(orders.plan(1, world.registry.ensure_base().name))
    world.work()
    uploaded = [world.add_task() for _ in range(2)]
    settings = world.settings.model_copy(update={"redis_url": SecretStr(redis_url), "debounce": 60.0})
    for _ in range(5):
        Triggers(settings).note_event(1, 1, False, True)
    asked = len(world.fake.seen)
    assert isinstance(world.ask(orders.snapshot(1, 0)), dict)
    assert world.waiting() == ["plan-1-base-0-new"]
    world.work()
    predicted = [each["task"] for each in world.fake.predictions.values()]
    assert sorted(predicted) == [old, *uploaded]
    assert ("GET", "/api/predictions/") in world.fake.seen[asked:]
    read(world, 1)
    assert world.waiting() == []


def test_photos_uploaded_while_a_plan_lists_tasks_are_in_the_next(world):
    world.add_task()
    world.registry.ensure_base()
    serve = world.fake.serve

    def meanwhile(request):
        world.project().note(1, forced=False, uploaded=True)
        return serve(request)

    world.fake.serve = meanwhile
    world.ask(orders.plan(1, "base-0"))
    world.fake.serve = serve
    assert world.project().uploaded
    read(world)
    assert "plan-1-base-0-new" in world.waiting()
