"""What something else has written to the loop's keys in Redis costs nothing but itself, and is named."""

import json
import pickle

import pytest
from rq.timeouts import JobTimeoutException

from ebseg.cli import main
from training.queue import orders
from training.queue.entries import read
from training.queue.mending import mend
from training.queue.plans import claimer
from training.queue.projects import MODEL_KEY, PROJECTS_KEY, Project, known_projects
from training.queue.queues import QueueName, find, queue, rescue, submit
from training.queue.triggers import Triggers
from training.settings import Settings

FIELDS = {
    "data that are no JSON": ("data", b"\xff\xfe", "UnicodeDecodeError"),
    "data of another serializer": ("data", pickle.dumps(("os.getcwd", None, (), {})), "UnicodeDecodeError"),
    "data that are no job": ("data", b"[1]", "ValueError"),
    "no data": ("data", None, "it has no data"),
    "meta of another type": ("meta", b"[1]", "its meta is no JSON object"),
    "a state that there is not": ("status", b"done", "'done' is not a valid JobStatus"),
    "a time that is none": ("created_at", b"yesterday", "'yesterday'"),
    "a description that is no text": ("description", b"\xff", "UnicodeDecodeError"),
    "a number that is none": ("retries_left", b"many", "many"),
    "a time limit that is none": ("timeout", b"soon", "AssertionError"),
}


def put(connection, job_id: str) -> None:
    submit(connection, QueueName.CONTROL, "operator.add", [1, 2], job_id=job_id, what="add")


