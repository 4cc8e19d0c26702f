"""Orders on their way into queues, and claims on tasks; with a real Redis."""

import pytest
from rq.job import JobStatus

from training.queue import orders
from training.queue.plans import CLAIM_SECONDS, claimer, refresh, submit_chunks
from training.queue.projects import PROJECTS_KEY
from training.queue.queues import KEPT_SECONDS, QueueName, find, queue
from training.settings import Settings

SETTINGS = Settings(train_timeout=50_000.2, train_retries=1, label_chunk=3)


def test_a_job_has_the_limits_of_its_order(connection):
    orders.finetune(SETTINGS, "7-a", 7, "fingerprint", 1, "why").submit(connection)
    job = find(connection, "train-7-a")
    assert (job.timeout, job.retries_left, job.retry_intervals) == (50_001, 1, [10, 60, 300])
    assert (job.result_ttl, job.failure_ttl) == (KEPT_SECONDS, KEPT_SECONDS)
    assert (job.origin, job.func_name) == ("ebseg-train", "training.jobs.finetune_project")
    orders.finetune(SETTINGS.model_copy(update={"train_retries": 0}), "7-b", 7, "", 1, "").submit(connection)
    assert not find(connection, "train-7-b").retries_left


def test_a_job_is_submitted_once_and_anew_when_it_has_ended(connection):
    order = orders.plan(7, "street-1")
    assert order.submit(connection) and not order.submit(connection) and not order.resubmit(connection)
    find(connection, order.job_id).set_status(JobStatus.FINISHED)
    assert not order.submit(connection)
    assert order.resubmit(connection)
    assert find(connection, order.job_id).get_status() == "queued"


def test_a_job_with_a_delay_waits_for_its_time(connection):
    order = orders.plan(7, "street-1")
    assert order.submit(connection, delay=100.0)
    scheduled = queue(connection, QueueName.CONTROL).scheduled_job_registry
    assert scheduled.get_job_ids() == [order.job_id] and scheduled.get_jobs_to_schedule() == []


@pytest.mark.parametrize(
    ("share", "project", "asked"),
    [
        ("project", None, ["plan-3-street-1", "plan-7-street-1"]),
        ("all", 7, ["plan-3-street-1", "plan-7-street-1"]),
        ("project", 7, ["plan-7-street-1"]),
    ],
)
def test_a_new_champion_is_asked_for_the_projects_that_it_serves(connection, share, project, asked):
    connection.sadd(PROJECTS_KEY, 7, 3)
    refresh(connection, SETTINGS.model_copy(update={"share": share}), "street-1", project)
    assert queue(connection, QueueName.CONTROL).get_job_ids() == asked


def test_tasks_are_dealt_out_in_order(connection):
    ids = submit_chunks(connection, SETTINGS, 7, range(1, 8), "street-1", plan="plan-7-street-1")
    assert [find(connection, job_id).args[1] for job_id in ids] == [[1, 2, 3], [4, 5, 6], [7]]
    assert connection.smembers("ebseg:open:plan-7-street-1") == {job_id.encode() for job_id in ids}
    others = submit_chunks(connection, SETTINGS, 7, range(1, 8), "street-1")
    assert not set(ids) & set(others)


@pytest.fixture
def claims(connection):
    """Give the claims of two jobs of which the first is queued."""
    orders.predict(7, [1], "street-1", "a").submit(connection)
    orders.predict(7, [1], "street-1", "b").submit(connection)
    ids = queue(connection, QueueName.LABEL).get_job_ids()
    return ids[0], *(claimer(connection, job_id, "street-1") for job_id in ids)


def test_a_task_is_claimed_by_one_job(claims, connection):
    holder, first, second = claims
    assert first(5) and not second(5) and second(6)
    assert connection.get("ebseg:claim:street-1:5").decode() == holder
    assert CLAIM_SECONDS - 60 < connection.ttl("ebseg:claim:street-1:5") <= CLAIM_SECONDS


def test_a_job_that_is_tried_again_keeps_its_claims(claims):
    _, first, second = claims
    assert first(5) and first(5) and not second(5)


@pytest.mark.parametrize("end", ["failed", "finished", "gone"])
def test_the_claim_of_a_job_that_has_ended_is_void(claims, connection, end):
    holder, first, second = claims
    first(5)
    connection.persist("ebseg:claim:street-1:5")
    job = find(connection, holder)
    job.delete() if end == "gone" else job.set_status(JobStatus(end))
    assert second(5) and second(5)
    assert connection.get("ebseg:claim:street-1:5").decode() != holder
    assert 0 < connection.ttl("ebseg:claim:street-1:5") <= CLAIM_SECONDS


def test_the_claim_of_a_worker_that_died_holds_while_its_job_is_tried_again(claims, connection):
    holder, first, second = claims
    first(5)
    find(connection, holder).set_status(JobStatus.SCHEDULED)
    assert not second(5)


def test_another_version_is_another_claim(claims, connection):
    _, first, _ = claims
    first(5)
    assert claimer(connection, "another job", "street-2")(5)
