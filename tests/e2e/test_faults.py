"""What goes wrong in the learning loop, with the real parts: nothing is lost, nothing runs twice."""

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from redis import Redis

from backend.demo.label_studio_server import LabelStudioError, LabelStudioServer
from backend.demo.project import EBSEG, serve_backend
from backend.processes import ServerProcess, free_port
from ebseg.loading import checkpoint_path, version_name
from tests.e2e.team import Pictures, Team, drawn
from tests.e2e.waiting import wait_until
from tests.servers import label_studio
from training.commands.jobs import newest_jobs
from training.queue.embedded_redis import stop_embedded_redis
from training.queue.pause import paused
from training.queue.queues import connect, queues
from training.settings import Settings

MODEL = "ebseg-tiny"
PICTURES = 14
LOOP = {
    "EBSEG_HELD_OUT_SHARE": "0.4",
    "EBSEG_MIN_NEW_ANNOTATIONS": "8",
    "EBSEG_MIN_HELD_OUT": "2",
    "EBSEG_DEBOUNCE": "1",
    "EBSEG_MEMORY": "false",
    "EBSEG_FINETUNE_STEPS": "60",
    "EBSEG_GENERAL_PHOTOS": "2",
    "EBSEG_LABEL_CHUNK": "2",
}
SECONDS = 400
MOST_JOBS = 100


