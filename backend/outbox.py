"""What the service was told that is reason to work: kept in memory, handed on by a thread of its own.

A hint is taken in microseconds, whatever becomes of it: Label Studio waits for the answer to a webhook inside
a person's Submit. Whoever takes the hints on (Redis, in the end) may be away; they wait for it.
"""

import atexit
import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from ebseg.errors import EBSegError
from training.queue.outcomes import Outcomes

logger = logging.getLogger(__name__)

MOST_PROJECTS = 10_000
"""Projects, and ..."""

MOST_TASKS = 100_000
"""... unfinished tasks that hints may wait for: they come from strangers."""

FIRST_PAUSE = 0.5
"""Seconds after a first attempt that failed; each further pause is twice the last, but at most ..."""

LONGEST_PAUSE = 30.0
"""... so many seconds."""

STOP_SECONDS = 2.0
"""For handing over what is left when the process ends."""


LOOK_SECONDS = 5.0
"""Between looks at what came of the hints."""


class Sink(Protocol):
    """Takes hints on; raises where it cannot now. ``training.queue.triggers.Triggers`` is one."""

    def note_event(self, project_id: int, events: int, forced: bool, uploaded: bool) -> None:
        """Note that so many events of a project came.

        ``forced``: somebody asked for a training; ``uploaded``: tasks were added.
        """

    def note_project(self, project_id: int, version: str) -> None:
        """Note that a project has called; ``version``: of its predictions, empty where none was told."""

    def note_hostname(self, hostname: str) -> None:
        """Note what Label Studio calls itself."""

    def finish(self, project_id: int, task_ids: list[int], version: str) -> None:
        """Have tasks predicted, with the model of that version, that a request had no time for."""

    def outcomes(self) -> Mapping[int, Outcomes]:
        """Give what jobs told of the known projects."""

    def paused(self) -> str:
        """Tell why and since when the loop pauses; empty where it does not."""

    def job_status(self, job_id: str) -> dict[str, Any] | None:
        """Tell a job's ``status``, and more if there is more; None for an unknown job."""


@dataclass
class _Waiting:
    """What is to be handed over of one project; ``unfinished``: ids of tasks by version."""

    events: int = 0
    forced: bool = False
    uploaded: bool = False
    version: str = ""
    hostname: str = ""
    unfinished: dict[str, set[int]] = field(default_factory=dict)

    @property
    def tasks(self) -> int:
        return sum(map(len, self.unfinished.values()))

    def add(self, other: "_Waiting") -> None:
        self.events += other.events
        self.forced |= other.forced
        self.uploaded |= other.uploaded
        self.version = other.version or self.version
        self.hostname = other.hostname or self.hostname
        for version, tasks in other.unfinished.items():
            self.unfinished.setdefault(version, set()).update(tasks)


