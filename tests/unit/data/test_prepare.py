import hashlib
import io
import json
import logging
import os
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import pytest
import scipy.io
from PIL import Image

from ebseg.data.catalogue import find_benchmark, open_dataset
from ebseg.data.prepare import UNLABELLED, Conversion, convert_all, plan_conversion
from ebseg.errors import ConfigError, DataError
from tests.unit.data import raw_trees
from tests.unit.data.raw_trees import TREES, Truth

OUTPUTS = {  # of the trees as they are written by default
    "coco-stuff-171": ("coco/val2017", "coco/stuffthingmaps_detectron2/val2017", ".png"),
    "voc-20": ("VOC2012/JPEGImages", "VOC2012/annotations_detectron2/val", ".png"),
    "pascal-context-59": ("pcontext/val/image", "pcontext/val/label", ".png"),
    "pascal-context-459": ("pcontext_full/val/image", "pcontext_full/val/label", ".tif"),
    "ade20k-150": (
        "ADEChallengeData2016/images/validation",
        "ADEChallengeData2016/annotations_detectron2/validation",
        ".png",
    ),
    "ade20k-847": (
        "ADE20K_2021_17_01/images_detectron2/validation",
        "ADE20K_2021_17_01/annotations_detectron2/validation",
        ".tif",
    ),
}


def prepare(name: str, root: Path, workers: int = 1) -> list[Conversion]:
    return list(convert_all(plan_conversion(name, root, "val"), workers))


def errors(outcomes: list[Conversion]) -> list[str]:
    return [outcome.error for outcome in outcomes if outcome.error]


def contents(root: Path) -> dict[str, tuple[str, int]]:
    """Hash every file below a folder; with the time of its last change."""
    return {
        str(path.relative_to(root)): (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns)
        for path in root.rglob("*")
        if path.is_file()
    }


def check_truth(name: str, root: Path, truth: Truth) -> None:
    source = open_dataset(name, root, "val")
    assert [Path(photo).stem for photo in source.names] == sorted(truth)
    for index, photo in enumerate(source.names):
        np.testing.assert_array_equal(source[index].label_map, truth[Path(photo).stem])


@pytest.mark.parametrize("name", TREES)
def test_every_value(tmp_path: Path, name: str) -> None:
    truth = TREES[name](tmp_path)
    raw = contents(tmp_path)
    assert not errors(prepare(name, tmp_path))
    check_truth(name, tmp_path, truth)
    after = contents(tmp_path)
    assert {file: after[file] for file in raw} == raw
    _, label_maps, ending = OUTPUTS[name]
    written = {path.name for path in (tmp_path / label_maps).iterdir()} - {UNLABELLED}
    assert written == {f"{stem}{ending}" for stem in truth}
    for file in written:
        with Image.open(tmp_path / label_maps / file) as image:
            values = np.asarray(image)
        wide = ending == ".tif"
        assert values.dtype == (np.uint16 if wide else np.uint8)
        stored = np.where(truth[Path(file).stem] < 0, 65535 if wide else 255, truth[Path(file).stem])
        np.testing.assert_array_equal(values, stored)


@pytest.mark.parametrize("name", TREES)
def test_a_second_run_has_nothing_to_do(tmp_path: Path, name: str) -> None:
    TREES[name](tmp_path)
    first = prepare(name, tmp_path)
    before = contents(tmp_path)
    again = plan_conversion(name, tmp_path, "val")
    assert not again.jobs and again.done == len(first)
    assert not list(convert_all(again, 1))
    assert contents(tmp_path) == before


@pytest.mark.parametrize("name", TREES)
def test_a_stopped_run_goes_on(tmp_path: Path, name: str) -> None:
    """A file is gone, of another only the first half was written, and a killed run left a rest of its own."""
    truth = TREES[name](tmp_path)
    prepare(name, tmp_path)
    whole = contents(tmp_path)
    photos, label_maps, ending = OUTPUTS[name]
    gone, half, *others = [f"{label_maps}/{stem}{ending}" for stem in sorted(truth)]
    os.unlink(tmp_path / gone)
    (tmp_path / gone).with_name(f".{Path(gone).name}.unfinished").write_bytes(b"half")
    (tmp_path / half).write_bytes((tmp_path / half).read_bytes()[:-4])
    assert len(prepare(name, tmp_path)) == 2
    after = contents(tmp_path)
    assert {file: value[0] for file, value in after.items()} == {file: v[0] for file, v in whole.items()}
    assert all(after[file] == whole[file] for file in others)


