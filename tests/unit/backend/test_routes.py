"""Every route but predictions: status, body, who may call."""

import json
import re

import pytest
from markupsafe import escape

from backend.hints import MOST_HINTS
from tests.unit.backend.conftest import basic, label_config, named, predict, results, task, upload

IMAGE = '<Image name="photo" value="$image"/>'
MASKS = '<BrushLabels name="mask" toName="photo"><Label value="sky"/></BrushLabels>'
PAIRED = {"basic_auth_user": "studio", "basic_auth_password": "pässword"}


def post_setup(client, config: str, **options):
    return client.post("/setup", json={"project": "1.1", "schema": config, "extra_params": None}, **options)


def test_setup_answers_with_the_version_of_the_predictions(client):
    assert post_setup(client, label_config()).json == {"model_version": named("tiny-untrained")}
    [answer] = results(predict(client, [task(1, upload(0))]))
    assert answer["model_version"] == named("tiny-untrained")


@pytest.mark.parametrize("schema", ["", None], ids=["an empty label config", "none"])
def test_without_a_label_config_setup_answers_with_the_models_version(client, schema):
    assert post_setup(client, schema).json == {"model_version": "tiny-untrained"}


@pytest.mark.parametrize(
    "change",
    [
        ('value="road"', 'value="street"'),
        ('value="road"', 'value="road" synonyms="street"'),
        ('value="road"', 'value="road" predicted_values="street"'),
        ('value="road"', 'value="road" alias="r"'),
        ('<Label value="road"/>', ""),
        ("</Brush", '<Label value="car"/></Brush'),
        ('model_score_threshold="0"', 'model_score_threshold="0.3"'),
        ('model_score_threshold="0"', 'model_score_threshold="0" model_min_area="0.1"'),
        ('model_score_threshold="0"', 'model_score_threshold="0" model_polygon_tolerance="2"'),
        ('model_score_threshold="0"', 'model_score_threshold="0" model_regions="part"'),
        ('value="road"', 'value="road" model_score_threshold="0.5"'),
        ('model_score_threshold="0"', 'model_score_threshold="0" model_score="margin"'),
        ('name="mask"', 'name="masks"'),
        ("$image", "$photo"),
    ],
    ids=str,
)
def test_whatever_decides_a_prediction_is_in_its_version(client, change):
    """Label Studio skips a task that holds a prediction of the version that /setup tells."""
    before, after = label_config(), label_config().replace(*change)
    assert before != after
    versions = [post_setup(client, config).json["model_version"] for config in (before, after)]
    assert versions[0] != versions[1]
    assert all(re.fullmatch(r"tiny-untrained\+[0-9a-f]{6}", version) for version in versions)


@pytest.mark.parametrize(
    "change",
    [
        ('<Label value="sky"/><Label value="road"/>', '<Label value="road"/><Label value="sky"/>'),
        ('value="road"', 'value="road" background="#ff0000" hotkey="r"'),
        ("<View>", '<View><Header value="Streets"/>'),
        ('model_score_threshold="0"', 'model_score_threshold="0.0" opacity="0.4"'),
    ],
    ids=str,
)
def test_how_a_project_looks_is_not_in_the_version(client, change):
    before, after = label_config(), label_config().replace(*change)
    assert before != after and named("x", before) == named("x", after)


def test_the_settings_that_decide_are_in_the_version(make_client):
    config = label_config().replace('model_score_threshold="0"', "")
    one = [{"score_threshold": 0.4}, {"min_area": 0.1}, {"min_region_confidence": 0.1}]
    options = [{}, *one, {"score_threshold": 0.4, "min_area": 0.1}]
    versions = {post_setup(make_client(**each), config).json["model_version"] for each in options}
    assert len(versions) == 5


BAD_CONFIGS = {
    "empty": ("<View/>", "no control"),
    "no image": (f"<View>{MASKS}</View>", "<Image"),
    "no mask control": (f'<View>{IMAGE}<Choices name="c" toName="photo"/></View>', "BrushLabels"),
    "another control": (
        f'<View>{IMAGE}<VectorLabels name="c" toName="photo"><Label value="sky"/></VectorLabels></View>',
        "BrushLabels",
    ),
    "another source": (
        '<View><Text name="photo" value="$text"/>' + MASKS + "</View>",
        "<Image",
    ),
    "labels in no key of the tasks": (
        f'<View>{IMAGE}<BrushLabels name="mask" toName="photo" value="labels"/></View>',
        "names no key",
    ),
    "no labels": (f'<View>{IMAGE}<BrushLabels name="mask" toName="photo"/></View>', "<Label>"),
    "no name": (label_config(""), "has no value"),
    "too many labels": (label_config(*(f"label {number}" for number in range(1001))), "1000"),
    "not XML": ("<View>", "not well-formed"),
    "entities": ('<!DOCTYPE a [<!ENTITY b "c">]><View>&b;</View>', "DOCTYPE"),
}


