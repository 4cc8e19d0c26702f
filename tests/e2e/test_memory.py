"""One Submit changes its project's next prediction and no other's, without a training.

With Label Studio, the service, a worker, and two projects of different labels. EBSEG_MEMORY_PICTURE=file
keeps a picture of predictions before any correction, after one and after twenty (``make screenshot``).
"""

import hashlib
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

import ebseg
from backend.demo.label_studio_server import LabelStudioServer
from backend.demo.project import EBSEG, serve_backend
from backend.processes import ServerProcess
from ebseg.label_studio.version import model_of, without_memory
from tests.e2e.team import Team, pictures, scenes
from tests.e2e.waiting import wait_until
from training.annotations.snapshot import is_held_out
from training.memory import files
from training.queue.embedded_redis import stop_embedded_redis
from training.queue.queues import QueueName
from training.settings import Settings
from training.storage import Storage

MODEL = "ebseg-tiny"
PICTURE = os.environ.get("EBSEG_MEMORY_PICTURE")
MANY = 20
PICTURES, ASKED = 40 if PICTURE else 12, 3
HELD_OUT_SHARE = Settings.model_fields["held_out_share"].default
SECONDS = 120
"""That a prediction with the memory is waited for; it takes a tenth of that, which the test prints."""


@dataclass
class Running:
    """All that runs. ``version``: of the predictions by the model alone; ``other``: never corrected."""

    home: Path
    team: Team
    other: Team
    backend: ServerProcess
    worker: ServerProcess
    version: str

    def versions(self, task: int) -> list[str]:
        return [prediction.model_version for prediction in self.team.project.predictions(task)]

    def newest(self, task: int) -> str:
        """Have Label Studio ask for a prediction, as people do, and give the newest one's version."""
        self.team.project.retrieve_predictions([task])
        return max(self.team.project.predictions(task), key=lambda prediction: prediction.id).model_version

    def answered(self, task: int) -> str:
        """Ask the service itself, and give the version of its answer."""
        return str(self.team.answer(self.backend.url, task)["model_version"])

    def wait_for(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + SECONDS

        def check() -> None:
            assert time.monotonic() < deadline, self.worker.log.read_text()[-8000:]
            self.worker.check_alive()
            self.backend.check_alive()

        wait_until(condition, check)


@pytest.fixture(scope="module")
def running(server: LabelStudioServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("memory")
    variables = {"EBSEG_HOME": str(folder / "home")}
    team, other = Team(server, pictures(folder, PICTURES)), Team(server, scenes(folder, 1))
    with serve_backend(server, MODEL, folder, variables) as backend, ExitStack() as stack:
        stack.callback(stop_embedded_redis, folder / "home" / "redis")
        for each in (team, other):
            each.project.connect(backend.url)
        environment = {**os.environ, **variables, "EBSEG_MODEL": MODEL}
        environment |= {"LABEL_STUDIO_URL": server.url, "LABEL_STUDIO_API_KEY": server.access_token}
        worker = ServerProcess("The worker", "", folder / "worker.log")
        # Only what remembers: a worker that predicts would store the same predictions that the test asks for.
        stack.enter_context(worker.running([*EBSEG, "worker", "--queue", QueueName.CONTROL], environment))
        wait_until(lambda: "Listening on" in worker.log.read_text(), worker.check_alive)
        version = team.version(ebseg.load(MODEL).version)
        yield Running(folder / "home", team, other, backend, worker, version)


@pytest.fixture(scope="module")
def corrected(running: Running) -> list[int]:
    """Two tasks that the memory learns from."""
    team = running.team
    return learnt(team)[:2]


def test_one_submit_changes_the_next_prediction(
    running: Running, corrected: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    """And the second does again; to another project nothing happens."""
    team, other, address = running.team, running.other, running.backend.url
    others = other.answer(address, other.tasks[0])
    assert others["result"]
    asked = [task for task in team.tasks if task not in corrected][:ASKED]
    team.project.retrieve_predictions([*corrected, *asked])
    assert {*running.versions(corrected[0]), *running.versions(asked[0])} == {running.version}
    versions = [running.version]
    for task in corrected:
        begin = time.monotonic()
        team.correct(task, team.truth(task))
        running.wait_for(lambda: running.newest(asked[0]) not in versions)
        versions.append(running.newest(asked[0]))
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
    assert other.answer(address, other.tasks[0]) == others


def test_a_deleted_annotation_is_forgotten(running: Running, corrected: list[int]) -> None:
    """After the test above, whose corrections these are."""
    team = running.team
    asked = next(task for task in team.tasks if task not in corrected)
    remembered = running.answered(asked)
    assert remembered != running.version
    team.delete_annotations(corrected[0])
    running.wait_for(lambda: running.answered(asked) != remembered)
    assert running.answered(asked) != running.version
    team.delete_annotations(corrected[1])
    running.wait_for(lambda: running.answered(asked) == running.version)


@pytest.mark.skipif(PICTURE is None, reason="EBSEG_MEMORY_PICTURE names no picture to make")
def test_picture(running: Running) -> None:
    team = running.team
    asked = [task for task in team.tasks if task not in learnt(team)[:MANY]][:2]
    team.project.retrieve_predictions(asked)
    versions = [running.version]
    settings, done = Settings(home=running.home), 0
    storage = Storage(settings.storage_url, settings.home / "cache")

    def is_served(count: int) -> bool:
        found = files.find(storage, team.project.id)
        is_made = found is not None and found.header.left_out.photos == count
        return is_made and f"+m{found.header.name}" in running.answered(asked[0])

    for count in (1, MANY):
        for task in learnt(team)[done:count]:
            team.correct(task, team.truth(task))
        running.wait_for(lambda count=count: is_served(count))
        team.project.retrieve_predictions(asked)
        versions.append(running.newest(asked[0]))
        done = count
    team.picture(asked, versions, Path(str(PICTURE)))
    before, one, many = (team.miou(asked, version) for version in versions)
    print(f"mIoU of the pictures: {before:.1f}, {one:.1f}, {many:.1f}")
    assert before < min(one, many)


def learnt(team: Team) -> list[int]:
    """Tasks that the memory learns from once they are corrected; the others judge it."""
    return [task for task in team.tasks if not is_held_out(content_hash(team, task), HELD_OUT_SHARE)]


def content_hash(team: Team, task: int) -> str:
    path: Path = team.pictures.files[team.tasks.index(task)]
    return hashlib.sha256(path.read_bytes()).hexdigest()
