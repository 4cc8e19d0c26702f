from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ebseg.data.catalogue import BENCHMARKS, class_facts, find_benchmark, open_dataset
from ebseg.errors import ConfigError, DataError
from ebseg.vocabulary import DATASETS, Vocabulary

# Written out again, not computed: (photo, label map) as people have them.
LAYOUTS = {
    ("coco-stuff-171", "train"): [
        ("coco/train2017/1.jpg", "coco/stuffthingmaps_detectron2/train2017/1.png"),
        ("coco/train2017/1.jpg", "coco/stuffthingmaps_detectron2/train2017/1_labelTrainIds.png"),
        ("coco-stuff/images/train2017/1.jpg", "coco-stuff/stuffthingmaps_detectron2/train2017/1.png"),
    ],
    ("coco-stuff-171", "val"): [
        ("coco/val2017/1.jpg", "coco/stuffthingmaps_detectron2/val2017/1.png"),
        ("coco-stuff/images/val2017/1.jpg", "coco-stuff/stuffthingmaps_detectron2/val2017/1.png"),
    ],
    ("voc-20", "val"): [
        ("VOC2012/JPEGImages/1.jpg", "VOC2012/annotations_detectron2/val/1.png"),
        ("VOCdevkit/VOC2012/JPEGImages/1.jpg", "VOCdevkit/VOC2012/annotations_detectron2/val/1.png"),
    ],
    ("pascal-context-59", "val"): [
        ("pcontext/val/image/1.jpg", "pcontext/val/label/1.png"),
        ("pcontext59-d2/val/image/1.jpg", "pcontext59-d2/val/label/1.png"),
    ],
    ("pascal-context-459", "val"): [
        ("pcontext_full/val/image/1.jpg", "pcontext_full/val/label/1.tif"),
        ("pcontext459-d2/val/image/1.jpg", "pcontext459-d2/val/label/1.tif"),
    ],
    ("ade20k-150", "val"): [
        (
            "ADEChallengeData2016/images/validation/1.jpg",
            "ADEChallengeData2016/annotations_detectron2/validation/1.png",
        )
    ],
    ("ade20k-150", "train"): [
        (
            "ADEChallengeData2016/images/training/1.jpg",
            "ADEChallengeData2016/annotations_detectron2/training/1.png",
        )
    ],
    ("ade20k-847", "val"): [
        (
            "ADE20K_2021_17_01/images_detectron2/validation/1.jpg",
            "ADE20K_2021_17_01/annotations_detectron2/validation/1.tif",
        )
    ],
}
CASES = [(name, split, *paths) for (name, split), found in LAYOUTS.items() for paths in found]


def test_all_benchmarks_have_a_row():
    assert sorted(row.name for row in BENCHMARKS) == sorted(DATASETS)


def save(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)


@pytest.mark.parametrize(("name", "split", "photo", "label_map"), CASES)
def test_layouts_that_people_have(tmp_path, name, split, photo, label_map):
    largest = len(Vocabulary.from_dataset(name)) - 1
    wide = label_map.endswith(".tif")
    save(tmp_path / photo, np.zeros((4, 6, 3), np.uint8))
    ignored = 65535 if wide else 255
    save(tmp_path / label_map, np.array([[0, largest, ignored] * 2] * 4, np.uint16 if wide else np.uint8))
    data = open_dataset(name, tmp_path, split)
    assert data.name == f"{name} {split}"
    assert data.vocabulary == Vocabulary.from_dataset(name)
    assert data[0].name == str(tmp_path / photo)
    np.testing.assert_array_equal(data[0].label_map[0], [0, largest, -1] * 2)


def test_the_layout_that_is_whole_is_taken(tmp_path):
    """COCO's photos in one place, as for detection, do not hide COCO-Stuff in the other."""
    save(tmp_path / "coco/val2017/1.jpg", np.zeros((4, 6, 3), np.uint8))
    save(tmp_path / "coco-stuff/images/val2017/1.jpg", np.zeros((4, 6, 3), np.uint8))
    save(tmp_path / "coco-stuff/stuffthingmaps_detectron2/val2017/1.png", np.zeros((4, 6), np.uint8))
    assert "coco-stuff/images" in open_dataset("coco-stuff-171", tmp_path, "val")[0].name


