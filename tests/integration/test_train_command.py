"""``ebseg train`` as people call it."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from ebseg import cli
from ebseg.checkpoint import load_checkpoint
from ebseg.loading import checkpoint_path
from ebseg.vocabulary import Vocabulary

SMALL = ("--batch", "2", "--crop", "64", "--workers", "0", "--seed", "3")


@pytest.fixture
def run(monkeypatch, tmp_path, capfd):
    """Runs the command line in this process, in a folder of its own: status, output, standard error."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)

    def call(*arguments):
        with pytest.raises(SystemExit) as exit_:
            cli.main(["train", *map(str, arguments)])
        return exit_.value.code, *capfd.readouterr()

    return call


def save_pairs(photos: Path, label_maps: Path, labels: int) -> None:
    """Two photos whose halves have two of the labels."""
    rng = np.random.default_rng(labels)
    for folder in (photos, label_maps):
        folder.mkdir(parents=True)
    for number in range(2):
        values = np.zeros((64, 96), np.uint8)
        values[:, 48:] = labels - 1
        Image.fromarray(values).save(label_maps / f"{number}.png")
        Image.fromarray(rng.integers(0, 256, (64, 96, 3), np.uint8)).save(photos / f"{number}.jpg")


def describe(name: str, labels: list[str], splits: tuple[str, ...]) -> str:
    """Write a folder of photos and its description below the current folder; return the description."""
    lines = [f"labels = {json.dumps(labels)}"]
    for split in splits:
        save_pairs(Path(name, "images", split), Path(name, "labels", split), len(labels))
        lines += [f"[{split}]", f'photos = "images/{split}"', f'label_maps = "labels/{split}"']
    path = Path(name, f"{name}.toml")
    path.write_text("\n".join(lines))
    return str(path)


def seen(path: Path, *names: str) -> list[bool]:
    return list(Vocabulary(names).seen_in(load_checkpoint(path)[0].training_vocabulary))


def test_a_plan_can_be_made_before_the_data_is_there(run):
    status, out, _ = run("--data", "coco-stuff-171", "--dry-run")
    assert status == 0
    assert "coco-stuff-171 (train) is not in datasets" in out and "171 labels" in out
    assert "2,400 steps of 4 photos" in out


def test_a_dry_run_of_the_papers_run_tells_its_plan_and_downloads_nothing(run, tmp_path, monkeypatch):
    def no_download(*_arguments, **_options):
        raise AssertionError("a dry run downloads nothing")

    monkeypatch.setattr("ebseg.encoders.hf_hub_download", no_download)
    monkeypatch.setattr("torch.hub.download_url_to_file", no_download)
    save_pairs(Path("coco/train2017"), Path("coco/stuffthingmaps_detectron2/train2017"), 171)
    status, out, err = run("--variant", "base", "--data", "coco-stuff-171", "--data-root", ".", "--dry-run")
    assert status == 0, err
    assert "coco-stuff-171 train: 2 photos, 171 labels" in out
    assert "120,000 steps of 16 photos" in out
    assert "trained 26,622,403, frozen 235,207,169" in out
    assert not Path("runs").exists()


def test_a_data_set_that_shows_nothing_is_told_before_training(run):
    street = describe("street", ["sky", "car"], ("train",))
    blank = describe("blank", ["sheep"], ("train",))
    for label_map in Path("blank/labels/train").iterdir():
        Image.fromarray(np.full((64, 96), 255, np.uint8)).save(label_map)
    status, _, err = run("--data", street, "--data", blank, "--steps", "1", *SMALL)
    assert (status, Path("runs").exists()) == (1, False)
    assert "no pixel of blank train is labelled, so nothing can be learnt from it" in err
    assert "correct the label maps or the description, or leave the data set out" in err
    Path("blank/labels/train/0.png").write_bytes(b"broken")
    assert "no pixel of blank train is labelled" in run("--data", blank, "--steps", "1", *SMALL)[2]


def test_two_data_sets_of_different_words_are_trained_on_recorded_and_resumed(run, mlflow_database):
    Path("runs").mkdir()
    shutil.copy(mlflow_database, "runs")
    street = describe("street", ["sky", "car|automobile"], ("train", "val"))
    farm = describe("farm", ["sheep", "barn", "fence"], ("train",))
    command = ("--data", farm, "--data", street, "--share", "1", "--share", "2", "--steps", "2",
               "--checkpoint-every", "1", *SMALL)  # fmt: skip
    status, out, err = run(*command)
    assert status == 0, err
    folder = Path("runs/tiny-farm-street")
    assert out == f"wrote {folder}/model.safetensors\n"
    assert "training EBSeg tiny: 0 of 2 steps are done" in err and "step 2/2  loss" in err
    assert seen(folder / "model.safetensors", "barn", "automobile", "dragon") == [True, True, False]

    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{Path('runs/mlflow.db').resolve()}")
    number = json.loads((folder / "mlflow.json").read_text())["run_id"]
    record = client.get_run(number)
    assert record.info.status == "FINISHED" and record.info.run_name == folder.name
    assert record.data.params["data.1.name"] == "farm train" and record.data.params["steps"] == "2"
    # The farm has no validation photos, so the street's are drawn: the truth, and each checkpoint's labels.
    photos = client.list_artifacts(number, "overlays")
    assert [Path(photo.path).name for photo in photos] == [
        f"street_images_val_{name}.jpg" for name in ("0", "1")
    ]
    pictures = [Path(picture.path).name for picture in client.list_artifacts(number, photos[0].path)]
    assert pictures == ["step-000001.png", "step-000002.png", "truth.png"]
    client._tracking_client.store.engine.dispose()

    weights = load_file(folder / "model.safetensors")
    for lost in ("model.safetensors", "checkpoints/step-00000002.pt"):
        (folder / lost).unlink()
    status, out, err = run(*command)
    assert status == 0, err
    assert "training EBSeg tiny: 1 of 2 steps are done" in err
    again = load_file(folder / "model.safetensors")
    assert all(torch.equal(again[name], tensor) for name, tensor in weights.items())
    assert json.loads((folder / "mlflow.json").read_text())["run_id"] == number


