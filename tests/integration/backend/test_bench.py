import json
import subprocess
import sys

from tests.servers import EXECUTABLE


def test_the_benchmark_measures_a_served_model(checkpoint):
    """Times are not judged here: the machine that runs the tests is shared."""
    command = [sys.executable, "-c", "from ebseg.cli import main; main()", "bench", "service"]
    run = subprocess.run(
        [*command, "--model", str(checkpoint), "--seconds", "1", "--slow", "20", "--json"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert run.returncode == 0, run.stderr
    report = json.loads(run.stdout)
    assert report["predicted"] > 0
    assert [latency["path"] for latency in report["latencies"]] == ["/health", "/setup", "/webhook"]
    assert [latency["path"] for latency in report["prompts"]] == ["click", "box"]
    assert report["first_click"] > 0
    for latency in (*report["latencies"], *report["prompts"]):
        assert latency["calls"] > 1
        assert 0 < latency["p50"] <= latency["p99"] <= latency["longest"]


def test_projects_take_a_head_each():
    """Three take less than one whole model: the backbone is in memory once."""
    command = [sys.executable, "-c", "from ebseg.cli import main; main()", "bench", "projects"]
    run = subprocess.run(
        [*command, "--variant", "tiny", "--projects", "3", "--json"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert run.returncode == 0, run.stderr
    report = json.loads(run.stdout)
    assert report["projects"] == 3 and 4 * report["head"] < report["file"]
    assert report["others"] < report["file"] and report["seconds"] > 0


def test_relabelling_is_measured_in_a_label_studio_of_its_own():
    command = [sys.executable, "-c", "from ebseg.cli import main; main()", "bench", "relabelling"]
    run = subprocess.run(
        [*command, "--photos", "2", "--label-studio", str(EXECUTABLE), "--json"],
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert run.returncode == 0, run.stderr
    report = json.loads(run.stdout)
    assert report["photos"] == 2 and report["label_studio"] > 0
    for part in ("model", "worker"):
        assert report[part]["seconds"] > 0 and report[part]["cpu"] > 0
    assert report["speed"] == report["model"]["seconds"] / report["worker"]["seconds"]