def test_stopping_in_the_middle_loses_nothing(tmp_path: Path) -> None:
    truth = raw_trees.coco_stuff(tmp_path)
    outcomes = convert_all(plan_conversion("coco-stuff-171", tmp_path, "val"), 1)
    assert len(list(islice(outcomes, 2))) == 2
    outcomes.close()  # type: ignore[attr-defined]
    assert [job.label_map.stem for job in plan_conversion("coco-stuff-171", tmp_path, "val").jobs] == [
        "000000000632"
    ]
    prepare("coco-stuff-171", tmp_path)
    check_truth("coco-stuff-171", tmp_path, truth)


def test_maps_without_any_label_are_not_written_and_remembered(tmp_path: Path) -> None:
    raw_trees.coco_stuff(tmp_path)
    assert [outcome.unlabelled for outcome in prepare("coco-stuff-171", tmp_path)] == [False, False, True]
    folder = tmp_path / OUTPUTS["coco-stuff-171"][1]
    assert (folder / UNLABELLED).read_text() == "000000000632.png\n"
    assert not (folder / "000000000632.png").exists()


def test_several_processes_do_the_same(tmp_path: Path) -> None:
    for number in (1, 2):
        raw_trees.full_ade(tmp_path / str(number))
        assert not errors(prepare("ade20k-847", tmp_path / str(number), workers=number))
    hashes = [{file: value[0] for file, value in contents(tmp_path / n).items()} for n in ("1", "2")]
    traps = [value.pop("ADE20K_2021_17_01/index_ade20k.pkl") for value in hashes]
    assert hashes[0] == hashes[1] and len(traps) == 2


def test_photos_of_context_are_copies(tmp_path: Path) -> None:
    truth = raw_trees.detail(tmp_path)
    prepare("pascal-context-59", tmp_path)
    for stem in truth:
        copy, original = (
            tmp_path / f"pcontext/{folder}/{stem}.jpg" for folder in ("val/image", "JPEGImages")
        )
        assert copy.read_bytes() == original.read_bytes()
        assert not copy.samefile(original)
    copy.write_bytes(b"half")
    assert len(plan_conversion("pascal-context-59", tmp_path, "val").jobs) == 1


def test_photos_of_full_ade_are_shrunk_and_saved_as_pillow_does(tmp_path: Path) -> None:
    raw_trees.full_ade(tmp_path)
    prepare("ade20k-847", tmp_path)
    sizes = {"ADE_val_00000001": (684, 512), "ADE_val_00000002": (512, 1021), "ADE_val_00000003": None}
    for photo in (tmp_path / "ADE20K_2021_17_01/images/ADE").rglob("*.jpg"):
        with Image.open(photo) as image:
            pixels = np.asarray(image)
        if size := sizes[photo.stem]:
            pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_LINEAR)
        expected = io.BytesIO()
        Image.fromarray(pixels).save(expected, "JPEG")
        written = tmp_path / OUTPUTS["ade20k-847"][0] / photo.name
        assert written.read_bytes() == expected.getvalue()
    assert not (tmp_path / "exploded").exists()  # the index was not unpickled


def test_a_grey_photo_of_full_ade_stays_grey(tmp_path: Path) -> None:
    raw_trees.full_ade(tmp_path)
    place = tmp_path / "ADE20K_2021_17_01/images/ADE/validation/cultural/apse__indoor/ADE_val_00000003.jpg"
    Image.fromarray(np.full((512, 530), 90, np.uint8)).save(place)
    assert not errors(prepare("ade20k-847", tmp_path))
    image = open_dataset("ade20k-847", tmp_path, "val")[2].image
    assert image.shape == (512, 530, 3) and (image == 90).all()


@pytest.mark.parametrize(
    ("photos", "maps", "label_maps"),
    [
        ("coco/val2017", "coco-stuff/annotations/val2017", "coco/stuffthingmaps_detectron2/val2017"),
        (
            "coco-stuff/images/val2017",
            "coco-stuff/stuffthingmaps/val2017",
            "coco-stuff/stuffthingmaps_detectron2/val2017",
        ),
    ],
)
def test_folders_of_coco(tmp_path: Path, photos: str, maps: str, label_maps: str) -> None:
    truth = raw_trees.coco_stuff(tmp_path, photos, maps)
    raw_trees.save_png(tmp_path / maps / "000000000139_labelTrainIds.png", np.zeros((16, 16), np.uint8))
    prepare("coco-stuff-171", tmp_path)
    assert len(list((tmp_path / label_maps).glob("*.png"))) == 2
    check_truth("coco-stuff-171", tmp_path, truth)


