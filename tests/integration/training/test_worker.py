"""``ebseg worker`` and ``ebseg scheduler`` as processes, with a Redis that goes away."""

import json
import os
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import psutil
import pytest
import redis

from tests.integration.training.conftest import wait_for
from training.queue.queues import QueueName, connect, find, queue, submit

OWN = "tests.integration.training.own_jobs"


def test_a_job_is_done_and_its_result_shown(settings, start, redis_server):
    connection = connect(settings)
    submit(connection, QueueName.CONTROL, f"{OWN}.add", [1, 2], job_id="sum-1", what="add two numbers")
    start("worker", name="worker")
    wait_for(lambda: find(connection, "sum-1").is_finished)
    shown = ebseg(redis_server, "jobs", "show", "sum-1", "--json")
    assert (shown["state"], shown["outcome"], shown["what"]) == (
        "finished",
        "the sum is 3",
        "add two numbers",
    )
    assert ebseg(redis_server, "jobs", "list", "--json")[0]["id"] == "sum-1"


def test_a_failure_shows_with_its_reason_and_is_not_repeated(settings, start, redis_server):
    connection = connect(settings)
    submit(connection, QueueName.CONTROL, f"{OWN}.refuse", [], job_id="bad-1", what="refuse")
    start("worker", name="worker")
    wait_for(lambda: find(connection, "bad-1").is_failed)
    shown = ebseg(redis_server, "jobs", "show", "bad-1", "--json")
    assert shown["reason"] == "this cannot be done: do something else"
    assert "job bad-1: this cannot be done" in (redis_server.home / "worker.log").read_text()


def test_jobs_share_a_process_until_one_fails_or_dies_and_trainings_have_their_own(
    settings, start, redis_server
):
    connection = connect(settings)
    jobs = {
        "label-1": ("tell_process", 1), "plan-2": ("tell_process", 2), "label-bad": ("refuse",),
        "label-3": ("tell_process", 3), "label-4": ("tell_process", 4), "train-x": ("tell_process", 5),
        "label-6": ("tell_process", 6), "label-ended": ("end_process",), "label-7": ("tell_process", 7),
    }  # fmt: skip
    for job_id, (function, *arguments) in jobs.items():
        submit(connection, QueueName.LABEL, f"{OWN}.{function}", arguments, job_id=job_id, what=function)
    start("worker", name="worker")
    wait_for(lambda: find(connection, "label-7").is_finished)
    assert find(connection, "label-bad").is_failed
    assert find(connection, "label-ended").is_scheduled  # to be tried again
    told = {name: find(connection, name).return_value() for name in jobs}
    of = {name: result["process"] for name, result in told.items() if result}
    assert of["label-1"] == of["plan-2"]
    assert of["label-3"] == of["label-4"]
    assert len({of[name] for name in ("label-1", "label-3", "train-x", "label-6", "label-7")}) == 5
    assert [each for each in of.values() if psutil.pid_exists(each)] == [of["label-7"]]
    log = (redis_server.home / "worker.log").read_text()
    assert log.count("terminated unexpectedly") == 1


def test_damaged_entries_of_redis_cost_a_worker_only_themselves(settings, start, redis_server):
    connection = connect(settings)
    damages = {
        "odd-data": ("data", b"\xff"), "odd-meta": ("meta", b"[1]"), "odd-state": ("status", "done"),
        "odd-time": ("created_at", "yesterday"), "odd-text": ("description", b"\xff"),
    }  # fmt: skip
    connection.set("rq:finished:ebseg", "x")
    connection.rpush("rq:queue:ebseg", b"\xff")
    connection.zadd("rq:wip:ebseg", {b"\xff": 1})
    connection.zadd("rq:scheduled:ebseg", {b"\xff": 1})
    start("worker", name="worker")
    log = redis_server.home / "worker.log"
    wait_for(lambda: "Listening" in log.read_text())
    for job_id, (field, value) in damages.items():
        submit(connection, QueueName.CONTROL, f"{OWN}.add", [1, 2], job_id=job_id, what="add", delay=1)
        connection.hset(f"rq:job:{job_id}", field, value)
    submit(connection, QueueName.CONTROL, f"{OWN}.add", [1, 2], job_id="sum-1", what="add", delay=2)
    wait_for(lambda: find(connection, "sum-1").is_finished)
    told = {job["id"]: job["state"] for job in ebseg(redis_server, "jobs", "list", "--json")}
    assert {name: told[name] for name in (*damages, "sum-1")} == {
        **dict.fromkeys(damages, "damaged"),
        "sum-1": "finished",
    }
    for named in (*damages, "rq:finished:ebseg", "rq:wip:ebseg", "rq:queue:ebseg", "rq:scheduled:ebseg"):
        assert named in log.read_text()


def test_a_killed_worker_s_job_ends_and_goes_on_in_another(settings, start, redis_server):
    connection = connect(settings)
    file = redis_server.home / "starts"
    submit(connection, QueueName.TRAIN, f"{OWN}.once_killed", [str(file)], job_id="train-x", what="wait")
    first = start("worker", name="first")
    wait_for(file.exists)
    horse = int(file.read_text().split()[0])
    first.kill()
    first.wait()
    wait_for(lambda: not psutil.pid_exists(horse), 10)
    assert find(connection, "train-x").get_status() == "started"
    start("worker", name="second")
    wait_for(lambda: find(connection, "train-x").is_finished)
    assert len(file.read_text().split()) == 2