def test_a_missing_folder_lists_the_places_and_the_origin(tmp_path):
    (tmp_path / "coco/val2017").mkdir(parents=True)
    with pytest.raises(DataError) as info:
        open_dataset("coco-stuff-171", tmp_path, "val")
    message = str(info.value)
    for place in (
        "coco/val2017",
        "coco/stuffthingmaps_detectron2/val2017",
        "coco-stuff/images/val2017",
        "coco-stuff/stuffthingmaps_detectron2/val2017",
    ):
        assert str(tmp_path / place) in message
    assert "cocodataset.org" in message
    assert f"`ebseg data prepare coco-stuff-171 --root {tmp_path} --split val`" in message


@pytest.mark.parametrize(
    ("name", "expected"),
    [("coco-stuff-171", "train2017.zip of"), ("voc-20", "ImageSets/Segmentation/train.txt in it")],
)
def test_a_missing_train_split_asks_for_its_own_files(tmp_path, name, expected):
    with pytest.raises(DataError) as info:
        open_dataset(name, tmp_path, "train")
    downloads = str(info.value).partition("Download ")[2]
    assert expected in downloads and " val2017" not in f" {downloads}" and "val.txt" not in downloads


def test_unknown_names_and_splits_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="no data set named 'coco'; known: coco-stuff-171"):
        open_dataset("coco", tmp_path, "val")
    with pytest.raises(ConfigError, match="no split named 'test'"):
        open_dataset("voc-20", tmp_path, "test")


def test_class_lists_hold_the_numbers_of_the_raw_annotations():
    """Anchors, written out again: a label, its index and its number in the raw annotations."""
    anchors = {
        "coco-stuff-171": [
            ("person", 0, 1),
            ("fire hydrant", 10, 11),
            ("stop sign", 11, 13),
            ("wood", 170, 182),
        ],
        "voc-20": [("aeroplane", 0, 1), ("tv", 19, 20)],
        "pascal-context-59": [("aeroplane", 0, 2), ("bag", 1, 9), ("wood", 58, 458)],
        "pascal-context-459": [("accordion", 0, 1), ("wool", 458, 459)],
        "ade20k-150": [("wall", 0, 1), ("flag", 149, 150)],
        "ade20k-847": [("wall", 0, 2978), ("adding machine, totalizer, totaliser", 846, 3148)],
    }
    for name, labels in anchors.items():
        raw_ids = class_facts(name).raw_ids
        assert len(set(raw_ids)) == len(raw_ids) == len(Vocabulary.from_dataset(name))
        for label, index, raw_id in labels:
            assert (Vocabulary.from_dataset(name).names[index], raw_ids[index]) == (label, raw_id)


def test_the_59_classes_of_context_are_numbered_as_the_459():
    names = Vocabulary.from_dataset("pascal-context-459").names
    numbered = [names[raw_id - 1] for raw_id in class_facts("pascal-context-59").raw_ids]
    expected = ["table" if name == "diningtable" else name
                for name in Vocabulary.from_dataset("pascal-context-59").names]  # fmt: skip
    assert numbered == expected


@pytest.mark.parametrize(
    ("name", "split", "images"),
    [
        ("coco-stuff-171", "train", 118_287),
        ("coco-stuff-171", "val", 5_000),
        ("voc-20", "val", 1_449),
        ("voc-20", "train", None),
        ("pascal-context-59", "val", 5_104),
        ("pascal-context-459", "val", 5_104),
        ("ade20k-150", "train", 20_210),
        ("ade20k-150", "val", 2_000),
        ("ade20k-847", "val", 2_000),
    ],
)
def test_official_numbers_of_photos(name, split, images):
    assert find_benchmark(name).images(split) == images


def test_an_empty_folder_hides_no_prepared_data(tmp_path):
    """A run that was stopped before its first label map leaves one."""
    save(tmp_path / "coco/val2017/1.jpg", np.zeros((4, 6, 3), np.uint8))
    (tmp_path / "coco/stuffthingmaps_detectron2/val2017").mkdir(parents=True)
    assert find_benchmark("coco-stuff-171").state(tmp_path, "val") == "missing"
    save(tmp_path / "coco-stuff/images/val2017/1.jpg", np.zeros((4, 6, 3), np.uint8))
    save(tmp_path / "coco-stuff/stuffthingmaps_detectron2/val2017/1.png", np.zeros((4, 6), np.uint8))
    assert find_benchmark("coco-stuff-171").state(tmp_path, "val") == "prepared"
    assert len(open_dataset("coco-stuff-171", tmp_path, "val")) == 1