def test_folders_of_voc(tmp_path: Path) -> None:
    truth = raw_trees.voc(tmp_path, "VOCdevkit/VOC2012", "ImageSets/Segmentation/val.txt")
    prepare("voc-20", tmp_path)
    assert (tmp_path / "VOCdevkit/VOC2012/annotations_detectron2/val").is_dir()
    check_truth("voc-20", tmp_path, truth)


@pytest.mark.parametrize("base", ["VOCdevkit/VOC2010", "VOC2010"])
@pytest.mark.parametrize(
    ("name", "begun"), [("pascal-context-59", "pcontext59-d2"), ("pascal-context-459", "pcontext459-d2")]
)
def test_folders_of_context(tmp_path: Path, base: str, name: str, begun: str) -> None:
    """Where EBSeg's script had begun, its folders are filled."""
    truth = (raw_trees.detail if name.endswith("-59") else raw_trees.context_full)(tmp_path, base)
    suffix = OUTPUTS[name][2]
    (tmp_path / begun / "val/label").mkdir(parents=True)
    (tmp_path / begun / f"val/label/2008_000003{suffix}").write_bytes(b"half")
    prepare(name, tmp_path)
    assert sorted(os.listdir(tmp_path / begun / "val/label")) == [f"{stem}{suffix}" for stem in sorted(truth)]
    check_truth(name, tmp_path, truth)


def test_the_training_split(tmp_path: Path) -> None:
    raw_trees.detail(tmp_path)
    assert not errors(list(convert_all(plan_conversion("pascal-context-59", tmp_path, "train"), 1)))
    source = open_dataset("pascal-context-59", tmp_path, "train")
    assert source.names == ("2008_000007.jpg",)
    expected = np.full((6, 6), -1)
    expected[:4, :4] = 2  # 18 is the third of the sorted ids
    np.testing.assert_array_equal(source[0].label_map, expected)


def test_names_that_other_scripts_gave_are_gone_on_with(tmp_path: Path) -> None:
    truth = raw_trees.coco_stuff(tmp_path)
    folder = tmp_path / OUTPUTS["coco-stuff-171"][1]
    prepare("coco-stuff-171", tmp_path)
    (folder / "000000000139.png").rename(folder / "000000000139_labelTrainIds.png")
    (folder / "000000000285.png").unlink()
    (folder / UNLABELLED).unlink()
    assert len(prepare("coco-stuff-171", tmp_path)) == 2
    assert (folder / "000000000285_labelTrainIds.png").exists()
    check_truth("coco-stuff-171", tmp_path, truth)


BREAKS = {
    "coco-stuff-171": "coco/stuffthingmaps/val2017/000000000285.png",
    "voc-20": "VOC2012/SegmentationClassAug/2007_000042.png",
    "pascal-context-459": "pcontext/trainval/2008_000002.mat",
    "ade20k-150": "ADEChallengeData2016/annotations/validation/ADE_val_00000001.png",
    "ade20k-847": "ADE20K_2021_17_01/images/ADE/validation/urban/street/ADE_val_00000001_seg.png",
}


