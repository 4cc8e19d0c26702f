"""What a job tells the process that it starts."""

import json
from pathlib import Path

import pytest

from ebseg.errors import ConfigError
from training.finetuning import parent
from training.finetuning.general_data import general_name
from training.finetuning.spec import read_spec
from training.settings import Settings


@pytest.mark.parametrize(
    ("given", "general"),
    [({"largest_forgetting": 0.2}, "drawn-scenes"), ({"model": "street.safetensors"}, "own-answers")],
    ids=["packaged", "own"],
)
def test_the_process_reads_what_the_job_wrote(tmp_path, monkeypatch, given, general):
    monkeypatch.chdir(tmp_path)
    Path("street.safetensors").touch()
    settings = Settings(home=tmp_path, **given)
    path = tmp_path / "spec.json"
    told = parent.spec(
        settings, Path("v3.safetensors"), Path("v1.safetensors"), "models:/ebseg/1", 7, "0f", "train-7-0f"
    )
    path.write_text(json.dumps(told))
    spec = read_spec(path)
    assert (spec.base, spec.project, spec.fingerprint) == ("v3.safetensors", 7, "0f")
    assert spec.teacher == "v1.safetensors"
    assert spec.backbone == "models:/ebseg/1"
    assert spec.out == tmp_path / "runs" / "train-7-0f"
    assert spec.mlflow.run_name == "train-7-0f"
    assert spec.config["keep"] == 1 - settings.largest_forgetting
    assert general_name(spec.general, spec.first_model) == general


def test_what_does_not_say_it_is_an_error_that_names_the_file(tmp_path):
    with pytest.raises(ConfigError, match="spec.json does not say what to fine-tune"):
        read_spec(tmp_path / "spec.json")
