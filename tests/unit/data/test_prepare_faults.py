"""Preparing where others were before, and where raw files or folders are not as they should be."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from PIL import Image

from ebseg import cli
from ebseg.data.prepare import convert_all, plan_conversion
from ebseg.errors import DataError
from tests.unit.data import raw_trees
from tests.unit.data.raw_trees import TREES
from tests.unit.data.test_prepare import check_truth, contents, errors, prepare

CONTEXT = {"pascal-context-59": "pcontext", "pascal-context-459": "pcontext_full"}


def command(capsys: pytest.CaptureFixture[str], name: str, root: Path) -> tuple[int, str, str]:
    """Run `ebseg data prepare`; give status, standard output and standard error."""
    with pytest.raises(SystemExit) as exit_:
        cli.main(["data", "prepare", name, "--root", str(root), "--workers", "1"])
    assert isinstance(exit_.value.code, int)
    return exit_.value.code, *capsys.readouterr()


@pytest.mark.parametrize("name", CONTEXT)
def test_photos_that_others_encoded_anew_are_left_alone(tmp_path: Path, name: str) -> None:
    TREES[name](tmp_path)
    prepare(name, tmp_path)
    folder = tmp_path / CONTEXT[name] / "val"
    for photo in (folder / "image").iterdir():
        with Image.open(photo) as image:
            image.load()
        image.save(photo, quality=20)
    before = contents(folder)
    assert not plan_conversion(name, tmp_path, "val").jobs
    next((folder / "label").iterdir()).unlink()
    assert len(prepare(name, tmp_path)) == 1
    after = contents(folder)
    assert {file: after[file] for file in after if file.startswith("image")} == {
        file: before[file] for file in before if file.startswith("image")
    }


def test_a_copy_of_a_photo_with_bytes_behind_its_end_is_finished(tmp_path: Path) -> None:
    raw_trees.detail(tmp_path)
    with (tmp_path / "pcontext/JPEGImages/2008_000002.jpg").open("ab") as stream:
        stream.write(b"more")
    prepare("pascal-context-59", tmp_path)
    assert not plan_conversion("pascal-context-59", tmp_path, "val").jobs


def test_a_truncated_photo_is_named_not_its_label_map(tmp_path: Path) -> None:
    raw_trees.full_ade(tmp_path)
    photo = tmp_path / "ADE20K_2021_17_01/images/ADE/validation/urban/street/ADE_val_00000001.jpg"
    photo.write_bytes(photo.read_bytes()[:-2000])
    (found,) = errors(prepare("ade20k-847", tmp_path))
    assert found.startswith(f"{photo}: cannot be converted") and "_seg" not in found


def test_whole_numbers_that_are_stored_as_floats_are_read(tmp_path: Path) -> None:
    truth = raw_trees.context_full(tmp_path)
    for file in (tmp_path / "pcontext/trainval").iterdir():
        values = scipy.io.loadmat(file)["LabelMap"]
        scipy.io.savemat(file, {"LabelMap": values.astype(np.float64)})
    assert not errors(prepare("pascal-context-459", tmp_path))
    check_truth("pascal-context-459", tmp_path, truth)


def empty_maps(folder: str) -> Callable[[Path], Path]:
    def empty(root: Path) -> Path:
        for file in (root / folder).glob("*.png"):
            file.unlink()
        return root / folder

    return empty


def no_phase(root: Path) -> Path:
    file = root / "pcontext/trainval_merged.json"
    content = json.loads(file.read_text())
    file.write_text(json.dumps({**content, "images": [], "annos_segmentation": []}))
    return file


def empty_list(root: Path) -> Path:
    (root / "VOC2012/val.txt").write_text("")
    return root / "VOC2012/val.txt"


def no_scenes(root: Path) -> Path:
    folder = root / "ADE20K_2021_17_01/images/ADE/validation"
    folder.rename(f"{folder}.away")
    folder.mkdir()
    return folder


EMPTY: dict[str, tuple[Callable[[Path], Path], str]] = {
    "coco-stuff-171": (empty_maps("coco/stuffthingmaps/val2017"), "stuffthingmaps_trainval2017.zip"),
    "voc-20": (empty_list, "VOCtrainval_11-May-2012.tar (ImageSets/Segmentation/val.txt"),
    "pascal-context-59": (no_phase, "trainval_merged.json of "),
    "pascal-context-459": (no_phase, "trainval_merged.json of "),
    "ade20k-150": (empty_maps("ADEChallengeData2016/annotations/validation"), "ADEChallengeData2016.zip"),
    "ade20k-847": (no_scenes, "ADE20K_2021_17_01 by the form"),
}


@pytest.mark.parametrize("name", TREES)
def test_raw_files_without_a_label_map_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    TREES[name](tmp_path)
    empty, origin = EMPTY[name]
    source = empty(tmp_path)
    status, out, err = command(capsys, name, tmp_path)
    assert (status, out) == (1, "")
    assert err.startswith(f"ebseg: {source} holds no label maps for {name} (val); unpack {origin}")


def test_empty_raw_folders_hide_no_prepared_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw_trees.ade(tmp_path)
    prepare("ade20k-150", tmp_path)
    empty_maps("ADEChallengeData2016/annotations/validation")(tmp_path)
    status, out, _ = command(capsys, "ade20k-150", tmp_path)
    assert status == 0 and out.startswith("ade20k-150 val: already prepared\n")


def test_where_every_raw_file_is_broken_there_is_nothing_to_check(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raw_trees.ade(tmp_path)
    for file in (tmp_path / "ADEChallengeData2016/annotations/validation").iterdir():
        file.write_bytes(b"nonsense")
    status, out, err = command(capsys, "ade20k-150", tmp_path)
    assert status == 1
    assert out.startswith("ade20k-150 val: 0 label maps written to ") and out.count("\n") == 1
    assert err.endswith("ebseg: 2 of 2 photos could not be prepared\n") and "is not in" not in err


@pytest.mark.parametrize("kind", ["file", "link"])
def test_folders_that_cannot_be_made_are_named(tmp_path: Path, kind: str) -> None:
    raw_trees.ade(tmp_path)
    place = tmp_path / "ADEChallengeData2016/annotations_detectron2"
    if kind == "file":
        place.write_text("in the way")
    else:
        os.symlink(tmp_path / "gone/away", place)
        (tmp_path / "gone").write_text("in the way")
    expected = rf"the folder {place}/validation cannot be made \(.*\): remove .* that is in its way"
    with pytest.raises(DataError, match=expected):
        list(convert_all(plan_conversion("ade20k-150", tmp_path, "val"), 1))


def test_a_list_that_is_no_text_is_named(tmp_path: Path) -> None:
    TREES["voc-20"](tmp_path)
    (names,) = tmp_path.rglob("val.txt")
    names.write_bytes(b"2008_000002\n\xff\xfe\n")
    with pytest.raises(
        DataError, match=r"val\.txt: cannot be read as a list of photos .*; get the file again"
    ):
        plan_conversion("voc-20", tmp_path, "val")