@pytest.mark.parametrize(("config", "reason"), BAD_CONFIGS.values(), ids=BAD_CONFIGS)
def test_a_label_config_that_cannot_be_served_is_refused_with_the_reason_in_the_status_line(
    client, config, reason
):
    for answer in (post_setup(client, config), predict(client, [task(1, upload(0))], config)):
        assert answer.status_code == 400
        assert reason in answer.json["error"]
        assert reason in answer.status  # what Label Studio shows
        assert re.fullmatch(r"400 [ -~]{1,300}", answer.status)


def without_an_image(name: str) -> str:
    return label_config().replace('toName="photo"', f'toName="{name}"')


@pytest.mark.parametrize("name", ["Straße", "дорога", "道路", "line&#10;break"])
def test_the_status_line_stays_one_line_of_ascii(client, name):
    answer = post_setup(client, without_an_image(name))
    assert re.fullmatch(r"400 [ -~]{1,300}", answer.status)
    assert name.split("&")[0] in answer.json["error"]


@pytest.mark.parametrize(
    ("name", "escaped"),
    [("Straße", r"Stra\xdfe"), ("дорога", r"\u0434\u043e\u0440\u043e\u0433\u0430"), ("🚗", r"\U0001f697")],
)
def test_the_status_line_lets_names_be_told_apart(client, name, escaped):
    answer = post_setup(client, without_an_image(name))
    assert f'"{escaped}"' in answer.status and "?" not in answer.status


PARTLY_SERVED = {
    "the same label twice": (
        label_config("sky", "Sky"),
        'BrushLabels "mask": the labels "sky" and "Sky" both ask the model for "Sky"; rename one',
    ),
    "a wrong setting": (
        label_config(control='model_min_area="much"'),
        'BrushLabels "mask": model_min_area="much" must be a number from 0 to 1',
    ),
    "a control without an image": (
        label_config().replace(
            "</View>", '<BrushLabels name="b" toName="x"><Label value="a"/></BrushLabels></View>'
        ),
        'BrushLabels "b": toName="x" names no <Image>',
    ),
}


@pytest.mark.parametrize(("config", "problem"), PARTLY_SERVED.values(), ids=PARTLY_SERVED)
def test_what_is_not_served_is_said_at_setup_and_the_rest_is_served(client, caplog, config, problem):
    for _ in range(2):
        answer = post_setup(client, config)
        assert answer.status_code == 200 and re.match(r"tiny-untrained\+", answer.json["model_version"])
        [told] = answer.json["problems"]
        assert problem in told
    assert caplog.text.count(f"project 1: {problem}") == 1
    assert str(escape(problem)) in client.get("/").get_data(as_text=True)
    [predicted] = results(predict(client, [task(1, upload(0))], config))
    assert predicted["result"] and predicted["model_version"] == answer.json["model_version"]


def test_labels_that_are_not_english_are_hinted_at_setup(client, caplog):
    for _ in range(2):
        assert post_setup(client, label_config("道路", "sky")).status_code == 200
    hint = "the model knows English best, and these labels have other letters: 道路; add the English name"
    assert caplog.text.count(f"project 1: {hint}") == 1  # Label Studio calls at every visit
    assert f"<th>1<p>{hint}" in client.get("/").get_data(as_text=True)
    assert post_setup(client, label_config("sky")).status_code == 200
    assert "other letters" not in client.get("/").get_data(as_text=True)


def test_hints_are_kept_for_a_few_projects(client):
    for number in range(1, 100):
        schema = label_config("道路")
        client.post("/setup", json={"project": f"{number}.1", "schema": schema})
    page = client.get("/").get_data(as_text=True)
    assert page.count("other letters") == MOST_HINTS and "<th>99<p>" in page


BAD_BODIES = {
    "empty": b"",
    "not JSON": b"{tasks",
    "a list": b"[]",
    "null": b"null",
    "not UTF-8": b'{"tasks": ["\xff"]}',
    "no tasks": b'{"label_config": "<View/>"}',
    "tasks are no list": b'{"tasks": {"id": 1}, "label_config": "<View/>"}',
    "no label config": b'{"tasks": []}',
    "a label config that is no text": b'{"tasks": [], "label_config": 5}',
    "params are no object": b'{"tasks": [], "label_config": "<View/>", "params": 5}',
    "nested too deep": b'{"tasks": ' + b"[" * 100_000 + b"]" * 100_000 + b', "label_config": "<View/>"}',
}


@pytest.mark.parametrize("path", ["/predict", "/setup"])
@pytest.mark.parametrize("body", BAD_BODIES.values(), ids=BAD_BODIES)
def test_a_malformed_body_is_refused_in_words(client, path, body):
    if path == "/setup" and body.startswith(b'{"') and b"\xff" not in body and len(body) < 1000:
        body = b'{"schema": 5}'
    answer = client.post(path, data=body, content_type="application/json")
    assert answer.status_code == 400
    assert answer.json["error"].startswith("not a request of Label Studio: ")
    assert "Traceback" not in answer.get_data(as_text=True)


