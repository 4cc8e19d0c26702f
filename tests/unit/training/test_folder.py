"""What a run's folder holds by which name: runs of older versions go on from these."""

import pytest

from ebseg.runs.folder import RunFolder, step_of
from training.finetuning.folder import FinetuneFolder


def test_the_names_on_disk(tmp_path):
    training = RunFolder(tmp_path)
    names = {
        training.model: "model.safetensors",
        training.log: "log.jsonl",
        training.mlflow: "mlflow.json",
        training.checkpoint(50): "checkpoints/step-00000050.pt",
        training.unfinished_checkpoint: "checkpoints/unfinished",
    }
    finetuning = FinetuneFolder(tmp_path)
    names |= {
        finetuning.model: "model.safetensors",
        finetuning.outcome: "outcome.json",
        finetuning.spec: "spec.json",
        finetuning.progress: "progress.json",
        finetuning.lock: "run.lock",
        finetuning.output: "output.log",
        finetuning.training.best: "training/best.safetensors",
        finetuning.training.measured: "training/measured.json",
        finetuning.training.log: "training/log.jsonl",
        finetuning.training.mlflow: "training/mlflow.json",
        finetuning.training.checkpoint(2): "training/checkpoints/step-00000002.pt",
    }
    assert {path: tmp_path / name for path, name in names.items()} == {path: path for path in names}


def test_the_names_in_the_storage(tmp_path):
    folder = FinetuneFolder(tmp_path / "train-7-0f")
    assert (folder.key, folder.mirror) == ("runs/train-7-0f", "runs/train-7-0f/mirror")


def test_checkpoints_are_listed_in_the_order_of_their_steps(tmp_path):
    folder = RunFolder(tmp_path)
    assert folder.stored() == []
    folder.checkpoints.mkdir()
    folder.unfinished_checkpoint.touch()
    for step in (100_000, 2, 10):
        folder.checkpoint(step).touch()
    assert [step_of(path) for path in folder.stored()] == [2, 10, 100_000]


@pytest.mark.parametrize("content", [None, "", '{"run', "{}"])
def test_no_number_of_mlflows_run_is_none(tmp_path, content):
    folder = RunFolder(tmp_path)
    if content is not None:
        folder.mlflow.write_text(content)
    assert folder.mlflow_run() is None
    folder.keep_mlflow_run("0f")
    assert folder.mlflow_run() == "0f"
    folder.mlflow.write_text('{"run_id": "abc"}')  # as it was written before, without an end of the line
    assert folder.mlflow_run() == "abc"


def test_progress_that_is_not_told_yet_is_empty(tmp_path):
    folder = FinetuneFolder(tmp_path)
    assert folder.read_progress() == {}
    folder.progress.write_text('{"stage": "starting"}\n')
    assert folder.read_progress() == {"stage": "starting"}
