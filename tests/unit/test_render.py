from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from ebseg.errors import ImageError
from ebseg.predictor import Segmentation
from ebseg.render import indexed_png, overlay, palette


def segmentation_of(label_map: npt.ArrayLike, labels: int = 3, names: tuple[str, ...] = ()) -> Segmentation:
    array = np.asarray(label_map, np.int16)
    return Segmentation(
        array,
        np.full(array.shape, 0.5, np.float32),
        names or tuple(f"label {index}" for index in range(labels)),
    )


def test_colours_are_distinct_and_depend_on_the_index_alone() -> None:
    colours = palette(1000)
    assert len(np.unique(colours, axis=0)) == 1000
    assert (palette(7) == colours[:7]).all()
    difference = np.abs(colours[:150, None].astype(int) - colours[None, :150].astype(int)).sum(axis=2)
    assert difference[~np.eye(150, dtype=bool)].min() >= 40
    assert difference[:8, :8][~np.eye(8, dtype=bool)].min() >= 150


@pytest.mark.parametrize("labels", [1, 3, 255])
def test_indexed_png_of_eight_bits(labels: int, tmp_path: Path) -> None:
    label_map = np.array([[0, labels - 1, -1], [-1, 0, 0]], np.int16)
    indexed_png(segmentation_of(label_map, labels), tmp_path / "map.png")
    with Image.open(tmp_path / "map.png") as image:
        assert image.mode == "P"
        assert np.array(image).tolist() == np.where(label_map < 0, 255, label_map).tolist()
        shown = np.array(image.convert("RGB"))
    assert (shown[0, 1] == palette(labels)[labels - 1]).all()
    assert (shown[0, 2] == 0).all()


def test_indexed_png_of_sixteen_bits(tmp_path: Path) -> None:
    label_map = np.array([[0, 255, 256], [999, -1, 1]], np.int16)
    indexed_png(segmentation_of(label_map, 1000), tmp_path / "map.png")
    with Image.open(tmp_path / "map.png") as image:
        assert image.mode == "I;16"
        assert np.array(image).tolist() == [[0, 255, 256], [999, 65535, 1]]


def test_overlay_tints_labelled_pixels_only() -> None:
    photo = np.full((40, 60, 3), 100, np.uint8)
    label_map = np.full((40, 60), -1, np.int16)
    label_map[:, :30] = 1
    picture = np.array(overlay(photo, segmentation_of(label_map)))
    assert (picture[:40, 30:60] == 100).all()
    assert (picture[:40, :30] == (100 + palette(3)[1].astype(int)) // 2).all()
    assert (photo == 100).all()


def test_legend_shows_the_colours_of_labels_found() -> None:
    label_map = np.zeros((80, 120), np.int16)
    label_map[:10] = 2
    legend = np.array(overlay(np.zeros((80, 120, 3), np.uint8), segmentation_of(label_map)))[:, 120:]
    shown = {tuple(colour) for colour in legend.reshape(-1, 3).tolist()}
    first, second, third = (tuple(colour) for colour in palette(3).tolist())
    assert {first, third} <= shown
    assert second not in shown


@pytest.mark.parametrize(
    "name",
    [
        "道路",
        "🐶",
        "дорога",
        "طريق",
        "new\nline",
        "\x00",
        "a" * 3000,
        "[bold]",
        "e\u0301",
        "\ufeffx",
        "\U0010ffff",
    ],
)
def test_any_name_can_be_drawn(name: str) -> None:
    picture = overlay(np.zeros((30, 30, 3), np.uint8), segmentation_of(np.zeros((30, 30)), names=(name,)))
    assert picture.width < 600


@pytest.mark.parametrize("shape", [(1, 1), (2, 900), (900, 2)])
def test_any_size_can_be_drawn(shape: tuple[int, int]) -> None:
    label_map = np.arange(shape[0] * shape[1]).reshape(shape) % 300
    picture = overlay(np.zeros((*shape, 3), np.uint8), segmentation_of(label_map, 300))
    assert picture.width > shape[1]
    assert picture.height >= shape[0]


def test_photo_of_another_size_is_refused() -> None:
    with pytest.raises(ImageError, match="the photo has 5 x 4 pixels, its label map 4 x 5"):
        overlay(np.zeros((4, 5, 3), np.uint8), segmentation_of(np.zeros((5, 4))))