@pytest.mark.parametrize(
    "content_type", ["application/json", "text/plain", "application/x-www-form-urlencoded"]
)
def test_the_content_type_does_not_matter(client, content_type):
    body = json.dumps({"tasks": [task(1, upload(0))], "label_config": label_config()})
    assert results(client.post("/predict", data=body, content_type=content_type))[0]["result"]


@pytest.mark.parametrize("path", ["/predict", "/setup", "/webhook"])
def test_a_body_over_the_limit_is_refused(make_client, path):
    answer = make_client(max_request_bytes=1000).post(path, data=b" " * 1001)
    assert answer.status_code == 413
    assert "error" in answer.json


@pytest.mark.parametrize(
    "body",
    [
        b'{"action": "ANNOTATION_CREATED"}',
        b'{"action": "START_TRAINING"}',
        b"",
        b"{not JSON",
        b"\x00" * 99_999,
    ],
)
def test_a_webhook_is_acknowledged_whatever_it_says(client, body):
    answer = client.post("/webhook", data=body, content_type="application/json")
    assert (answer.status_code, answer.json) == (200, {"status": "acknowledged"})


def test_versions_are_those_that_can_be_served(client):
    assert client.get("/versions?project=1.1").json == {"versions": ["tiny-untrained"]}


def test_training_on_request_is_declined_in_words(client):
    answer = client.post("/train", json={"annotations": []})
    assert answer.status == "501 this backend pre-labels; it does not train on request"


@pytest.mark.parametrize(("method", "path", "status"), [("get", "/nothing", 404), ("get", "/predict", 405)])
def test_other_errors_are_json_too(client, method, path, status):
    answer = getattr(client, method)(path)
    assert answer.status_code == status
    assert answer.json["error"]


def test_metrics_count_tasks_requests_and_the_models_time(client):
    before = client.get("/metrics").get_data(as_text=True)
    assert 'ebseg_tasks_total{outcome="predicted"} 0.0' in before
    results(predict(client, [task(1, upload(0)), task(2, "ftp://none"), None]))
    client.get("/nobody/asked/for/this")
    answer = client.get("/metrics")
    lines = answer.get_data(as_text=True).splitlines()
    assert answer.content_type.startswith("text/plain")
    for line in (
        'ebseg_tasks_total{outcome="predicted"} 1.0',
        'ebseg_tasks_total{outcome="empty"} 2.0',
        'ebseg_tasks_total{outcome="skipped"} 0.0',
        'ebseg_requests_total{path="/predict",status="200"} 1.0',
        'ebseg_requests_total{path="unknown",status="404"} 1.0',
        "ebseg_model_seconds_count 1.0",
        "ebseg_model_ready 1.0",
    ):
        assert line in lines
    assert "nobody" not in answer.get_data(as_text=True)


def test_two_applications_have_metrics_of_their_own(make_client):
    one, other = make_client(), make_client()
    results(predict(one, [task(1, upload(0))]))
    assert 'outcome="predicted"} 1.0' in one.get("/metrics").get_data(as_text=True)
    assert 'outcome="predicted"} 0.0' in other.get("/metrics").get_data(as_text=True)


def test_the_status_page_tells_people_the_model_and_the_counts(make_client):
    client = make_client(model="<b>model</b>")
    results(predict(client, [task(1, upload(0)), task(2, "ftp://none")]))
    page = client.get("/").get_data(as_text=True)
    assert "&lt;b&gt;model" in page and "<b>" not in page
    for row in ("Version</th><td>tiny-untrained", "Tasks predicted</th><td>1", "photo or data</th><td>1"):
        assert row in page


# Basic authentication

OPEN = [("get", "/health"), ("post", "/webhook")]
GUARDED = [
    ("get", "/"),
    ("get", "/ready"),
    ("get", "/metrics"),
    ("get", "/versions"),
    ("post", "/setup"),
    ("post", "/predict"),
    ("post", "/train"),
    ("get", "/nothing"),
    ("get", "/static/nothing"),
]
WRONG = {
    "none": {},
    "wrong password": basic("studio", "password"),
    "wrong user": basic("studio2", "pässword"),
    "empty": basic("", ""),
    "another scheme": {"Authorization": "Bearer studio"},
    "damaged": {"Authorization": "Basic !!!"},
}


@pytest.mark.parametrize(("method", "path"), GUARDED)
@pytest.mark.parametrize("headers", WRONG.values(), ids=WRONG)
def test_wrong_credentials_are_refused(make_client, method, path, headers):
    answer = getattr(make_client(**PAIRED, wait=False), method)(path, headers=headers)
    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"].startswith("Basic")
    assert "error" in answer.json


@pytest.mark.parametrize(("method", "path"), OPEN)
def test_health_and_webhook_need_no_credentials(make_client, method, path):
    assert getattr(make_client(**PAIRED), method)(path).status_code == 200


def test_right_credentials_are_let_in(make_client):
    client = make_client(**PAIRED)
    headers = basic("studio", "pässword")
    assert post_setup(client, label_config(), headers=headers).status_code == 200
    assert results(predict(client, [task(1, upload(0))], headers=headers))[0]["result"]
