"""The learning loop with the real parts: Label Studio, the service, Redis, an RQ worker and MLflow.

Two projects of different labels: one learns, and nothing of that reaches the other.

EBSEG_LOOP_PICTURE=file keeps a picture of predictions before and after (``make screenshot``). With the drawn
pictures of ``held_back`` it takes a third of the time that it takes with CamVid's (EBSEG_CAMVID=folder).
"""

import hashlib
import json
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from redis import Redis

import ebseg
from backend.demo.label_studio_server import LabelStudioServer
from backend.demo.project import EBSEG, serve_backend
from backend.processes import ServerProcess
from ebseg.label_studio.annotations import paint
from ebseg.label_studio.version import model_of
from ebseg.predictor import Predictor
from tests.e2e.team import LabelMap, Team, pictures, scenes, street
from tests.e2e.waiting import wait_until
from training.annotations.snapshot import is_held_out
from training.commands.jobs import newest_jobs
from training.queue.embedded_redis import stop_embedded_redis
from training.queue.queues import connect
from training.registry.registry import Registry
from training.settings import Settings

MODEL = "ebseg-tiny"
PICTURES, CORRECTED, HELD_OUT = 40, 24, 8
MINUTES = 60
MOST_JOBS = 100
LOADED = 120
"""Requests before and after the swap that the load goes on for."""

LOOP = {
    "EBSEG_HELD_OUT_SHARE": "0.35",
    "EBSEG_MIN_NEW_ANNOTATIONS": "16",
    "EBSEG_DEBOUNCE": "3",
    "EBSEG_MEMORY": "false",  # what fine-tuning does is looked at
    "EBSEG_FOLLOW_SECONDS": "1",
    # Real photos take longer to learn.
    "EBSEG_FINETUNE_STEPS": os.environ.get("EBSEG_FINETUNE_STEPS", "300" if street() else "60"),
    "EBSEG_GENERAL_PHOTOS": "20",
    "EBSEG_LARGEST_FORGETTING": "0.1",  # the mIoU of so few is some points off by chance
}


