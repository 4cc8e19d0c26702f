"""Plans: unlabelled tasks are fanned out, each is predicted once, and then the project shows the scores."""

from datetime import UTC, datetime

import pytest

from ebseg.errors import Refused, TrainingError
from tests.integration.loop.loop_world import LEFT
from training.jobs.job import job
from training.queue import orders
from training.queue.orders import Which
from training.queue.plans import close_plan, is_open, open_plan, submit_plan
from training.queue.projects import PROJECTS_KEY, known_projects
from training.queue.queues import find, queues
from training.queue.remembering import is_requested


@pytest.fixture
def served(world):
    """Serve base-0, and ask for chunks of two tasks."""
    world.change(label_chunk=2)
    world.registry.ensure_base()
    return world


def test_all_unlabelled_tasks_get_a_prediction_and_then_the_project_shows_them(served):
    annotated, version = served.annotate(1, 0), served.version("base-0")
    tasks = [served.add_task() for _ in range(5)]
    plan = submit_plan(served.connection, 1, "base-0")
    assert plan == "plan-1-base-0"
    result = served.do(plan)
    chunks = result["chunks"]
    assert result["outcome"] == "5 unlabelled tasks in 3 jobs"
    assert served.waiting() == chunks
    assert [find(served.connection, chunk).args for chunk in chunks] == [
        [1, tasks[:2], version, plan], [1, tasks[2:4], version, plan], [1, tasks[4:], version, plan],
    ]  # fmt: skip
    assert set(served.jobs.stages) == {"listing tasks"}
    assert served.jobs.meta["progress"] == {"stage": "listing tasks", "total": None, "done": 5}
    for chunk in (chunks[2], chunks[0]):
        served.do(chunk)
    assert served.fake.model_version is None and is_open(served.connection, plan)
    assert served.do(chunks[1]) == {
        "outcome": "2 predictions pushed", "left_out": {}, "deferred": {},
    }  # fmt: skip
    assert served.fake.model_version == version and not is_open(served.connection, plan)
    assert sorted(each["task"] for each in served.fake.predictions.values()) == tasks
    assert annotated[0] not in tasks


def test_a_plan_of_no_tasks_ends_at_once(served):
    served.fake.predict(served.annotate(1, 0)[0], [], served.version("base-0"))
    assert served.ask(orders.plan(1, "base-0")) == {"outcome": "0 unlabelled tasks in 0 jobs", "chunks": []}
    assert served.fake.model_version == served.version("base-0")


def test_a_plan_leaves_out_what_is_predicted_already_and_only_shows_it(served):
    """So a rollback to predictions that are still there lists nothing, and asks for no job."""
    version, other = served.version("base-0"), served.version("my-base-0")
    tasks = [served.add_task() for _ in range(3)]
    for task in tasks:
        served.fake.predict(task, [LEFT], version)
        served.fake.predict(task, [LEFT], other)
    served.fake.model_version = "base-0"
    done = served.ask(orders.plan(1, "base-0"))
    assert done == {"outcome": "0 unlabelled tasks in 0 jobs", "chunks": []}
    assert served.fake.model_version == version
    assert served.fake.requests("/api/tasks/") == served.fake.requests("/api/projects/1/") == 1
    served.register("my-base-0", 5)  # whose predictions Label Studio's search cannot tell from base-0's
    assert len(served.ask(orders.plan(1, "base-0"))["chunks"]) == 2


def test_the_scores_of_another_model_that_somebody_chose_stay_shown(served):
    task, version = served.add_task(), served.version("base-0")
    served.fake.predict(task, [], "someone-elses-7")
    served.fake.models, served.fake.model_version = ["EBSeg"], "someone-elses-7"
    submit_plan(served.connection, 1, "base-0")
    served.work()
    assert served.fake.model_version == "someone-elses-7"
    for shown in ("EBSeg", "base-0", "base-0+ffffff"):  # a title, which nobody chose; and versions of ours
        served.fake.model_version = shown
        submit_plan(served.connection, 1, "base-0")
        served.work()
        assert served.fake.model_version == version


def test_a_plan_for_a_version_that_is_not_served_does_nothing(served):
    served.add_task()
    outcome = {"outcome": "street-1 is not served any more"}
    assert served.ask(orders.plan(1, "street-1")) == outcome
    assert served.ask(orders.predict(1, [1], "street-1", "plan-1-street-1")) == outcome
    assert served.waiting() == [] and served.fake.predictions == {}
    assert not is_open(served.connection, "plan-1-street-1")


