"""Label Studio goes away and comes back, with a real worker and a real Redis."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from tests.integration.training.conftest import wait_for
from tests.unit.label_studio.http_server import Server, reply
from training.queue.pause import paused
from training.queue.queues import QueueName, connect, find, submit

OWN = "tests.integration.training.own_jobs"
WHOAMI = "/api/current-user/whoami"


@pytest.fixture
def label_studio() -> Iterator[Server]:
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.parametrize(
    ("status", "reason"), [(503, "it answers 503"), (401, "Label Studio refused the token")]
)
def test_jobs_wait_until_label_studio_is_well(settings, start, redis_server, label_studio, status, reason):
    connection = connect(settings)
    label_studio.routes[WHOAMI] = reply(status=status)
    variables = {
        "LABEL_STUDIO_URL": label_studio.url, "LABEL_STUDIO_API_KEY": "key", "EBSEG_PATIENCE": "0",
        "EBSEG_HOME": str(redis_server.home), "REDIS_URL": redis_server.url,
    }  # fmt: skip
    asks = [f"ask-{number}" for number in range(3)]
    for name in asks:
        submit(connection, QueueName.LABEL, f"{OWN}.ask_whose_token", [], job_id=name, what="ask")
    start("worker", name="worker", **variables)
    wait_for(lambda: paused(connection))
    assert reason in paused(connection).reason
    submit(connection, QueueName.TRAIN, f"{OWN}.add", [1, 2], job_id="sum-1", what="add")
    wait_for(lambda: find(connection, "sum-1").is_finished)
    assert [find(connection, name).get_status() for name in asks] == ["queued"] * 3
    assert [len(find(connection, name).results()) for name in asks[1:]] == [0, 0]  # not begun
    listed = ebseg(variables, "jobs", "list")
    assert "ebseg: paused since" in listed.stderr and reason in listed.stderr
    refused = ebseg(variables, "label", "1")
    assert refused.returncode == 1 and str(status) in refused.stderr
    label_studio.routes[WHOAMI] = reply(b'{"id": 1, "email": "a@b.c"}', Content_Type="application/json")
    wait_for(lambda: all(find(connection, name).is_finished for name in asks))
    assert paused(connection) is None
    assert {find(connection, name).return_value()["outcome"] for name in asks} == {"a@b.c"}
    assert {find(connection, name).retries_left for name in asks} == {3}


def ebseg(variables: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from ebseg.cli import main; main()", *arguments]
    return subprocess.run(
        command, env={**os.environ, **variables}, capture_output=True, text=True, timeout=60
    )
