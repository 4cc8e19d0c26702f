from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ebseg.data.drawn.scenes import BENCHMARK_SEED, VALIDATION_SEED, training_vocabulary
from ebseg.data.open import open_data
from ebseg.errors import ConfigError, DataError, EBSegError, VocabularyError
from ebseg.vocabulary import Vocabulary

DESCRIPTION = """
labels = ["sky", "car|automobile", ["road", "street"]]
ignored = [7, 9]
[train]
photos = "images/train"
label_maps = "labels/train"
[val]
photos = "images/val"
label_maps = "labels/val"
"""
VALUES = np.array([[0, 1, 2], [7, 9, 255]], np.uint8)


def save_pair(photos: Path, label_maps: Path) -> None:
    for folder, suffix, values in (
        (photos, "jpg", np.full((2, 3, 3), 90, np.uint8)),
        (label_maps, "png", VALUES),
    ):
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(values).save(folder / f"a.{suffix}")


@pytest.fixture
def described(tmp_path):
    """A folder with both splits; returns a function that writes its description."""
    for split in ("train", "val"):
        save_pair(tmp_path / f"street/images/{split}", tmp_path / f"street/labels/{split}")

    def write(text: str, name: str = "street.toml") -> str:
        path = tmp_path / "street" / name
        path.write_text(text, encoding="utf-8")
        return str(path)

    return write


def opened(name, split="train", seed=0):
    return open_data(name, split, root=Path("nowhere"), seed=seed)


def test_a_benchmark_is_found_below_the_root(tmp_path):
    root = tmp_path / "coco/stuffthingmaps_detectron2"
    save_pair(tmp_path / "coco/train2017", root / "train2017")
    data = open_data("coco-stuff-171", "train", root=tmp_path, seed=0)
    assert len(data) == 1 and data.vocabulary == Vocabulary.from_dataset("coco-stuff-171")
    with pytest.raises(DataError, match=str(root / "val2017")):
        open_data("coco-stuff-171", "val", root=tmp_path, seed=0)


def test_scenes_are_drawn_from_the_seed_and_validation_scenes_are_always_the_same():
    first, second = opened("drawn-scenes", seed=1), opened("drawn-scenes", seed=2)
    assert not np.array_equal(first[0].image, second[0].image)
    assert first.vocabulary == training_vocabulary() and len(first) > 10_000
    validation = [opened("drawn-scenes", "val", seed) for seed in (1, BENCHMARK_SEED)]
    assert [source.seed for source in validation] == [VALIDATION_SEED] * 2


@pytest.mark.parametrize("seed", [VALIDATION_SEED, BENCHMARK_SEED])
def test_the_scenes_that_models_are_measured_on_are_not_trained_on(seed):
    with pytest.raises(ConfigError, match=f"seed {seed} .*train with another"):
        opened("drawn-scenes", seed=seed)


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_described_folder(described, split):
    data = opened(described(DESCRIPTION), split)
    assert data.vocabulary == Vocabulary(["sky", ["car", "automobile"], ["road", "street"]])
    assert data.name == f"street {split}"
    sample = data[0]
    assert sample.name.endswith(f"street/images/{split}/a.jpg")
    assert sample.label_map.tolist() == [[0, 1, 2], [-1, -1, -1]]


def test_paths_are_relative_to_the_description_wherever_one_is(described, tmp_path, monkeypatch):
    description = described(DESCRIPTION)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    names = ["street/street.toml", "~/street/street.toml", description]
    assert [len(opened(name)) for name in names] == [1, 1, 1]
    # A run that is resumed from another folder is the same run.
    assert len({opened(name).name for name in names}) == 1
    places = DESCRIPTION.replace('"images/', f'"{tmp_path}/street/images/').replace(
        '"labels/', '"~/street/labels/'
    )
    assert len(opened(described(places))) == 1


def test_labels_of_a_file(described, tmp_path):
    (tmp_path / "street/labels.txt").write_text("\ufeffsky\ncar|automobile\n\nroad\n", encoding="utf-8")
    (tmp_path / "street/labels.json").write_text('["sky", ["car", "automobile"], "road"]')
    rest = DESCRIPTION[DESCRIPTION.index("ignored") :]
    for file in ("labels.txt", "labels.json"):
        data = opened(described(f'labels = "{file}"\n{rest}'))
        assert data.vocabulary == Vocabulary(["sky", ["car", "automobile"], "road"])


def test_a_description_may_begin_with_a_byte_order_mark(described):
    assert len(opened(described("\ufeff" + DESCRIPTION))) == 1


def changed(old: str, new: str) -> str:
    assert old in DESCRIPTION
    return DESCRIPTION.replace(old, new)


