"""Orders: what is put on a queue is a job that exists and takes these arguments."""

import inspect
import json
from datetime import UTC, datetime

import pytest
from rq.utils import import_attribute

import training.jobs
from training.queue import orders
from training.queue.orders import Which
from training.queue.queues import JOB_SECONDS, RETRY_PAUSES, QueueName
from training.settings import Settings

SETTINGS = Settings(train_timeout=7200.0, train_retries=2)
ALL = {
    order.function.rpartition(".")[2]: order
    for order in (
        orders.snapshot(7, 3),
        orders.remember(7),
        orders.finetune(SETTINGS, "7-0a1b", 7, "fingerprint", 1, "20 new annotations"),
        orders.judge(SETTINGS, "7-0a1b", 7, "fingerprint", 2),
        orders.plan(7, "street-1.2"),
        orders.predict(7, [11, 12], "street-1.2", "plan-7-street-1_2"),
        orders.sweep(datetime(2026, 11, 25, 3, 0, tzinfo=UTC)),
    )
}


def test_every_job_can_be_asked_for_and_nothing_else():
    assert set(ALL) == set(training.jobs.__all__)


@pytest.mark.parametrize("name", ALL)
def test_an_order_is_a_job_that_takes_its_arguments_as_json(name):
    order = ALL[name]
    job = import_attribute(order.function)  # as a worker does
    plain = job.__wrapped__
    arguments = json.loads(json.dumps(order.arguments))
    assert list(inspect.signature(plain).parameters)[0] == "loop"
    inspect.signature(plain).bind("loop", *arguments)


def test_ids_queues_and_limits_are_those_that_waiting_jobs_have():
    """Redis may hold jobs of before: whoever names one otherwise does it twice."""
    told = {
        name: (order.job_id, order.line, order.timeout, order.retries, order.what)
        for name, order in ALL.items()
    }
    usual = JOB_SECONDS, len(RETRY_PAUSES)
    assert told == {
        "snapshot_project": ("snapshot-7-3", QueueName.CONTROL, *usual, "read the annotations of project 7"),
        "remember_project": (
            "remember-7", QueueName.CONTROL, *usual, "remember the corrections of project 7",
        ),
        "finetune_project": (
            "train-7-0a1b", QueueName.TRAIN, 7200.0, 2,
            "fine-tune version 1 for project 7: 20 new annotations",
        ),
        "judge_candidate": (
            "judge-7-0a1b", QueueName.CONTROL, 7200.0, 3,
            "compare version 2 with the champion, for project 7",
        ),
        "label_project": (
            "plan-7-street-1_2", QueueName.CONTROL, *usual,
            "predict the unlabelled tasks of project 7 with street-1.2",
        ),
        "label_tasks": (
            "label-7-street-1_2-11-d9784757", QueueName.LABEL, *usual,
            "predict 2 tasks of project 7 with street-1.2",
        ),
        "sweep": (
            "sweep-20261125T0300", QueueName.CONTROL, *usual,
            "look at all projects, as scheduled for 2026-11-25T03:00Z",
        ),
    }  # fmt: skip


@pytest.mark.parametrize("which", [each for each in Which if each is not Which.MISSING])
def test_plans_for_other_tasks_are_other_jobs(which):
    usual, plan = orders.plan(1, "base-0"), orders.plan(1, "base-0", which)
    assert (usual.job_id, plan.job_id) == ("plan-1-base-0", f"plan-1-base-0-{which}")
    assert plan.arguments == (*usual.arguments, which) and plan.what == f"{usual.what} ({which})"
    assert orders.predict(1, [2], "base-0", "plan", which).arguments[-1] is which


def test_what_the_jobs_are_called_in_no_module_is_an_attribute_error():
    with pytest.raises(AttributeError, match="training.jobs.*no attribute 'anything'"):
        _ = training.jobs.anything