def test_going_on_from_a_model(run, random_checkpoint):
    status, out, err = run("--from", random_checkpoint, "--steps", "1", "--no-mlflow", *SMALL)
    assert status == 0, err
    folder = Path("runs/random-drawn-scenes")
    assert sorted(path.name for path in folder.iterdir()) == ["checkpoints", "log.jsonl", "model.safetensors"]
    model = folder / "model.safetensors"
    start, _ = load_checkpoint(random_checkpoint)
    end, _ = load_checkpoint(model)
    assert end.config == start.config
    assert torch.equal(end.clip.tower.conv1.weight, start.clip.tower.conv1.weight)
    assert seen(model, "road", "red ball") == [True, True]


def test_a_models_recipe_is_that_of_its_size(run, random_checkpoint):
    status, out, err = run("--from", random_checkpoint, "--dry-run")
    assert status == 0, err
    assert "2,400 steps of 4 photos" in out
    status, _, err = run("--from", random_checkpoint, "--variant", "base", "--dry-run")
    assert status == 1
    assert err == f"ebseg: {random_checkpoint} is EBSeg 'tiny', not 'base': leave --variant out\n"


def test_encoders_of_ones_own(run):
    packaged = checkpoint_path("ebseg-tiny")
    status, _, err = run("--encoders", packaged, "--out", "new", "--steps", "1", "--no-mlflow", *SMALL)
    assert status == 0, err
    start, end = (load_checkpoint(path)[0] for path in (packaged, Path("new/model.safetensors")))
    assert torch.equal(end.text.tower.text_projection, start.text.tower.text_projection)
    assert not torch.equal(end.fusion.projections[0].weight, start.fusion.projections[0].weight)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--variant", "huge"], "no variant named 'huge'; known: tiny, base, large"),
        (["--data", "voc-20", "--data-root", "nowhere"], "voc-20 (train) is not in nowhere. Looked for"),
        (["--data", "coco"], "no data named 'coco'; known: coco-stuff-171"),
        (["--data", "none.toml"], "none.toml cannot be read as a description of labelled photos"),
        (["--from", "ebseg-tiny", "--encoders", "a"], "--from takes a whole model, its encoders too"),
        (["--from", "none"], "no model named 'none', and no such file"),
        (["--encoders", "none"], "no model named 'none', and no such file"),
        (["--batch", "3", "--accumulation", "2"], "a batch of 3 photos cannot be dealt evenly"),
        (["--share", "1", "--share", "1"], "--share is given 2 times and --data 1 times: give one each"),
        (["--share", "0"], "weights [0.0] do not fit: give a positive number"),
        (["--learning-rate", "0"], "these settings cannot be used: learning_rate: Input should be greater"),
        (["--seed", str(2**31 - 1)], "draws the scenes that models are measured on: train with another"),
    ],
)
def test_failures_have_status_one_and_one_line(run, arguments, message):
    status, out, err = run(*arguments)
    assert (status, out) == (1, "")
    (line,) = err.splitlines()
    assert line.startswith("ebseg: ") and message in line
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--steps", "0"], "Invalid value for '--steps'"),
        (["--batch", "many"], "Invalid value for '--batch'"),
        (["--seed", "99999999999999999999999"], "Invalid value for '--seed'"),
        (["--precision", "fp8"], "Invalid value for '--precision'"),
        (["--out", "file"], "Invalid value for '--out'"),
        (["--no-such-option"], "No such option"),
        (["photos"], "Got unexpected extra argument"),
    ],
)
def test_bad_usage_has_status_two(run, arguments, message):
    Path("file").touch()
    status, out, err = run(*arguments)
    assert (status, out) == (2, "")
    assert err.startswith("Usage: ebseg train") and message in " ".join(err.split())


def test_another_runs_folder_is_refused(run):
    options = ("--out", "run", "--steps", "1", "--no-mlflow", *SMALL)
    assert run(*options)[0] == 0
    status, _, err = run(*options, "--learning-rate", "0.5")
    assert status == 1
    (line,) = err.splitlines()[-1:]
    assert "is of another run, which differs in: learning_rate" in line


def test_help_is_quick(run):
    code = "import sys\nimport ebseg.cli\nsys.exit('torch' in sys.modules or 'mlflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    status, out, _ = run("--help")
    assert status == 0 and "Example: ebseg train --variant base --data coco-stuff-171" in out
