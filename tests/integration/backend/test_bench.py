import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from backend.commands import bench_stages
from backend.commands.bench import app
from ebseg.errors import ConfigError
from ebseg.stage_timing import ENCODER, OTHER, PHOTO
from ebseg.stages import Stage
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


def test_the_service_is_compared_with_its_model_alone(checkpoint):
    command = [sys.executable, "-c", "from ebseg.cli import main; main()", "bench", "throughput", "--json"]
    options = ["--model", str(checkpoint), "--photos", "2", "--kind", "polygon", "--callers", "2"]
    run = subprocess.run([*command, *options], capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    report = json.loads(run.stdout)
    assert (report["kind"], report["callers"], report["photos"]) == ("polygon", 2, 2)
    assert report["ratio"] == pytest.approx(report["http"] / report["alone"]) and report["alone"] > 0
    assert len(report["memory"]) == 2 and min(report["memory"]) > 2**20


def test_precisions_are_compared(checkpoint):
    command = [sys.executable, "-c", "from ebseg.cli import main; main()", "bench", "precision", "--json"]
    options = ["--model", str(checkpoint), "--rounds", "1", "--scenes", "1"]
    run = subprocess.run([*command, *options], capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    report = json.loads(run.stdout)
    assert list(report) == ["float32", "bf16", "int8"]
    assert report["float32"]["agreement"] == 1
    for cost in report.values():
        assert cost["seconds"] > 0 and 0 < cost["agreement"] <= 1 and 0 <= cost["miou"] <= 100


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


SMALLEST = ("--variant", "tiny", "--rounds", "1", "--megapixels", "0.05", "--labels", "1")


@pytest.fixture
def checkout(tmp_path):
    """Copy this checkout's code, to be changed."""
    root = Path(__file__).parents[3]
    for package in ("ebseg", "training", "backend"):
        shutil.copytree(
            root / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__", "tiny")
        )
    return tmp_path


def change(file, old, new):
    content = file.read_text()
    assert old in content
    file.write_text(content.replace(old, new))


def test_stages_are_measured_here_and_in_another_checkout_by_its_own_code(checkout, monkeypatch):
    """Each is a run of the real command."""
    monkeypatch.setattr(bench_stages, "TURNS", 1)
    change(checkout / "ebseg" / "stages.py", '"SAM"', '"spatial encoder"')
    answer = CliRunner().invoke(app, ["stages", *SMALLEST, "--against", str(checkout), "--json"])
    assert answer.exception is None and answer.stderr == ""
    compared = json.loads(answer.stdout)
    titles = ["photo of 0.05 megapixels, 1 label", "text of 1 label", "regions at 0.05 megapixels"]
    assert list(compared["after"]["tables"]) == list(compared["changes"]) == titles
    photo = compared["after"]["tables"][titles[0]]
    assert set(photo["seconds"]) == {*Stage, OTHER, PHOTO, ENCODER}
    assert all(len(values) == 1 and values[0] > 0 for values in photo["seconds"].values())
    assert photo["flops"]["SAM"] > 0 and photo["peak_bytes"] > 0
    changes = compared["changes"][titles[0]]
    assert changes["SAM"]["before"] is None and changes["SAM"]["after"] > 0
    assert changes["spatial encoder"]["before"] > 0 and changes["spatial encoder"]["after"] is None
    assert changes[PHOTO]["ratio"] == changes[PHOTO]["after"] / changes[PHOTO]["before"]
    assert compared["in_turns"] is True


def test_a_checkout_of_before_there_was_the_command_is_named(checkout):
    change(checkout / "backend" / "commands" / "bench.py", "app.command()(stages)", "")
    answer = CliRunner().invoke(app, ["stages", *SMALLEST, "--against", str(checkout)])
    assert isinstance(answer.exception, ConfigError)
    assert str(checkout) in str(answer.exception) and "No such command" in str(answer.exception)
