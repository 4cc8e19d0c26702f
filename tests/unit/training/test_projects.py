"""What the loop remembers of a project: events, rounds, orders to train; with a real Redis."""

import pytest
from rq.job import JobStatus

from ebseg.errors import ConfigError
from training.queue import orders
from training.queue.projects import (
    PROJECTS_KEY,
    Project,
    forget_project,
    hostname,
    known_projects,
    require_the_services_model,
    tell_the_hostname,
    tell_the_model,
)
from training.queue.queues import QueueName, find, queue
from training.queue.triggers import MOST_PROJECTS, Triggers
from training.settings import Settings

SETTINGS = Settings(debounce=60.0, debounce_most=600.0)


class Clock:
    now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def project(connection, clock):
    return Project(connection, 7, clock)


def test_what_label_studio_calls_itself_is_known_once_it_was_told(connection):
    assert hostname(connection) == ""
    tell_the_hostname(connection, "https://studio.example/labels")
    assert hostname(connection) == "https://studio.example/labels"


def test_quiet_is_so_long_after_the_last_event(project, clock):
    assert project.seconds_until_quiet(SETTINGS) == 0
    assert project.begin_reading() == (0, False)
    project.note(1, forced=False)
    assert project.seconds_until_quiet(SETTINGS) == 60
    clock.now += 50
    project.note(1, forced=False)
    clock.now += 20
    assert project.seconds_until_quiet(SETTINGS) == 40
    clock.now += 50
    assert project.seconds_until_quiet(SETTINGS) == 0


def test_quiet_is_not_waited_for_for_ever(project, clock):
    for _ in range(20):
        project.note(1, forced=False)
        clock.now += 29
    assert project.seconds_until_quiet(SETTINGS) == 600 - 20 * 29
    clock.now += 30
    project.note(1, forced=False)
    assert project.seconds_until_quiet(SETTINGS) == 0


def test_a_reading_begins_a_new_wait(project, clock):
    project.note(2, forced=False)
    clock.now += 590
    project.note(3, forced=False)
    assert project.seconds_until_quiet(SETTINGS) == 10
    assert project.begin_reading() == (5, False)
    project.note(1, forced=False)
    assert project.seconds_until_quiet(SETTINGS) == 60
    assert project.begin_reading() == (6, False)


def test_an_order_to_train_waits_for_nothing_and_is_kept_until_it_is_obeyed(project):
    project.note(1, forced=True)
    project.note(1, forced=False)
    assert project.seconds_until_quiet(SETTINGS) == 0
    assert project.begin_reading() == (2, True)
    project.covered(2, forced=False)
    assert project.begin_reading() == (2, True)
    project.covered(2, forced=True)
    assert project.begin_reading() == (2, False)


def test_events_are_news_until_a_reading_has_covered_them(project):
    assert not project.has_news
    project.note(3, forced=False)
    assert project.has_news
    project.covered(2, forced=False)
    assert project.has_news
    project.covered(3, forced=False)
    assert not project.has_news


def test_a_round_is_one_job_and_gives_way_to_the_next(project, connection):
    assert project.request_round(0.0) == project.request_round(0.0) == "snapshot-7-0"
    waiting = queue(connection, QueueName.CONTROL)
    assert waiting.get_job_ids() == ["snapshot-7-0"]
    project.end_round(0)
    project.end_round(0)  # by a job that is run twice
    project.end_round(5)
    assert project.request_round(0.0) == "snapshot-7-1"
    find(connection, "snapshot-7-1").set_status(JobStatus.FAILED)
    assert project.request_round(0.0) == "snapshot-7-2"


def test_a_round_that_waits_is_brought_forward_by_who_cannot_wait(project, connection):
    scheduled = queue(connection, QueueName.CONTROL).scheduled_job_registry
    project.request_round(1000.0)
    project.request_round(500.0)
    assert scheduled.get_jobs_to_schedule() == []
    project.request_round(0.0)
    assert scheduled.get_jobs_to_schedule() == ["snapshot-7-0"]


def test_a_training_is_under_way_until_its_last_job_has_ended(project, connection):
    assert project.training is None
    project.train_with("train-7-a", "judge-7-a")
    assert project.training is None  # neither was submitted
    judgement = orders.judge(SETTINGS, "7-a", 7, "fingerprint", 2)
    orders.finetune(SETTINGS, "7-a", 7, "fingerprint", 1, "").submit(connection)
    judgement.submit(connection, delay=100.0)
    assert project.training == "train-7-a"
    find(connection, "train-7-a").set_status(JobStatus.FINISHED)
    assert project.training == "judge-7-a"
    find(connection, "judge-7-a").set_status(JobStatus.FAILED)
    assert project.training is None
    find(connection, "judge-7-a").set_status(JobStatus.STARTED)
    project.train_with()
    assert project.training is None


