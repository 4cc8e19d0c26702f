import json

import pytest
from typer.testing import CliRunner

import ebseg.timing
from backend.commands.bench import app
from ebseg.config import BASE
from ebseg.errors import ConfigError
from ebseg.timing import TrainingCost


def test_the_costs_of_training_are_printed(monkeypatch):
    asked = []

    def measured(config, vocabulary, rounds, *, bf16):
        asked.append((config, len(vocabulary), rounds, bf16))
        return TrainingCost(step=15.0, encoder=2.0, peak_gib=5.5)

    monkeypatch.setattr(ebseg.timing, "time_training_step", measured)
    answer = CliRunner().invoke(app, ["train", "--rounds", "3", "--precision", "bf16", "--json"])
    assert json.loads(answer.stdout) == {"step": 15.0, "encoder": 2.0, "peak_gib": 5.5, "ratio": 7.5}
    assert "7.50 times; 5.50 GiB" in CliRunner().invoke(app, ["train"]).stdout
    assert asked == [(BASE, 171, 3, True), (BASE, 171, 5, False)]


def test_what_batches_take_is_printed_and_drawn(monkeypatch, tmp_path):
    monkeypatch.setattr(
        ebseg.timing, "time_batches", lambda config, sizes, rounds, precision: dict.fromkeys(sizes, 0.5)
    )
    drawn = tmp_path / "batches.png"
    answer = CliRunner().invoke(app, ["batches", "--size", "1", "--size", "8", "--plot", str(drawn)])
    assert answer.stdout.splitlines() == [f"EBSeg base, {size} at once: 500.0 ms a photo" for size in (1, 8)]
    assert drawn.read_bytes().startswith(b"\x89PNG")
    refused = CliRunner().invoke(app, ["batches", "--plot", str(tmp_path)]).exception
    assert isinstance(refused, ConfigError)


@pytest.mark.parametrize("command", ["model", "train", "stages"])
def test_an_unknown_variant_is_refused(command):
    answer = CliRunner().invoke(app, [command, "--variant", "huge"])
    assert isinstance(answer.exception, ConfigError)
    assert "no variant named 'huge'; known: tiny, base, large" in str(answer.exception)
