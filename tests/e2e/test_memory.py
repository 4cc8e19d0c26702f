"""One Submit changes a project's next prediction: Label Studio, the service and a worker, and no training."""

import hashlib
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

import ebseg
from backend.demo.label_studio_server import LabelStudioServer
from backend.demo.project import EBSEG, serve_backend
from backend.processes import ServerProcess
from ebseg.label_studio.version import model_of, without_memory
from tests.e2e.team import Team, pictures
from tests.e2e.waiting import wait_until
from training.annotations.snapshot import is_held_out
from training.queue.embedded_redis import stop_embedded_redis
from training.queue.queues import QueueName

MODEL = "ebseg-tiny"
PICTURES, ASKED = 12, 3
SECONDS = 120
"""That a prediction with the memory is waited for; it takes a tenth of that, which the test prints."""


@dataclass
class Running:
    """All that runs. ``version``: of the project's predictions by the model alone."""

    team: Team
    backend: ServerProcess
    worker: ServerProcess
    version: str

    def versions(self, task: int) -> list[str]:
        return [prediction.model_version for prediction in self.team.project.predictions(task)]

    def newest(self, task: int) -> str:
        """Have Label Studio ask for a prediction, as people do, and give the newest one's version."""
        self.team.project.retrieve_predictions([task])
        return max(self.team.project.predictions(task), key=lambda prediction: prediction.id).model_version

    def another(self, task: int, known: list[str]) -> str:
        """Wait until a task's newest prediction is of none of these versions; give its own."""
        deadline = time.monotonic() + SECONDS

        def check() -> None:
            assert time.monotonic() < deadline, self.worker.log.read_text()[-8000:]
            self.worker.check_alive()
            self.backend.check_alive()

        wait_until(lambda: self.newest(task) not in known, check)
        return self.newest(task)


@pytest.fixture(scope="module")
def running(server: LabelStudioServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("memory")
    variables = {"EBSEG_HOME": str(folder / "home")}
    team = Team(server, pictures(folder, PICTURES))
    with serve_backend(server, MODEL, folder, variables) as backend, ExitStack() as stack:
        stack.callback(stop_embedded_redis, folder / "home" / "redis")
        team.project.connect(backend.url)
        environment = {**os.environ, **variables, "EBSEG_MODEL": MODEL}
        environment |= {"LABEL_STUDIO_URL": server.url, "LABEL_STUDIO_API_KEY": server.access_token}
        worker = ServerProcess("The worker", "", folder / "worker.log")
        # Only what remembers: a worker that predicts would store the same predictions that the test asks for.
        stack.enter_context(worker.running([*EBSEG, "worker", "--queue", QueueName.CONTROL], environment))
        wait_until(lambda: "Listening on" in worker.log.read_text(), worker.check_alive)
        yield Running(team, backend, worker, team.version(ebseg.load(MODEL).version))


def test_one_submit_changes_the_next_prediction(running: Running, capsys: pytest.CaptureFixture[str]) -> None:
    """And the second does again. (With the first, the worker also makes MLflow's tables.)"""
    team = running.team
    learnt = [task for task in team.tasks if not is_held_out(content_hash(team, task), 0.3)]
    corrected, asked = learnt[:2], [task for task in team.tasks if task not in learnt[:2]][:ASKED]
    team.project.retrieve_predictions([*corrected, *asked])
    assert {*running.versions(corrected[0]), *running.versions(asked[0])} == {running.version}
    versions = [running.version]
    for task in corrected:
        begin = time.monotonic()
        team.correct(task, team.truth(task))
        versions.append(running.another(asked[0], versions))
        with capsys.disabled():
            print(f" {time.monotonic() - begin:.1f} s from Submit", end=";", flush=True)
    version = versions[-1]
    assert {without_memory(each) for each in versions} == {running.version}
    assert {model_of(each) for each in versions} == {model_of(running.version)}
    team.project.retrieve_predictions(asked)
    before, after = team.miou(asked, running.version), team.miou(asked, version)
    with capsys.disabled():
        print(f" mIoU {before:.1f} -> {after:.1f} on {ASKED} photos")
    assert after > before


def content_hash(team: Team, task: int) -> str:
    path: Path = team.pictures.files[team.tasks.index(task)]
    return hashlib.sha256(path.read_bytes()).hexdigest()