def test_what_was_trained_on_is_remembered(project, connection):
    assert project.trained is None
    project.trained = "fingerprint"
    assert Project(connection, 7).trained == "fingerprint"
    assert Project(connection, 8).trained is None


def test_projects_are_those_that_called_and_those_of_the_settings(connection):
    connection.sadd(PROJECTS_KEY, 7, 12)
    settings = Settings(projects=(3, 7))
    assert known_projects(connection, settings) == [3, 7, 12]
    forget_project(connection, 12)
    forget_project(connection, 99)
    assert known_projects(connection, settings) == [3, 7]


def test_the_model_that_the_service_serves_is_the_one_to_teach(connection):
    other = Settings(model="ebseg-base")
    require_the_services_model(connection, other)
    tell_the_model(connection, SETTINGS)
    require_the_services_model(connection, SETTINGS)
    with pytest.raises(ConfigError, match="serves ebseg-tiny, and this worker's EBSEG_MODEL is ebseg-base"):
        require_the_services_model(connection, other)


# What the service hands over


@pytest.fixture
def triggers(connection, redis_url):
    return Triggers(Settings(redis_url=redis_url, label_chunk=2, debounce=60.0))


def test_an_event_makes_a_project_known_and_its_annotations_read_after_a_while(triggers, connection):
    triggers.note_event(7, 2, False)
    assert known_projects(connection, SETTINGS) == [7]
    project = Project(connection, 7)
    assert project.begin_reading() == (2, False)
    scheduled = queue(connection, QueueName.CONTROL).scheduled_job_registry
    assert scheduled.get_job_ids() == ["remember-7", "snapshot-7-0"]  # in the order of their times
    assert scheduled.get_jobs_to_schedule() == []
    triggers.note_event(7, 1, True)
    assert project.begin_reading() == (3, True)
    assert scheduled.get_jobs_to_schedule() == ["snapshot-7-0"]


def test_a_project_that_calls_is_known_and_not_read(triggers, connection):
    triggers.note_project(7, "street-1+aaaaaa")
    triggers.note_project(7, "street-1+aaaaaa")
    assert known_projects(connection, SETTINGS) == [7]
    assert connection.keys("rq:job:*") == []


def test_a_project_whose_version_has_changed_is_read_when_it_is_quiet(triggers, connection):
    """What is predicted changes with the labels, and the reading has it predicted anew."""
    triggers.note_project(7, "")
    triggers.note_project(7, "street-1+aaaaaa")
    triggers.note_project(7, "")
    assert connection.keys("rq:job:*") == []
    triggers.note_project(7, "street-1+bbbbbb")
    scheduled = queue(connection, QueueName.CONTROL).scheduled_job_registry
    assert scheduled.get_job_ids() == ["snapshot-7-0"] and scheduled.get_jobs_to_schedule() == []
    assert Project(connection, 7).version == "street-1+aaaaaa"


def test_strangers_cannot_fill_the_memory(triggers, connection):
    connection.sadd(PROJECTS_KEY, *range(1, MOST_PROJECTS))
    triggers.note_project(10**6, "")
    triggers.note_project(10**6 + 1, "v")
    triggers.note_event(10**6 + 2, 1, True)
    assert connection.scard(PROJECTS_KEY) == MOST_PROJECTS
    assert connection.keys("ebseg:project:*") == connection.keys("rq:job:*") == []
    triggers.note_event(10**6, 1, True)
    assert queue(connection, QueueName.CONTROL).get_job_ids() == ["snapshot-1000000-0"]


def test_tasks_that_are_left_are_predicted_in_jobs_of_a_few(triggers, connection):
    triggers.finish(7, [4, 5, 6], "street-1")
    triggers.finish(7, [4, 5, 6], "street-1")
    ids = queue(connection, QueueName.LABEL).get_job_ids()
    assert [find(connection, job_id).args for job_id in ids] == [
        [7, [4, 5], "street-1", ""], [7, [6], "street-1", ""],
    ]  # fmt: skip
    assert connection.keys("ebseg:open:*") == []


def test_a_jobs_state_and_progress_are_told(triggers, connection):
    assert triggers.job_status("snapshot-7-0") is None
    triggers.note_event(7, 1, True)
    assert triggers.job_status("snapshot-7-0") == {"status": "queued", "progress": None}
    job = find(connection, "snapshot-7-0")
    job.meta["progress"] = {"stage": "reading annotations"}
    job.save_meta()
    assert triggers.job_status("snapshot-7-0")["progress"] == {"stage": "reading annotations"}


def test_the_service_says_which_model_it_serves(triggers, connection):
    assert connection.get("ebseg:model") == b"ebseg-tiny"