@dataclass
class Loop:
    """All that runs."""

    settings: Settings
    connection: Redis
    backend: ServerProcess
    worker: ServerProcess
    team: Team
    other: Team
    base: str
    environment: dict[str, str]
    running: ExitStack

    def start_worker(self, **variables: str) -> None:
        """Start the worker, in the place of the one that runs."""
        self.running.close()
        self.running.enter_context(self.worker.running([*EBSEG, "worker"], self.environment | variables))

    def command(self, *arguments: str) -> str:
        """Run ``ebseg``."""
        done = subprocess.run(
            [*EBSEG, *arguments], env=self.environment, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def jobs(self, prefix: str) -> list[dict[str, Any]]:
        """What ``ebseg jobs list --json`` tells, without the seconds that a command takes to start."""
        return [job for job in newest_jobs(self.connection, MOST_JOBS) if job["id"].startswith(prefix)]

    def wait_for(self, condition: Callable[[], bool], minutes: float = 15) -> None:
        def check() -> None:
            assert time.monotonic() < deadline, self.worker.log.read_text()[-8000:]
            self.worker.check_alive()
            self.backend.check_alive()

        deadline = time.monotonic() + minutes * MINUTES
        wait_until(condition, check)

    def judged(self, prefix: str) -> list[dict[str, Any]]:
        return [job for job in self.jobs(prefix) if job["state"] not in ("queued", "started", "scheduled")]


@pytest.fixture(scope="module")
def loop(server: LabelStudioServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loop]:
    folder = tmp_path_factory.mktemp("loop")
    shown = pictures(folder, PICTURES)
    variables = {**LOOP, "EBSEG_HOME": str(folder / "home")}
    with serve_backend(server, MODEL, folder, variables) as backend, ExitStack() as running:
        running.callback(stop_embedded_redis, folder / "home" / "redis")
        team, other = Team(server, shown), Team(server, scenes(folder, 2))
        for each in (team, other):
            each.project.connect(backend.url)
        other.project.retrieve_predictions(other.tasks)
        for start in range(0, PICTURES, 10):
            team.project.retrieve_predictions(team.tasks[start : start + 10])
        settings = Settings(
            home=folder / "home", held_out_share=0.35, label_studio_url=server.url, model=MODEL
        )
        environment = {**os.environ, **variables, "EBSEG_MODEL": MODEL}
        environment |= {"LABEL_STUDIO_URL": server.url, "LABEL_STUDIO_API_KEY": server.access_token}
        base = team.version(ebseg.load(MODEL).version)
        worker = ServerProcess("The worker", "", folder / "worker.log")
        started = running.enter_context(ExitStack())
        loop = Loop(settings, connect(settings), backend, worker, team, other, base, environment, started)
        loop.start_worker()
        yield loop


def choose(loop: Loop, count: int, held_out: int, among: list[int]) -> list[int]:
    """Choose tasks of which so many are held out, by the loop's own rule."""
    out = [task for task in among if is_held_out(photo_hash(loop, task), loop.settings.held_out_share)]
    kept = [task for task in among if task not in out]
    assert len(out) >= held_out and len(kept) >= count - held_out
    return sorted([*out[:held_out], *kept[: count - held_out]])


def photo_hash(loop: Loop, task: int) -> str:
    return hashlib.sha256(loop.team.pictures.files[loop.team.tasks.index(task)].read_bytes()).hexdigest()


@dataclass
class Load:
    """What came back of predictions asked for without a pause."""

    answers: list[tuple[int, str, list[dict[str, object]]]] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    @property
    def versions(self) -> list[str]:
        return [version for _, version, _ in self.answers]


@contextmanager
def load(loop: Loop, tasks: list[int]) -> Iterator[Load]:
    """Ask for predictions from two threads until the block is left."""
    seen, stop = Load(), threading.Event()
    body = {"project": f"{loop.team.project.id}.1", "label_config": loop.team.config}

    def ask(first: int) -> None:
        number = first
        while not stop.is_set():
            task = tasks[number % len(tasks)]
            number += 1
            try:
                answer = httpx.post(
                    f"{loop.backend.url}/predict",
                    json={**body, "tasks": [{"id": task, "data": paths[task]}]},
                    timeout=100,
                )
                [result] = answer.json()["results"]
                seen.answers.append((task, result["model_version"], result["result"]))
            except Exception as error:
                seen.failures.append(repr(error))

    paths = {task: loop.team.server.client.tasks.get(str(task)).data for task in tasks}
    threads = [threading.Thread(target=ask, args=(first,)) for first in range(2)]
    for thread in threads:
        thread.start()
    try:
        yield seen
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def test_corrections_become_a_better_model_that_is_served_without_a_pause(loop: Loop) -> None:
    team = loop.team
    corrected = choose(loop, CORRECTED, HELD_OUT, team.tasks)
    others = [task for task in team.tasks if task not in corrected]
    before = team.miou(others, loop.base)
    elsewhere = answers(loop, loop.other)
    for task in corrected:
        team.correct(task, team.truth(task))
    loop.wait_for(lambda: bool(loop.jobs("judge-")))
    with load(loop, others[:3]) as seen:
        loop.wait_for(lambda: bool(loop.judged("judge-")))
        loop.wait_for(lambda: seen.versions and seen.versions[-1] != loop.base)
        swapped = len(seen.versions)
        loop.wait_for(lambda: len(seen.versions) >= max(swapped + LOADED, 200))
    [judged] = loop.judged("judge-")
    assert str(judged["outcome"]).startswith("promote"), loop.command("models", "show", "2")
    registry = Registry(loop.settings)
    champion, base = registry.champion(team.project.id), registry.champion()
    assert champion is not None and champion.number == 2
    assert base is not None and base.number == 1
    assert seen.failures == []
    assert len(seen.answers) >= 200
    version = team.version(champion.name)
    assert set(seen.versions) == {loop.base, version}
    check_masks(loop, seen, {loop.base: MODEL, version: str(registry.checkpoint(champion))})
    assert told(loop, team) == version
    assert told(loop, loop.other) == loop.other.version(model_of(loop.base))

    loop.wait_for(lambda: len(loop.judged("label-")) > 0 and not active(loop, "label-", "plan-"))
    after = team.miou(others, version)
    print(f"\nmIoU of the {len(others)} other tasks' predictions: {before:.1f} before, {after:.1f} after")
    if picture := os.environ.get("EBSEG_LOOP_PICTURE"):
        team.picture(others[:3], [loop.base, version], Path(picture))
    assert after - before >= 10
    assert team.server.client.projects.get(team.project.id).model_version == version
    assert answers(loop, loop.other) == elsewhere
    assert registry.champion(loop.other.project.id) == base
    for task in others:
        stored = [p.model_version for p in team.project.predictions(task)]
        assert stored.count(version) == 1


def answers(loop: Loop, team: Team) -> list[dict[str, Any]]:
    """What the service answers for the tasks of a project."""
    return [team.answer(loop.backend.url, task) for task in team.tasks]


def told(loop: Loop, team: Team) -> str:
    """What the service tells Label Studio as the project's version."""
    body = {"schema": team.config, "project": f"{team.project.id}.1"}
    answer = httpx.post(f"{loop.backend.url}/setup", json=body)
    return str(answer.json()["model_version"])


def active(loop: Loop, *prefixes: str) -> bool:
    return any(
        job["state"] in ("queued", "started", "scheduled") for prefix in prefixes for job in loop.jobs(prefix)
    )


def check_masks(loop: Loop, seen: Load, models: dict[str, str]) -> None:
    """Each answer's masks are those of the version that it names, and the versions' differ."""
    expected = {
        (task, version): label_map(ebseg.load(model), loop.team, task)
        for version, model in models.items()
        for task in {task for task, _, _ in seen.answers}
    }
    for task, version, result in seen.answers:
        truth = loop.team.truth(task)
        shown = paint(result, loop.team.control, *truth.shape).label_map
        other = next(each for each in models if each != version)
        assert (shown == expected[task, version]).mean() > 0.999
        assert (shown == expected[task, other]).mean() < 0.99


def label_map(model: Predictor, team: Team, task: int) -> LabelMap:
    """What a model says of a picture, less what the service leaves out as too small."""
    found = model.predict(team.pictures.files[team.tasks.index(task)], list(team.pictures.labels)).label_map
    areas = np.bincount(found[found >= 0], minlength=len(team.pictures.labels))
    small = np.flatnonzero(areas < 0.001 * found.size)
    return np.where(np.isin(found, small), -1, found)


def served(loop: Loop) -> int:
    """The number of the version that is the project's champion."""
    champion = Registry(loop.settings).champion(loop.team.project.id)
    assert champion is not None
    return champion.number


def test_shuffled_labels_are_rejected(loop: Loop) -> None:
    team, rng = loop.team, np.random.default_rng(3)
    champion = served(loop)
    judged = len(loop.judged("judge-"))
    loop.start_worker(EBSEG_FINETUNE_STEPS="60")  # enough to unlearn
    for task in team.tasks:
        if not is_held_out(photo_hash(loop, task), loop.settings.held_out_share):
            truth = team.truth(task)
            shuffled = rng.permutation(len(team.pictures.labels)).astype(np.int16)
            team.correct(task, np.where(truth < 0, truth, shuffled[truth]))
    loop.wait_for(lambda: len(loop.judged("judge-")) > judged)
    newest = loop.judged("judge-")[0]
    print(f"\n{newest['outcome']}")
    assert str(newest["outcome"]).startswith("reject")
    assert served(loop) == champion
    decision = json.loads(loop.command("models", "show", str(newest["result"]["version"]), "--json"))
    assert decision["decision"]["verdict"] == "reject"


def test_a_rollback_is_served_at_once(loop: Loop) -> None:
    project = str(loop.team.project.id)
    assert model_of(loop.base) in loop.command("models", "rollback", "--project", project)
    loop.wait_for(lambda: told(loop, loop.team) == loop.base, minutes=0.5)
    task = loop.team.tasks[0]
    loop.team.project.retrieve_predictions([task])
    assert loop.team.project.predictions(task)[-1].model_version == loop.base