def test_cancel_stops_a_job_that_runs_and_one_that_waits(settings, start, redis_server):
    connection = connect(settings)
    file = redis_server.home / "starts"
    submit(connection, QueueName.TRAIN, f"{OWN}.once_killed", [str(file)], job_id="train-x", what="wait")
    submit(connection, QueueName.TRAIN, f"{OWN}.add", [1, 2], job_id="sum-1", what="add", delay=1000)
    start("worker", name="worker")
    wait_for(file.exists)
    for job in ("train-x", "sum-1"):
        ebseg(redis_server, "jobs", "cancel", job)
    wait_for(lambda: find(connection, "train-x").is_stopped)
    assert find(connection, "sum-1").is_canceled
    assert ebseg(redis_server, "jobs", "show", "train-x", "--json")["reason"] == "cancelled by hand"
    wait_for(lambda: not psutil.pid_exists(int(file.read_text().split()[0])), 10)


def test_jobs_wait_for_a_redis_that_was_killed(settings, start, redis_server):
    start("worker", name="worker")
    connection = connect(settings)
    wait_for(lambda: "Listening" in (redis_server.home / "worker.log").read_text())
    for number in range(3):
        submit(
            connection,
            QueueName.LABEL,
            f"{OWN}.add",
            [1, number],
            job_id=f"sum-{number}",
            what="add",
            delay=4,
        )
    redis_server.kill()  # the worker starts the embedded one again

    def all_done() -> bool:
        try:
            return all(find(connection, f"sum-{number}").is_finished for number in range(3))
        except redis.ConnectionError:
            return False

    wait_for(all_done)
    assert all(len(find(connection, f"sum-{number}").results()) == 1 for number in range(3))


def test_a_worker_waits_for_a_server_of_one_s_own_that_is_away(settings, start, redis_server):
    """The embedded server plays one that REDIS_URL names: nobody but this test starts it again."""
    connection = connect(settings)
    file = redis_server.home / "starts"
    submit(connection, QueueName.CONTROL, f"{OWN}.once_killed", [str(file)], job_id="wait-1", what="wait")
    worker = start("worker", name="worker", REDIS_URL=redis_server.url)
    wait_for(file.exists)
    redis_server.kill()
    log = redis_server.home / "worker.log"
    wait_for(lambda: "Redis is away" in log.read_text())
    assert worker.poll() is None
    redis_server.start()

    def done() -> bool:
        try:
            return find(connection, "wait-1").is_finished
        except redis.ConnectionError:
            return False

    wait_for(done)
    assert len(file.read_text().split()) == 2


def test_a_worker_that_is_told_to_stop_gives_a_training_back(settings, start, redis_server):
    connection = connect(settings)
    file = redis_server.home / "starts"
    submit(connection, QueueName.TRAIN, f"{OWN}.once_killed", [str(file)], job_id="train-x", what="wait")
    worker = start("worker", name="worker")
    wait_for(file.exists)
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(30) == 0
    assert find(connection, "train-x").get_status() == "scheduled"


def test_what_waits_is_shown_with_its_whole_id_when_it_is_due_and_its_retries(settings, redis_server):
    connection = connect(settings)
    job_id = "label-1-ebseg-tiny-4737b3b667ab-12-0a1b2c3d-and-more"
    before = datetime.now(UTC).replace(microsecond=0)
    submit(connection, QueueName.LABEL, f"{OWN}.add", [1, 2], job_id=job_id, what="add", delay=100, retries=2)
    assert job_id in ebseg(redis_server, "jobs", "list")
    shown = ebseg(redis_server, "jobs", "show", job_id, "--json")
    assert (shown["state"], shown["retries_left"]) == ("scheduled", 2)
    assert datetime.fromisoformat(shown["due"]) >= before + timedelta(seconds=100)
    assert "retries_left: 2\n" in ebseg(redis_server, "jobs", "show", job_id)


def test_two_schedulers_run_a_sweep_once(settings, start):
    for name in ("first", "second"):
        start("scheduler", name=name, EBSEG_SCHEDULE="* * * * *")
    start("worker", name="worker", EBSEG_SCHEDULE="* * * * *")
    done = queue(connect(settings), QueueName.CONTROL).finished_job_registry
    wait_for(lambda: done.count > 0)
    for job_id in done.get_job_ids():
        assert job_id.startswith("sweep-")
        assert [result.return_value["projects"] for result in find(done.connection, job_id).results()] == [[]]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["jobs", "show", "no-such-job"], "no job 'no-such-job'"),
        (["worker", "--queue", "other"], "no queue 'other'"),
        (
            ["worker", "--burst", "EBSEG_MODEL=nonsense"],
            "no model named 'nonsense', and no such file; known:",
        ),
        (["worker", "--burst", "EBSEG_HOME=/dev/null/home"], "EBSEG_HOME: /dev/null/home cannot be used"),
        (["jobs", "list", "EBSEG_HOME=/dev/null/home"], "EBSEG_HOME: /dev/null/home cannot be used"),
    ],
)
def test_what_is_not_there_is_named(redis_server, arguments, reason):
    variables = dict(each.split("=") for each in arguments if "=" in each)
    done = run(redis_server, *(each for each in arguments if "=" not in each), **variables)
    assert done.returncode in (1, 2)
    assert reason in " ".join(done.stderr.replace("│", " ").split())


def run(redis_server, *arguments: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-c", "from ebseg.cli import main; main()", *arguments]
    environment = {**os.environ, "EBSEG_HOME": str(redis_server.home), **variables}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)


def ebseg(redis_server, *arguments: str):
    done = run(redis_server, *arguments)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout) if "--json" in arguments else done.stdout