@pytest.mark.parametrize("damage", ["half", "nonsense", "gone"])
@pytest.mark.parametrize("name", BREAKS)
def test_a_broken_file_is_named_and_the_others_are_done(tmp_path: Path, name: str, damage: str) -> None:
    truth = TREES[name](tmp_path)
    broken = tmp_path / BREAKS[name]
    content = broken.read_bytes()
    broken.write_bytes(content[: len(content) // 2] if damage == "half" else b"nonsense" * 40)
    if damage == "gone":
        broken.unlink()
    found = errors(prepare(name, tmp_path))
    if damage == "gone" and name in ("coco-stuff-171", "ade20k-150"):
        assert not found  # a folder has what it has; the check of the number tells
    else:
        assert len(found) == 1 and str(broken) in found[0]
        assert ("is missing" in found[0]) == (damage == "gone")
    stem = broken.stem.removesuffix("_seg")
    check_truth(name, tmp_path, {key: value for key, value in truth.items() if key != stem})
    broken.write_bytes(content)
    assert not errors(prepare(name, tmp_path))
    check_truth(name, tmp_path, truth)


def test_a_missing_photo_is_named(tmp_path: Path) -> None:
    raw_trees.context_full(tmp_path)
    photo = tmp_path / "pcontext/JPEGImages/2008_000003.jpg"
    photo.unlink()
    for name in ("pascal-context-59", "pascal-context-459"):
        assert errors(prepare(name, tmp_path)) == [f"{photo} is missing"]
        assert len(open_dataset(name, tmp_path, "val")) == 1


def test_faulty_masks_are_named(tmp_path: Path) -> None:
    raw_trees.detail(tmp_path)
    file = tmp_path / "pcontext/trainval_merged.json"
    content = json.loads(file.read_text())
    content["annos_segmentation"][0]["category_id"] = 3  # one of the 459, not of the 59
    file.write_text(json.dumps(content))
    (found,) = errors(prepare("pascal-context-59", tmp_path))
    assert "2008_000002.jpg" in found and "value 3 is none of pascal-context-59's classes" in found
    content["annos_segmentation"][0]["category_id"] = 2
    content["annos_segmentation"][0]["segmentation"]["counts"] += "11"
    file.write_text(json.dumps(content))
    (found,) = errors(prepare("pascal-context-59", tmp_path))
    assert "2008_000002.jpg: cannot be converted" in found


@pytest.mark.parametrize("text", ["{", "[]", '{"images": []}', '{"images": 1, "annos_segmentation": []}'])
def test_annotations_that_are_something_else_are_refused(tmp_path: Path, text: str) -> None:
    raw_trees.detail(tmp_path)
    (tmp_path / "pcontext/trainval_merged.json").write_text(text)
    with pytest.raises(DataError, match=r"trainval_merged\.json: cannot be .*; get the file again$"):
        plan_conversion("pascal-context-59", tmp_path, "val")


@pytest.mark.parametrize(
    ("name", "values"),
    [("voc-20", 21), ("voc-20", 254), ("ade20k-150", 151), ("ade20k-150", 255)],
)
def test_values_that_mean_nothing_are_refused(tmp_path: Path, name: str, values: int) -> None:
    TREES[name](tmp_path)
    raw_trees.save_png(tmp_path / BREAKS[name], np.array([[0, 1, values]], np.uint8))
    (found,) = errors(prepare(name, tmp_path))
    assert f"value {values} is none of {name}'s classes" in found


@pytest.mark.parametrize(
    "values",
    [
        np.uint16([[460]]),
        np.int16([[-1]]),
        np.float64([[1.5]]),
        np.float64([[-1]]),
        np.float64([[np.nan]]),
        np.float64([[np.inf]]),
        np.uint16(np.zeros((1, 0))),
    ],
)
def test_mat_files_that_hold_something_else_are_refused(tmp_path: Path, values: np.ndarray) -> None:
    raw_trees.context_full(tmp_path)
    scipy.io.savemat(tmp_path / BREAKS["pascal-context-459"], {"LabelMap": values})
    (found,) = errors(prepare("pascal-context-459", tmp_path))
    assert "2008_000002.mat: cannot be converted" in found


@pytest.mark.parametrize("name", ["coco-stuff-171", "voc-20", "ade20k-847"])
def test_pictures_of_another_kind_are_refused(tmp_path: Path, name: str) -> None:
    """Coloured label maps that people made to look at, and the other way round."""
    TREES[name](tmp_path)
    shape = (600, 801) if name == "ade20k-847" else (6, 5, 3)
    raw_trees.save_png(tmp_path / BREAKS[name], np.ones(shape, np.uint8))
    (found,) = errors(prepare(name, tmp_path))
    assert "a picture of the kind" in found


def test_a_photo_of_another_size_is_not_shrunk(tmp_path: Path) -> None:
    raw_trees.full_ade(tmp_path)
    photo = tmp_path / BREAKS["ade20k-847"].replace("_seg.png", ".jpg")
    raw_trees.save_photo(photo, 600, 800)
    (found,) = errors(prepare("ade20k-847", tmp_path))
    assert f"{photo}: cannot be converted (not of the same size as its label map" in found


@pytest.mark.parametrize("name", TREES)
def test_missing_parts_are_named_with_their_places_and_origin(tmp_path: Path, name: str) -> None:
    benchmark = find_benchmark(name)
    TREES[name](tmp_path)
    (tmp_path / "VOC2012/val.txt").unlink(missing_ok=True)
    for raw in benchmark.raw:
        found = raw.find(tmp_path, benchmark.val)
        if found is not None:
            found.rename(f"{found}.away")
        with pytest.raises(DataError) as info:
            plan_conversion(name, tmp_path, "val")
        message = str(info.value)
        assert f"no {raw.name}: looked for" in message
        assert all(str(tmp_path / place.format(benchmark.val)) in message for place in raw.places)
        assert raw.origin.format(benchmark.val) in message
        assert all((other.name in message) == (other.find(tmp_path, benchmark.val) is None)
                   for other in benchmark.raw)  # fmt: skip


def test_origins_name_the_files_to_download() -> None:
    expected = {
        "coco-stuff-171": ["val2017.zip", "stuffthingmaps_trainval2017.zip"],
        "voc-20": ["VOCtrainval_11-May-2012.tar", "SegmentationClassAug.zip"],
        "pascal-context-59": ["VOCtrainval_03-May-2010.tar", "trainval_merged.json"],
        "pascal-context-459": ["VOCtrainval_03-May-2010.tar", "trainval_merged.json", "trainval.tar.gz"],
        "ade20k-150": ["ADEChallengeData2016.zip"],
        "ade20k-847": ["ADE20K_2021_17_01 by the form"],
    }
    for name, parts in expected.items():
        assert all(part in find_benchmark(name).origin("val") for part in parts)


@pytest.mark.parametrize("evil", ["../evil", "/tmp/evil", "a/b", ".hidden"])
def test_lists_cannot_lead_out_of_the_folder_of_results(tmp_path: Path, evil: str) -> None:
    raw_trees.voc(tmp_path)
    (tmp_path / "VOC2012/val.txt").write_text(f"2007_000033\n{evil}\n")
    with pytest.raises(DataError, match=r"val\.txt: .* is not the plain name of a file"):
        plan_conversion("voc-20", tmp_path, "val")
    raw_trees.detail(tmp_path)
    file = tmp_path / "pcontext/trainval_merged.json"
    file.write_text(file.read_text().replace("2008_000003.jpg", f"{evil}.jpg"))
    with pytest.raises(DataError, match="is not the plain name of a file"):
        plan_conversion("pascal-context-59", tmp_path, "val")


def test_raw_files_are_not_overwritten_through_a_link(tmp_path: Path) -> None:
    raw_trees.ade(tmp_path)
    base = tmp_path / "ADEChallengeData2016"
    (base / "annotations_detectron2").symlink_to(base / "annotations")
    (base / "annotations/validation/ADE_val_00000002.png").write_bytes(b"half")
    before = contents(base)
    with pytest.raises(DataError, match="is a part of the raw files"):
        plan_conversion("ade20k-150", tmp_path, "val")
    assert contents(base) == before


def test_linked_photos_are_taken_as_they_are(tmp_path: Path) -> None:
    """People link pcontext/val/image to JPEGImages to save the space."""
    truth = raw_trees.detail(tmp_path)
    (tmp_path / "pcontext/val").mkdir()
    (tmp_path / "pcontext/val/image").symlink_to(tmp_path / "pcontext/JPEGImages")
    before = contents(tmp_path / "pcontext/JPEGImages")
    assert not errors(prepare("pascal-context-59", tmp_path))
    assert contents(tmp_path / "pcontext/JPEGImages") == before
    check_truth("pascal-context-59", tmp_path, truth)


def test_photos_without_label_maps_are_passed_over_in_silence(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """VOC's folder holds 17,125 photos, of which 1,449 are of the validation split."""
    caplog.set_level(logging.INFO)
    raw_trees.voc(tmp_path)
    prepare("voc-20", tmp_path)
    assert len(open_dataset("voc-20", tmp_path, "val").without_labels) == 2
    assert not caplog.records


def test_unknown_names_and_splits_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no data set named 'voc'"):
        plan_conversion("voc", tmp_path, "val")
    with pytest.raises(ConfigError, match="no split named 'test'"):
        plan_conversion("voc-20", tmp_path, "test")  # type: ignore[arg-type]
