import json
import subprocess
import sys


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