def test_a_version_that_is_served_no_more_at_the_end_is_not_shown(served):
    task = served.add_task()
    result = served.ask(orders.plan(1, "base-0"))
    serve, other = served.fake.serve, served.register("street-1", 5)

    def meanwhile(request):
        if request.method == "POST":
            served.registry.promote(other, "by hand")
        return serve(request)

    served.fake.serve = meanwhile
    assert served.do(result["chunks"][0])["outcome"] == "1 predictions pushed"
    assert [each["task"] for each in served.fake.predictions.values()] == [task]
    assert served.fake.model_version is None


def test_tasks_that_a_request_had_no_time_for_are_predicted_with_its_version(served):
    """Also where another one is served by now: whoever asked shows these."""
    task = served.add_task()
    served.registry.promote(served.register("street-1", 5), "by hand")
    version = served.version("base-0")
    result = served.ask(orders.predict(1, [task], version))
    assert result["outcome"] == "1 predictions pushed"
    assert [each["model_version"] for each in served.fake.predictions.values()] == [version]
    assert served.fake.model_version is None


def test_a_prediction_of_a_task_is_pushed_once(served):
    tasks = [served.add_task() for _ in range(2)]
    served.fake.predict(tasks[0], [LEFT], served.version("base-0"))
    served.photos.files.pop(served.fake.tasks[tasks[1]]["data"]["image"])
    result = served.ask(orders.predict(1, tasks, "base-0"))
    assert result["outcome"] == "0 predictions pushed, 1 were there, 1 tasks left out"
    assert list(result["left_out"]) == [str(tasks[1])]
    assert served.jobs.stages == ["loading the model", "predicting"]
    assert served.jobs.meta["progress"] == {"stage": "predicting", "total": 2, "done": 2}


def test_a_task_that_another_living_job_is_at_is_left_to_it(served):
    tasks = [served.add_task() for _ in range(2)]
    other = orders.predict(1, tasks, "base-0", "plan-1-base-0")
    other.submit(served.connection)
    served.connection.set(f"ebseg:claim:{served.version('base-0')}:{tasks[0]}", other.job_id)
    result = served.ask(orders.predict(1, tasks, "base-0"))
    assert result["left_out"] == {str(tasks[0]): "another job is at it"}


def test_a_project_that_is_gone_has_nothing_to_predict(served):
    served.connection.sadd(PROJECTS_KEY, 2)
    gone = {"outcome": "project 2 is not in Label Studio (any more)"}
    assert served.ask(orders.predict(2, [1], "base-0")) == gone
    assert served.ask(orders.plan(2, "base-0")) == gone
    assert known_projects(served.connection, served.settings) == [1]


def test_a_plan_that_is_made_again_does_not_end_before_it_is_whole(served):
    """Its first part may be done before the last one is submitted."""
    open_plan(served.connection, "plan-1-base-0")
    served.connection.sadd("ebseg:open:plan-1-base-0", "of long ago")
    open_plan(served.connection, "plan-1-base-0")
    assert served.connection.smembers("ebseg:open:plan-1-base-0") == {b"plan-1-base-0"}
    assert 0 < served.connection.ttl("ebseg:open:plan-1-base-0") <= 30 * 24 * 3600
    served.connection.sadd("ebseg:open:plan-1-base-0", "a part")
    assert not close_plan(served.connection, "plan-1-base-0", "a part")
    assert close_plan(served.connection, "plan-1-base-0", "plan-1-base-0")


# Some of the tasks, or all again


@pytest.fixture
def three(served):
    """Add a task without a prediction, one with an empty one and one with a good one."""
    tasks = [served.add_task() for _ in range(3)]
    served.fake.predict(tasks[1], [], served.version("base-0"))
    served.fake.predict(tasks[2], [LEFT], served.version("base-0"))
    return tasks