class World:
    """A Label Studio of its own, which tests stop and start, and workers on one home."""

    def __init__(self, folder: Path, server: LabelStudioServer) -> None:
        self.folder = folder
        self.home = folder / "home"
        self.server = server
        self._running = ExitStack()
        self._workers: list[subprocess.Popen[bytes]] = []
        self.start_studio()

    def start_studio(self) -> None:
        self._running.enter_context(self.server.running())

    def stop_studio(self) -> None:
        self._running.close()

    @property
    def environment(self) -> dict[str, str]:
        return {
            **os.environ, **LOOP, "EBSEG_HOME": str(self.home), "EBSEG_MODEL": MODEL,
            "LABEL_STUDIO_URL": self.server.url, "LABEL_STUDIO_API_KEY": self.server.access_token,
        }  # fmt: skip

    @contextmanager
    def serving(self, port: int, token: str, **variables: str) -> Iterator[ServerProcess]:
        """Run the service with a token of Label Studio's."""
        process = ServerProcess("The service", f"http://127.0.0.1:{port}", self.folder / "service.log")
        variables |= {"EBSEG_HOST": "127.0.0.1", "EBSEG_PORT": str(port), "LABEL_STUDIO_API_KEY": token}
        with process.running([*EBSEG, "serve"], {**self.environment, **variables}):
            process.wait_until_ready("/ready", SECONDS)
            yield process

    def start_worker(self) -> subprocess.Popen[bytes]:
        with (self.folder / "worker.log").open("ab") as log:
            self._workers.append(
                subprocess.Popen([*EBSEG, "worker"], env=self.environment, stdout=log, stderr=log)
            )
        return self._workers[-1]

    def stop_workers(self) -> None:
        for worker in self._workers:
            worker.terminate()
            worker.wait(60)
        self._workers.clear()

    def close(self) -> None:
        self.stop_workers()
        self.stop_studio()
        stop_embedded_redis(self.home / "redis")

    def ebseg(self, *arguments: str) -> str:
        done = subprocess.run([*EBSEG, *arguments], env=self.environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    @cached_property
    def redis(self) -> Redis:
        return connect(Settings(home=self.home))

    def jobs(self, prefix: str) -> list[dict[str, Any]]:
        """What ``ebseg jobs list --json`` tells, without the seconds that a command takes to start."""
        return [job for job in newest_jobs(self.redis, MOST_JOBS) if job["id"].startswith(prefix)]

    def job(self, prefix: str) -> dict[str, Any]:
        [found] = self.jobs(prefix)
        return found

    def wait_for(self, condition: Callable[[], object]) -> None:
        def check() -> None:
            assert time.monotonic() < deadline, (self.folder / "worker.log").read_text()[-8000:]

        deadline = time.monotonic() + SECONDS
        wait_until(condition, check)

    def ask_for_training(self, team: Team) -> None:
        """Press "Start Training", as Label Studio tells it the backend."""
        code = (
            "from training.settings import load_settings\nfrom training.queue.triggers import Triggers\n"
            f"Triggers(load_settings()).note_event({team.project.id}, 1, True)"
        )
        subprocess.run([EBSEG[0], "-c", code], env=self.environment, check=True)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("faults")
    made = World(folder, label_studio(folder / "studio", tmp_path_factory))
    yield made
    made.close()


@pytest.fixture(scope="module")
def shown(world: World) -> Pictures:
    return drawn(world.folder, PICTURES)


@pytest.fixture
def team(world: World, shown: Pictures) -> Iterator[Team]:
    """A project whose pictures but four are annotated."""
    made = Team(world.server, shown)
    for task in made.tasks[:-4]:
        made.correct(task, made.truth(task))
    yield made
    world.stop_workers()
    for queue in queues(world.redis):
        queue.empty()


def test_label_studio_may_be_away_while_annotations_are_read(world: World, team: Team) -> None:
    world.ask_for_training(team)
    world.stop_studio()
    world.start_worker()
    world.wait_for(lambda: paused(world.redis))
    world.wait_for(lambda: world.job(f"snapshot-{team.project.id}-")["state"] == "queued")
    label = [*EBSEG, "label", str(team.project.id)]
    told = subprocess.run(label, env=world.environment, capture_output=True, text=True, timeout=30)
    assert told.returncode == 1 and "is Label Studio running at" in told.stderr
    world.start_studio()
    world.wait_for(lambda: world.job(f"snapshot-{team.project.id}-")["state"] == "finished")
    assert world.job(f"snapshot-{team.project.id}-")["result"]["tasks"] == PICTURES - 4
    for job in world.jobs("train-"):
        world.ebseg("jobs", "cancel", str(job["id"]))


def test_label_studio_may_be_away_while_tasks_are_labelled(world: World, team: Team) -> None:
    version = team.version(version_name(checkpoint_path(MODEL)))
    world.start_worker()
    world.start_worker()
    world.ebseg("label", str(team.project.id), "--no-wait")
    unlabelled = team.tasks[-4:]
    world.wait_for(lambda: world.jobs(f"label-{team.project.id}-"))
    world.stop_studio()
    time.sleep(5)
    world.start_studio()
    world.wait_for(lambda: all(job["state"] == "finished" for job in world.jobs(f"label-{team.project.id}-")))
    world.ebseg("label", str(team.project.id))
    for task in unlabelled:
        assert [each.model_version for each in team.project.predictions(task)] == [version]
    assert team.server.client.projects.get(team.project.id).model_version == version


def test_a_training_whose_worker_is_killed_goes_on_from_its_checkpoint(world: World, team: Team) -> None:
    world.ask_for_training(team)
    worker = world.start_worker()
    prefix = f"train-{team.project.id}-"
    world.wait_for(lambda: world.jobs(prefix))
    run = world.home / "runs" / str(world.job(prefix)["id"])
    world.ask_for_training(team)  # again, though nothing is new: that is the training under way
    world.wait_for(lambda: list((run / "training" / "checkpoints").glob("step-00000050.pt")))
    family = psutil.Process(worker.pid).children(recursive=True)
    worker.kill()
    worker.wait()
    world.wait_for(lambda: not any(alive(process) for process in family))
    world.start_worker()
    world.wait_for(lambda: world.job(prefix)["state"] == "finished")
    steps = [json.loads(line)["step"] for line in (run / "training" / "log.jsonl").read_text().splitlines()]
    assert steps == sorted(set(steps)) and steps[-1] == 60
    assert (run / "output.log").read_text().count("training EBSeg tiny: 50 of 60 steps are done") == 1
    world.wait_for(lambda: world.job(f"judge-{team.project.id}-")["state"] == "finished")
    readings = f"snapshot-{team.project.id}-"
    world.wait_for(lambda: all(job["state"] == "finished" for job in world.jobs(readings)))
    assert len(world.jobs(readings)) > 1 and len(world.jobs(prefix)) == 1


def alive(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


def test_a_full_disk_is_told_and_the_training_goes_on_when_there_is_room(world: World, team: Team) -> None:
    runs = world.home / "runs"
    runs.mkdir(exist_ok=True)
    if (
        os.getuid()
        or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=40m", "tmpfs", str(runs)]).returncode
    ):
        pytest.skip("only root can mount a small disk")
    try:
        world.ask_for_training(team)
        world.start_worker()
        prefix = f"train-{team.project.id}-"
        world.wait_for(lambda: world.jobs(prefix) and world.job(prefix)["reason"])
        assert "No space left on device" in str(world.job(prefix)["reason"])
        assert "No space left on device" in (world.folder / "worker.log").read_text()
        subprocess.run(["mount", "-o", "remount,size=2g", str(runs)], check=True)
        world.wait_for(lambda: world.job(prefix)["state"] == "finished")
    finally:
        world.stop_workers()
        subprocess.run(["umount", str(runs)], check=True)


def test_the_same_webhook_a_thousand_times_is_one_reading(world: World, team: Team) -> None:
    with serve_backend(world.server, MODEL, world.folder, {**LOOP, "EBSEG_HOME": str(world.home)}) as backend:
        call_a_thousand_times(backend, team.project.id)
        prefix = f"snapshot-{team.project.id}-"
        world.wait_for(lambda: world.jobs(prefix))
        world.start_worker()
        world.wait_for(lambda: world.job(prefix)["state"] == "finished")
    time.sleep(3)
    assert len(world.jobs(prefix)) == 1


def test_a_wrong_token_leaves_nothing_behind_and_a_change_of_labels_is_predicted(
    world: World, shown: Pictures
) -> None:
    """With the service alone: no worker runs."""
    team, port, right = Team(world.server, shown), free_port(), world.server.access_token
    project, setup = team.project, {"project": f"{team.project.id}.1", "schema": team.config}
    tasks = team.tasks[:3]

    def column() -> str | None:
        return world.server.client.projects.get(project.id).model_version

    def card() -> str:
        [model] = world.server.client.ml.list(project=project.id)
        return str(model.error_message or "")

    def told(service: ServerProcess) -> httpx.Response:
        return httpx.post(f"{service.url}/setup", json=setup)

    with world.serving(port, "wrong") as service:
        world.wait_for(lambda: told(service).status_code == 503)
        with pytest.raises(LabelStudioError, match="the token was not accepted|refused the token"):
            project.connect(service.url)
    with world.serving(port, right) as service:
        project.connect(service.url)
    with world.serving(port, "wrong") as service:
        world.wait_for(lambda: told(service).status_code == 503)
        assert project.retrieve_predictions(tasks) == []
        assert [project.predictions(task) for task in tasks] == [[], [], []]
        print(f"\nthe model's card: {card()}")
        assert "LABEL_STUDIO_API_KEY" in card()
    with world.serving(port, right) as service:
        assert project.retrieve_predictions(tasks) == tasks
        assert card() == ""
        first = told(service).json()["model_version"]
        world.wait_for(lambda: column() == first)
        config = team.config.replace("</BrushLabels>", '<Label value="a boat"/></BrushLabels>')
        world.server.client.projects.update(project.id, label_config=config)
        setup["schema"] = config
        second = told(service).json()["model_version"]
        assert second != first
        project.retrieve_predictions(tasks)
        for task in tasks:
            assert [each.model_version for each in project.predictions(task)] == [first, second]
        world.wait_for(lambda: column() == second)
        print(f"the score column shows {first}, and {second} with another label")


def call_a_thousand_times(backend: ServerProcess, project: int) -> None:
    body = {"action": "ANNOTATION_CREATED", "project": {"id": project}, "task": {"id": 1}}
    with httpx.Client(timeout=30) as client:
        for _ in range(1000):
            assert client.post(f"{backend.url}/webhook", json=body).status_code == 200