LABELS = '["sky", "car|automobile", ["road", "street"]]'
WRONG = {
    "not TOML": ("labels = [", DataError, "cannot be read as a description"),
    "no labels": (changed("labels = [", "# ["), DataError, "labels: Field required"),
    "labels in a table": (
        "".join(DESCRIPTION.partition("[val]")[:2]) + '\nphotos = "a"\nlabel_maps = "b"\nlabels = "l.txt"',
        DataError,
        "val.labels: Extra inputs",
    ),
    "no label maps": (changed('label_maps = "labels/train"', ""), DataError, "train.label_maps: Field requ"),
    "no split": (changed("[train]", "[test]"), DataError, "test: Extra inputs are not permitted"),
    "a misspelt key": (changed("ignored", "ignore"), DataError, "ignore: Extra inputs are not permitted"),
    "a table that is none": (DESCRIPTION.partition("[train]")[0] + "train = 1", DataError, "train: Input"),
    "a number as path": (changed('"images/train"', "5"), DataError, "train.photos: Input should be a valid"),
    "ignored as text": (changed("[7, 9]", '"79"'), DataError, "ignored: Input should be a valid list"),
    "ignored as number": (changed("[7, 9]", "7"), DataError, "ignored: Input should be a valid list"),
    "a broken number": (changed("[7, 9]", "[7, 9.5]"), DataError, "ignored.1: Input should be a valid integ"),
    "a value below 0": (changed("[7, 9]", "[-1]"), DataError, "ignored.0: Input should be greater"),
    "labels as number": (changed(LABELS, "3"), DataError, "labels: Input should be a valid string; labels:"),
    "a label as number": (changed(LABELS, '["sky", 3]'), VocabularyError, "label 2 is not a name"),
    "an empty label": (changed(LABELS, '["sky", ""]'), VocabularyError, "label 2 has an empty name"),
    "a label twice": (changed(LABELS, '["sky", "car|Sky"]'), VocabularyError, "label 2 'Sky' repeats 'sky'"),
    "no label": (changed(LABELS, "[]"), VocabularyError, "0 labels given"),
    "no photos": (changed("images/train", "photos"), DataError, "photos is missing; check the path"),
}


@pytest.mark.parametrize(("text", "kind", "message"), WRONG.values(), ids=WRONG)
def test_a_faulty_description_is_named(described, text, kind, message):
    path = described(text)
    with pytest.raises(EBSegError) as raised:
        opened(path)
    assert isinstance(raised.value, kind)
    assert str(raised.value).startswith(path) and message in str(raised.value)


def test_a_split_that_is_not_described(described):
    path = described(DESCRIPTION.partition("[val]")[0])
    assert len(opened(path)) == 1
    with pytest.raises(DataError, match=rf"{path} has no \[val\] with its photos"):
        opened(path, "val")


def test_a_file_of_labels_that_is_not_there(described, tmp_path):
    with pytest.raises(DataError, match=f"the list of labels {tmp_path}/street/none.txt cannot be read"):
        opened(described(changed(LABELS, '"none.txt"')))


def test_values_that_are_no_label_name_the_label_map(described, tmp_path):
    data = opened(described(changed("[7, 9]", "[7]")))
    with pytest.raises(DataError, match=f"{tmp_path}/street/labels/train/a.png: value 9 is neither"):
        data[0]


def test_files_that_cannot_be_read(described, tmp_path):
    path = Path(described(DESCRIPTION))
    path.write_bytes(b"labels = ['\xff']")
    for name in (str(path), str(tmp_path / "none.toml"), str(tmp_path)):
        with pytest.raises(EBSegError, match=name):
            opened(name)
    with pytest.raises(DataError, match=f"{tmp_path}/none.toml cannot be read"):
        opened(str(tmp_path / "none.toml"))


def test_an_unknown_name_is_told_the_known_ones():
    with pytest.raises(
        ConfigError, match="no data named 'coco'; known: coco-stuff-171, .*drawn-scenes, or a"
    ):
        opened("coco")


def test_photos_without_a_label_map_are_told(described, tmp_path, caplog):
    Image.fromarray(np.zeros((2, 3, 3), np.uint8)).save(tmp_path / "street/images/train/b.png")
    source = open_data(described(DESCRIPTION), "train", root=tmp_path, seed=0)
    assert len(source) == 1
    assert "1 photos have no label map and are left out, such as b.png" in caplog.text


def test_photos_that_cannot_be_read_are_told(described, tmp_path, caplog):
    (tmp_path / "street/images/train/b.heic").touch()
    opened(described(DESCRIPTION))
    assert "passed over, 1: b.heic; convert them to JPEG or PNG" in caplog.text
