import json

import pytest
from typer.testing import CliRunner

import ebseg.stage_timing
from backend.commands.bench import app
from backend.commands.bench_plots import draw_memory
from backend.commands.bench_throughput import Throughput, memory_lines
from ebseg.errors import ConfigError
from ebseg.machine import Machine
from ebseg.stage_timing import ENCODER, PHOTO, Report, Table

TITLES = ("photo of 0.4 megapixels, 19 labels", "text of 19 labels", "regions at 0.4 megapixels")


@pytest.fixture
def measured(monkeypatch):
    """Have each measurement give a report, whose photo takes so many seconds, at once."""

    def measure(photo):
        seconds = {"SAM": [0.3, 0.1, 0.2], PHOTO: [photo], ENCODER: [0.5]}
        tables = {
            TITLES[0]: Table(seconds=seconds, flops={"SAM": 2_000_000_000}, peak_bytes=2**30),
            TITLES[1]: Table(seconds={"all labels": [0.25]}, peak_bytes=2**29),
            TITLES[2]: Table(seconds={"brush": [0.0125]}),
        }
        machine = Machine(cpu="Some CPU", cores=2, threads=2, instructions="avx512f", torch="2.9", gpu=None)
        report = Report(variant="tiny", device="cpu", machine=machine, tables=tables)
        monkeypatch.setattr(ebseg.stage_timing, "measure_stages", lambda variant, work: report)
        return report

    return measure


def invoke(*options):
    return CliRunner().invoke(app, ["stages", "--variant", "tiny", *options])


def rows(answer):
    return [line.split() for line in answer.stdout.splitlines()]


def test_a_table_of_each_kind_of_work_is_printed(measured):
    measured(1.0)
    answer = invoke()
    assert [line for line in answer.stdout.splitlines() if line in TITLES] == list(TITLES)
    printed = rows(answer)
    assert ["SAM", "200.0", "100.0", "300.0", "20%", "2.00"] in printed
    assert ["whole", "photo", "1000.0", "1000.0", "1000.0", "100%", "2.00"] in printed
    assert ["brush", "12.5", "12.5", "12.5"] in printed
    assert "2.00 times segment-anything's encoder" in answer.stdout
    assert "1.00 GiB of memory at most" in answer.stdout
    assert "cpu: Some CPU, cores: 2, threads: 2, avx512f; torch 2.9; GPU: none" in answer.stdout


def test_a_report_is_compared_with_an_earlier_one(measured, tmp_path):
    measured(1.0)
    file = tmp_path / "before.json"
    file.write_text(invoke("--json").stdout)
    measured(0.8)
    answer = invoke("--against", str(file))
    assert ["whole", "photo", "1000.0", "800.0", "0.80"] in rows(answer)
    assert ["SAM", "200.0", "200.0", "1.00"] in rows(answer)
    assert "1.00 GiB of memory at most before, 1.00 GiB after" in answer.stdout
    assert "before is of another run, cpu: Some CPU" in answer.stdout
    compared = json.loads(invoke("--against", str(file), "--json").stdout)
    assert compared["in_turns"] is False
    assert compared["changes"][TITLES[0]][PHOTO] == {"before": 1.0, "after": 0.8, "ratio": 0.8}
    assert compared["before"]["tables"][TITLES[0]]["seconds"]["SAM"] == [0.3, 0.1, 0.2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--megapixels", "17"], "17 megapixels are not measured"),
        (["--labels", "0"], "0 labels are not measured"),
        (["--against", "{folder}/none.json"], "none.json is no folder, and no report that can be read"),
        (["--against", "{folder}/other.json"], "other.json is no report that"),
        (["--against", "{folder}/bytes"], "bytes is no folder, and no report that can be read"),
        (["--against", "{folder}"], "is no checkout of this project"),
    ],
)
def test_what_cannot_be_measured_is_refused_at_once(tmp_path, options, message):
    (tmp_path / "other.json").write_text("[]")
    (tmp_path / "bytes").write_bytes(b"\xff\xfe")
    answer = invoke(*(option.format(folder=tmp_path) for option in options))
    assert isinstance(answer.exception, ConfigError)
    assert message in str(answer.exception)


def test_a_report_without_the_photo_that_is_asked_for_is_refused(measured, tmp_path):
    measured(1.0)
    file = tmp_path / "before.json"
    file.write_text(invoke("--json").stdout)
    answer = invoke("--against", str(file), "--labels", "7")
    assert "has no table of photo of 0.4 megapixels, 7 labels; it has: photo of" in str(answer.exception)


def test_what_photos_take_is_drawn(measured, tmp_path):
    measured(1.0)
    answer = invoke("--plot", str(tmp_path / "new" / "photos.png"))
    assert answer.exit_code == 0 and "whole photo" in answer.stdout
    assert (tmp_path / "new" / "photos.png").read_bytes().startswith(b"\x89PNG")


def test_a_plot_that_cannot_be_is_told_before_the_work(measured, tmp_path, monkeypatch):
    monkeypatch.setattr(ebseg.stage_timing, "measure_stages", None)
    assert isinstance(invoke("--plot", str(tmp_path)).exception, ConfigError)
    monkeypatch.setattr("ebseg.plots.importlib.util.find_spec", lambda name: None)
    refused = invoke("--plot", str(tmp_path / "photos.png")).exception
    assert isinstance(refused, ConfigError) and "pip install matplotlib" in str(refused)


def test_a_services_memory_is_drawn_from_row_to_row(tmp_path):
    brush = Throughput("brush", 1, 120, 0.1, 0.2, [10, 20, 30, 31])
    polygon = Throughput("polygon", 8, 50, 0.1, 0.2, [31, 32, 32])
    lines = list(memory_lines([brush, polygon]))
    assert lines == [
        ("brush, 1 at a time", [0, 50, 100, 120], [10, 20, 30, 31]),
        ("polygon, 8 at a time", [120, 170, 170], [31, 32, 32]),
    ]
    draw_memory(lines, tmp_path / "memory.png")
    assert (tmp_path / "memory.png").read_bytes().startswith(b"\x89PNG")
