"""Random mutations of requests: no status 500, no traceback in the log."""

import json
import logging
import random

from tests.unit.backend.conftest import label_config, task, upload
from tests.unit.backend.test_hostile import SMART, client
from tests.unit.mutations import mutated

__all__ = ["client"]

EACH = 700
PARAMS = {"login": None, "password": None, "context": None}
REQUESTS = {
    "/setup": {
        "project": "1.1700000000", "schema": label_config(control='model_min_area="0.1"'),
        "hostname": "http://localhost", "access_token": "x", "extra_params": None,
    },
    "/predict": {
        "tasks": [task(1, upload(0)), task(2, upload(1))], "project": "1.1700000000",
        "label_config": label_config(), "params": PARAMS,
    },
    "/webhook": {
        "action": "ANNOTATION_CREATED", "project": {"id": 1, "title": "x"}, "task": task(1, upload(0)),
        "annotation": {"id": 3, "result": SMART["result"]},
    },
}  # fmt: skip
REQUESTS["/predict?smart"] = REQUESTS["/predict"] | {"params": PARAMS | {"context": SMART}}


def body_of(document: object, chance: random.Random) -> bytes:
    """Write a request's body, one in ten of them damaged as bytes."""
    body = bytearray(json.dumps(document).encode())
    if chance.random() < 0.1:
        for _ in range(chance.randint(1, 4)):
            body[chance.randrange(len(body))] = chance.randrange(256)
        del body[chance.randint(1, 2 * len(body)) :]
    return bytes(body)


def test_no_request_is_an_internal_error(client, caplog):
    """Of each route and of smart tools, which refuse most: they say what is wrong with the task."""
    chance, statuses = random.Random(3), []
    for path, request in REQUESTS.items():
        for _ in range(EACH):
            body = body_of(mutated(request, chance), chance)
            answer = client.post(path, data=body, content_type="application/json")
            statuses.append((path, answer.status_code))
            # 503: a smart tool's photo is at an address that is not fetched
            assert answer.status_code in (200, 400, 503), (answer.status, body)
            assert answer.is_json and ("error" in answer.json) == (answer.status_code != 200)
    assert [record for record in caplog.records if record.exc_info or record.levelno > logging.WARNING] == []
    for path in REQUESTS:
        counts = [statuses.count((path, status)) for status in (200, 400, 503)]
        assert sum(counts) == EACH and counts[0] > 100
        assert counts[1] > 20 or path == "/webhook"
