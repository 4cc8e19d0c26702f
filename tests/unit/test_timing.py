import json

import pytest
from typer.testing import CliRunner

import ebseg.timing
from backend.commands.bench import app
from ebseg.config import BASE, TINY
from ebseg.errors import ConfigError
from ebseg.timing import TrainingCost, time_training_step
from ebseg.vocabulary import Vocabulary


def test_a_training_step_is_measured_in_a_process_of_its_own():
    cost = time_training_step(
        TINY, Vocabulary(["sky", "road"] + [f"thing {n}" for n in range(8)]), 1, side=64
    )
    assert cost.ratio == cost.step / cost.encoder > 1
    assert 0.1 < cost.peak_gib < 4


def test_the_costs_of_training_are_printed(monkeypatch):
    asked = []

    def measured(config, vocabulary, rounds):
        asked.append((config, len(vocabulary), rounds))
        return TrainingCost(step=15.0, encoder=2.0, peak_gib=5.5)

    monkeypatch.setattr(ebseg.timing, "time_training_step", measured)
    answer = CliRunner().invoke(app, ["train", "--rounds", "3", "--json"])
    assert json.loads(answer.stdout) == {"step": 15.0, "encoder": 2.0, "peak_gib": 5.5, "ratio": 7.5}
    assert "7.50 times; 5.50 GiB" in CliRunner().invoke(app, ["train"]).stdout
    assert asked == [(BASE, 171, 3), (BASE, 171, 5)]


@pytest.mark.parametrize("command", ["model", "train"])
def test_an_unknown_variant_is_refused(command):
    answer = CliRunner().invoke(app, [command, "--variant", "huge"])
    assert isinstance(answer.exception, ConfigError)
    assert "no variant named 'huge'; known: tiny, base, large" in str(answer.exception)
