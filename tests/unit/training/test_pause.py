"""An outage of Label Studio is known once, and ends by a probe."""

from types import SimpleNamespace

import pytest
from rq import Retry

from ebseg.errors import LoopPaused, Refused, TokenRefused, TrainingError, Unreachable
from training.annotations.label_studio import LabelStudioUnavailable
from training.commands import label
from training.jobs import job as jobs
from training.queue.mending import faults
from training.queue.pause import FIRST_PROBE, LONGEST_PROBE, PAUSE_KEY, PROBE_KEY, pause, paused, probe
from training.queue.queues import QueueName
from training.queue.triggers import Triggers
from training.settings import Settings


class Clock:
    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


def test_the_first_reason_is_kept_with_its_time(connection):
    clock = Clock()
    assert paused(connection) is None
    pause(connection, "it answers 503", clock)
    clock.now += 60
    pause(connection, "it does not answer", clock)
    assert str(paused(connection)) == (
        "paused since 2027-01-15 08:00:00Z, until Label Studio is well: it answers 503"
    )
    assert connection.get(PAUSE_KEY).startswith(b'{"reason":')


def test_probes_are_rarer_and_rarer_and_never_rarer_than_a_minute(connection):
    clock, asked = Clock(), []
    pause(connection, "away", clock)
    begun = clock.now
    while clock.now < begun + 3600:
        before = len(asked)
        probe(connection, lambda: asked.append(clock.now) or "still", clock)
        if len(asked) > before:
            allowed = connection.ttl(PROBE_KEY)
            assert min(max((clock.now - begun) / 4, FIRST_PROBE), LONGEST_PROBE) == pytest.approx(
                allowed, abs=1
            )
        probe(connection, lambda: pytest.fail("too early"), clock)
        clock.now += allowed
        connection.delete(PROBE_KEY)
    assert len(asked) < 90
    assert paused(connection)


def test_a_probe_that_finds_it_well_ends_the_pause(connection):
    clock = Clock()
    probe(connection, lambda: pytest.fail("nobody asked"), clock)
    pause(connection, "away", clock)
    probe(connection, lambda: None, clock)
    assert paused(connection) is None
    probe(connection, lambda: pytest.fail("nobody asked"), clock)


@pytest.mark.parametrize("value", [b"no JSON", b"{}", b'{"reason": 1, "since": "x"}'])
def test_a_damaged_pause_is_none(connection, value):
    connection.set(PAUSE_KEY, value)
    assert paused(connection) is None and connection.get(PAUSE_KEY) is None


def test_a_pause_of_another_type_is_put_aside(connection):
    connection.lpush(PAUSE_KEY, "x")
    assert [fault.key for fault in faults(connection)] == [PAUSE_KEY]


class Current:
    """RQ's job, as far as the wrapper looks at it."""

    id, retries_left = "job-1", 3

    def __init__(self, connection, origin: str) -> None:
        self.connection, self.origin, self.meta = connection, origin, {}

    def save_meta(self) -> None:
        pass


@pytest.fixture
def do(connection, monkeypatch, tmp_path):
    """Run a function as a job; ``away``: what a probe says."""

    def run(function, *, away: str | None = None, line: QueueName = QueueName.LABEL):
        current = Current(connection, line)
        monkeypatch.setattr(jobs, "get_current_job", lambda: current)
        monkeypatch.setattr(jobs, "load_settings", lambda: Settings(home=tmp_path))
        monkeypatch.setattr(jobs, "why_away", lambda settings: away)
        return jobs.job(function)(), current

    return run


def failing(error: Exception):
    def fail(loop):
        raise error

    return fail


@pytest.mark.parametrize(
    "error",
    [LabelStudioUnavailable("away"), Unreachable("away"), TokenRefused("refused"), Refused("denied")],
    ids=repr,
)
def test_the_job_that_finds_it_away_goes_back_and_nothing_is_begun_until_it_is_well(connection, do, error):
    result, current = do(failing(error), away="away")
    assert isinstance(result, Retry) and current.retries_left == 3 and current.meta == {}
    assert paused(connection).reason == str(error)
    result, _ = do(lambda loop: pytest.fail("begun"))
    assert isinstance(result, Retry)
    assert do(lambda loop: {"outcome": "done"}, line=QueueName.TRAIN)[0] == {"outcome": "done"}
    connection.delete(PAUSE_KEY)
    assert do(lambda loop: {"outcome": "done"})[0] == {"outcome": "done"}


@pytest.mark.parametrize("error", [Refused("this project is denied (403)"), LabelStudioUnavailable("500")])
def test_what_is_wrong_with_one_project_pauses_nothing(connection, do, error):
    with pytest.raises(type(error)):
        do(failing(error), away=None)
    assert paused(connection) is None


def test_other_faults_ask_for_no_probe(connection, do):
    with pytest.raises(TrainingError):
        do(failing(TrainingError("a NaN")), away="away")
    assert paused(connection) is None


def test_who_waits_for_predictions_is_told_at_once(connection):
    pause(connection, "it answers 503")
    with pytest.raises(
        LoopPaused, match=r"the loop is paused since .*: it answers 503; it goes on by itself"
    ):
        label._wait(connection, "plan-1", quiet=True)
    triggers = SimpleNamespace(_connection=connection)
    assert Triggers.paused(triggers).startswith("paused since ")
    connection.delete(PAUSE_KEY)
    assert Triggers.paused(triggers) == ""
