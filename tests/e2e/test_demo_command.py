"""``ebseg demo`` as a person meets it: started, interrupted, killed, started again."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tests.e2e.projects import ROOT

READY_SECONDS = 300
COMMAND = [sys.executable, "-c", "from ebseg.cli import main; main()", "demo"]
LABEL_STUDIO = ["--label-studio", str(ROOT / ".venv-label-studio" / "bin" / "label-studio")]


class Demo:
    """A running ``ebseg demo``."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.folder = folder
        self.log = folder.with_suffix(".log")
        with self.log.open("wb") as log:
            command = [*COMMAND, *LABEL_STUDIO, "--folder", str(folder), *options]
            self.process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)

    def wait_for(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + READY_SECONDS
        while not condition():
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.1)

    def wait_until_ready(self) -> None:
        self.wait_for(lambda: "Ctrl-C ends it" in self.log.read_text())

    def children(self) -> list[psutil.Process]:
        """The processes that it started, by its own records."""
        records = [json.loads(record.read_text()) for record in self.folder.glob("*.pid")]
        return [psutil.Process(record["pid"]) for record in records]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all, so that the later tests find the earlier ones' database."""
    return tmp_path_factory.mktemp("home") / "demo"


@pytest.fixture
def start(folder: Path) -> Iterator[Callable[..., Demo]]:
    demos: list[Demo] = []

    def _start(*options: str) -> Demo:
        demos.append(Demo(folder, *options))
        return demos[-1]

    yield _start
    for demo in demos:
        demo.process.terminate()
        demo.process.wait()


def test_after_a_kill_it_starts_again_and_ctrl_c_leaves_nothing(start: Callable[..., Demo]) -> None:
    killed = start()
    killed.wait_until_ready()
    orphans = killed.children()
    assert len(orphans) == 3
    killed.process.kill()
    killed.process.wait()

    demo = start()
    demo.wait_until_ready()
    assert not any(is_running(orphan) for orphan in orphans)
    assert "Label Studio: http://127.0.0.1:" in demo.log.read_text()
    children = demo.children()
    assert len(children) == 3
    demo.process.send_signal(signal.SIGINT)
    assert demo.process.wait(timeout=30) == 0
    assert not any(is_running(child) for child in children)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_it_can_be_stopped_while_it_starts(
    start: Callable[..., Demo], folder: Path, number: signal.Signals
) -> None:
    demo = start()
    demo.wait_for(lambda: (folder / "label-studio.pid").exists())
    [child] = demo.children()
    demo.process.send_signal(number)
    assert demo.process.wait(timeout=30) == 130
    assert not is_running(child)


def test_it_ends_by_itself_with_pictures_of_ones_own(start: Callable[..., Demo], folder: Path) -> None:
    scenes = str(folder / "scenes")
    demo = start("--once", "--photos", scenes, "--labels", "sky|heaven,mountain,water,wooden floor")
    assert demo.process.wait(timeout=READY_SECONDS) == 0, demo.log.read_text()
    assert demo.children() == []


@pytest.mark.parametrize(
    ("options", "status", "message"),
    [
        (["--photos", "scenes"], 1, 'ebseg: your own photos need labels: add LABELS="sky,road,car"'),
        (["--photos", "missing", "--labels", "sky"], 2, "'missing' does not exist"),
        (["--model", "ebseg-huge"], 1, "no model named 'ebseg-huge'"),
    ],
)
def test_a_fault_is_one_line_and_leaves_nothing(
    start: Callable[..., Demo],
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: list[str],
    status: int,
    message: str,
) -> None:
    monkeypatch.chdir(folder)
    demo = start(*options)
    assert demo.process.wait(timeout=READY_SECONDS) == status
    assert message in " ".join(demo.log.read_text().replace("│", " ").split())
    assert demo.children() == []


def is_running(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
