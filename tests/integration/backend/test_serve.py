"""``ebseg serve`` as a process, over real HTTP."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import httpx
import numpy as np
import pytest

from backend.commands.bench import open_slow
from ebseg.label_studio import brush
from tests.unit.backend.conftest import label_config, task, upload

SECONDS = 60
SERVE = [sys.executable, "-c", "from ebseg.cli import main; main()", "serve"]


def environment(label_studio, **settings: str) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("EBSEG_")}
    chosen = {
        "EBSEG_PORT": "0", "EBSEG_MIN_AREA": "0", "EBSEG_LEARN": "false", "EBSEG_FOLLOW": "false",
        "EBSEG_PRECISION": "float32", "LABEL_STUDIO_URL": label_studio.url,
    }  # fmt: skip
    return inherited | chosen | settings


@contextmanager
def serving(environment: dict[str, str]) -> Iterator[tuple[subprocess.Popen, str]]:
    """Run the command; give the process and its address."""
    process = subprocess.Popen(
        SERVE,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    try:
        line = process.stdout.readline()
        assert line.startswith("Serving "), line
        yield process, line.split(" at ")[1].split()[0]
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def wait_for(answers: Callable[[], bool]) -> None:
    end = time.monotonic() + SECONDS
    while not answers():
        assert time.monotonic() < end
        time.sleep(0.1)


def test_it_serves_predictions_until_it_is_told_to_stop(label_studio, checkpoint, predictor, scenes):
    """While 200 connections send nothing, or half a request."""
    with (
        serving(environment(label_studio, EBSEG_MODEL=str(checkpoint))) as (process, url),
        ExitStack() as slow,
    ):
        for connection in open_slow(url.removeprefix("http://"), 200):
            slow.enter_context(connection)
        with httpx.Client(base_url=url, timeout=SECONDS) as client:
            assert client.get("/health").json() == {"status": "UP"}
            tasks = [task(1, upload(0)), task(2, "ftp://none")]
            answer = client.post("/predict", json={"tasks": tasks, "label_config": label_config()})
            first, empty = answer.json()["results"]
            refused = client.post("/setup", json={"schema": "<View/>"})
        expected = predictor.predict(scenes[0], ["sky", "road"], threshold=0.0).label_map
        for index, region in enumerate(first["result"]):
            assert np.array_equal(brush.decode(region["value"]["rle"], 60, 80) > 0, expected == index)
        assert empty["result"] == []
        assert refused.status_code == 400
        assert refused.reason_phrase.startswith("the label config has no control")
        process.send_signal(signal.SIGTERM)
        assert process.wait(SECONDS) == 0


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "Ctrl-C"])
def test_what_is_begun_is_finished_when_it_is_told_to_stop(label_studio, checkpoint, stop):
    gate = threading.Event()

    def slow(handler) -> None:
        assert gate.wait(SECONDS)
        photo(handler)

    photo = label_studio.routes[upload(0)]
    label_studio.routes["/data/slow"] = slow
    answers: list[httpx.Response] = []
    with serving(environment(label_studio, EBSEG_MODEL=str(checkpoint))) as (process, url):
        wait_for(lambda: httpx.get(f"{url}/ready", timeout=SECONDS).status_code == 200)
        body = {
            "tasks": [task(n, upload(0)) for n in (1, 2)] + [task(3, "/data/slow")],
            "label_config": label_config(),
        }
        call = threading.Thread(
            target=lambda: answers.append(httpx.post(f"{url}/predict", json=body, timeout=SECONDS))
        )
        call.start()
        wait_for(lambda: 'outcome="predicted"} 2.0' in httpx.get(f"{url}/metrics", timeout=SECONDS).text)
        os.killpg(process.pid, stop)  # a terminal's Ctrl-C reaches the whole group
        time.sleep(0.3)
        gate.set()
        call.join()
        assert process.wait(SECONDS) == 0
    first, second, third = answers[0].json()["results"]
    assert first["result"] and second["result"]
    assert third == {}


def failing(label_studio, *arguments: str, **settings: str) -> str:
    """Run what cannot be served to its end; give the last line, which says why."""
    run = subprocess.run(
        [*SERVE, *arguments],
        env=environment(label_studio, **settings),
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert run.returncode == 1
    assert "Traceback" not in run.stderr
    last = run.stderr.strip().splitlines()[-1]
    assert last.startswith("ebseg: ")
    return last


@pytest.mark.parametrize(
    ("arguments", "settings", "reason"),
    [
        (["--model", "no-such-model"], {}, "no model named 'no-such-model'"),
        ([], {"EBSEG_PORT": "many"}, "EBSEG_PORT: "),
        (["--port", "65536"], {}, "EBSEG_PORT: "),
        ([], {"EBSEG_BASIC_AUTH_USER": "user"}, "EBSEG_BASIC_AUTH_PASSWORD"),
        ([], {"LABEL_STUDIO_URL": "studio"}, "LABEL_STUDIO_URL is 'studio'"),
        ([], {"EBSEG_ALLOWED_HOSTS": "http://studio/x"}, "EBSEG_ALLOWED_HOSTS"),
        (["--host", "192.0.2.1"], {}, "port 0 of 192.0.2.1"),
    ],
)
def test_what_cannot_be_served_ends_with_status_1_and_the_reason(label_studio, arguments, settings, reason):
    assert reason in failing(label_studio, *arguments, **settings)


def test_a_wrong_checkpoint_ends_with_status_1_and_the_reason(label_studio, tmp_path):
    wrong = tmp_path / "weights.pth"
    wrong.write_bytes(b"no checkpoint")
    assert f"{wrong} cannot be read as a checkpoint" in failing(label_studio, "--model", str(wrong))


def test_a_port_in_use_ends_with_status_1_and_the_reason(label_studio):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        line = failing(label_studio, "--port", str(port))
    assert line.startswith(f"ebseg: port {port} of 127.0.0.1 is in use; ")
