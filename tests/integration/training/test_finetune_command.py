import json

import numpy as np
import pytest
from PIL import Image

import ebseg
from ebseg.cli import main
from ebseg.errors import DataError
from training.commands.finetune_request import Request
from training.commands.finetune_work import validate

DESCRIPTION = """
labels = ["kerb", "robot|android"]
[train]
photos = "photos"
label_maps = "labels"
[val]
photos = "photos"
label_maps = "labels"
"""


@pytest.fixture
def street(tmp_path):
    for folder in ("photos", "labels"):
        (tmp_path / folder).mkdir()
    for number in range(4):
        image = np.full((64, 64, 3), 60 * number, np.uint8)
        labels = np.repeat(np.array([[0, 1]], np.uint8), 64, axis=0).repeat(32, axis=1)
        Image.fromarray(image).save(tmp_path / "photos" / f"{number}.png")
        Image.fromarray(labels).save(tmp_path / "labels" / f"{number}.png")
    path = tmp_path / "street.toml"
    path.write_text(DESCRIPTION)
    return path


def _run(*arguments):
    with pytest.raises(SystemExit) as ended:
        main(["finetune", *map(str, arguments)])
    return ended.value.code


def test_it_writes_a_model_and_says_what_was_measured(street, random_checkpoint, tmp_path, capsys):
    out = tmp_path / "out"
    assert _run(random_checkpoint, "--data", street, "--out", out, "--steps", "2") == 0
    told = capsys.readouterr()
    assert "its own answers are rehearsed" in told.err
    assert "before" in told.out and "<- chosen" in told.out
    assert "after: mIoU" in told.out and "on 4 photos of street val" in told.out
    assert json.loads((out / "outcome.json").read_text())["steps"] == 2
    found = ebseg.load(out / "model.safetensors").predict(street.parent / "photos/1.png", ["kerb", "robot"])
    assert found.label_map.shape == (64, 64)


def test_a_seed_has_63_bits(street, random_checkpoint, tmp_path, capsys):
    seed = ("--seed", "99999999999999999999999")
    assert _run(random_checkpoint, "--data", street, "--out", tmp_path / "out", *seed) == 2
    assert "Invalid value for '--seed'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (("--learning-rate", "0"), "learning_rate"),
        (("--general", "moon"), "no data named 'moon'"),
    ],
)
def test_what_cannot_be_used_is_one_line(street, random_checkpoint, tmp_path, capsys, options, complaint):
    assert _run(random_checkpoint, "--data", street, "--out", tmp_path / "out", *options) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert complaint in line


def test_validation_data_without_any_label_is_told(street, random_checkpoint, tmp_path):
    for number in range(4):
        Image.new("L", (64, 64), 255).save(tmp_path / "labels" / f"{number}.png")
    options = {"out": tmp_path, "photos": None, "general": None, "root": tmp_path, "seed": 0}
    request = Request(str(random_checkpoint), street, **options, settings={}, as_json=False)
    with pytest.raises(DataError, match="no pixel of street val is labelled, so nothing is measured"):
        validate(request, {"before": str(random_checkpoint)})