class Outbox:
    """An outbox of hints, one entry for a project however often it is hinted at; for many threads.

    ``connect`` makes the sink once, in the outbox's thread with the first hint or look, or for who asks about
    a job before: that may take seconds. While it or the sink fails, everything waits. A hint may reach the
    sink twice, after a failure half-way. ``outcomes``, ``paused``: what the sink told last, see Sink.
    ``away``: why it cannot be asked now.
    """

    def __init__(self, connect: Callable[[], Sink]) -> None:
        self.connect = connect
        self.outcomes: Mapping[int, Outcomes] = {}
        self.paused = ""
        self.away = ""
        self._look_at = time.monotonic() + LOOK_SECONDS
        self._sink: Sink | None = None
        self._connecting = threading.Lock()
        self._waiting: dict[int, _Waiting] = {}
        self._tasks = 0
        self._in_hand = 0
        self._changed = threading.Condition()
        self._closing = threading.Event()
        self._full = False
        # A daemon: a process that is told to end does not wait for a Redis that is away.
        self._thread = threading.Thread(target=self._work, name="hints", daemon=True)

    def start(self) -> None:
        """Begin to hand over; to be called once, in the process that serves."""
        self._thread.start()
        atexit.register(self.close)

    def called(self, project_id: int, hostname: str = "", version: str = "") -> None:
        """Take the hint that a project uses this service.

        ``hostname``: what Label Studio calls itself; ``version``: that of the project's predictions.
        """
        self._add(project_id, _Waiting(hostname=hostname, version=version))

    def changed(self, project_id: int, *, forced: bool = False, uploaded: bool = False) -> None:
        """Take the hint that a project's annotations, labels or tasks changed.

        ``forced``: train whatever there is; ``uploaded``: tasks were added.
        """
        self._add(project_id, _Waiting(events=1, forced=forced, uploaded=uploaded))

    def unfinished(self, project_id: int, task_ids: Iterable[int], version: str) -> None:
        """Take the hint that a request had no time for these tasks; ``version``: of its model."""
        if tasks := set(task_ids):
            self._add(project_id, _Waiting(unfinished={version: tasks}))

    def job_status(self, job_id: str) -> dict[str, Any] | None:
        """Ask about a job; see Sink.job_status. Raises what the sink raises where it cannot tell."""
        return self._connected().job_status(job_id)

    @property
    def waiting(self) -> int:
        """Number of projects with hints that nobody has taken on yet."""
        return len(self._waiting) + self._in_hand

    def close(self) -> None:
        """Try once more to hand over what is left, within STOP_SECONDS; then stop."""
        atexit.unregister(self.close)
        with self._changed:
            self._closing.set()
            self._changed.notify()
        self._thread.join(STOP_SECONDS)
        if lost := self.waiting:
            logger.error(
                "hints of %d projects are lost: the schedule finds their annotations, but predictions that a "
                "request had no time for have to be retrieved again",
                lost,
            )

    def _add(self, project_id: int, hint: _Waiting) -> None:
        with self._changed:
            if project_id not in self._waiting and len(self._waiting) >= MOST_PROJECTS:
                self._drop(f"hints of {MOST_PROJECTS} projects wait")
            elif self._tasks + hint.tasks > MOST_TASKS:
                self._drop(f"{MOST_TASKS} unfinished tasks wait")
            else:
                entry = self._pop(project_id)
                entry.add(hint)
                self._put(project_id, entry)
                self._changed.notify()

    def _put(self, project_id: int, hint: _Waiting) -> None:
        self._waiting[project_id] = hint
        self._tasks += hint.tasks

    def _pop(self, project_id: int) -> _Waiting:
        hint = self._waiting.pop(project_id, None) or _Waiting()
        self._tasks -= hint.tasks
        return hint

    def _drop(self, reason: str) -> None:
        if not self._full:  # else a line for each webhook of a stranger
            logger.error("%s to be taken on: further ones are dropped until some are", reason)
        self._full = True

    def _work(self) -> None:
        pause = FIRST_PAUSE
        while (taken := self._take()) is not None:
            project_id, hint = taken
            try:
                self._hand_over(project_id, hint)
            except Exception as error:  # whatever it is: nothing may be lost, and the thread lives on
                self._put_back(project_id, hint)
                if pause == FIRST_PAUSE or self._closing.is_set():
                    what = type(error).__name__
                    logger.error("hints to the learning loop wait, it cannot be reached: %s: %s", what, error)
                if self._closing.is_set():
                    return
                self._closing.wait(pause)
                pause = min(2 * pause, LONGEST_PAUSE)
            else:
                self._in_hand = 0
                if pause > FIRST_PAUSE:
                    logger.info("hints to the learning loop are taken on again")
                pause = FIRST_PAUSE
            self._look()

    def _take(self) -> tuple[int, _Waiting] | None:
        """Wait for a hint and take the oldest; None when there is none and the outbox closes."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closing.is_set(), LOOK_SECONDS)
                if self._waiting:
                    project_id = next(iter(self._waiting))
                    self._in_hand, self._full = 1, False
                    return project_id, self._pop(project_id)
                if self._closing.is_set():
                    return None
            self._look()

    def _look(self) -> None:
        """Ask what is known of projects, and what is in the way, for who looks at the page; now and then."""
        if time.monotonic() < self._look_at or self._closing.is_set():
            return
        try:
            sink = self._connected()
            self.outcomes, self.paused, self.away = sink.outcomes(), sink.paused(), ""
        except Exception as error:  # whatever it is: the log has it with the next hint
            self.away = str(error) if isinstance(error, EBSegError) else f"{type(error).__name__}: {error}"
        self._look_at = time.monotonic() + LOOK_SECONDS

    def _hand_over(self, project_id: int, hint: _Waiting) -> None:
        """Tell the sink; what it has taken on is taken off the hint."""
        sink = self._connected()
        if hint.version or not hint.events:
            sink.note_project(project_id, hint.version)
            hint.version = ""
        if hint.events:
            sink.note_event(project_id, hint.events, hint.forced, hint.uploaded)
            hint.events, hint.forced, hint.uploaded = 0, False, False
        if hint.hostname:
            sink.note_hostname(hint.hostname)
            hint.hostname = ""
        for version in list(hint.unfinished):
            sink.finish(project_id, sorted(hint.unfinished[version]), version)
            del hint.unfinished[version]

    def _connected(self) -> Sink:
        with self._connecting:
            if self._sink is None:
                self._sink = self.connect()
                if not self._closing.is_set():
                    # What is registered last is called first at the exit, and an embedded Redis has just
                    # registered that it stops then.
                    atexit.unregister(self.close)
                    atexit.register(self.close)
            return self._sink

    def _put_back(self, project_id: int, hint: _Waiting) -> None:
        """Let a hint wait again, behind the others: what is wrong may be wrong with this project alone."""
        with self._changed:
            hint.add(self._pop(project_id))
            self._put(project_id, hint)
            self._in_hand = 0