@pytest.mark.parametrize(
    ("which", "listed", "pushed"),
    [
        (Which.MISSING, [0], 1),
        (Which.NEW, [0], 1),
        (Which.EMPTY, [1, 2], 1),
        (Which.ALL, [0, 1, 2], 3),
    ],
)
def test_a_plan_is_for_the_tasks_that_it_names(served, three, which, listed, pushed):
    before = dict(served.fake.predictions)
    served.project().note(1, forced=False, uploaded=True)
    plan = submit_plan(served.connection, 1, "base-0", which)
    first, *others = served.work().values()
    assert first["outcome"].startswith(f"{len(listed)} unlabelled tasks")
    assert sum(each["outcome"].startswith(f"{pushed} predictions") for each in others) or pushed == 3
    made = [each["task"] for number, each in served.fake.predictions.items() if number not in before]
    assert len(made) == pushed and not is_open(served.connection, plan)
    assert served.project().uploaded is (which is Which.EMPTY)  # uploads are in all other plans
    if which in (Which.EMPTY, Which.ALL):
        assert all(each["result"] for each in served.fake.predictions.values())
        assert len(served.fake.predictions) == (2 if which is Which.EMPTY else 3)


@pytest.mark.parametrize("which", Which)
def test_what_is_resumed_is_what_was_asked_for(served, three, which):
    plan = orders.plan(1, "base-0", which).job_id
    open_plan(served.connection, plan)
    sweep(served)
    assert (plan in served.waiting()) is (which is not Which.ALL)  # which would do all of it once more


# The sweep


def sweep(world):
    return world.ask(orders.sweep(datetime(2026, 11, 25, 3, 0, tzinfo=UTC)))


def test_the_schedule_looks_at_every_project_and_sees_to_the_next_time(served):
    served.connection.sadd(PROJECTS_KEY, 2)
    served.change(projects=(9,))
    assert sweep(served) == {"outcome": "3 projects are looked at", "projects": [1, 2, 9]}
    assert served.waiting() == ["snapshot-1-0", "snapshot-2-0", "snapshot-9-0"]
    assert [key for key in served.connection.keys("rq:job:sweep-*") if b"20261125T0300" not in key]


@pytest.mark.parametrize("memory", [True, False])
def test_the_schedule_has_memories_brought_up_to_date(served, memory):
    served.change(projects=(9,), memory=memory)
    sweep(served)
    assert is_requested(served.connection, 9) == memory


def test_a_round_that_waits_is_not_waited_for(served):
    scheduled = queues(served.connection)[0].scheduled_job_registry
    served.project().request_round(1000.0)
    assert scheduled.get_jobs_to_schedule() == []
    sweep(served)
    assert scheduled.get_jobs_to_schedule() == ["snapshot-1-0"]


def test_a_plan_of_which_a_job_failed_for_good_is_made_again(served):
    open_plan(served.connection, "plan-1-base-0")
    open_plan(served.connection, "plan-2-street-0")  # of a version that is served no more
    served.connection.sadd(PROJECTS_KEY, 2)
    sweep(served)
    assert served.waiting() == ["snapshot-1-0", "plan-1-base-0", "snapshot-2-0"]


def test_tasks_that_were_deferred_are_predicted_by_the_next_look(served, monkeypatch):
    """The rest of the plan ends as ever."""
    tasks = [served.add_task() for _ in range(3)]
    fetch = served.photos.fetch
    refusing = [Refused("the token is refused")]

    def refuse(url, *, task_id=None):
        if task_id == tasks[0] and refusing:
            raise refusing[0]
        return fetch(url, task_id=task_id)

    monkeypatch.setattr(served.photos, "fetch", refuse)
    plan = submit_plan(served.connection, 1, "base-0")
    done = served.work()
    assert [job["deferred"] for job in list(done.values())[1:]] == [
        {str(tasks[0]): "the token is refused"}, {},
    ]  # fmt: skip
    assert served.fake.model_version == served.version("base-0") and is_open(served.connection, plan)
    refusing.clear()
    sweep(served)
    served.work()
    assert sorted(each["task"] for each in served.fake.predictions.values()) == tasks
    assert not is_open(served.connection, plan)


def test_before_the_first_training_there_is_no_plan(world):
    world.change(registered_model="nothing-yet")
    open_plan(world.connection, "plan-1-base-0")
    sweep(world)
    assert world.waiting() == ["snapshot-1-0"]


def test_a_job_is_done_by_workers_alone():
    with pytest.raises(TrainingError, match="sweep is a job: submit it to a queue"):
        job(sweep)()