@pytest.fixture
def run(connection, redis_url, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("REDIS_URL", redis_url)
    monkeypatch.setenv("COLUMNS", "80")

    def run(*arguments):
        with pytest.raises(SystemExit) as ended:
            main(["jobs", *arguments])
        told = capsys.readouterr()
        assert ended.value.code == 0, told.err
        return told

    return run


def assert_told(run, job_id: str, reason: str) -> None:
    told = json.loads(run("list", "--json").out)
    assert {job["id"]: job["state"] for job in told} == {job_id: "damaged", "sum-1": "queued"}
    assert reason in told[0]["outcome"]
    assert f"`ebseg jobs cancel {job_id}` takes it away" in told[0]["outcome"]
    listed = run("list").out
    assert "damaged" in listed and "sum-1" in listed
    assert reason in json.loads(run("show", job_id, "--json").out)["reason"]
    assert reason[:9] in run("show", job_id).out


@pytest.mark.parametrize(("field", "value", "reason"), FIELDS.values(), ids=FIELDS)
def test_a_damaged_job_is_named_and_passed_over(connection, run, caplog, field, value, reason):
    put(connection, "sum-1")
    put(connection, "odd-1")
    if value is None:
        connection.hdel("rq:job:odd-1", field)
    else:
        connection.hset("rq:job:odd-1", field, value)
    assert_told(run, "odd-1", reason)
    assert find(connection, "odd-1") is None
    assert "job odd-1 is passed over: damaged in Redis" in caplog.text and reason in caplog.text
    assert run("cancel", "odd-1").out == "odd-1 was damaged, and is taken away\n"
    assert [job["id"] for job in json.loads(run("list", "--json").out)] == ["sum-1"]


def test_a_job_that_is_no_hash_is_named_and_made_anew(connection, run):
    put(connection, "sum-1")
    order = orders.snapshot(7, 0)
    order.submit(connection)
    connection.delete(f"rq:job:{order.job_id}")
    connection.set(f"rq:job:{order.job_id}", "x")
    assert_told(run, order.job_id, "WRONGTYPE")
    assert order.resubmit(connection)
    assert find(connection, order.job_id).is_queued


def test_a_damaged_job_that_waits_for_its_time_does_not_hold_up_the_schedule(connection, run, caplog):
    put(connection, "sum-1")
    submit(connection, QueueName.CONTROL, "operator.add", [1], job_id="odd-1", what="add", delay=100)
    connection.hset("rq:job:odd-1", "created_at", "yesterday")
    mend(connection)
    assert queue(connection, QueueName.CONTROL).scheduled_job_registry.get_job_ids() == []
    assert "job odd-1 is not started: damaged in Redis" in caplog.text
    assert_told(run, "odd-1", "'yesterday'")


def test_a_damaged_job_that_a_worker_has_passed_over_is_still_listed(connection, run):
    put(connection, "odd-1")
    connection.hset("rq:job:odd-1", "created_at", "yesterday")
    connection.delete("rq:queue:ebseg")
    put(connection, "sum-1")
    assert rescue(connection, rescue(connection, set())) == set()
    assert_told(run, "odd-1", "'yesterday'")
    assert rescue(connection, {"odd-1"}) == set()


def test_a_job_on_its_way_from_a_queue_to_a_worker_is_listed(connection, run):
    put(connection, "sum-1")
    assert queue(connection, QueueName.CONTROL).pop_job_id() == "sum-1"
    connection.hset("rq:job:other-1", mapping={"origin": "another-program", "data": "x"})
    [told] = json.loads(run("list", "--json").out)
    assert (told["id"], told["state"]) == ("sum-1", "queued")


def test_what_is_no_id_is_taken_out_of_the_queues(connection, run, caplog):
    connection.rpush("rq:queue:ebseg", b"\xff", "a b")
    put(connection, "sum-1")
    for name in ("wip", "finished", "failed", "scheduled", "deferred", "canceled"):
        connection.zadd(f"rq:{name}:ebseg", {b"\xff": 1})
    told = run("list")
    assert "sum-1" in told.out
    assert r"b'\xff' of the key rq:wip:ebseg in Redis is no job's id" in told.err
    mend(connection)
    assert connection.lrange("rq:queue:ebseg", 0, -1) == [b"sum-1"]
    assert [connection.zcard(f"rq:{name}:ebseg") for name in ("wip", "finished", "scheduled")] == [0, 0, 0]
    assert "b'a b' of the key rq:queue:ebseg in Redis is no job's id: it is taken out" in caplog.text


def test_keys_of_another_type_are_put_aside(connection, run, redis_url, caplog):
    wrong = ["rq:queue:ebseg", "rq:scheduled:ebseg", "rq:failed:ebseg-train", "rq:queues", PROJECTS_KEY]
    for key in wrong:
        connection.set(key, "x")
    connection.rpush(MODEL_KEY, "x")
    told = run("list")
    assert told.out == "no jobs\n"
    assert "the key rq:queue:ebseg of Redis is a string, not a list" in told.err
    triggers = Triggers(Settings(redis_url=redis_url))
    triggers.note_event(7, 1, False)
    assert known_projects(connection, Settings()) == [7]
    assert [connection.get(f"{key}:damaged") for key in wrong] == [b"x"] * len(wrong)
    assert f"the key {MODEL_KEY} of Redis is a list, not a string: it is now {MODEL_KEY}:dam" in caplog.text


def test_what_is_no_project_is_named_and_passed_over(connection, caplog):
    connection.sadd(PROJECTS_KEY, "7", "seven", b"\xff", "-3")
    assert known_projects(connection, Settings(projects=(5,))) == [5, 7]
    assert f"the key {PROJECTS_KEY} of Redis holds what is no project's number: ['-3'" in caplog.text


@pytest.mark.parametrize("field", ["events", "covered", "round", "first", "last", "trained", "training"])
def test_a_damaged_field_of_a_project_is_dropped(connection, caplog, field):
    Project(connection, 7).note(3, forced=False)
    connection.hset("ebseg:project:7", field, b"\xff")
    project = Project(connection, 7)
    assert f"b'{field}' of the key ebseg:project:7 in Redis is damaged" in caplog.text
    project.note(1, forced=True)
    assert project.request_round(0.0) == "snapshot-7-0"
    assert project.begin_reading() == (1 if field == "events" else 4, True)
    assert (project.training, project.trained, project.has_news) == (None, None, True)


def test_a_project_that_is_no_hash_begins_anew(connection, caplog):
    connection.set("ebseg:project:7", "x")
    Project(connection, 7).note(1, forced=False)
    assert Project(connection, 7).begin_reading() == (1, False)
    assert "the key ebseg:project:7 of Redis is not a hash" in caplog.text


def test_a_claim_that_is_none_holds_nobody_up(connection):
    connection.rpush("ebseg:claim:v1:3", "x")
    assert claimer(connection, "label-1", "v1")(3)
    assert connection.get("ebseg:claim:v1:3") == b"label-1"


def test_a_job_whose_time_is_over_while_it_is_read_is_not_damaged(connection, monkeypatch):
    put(connection, "job")

    def time_is_over(job, raw_data):
        raise JobTimeoutException("job took too long")

    monkeypatch.setattr("rq.job.Job.restore", time_is_over)
    with pytest.raises(JobTimeoutException):
        read(connection, "job")
