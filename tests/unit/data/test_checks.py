from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ebseg.data.checks import SAMPLE, Check, check
from ebseg.errors import DataError


def save(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)


def write_pairs(root: Path, count: int, name: str = "{:05}") -> Path:
    """Write photos and label maps of VOC, all bus (5) and in the first row unlabelled; return the maps."""
    for number in range(count):
        save(root / f"VOC2012/JPEGImages/{number:05}.jpg", np.zeros((4, 3, 3), np.uint8))
        label_map = np.full((4, 3), 5, np.uint8)
        label_map[0] = 255
        save(root / f"VOC2012/annotations_detectron2/val/{name.format(number)}.png", label_map)
    return root / "VOC2012/annotations_detectron2/val"


def check_voc(root: Path, full: bool = False, workers: int = 2) -> Check:
    return check("voc-20", root, "val", full=full, workers=workers)


def test_what_is_counted(tmp_path: Path) -> None:
    label_maps = write_pairs(tmp_path, 3)
    save(label_maps / "00002.png", np.uint8([[0, 0, 255], [255, 19, 19], [255, 255, 255], [255, 255, 255]]))
    found = check_voc(tmp_path)
    assert found == Check(
        name="voc-20",
        split="val",
        folder=str(label_maps),
        photos=3,
        unlabelled=0,
        official=1449,
        read=3,
        classes=20,
        labels=3,
        smallest=0,
        largest=19,
        ignored=pytest.approx(14 / 36),
        faults=(),
    )
    assert found.miscount == "3 photos with label maps, but the official split has 1,449"


def test_the_official_number_is_no_miscount(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ebseg.data.catalogue.Benchmark.images", lambda *_: 3)
    label_maps = write_pairs(tmp_path, 3)
    assert check_voc(tmp_path).miscount is None
    (label_maps / "00001.png").unlink()
    assert check_voc(tmp_path).miscount == "2 photos with label maps, but the official split has 3"
    (label_maps / "unlabelled.txt").write_text("00001.png\n")
    assert check_voc(tmp_path).miscount is None


def test_an_unknown_official_number_is_no_miscount(tmp_path: Path) -> None:
    save(tmp_path / "VOC2012/JPEGImages/1.jpg", np.zeros((4, 3, 3), np.uint8))
    save(tmp_path / "VOC2012/annotations_detectron2/train/1.png", np.zeros((4, 3), np.uint8))
    found = check("voc-20", tmp_path, "train")
    assert found.official is None and found.miscount is None


def test_wrong_values_sizes_and_files_are_named(tmp_path: Path) -> None:
    label_maps = write_pairs(tmp_path, 5)
    save(label_maps / "00001.png", np.full((4, 3), 20, np.uint8))
    save(label_maps / "00002.png", np.zeros((3, 4), np.uint8))
    (label_maps / "00003.png").write_bytes(b"half")
    (tmp_path / "VOC2012/JPEGImages/00004.jpg").write_bytes(b"half")
    found = check_voc(tmp_path)
    assert found.read == 5 and found.labels == 1
    wrong = [fault.split(":")[0] for fault in found.faults]
    assert wrong == [
        *(str(label_maps / f"{name}.png") for name in ("00001", "00002", "00003")),
        str(tmp_path / "VOC2012/JPEGImages/00004.jpg"),
    ]
    assert "value 20 is neither one of the 20 labels" in found.faults[0]
    assert "4 x 3 pixels, but its photo" in found.faults[1]


def test_label_maps_without_a_photo_are_a_fault(tmp_path: Path) -> None:
    label_maps = write_pairs(tmp_path, 3)
    (tmp_path / "VOC2012/JPEGImages/00001.jpg").unlink()
    (tmp_path / "VOC2012/JPEGImages/00002.jpg").unlink()
    photos = tmp_path / "VOC2012/JPEGImages"
    expected = f"2 label maps have no photo in {photos}, such as {label_maps / '00001.png'}"
    assert check_voc(tmp_path).faults == (expected,)


def test_a_label_map_in_another_unicode_form_than_its_photo_is_no_fault(tmp_path: Path) -> None:
    label_maps = write_pairs(tmp_path, 1)
    (label_maps / "00000.png").rename(label_maps / "a\u0308.png")
    photos = tmp_path / "VOC2012/JPEGImages"
    (photos / "00000.jpg").rename(photos / "\u00e4.jpg")
    assert check_voc(tmp_path).faults == ()


def test_raw_maps_beside_converted_ones_are_no_fault(tmp_path: Path) -> None:
    label_maps = write_pairs(tmp_path, 2, name="{:05}_labelTrainIds")
    save(label_maps / "00007.png", np.zeros((4, 3), np.uint8))
    found = check_voc(tmp_path)
    assert (found.photos, found.faults) == (2, ())


def test_a_sample_or_all(tmp_path: Path) -> None:
    label_maps = write_pairs(tmp_path, SAMPLE + 40)
    for file in label_maps.iterdir():
        save(file, np.full((4, 3), 77, np.uint8))
    calls: list[tuple[int, int]] = []
    sample = check("voc-20", tmp_path, "val", progress=lambda done, total: calls.append((done, total)))
    assert sample.read == len(sample.faults) == SAMPLE
    assert calls == [(number, SAMPLE) for number in range(1, SAMPLE + 1)]
    found = check_voc(tmp_path, full=True)
    assert found.read == len(found.faults) == SAMPLE + 40
    assert (found.labels, found.smallest, found.largest, found.ignored) == (0, None, None, 0)


def test_what_is_not_prepared_cannot_be_checked(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"voc-20 \(val\) is not in"):
        check_voc(tmp_path)
