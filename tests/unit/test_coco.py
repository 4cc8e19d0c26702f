import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import typer
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from typer.testing import CliRunner

from ebseg.commands.coco import import_coco
from ebseg.commands.predict import predict
from ebseg.data import coco_masks
from ebseg.data.coco import LabelMapReaders, load_panoptic, load_stuff, read_categories
from ebseg.data.coco_writers import (
    PanopticWriter,
    PolygonWriter,
    StuffWriter,
    polygons,
    stuff_annotations,
)
from ebseg.data.folder import FolderSource
from ebseg.errors import DataError, VocabularyError
from ebseg.label_lists import read_file
from ebseg.label_studio.drawing import fill

LabelMap = npt.NDArray[np.int16]


def names(count: int) -> list[str]:
    return [f"label {index}" for index in range(count)]


def noise(labels: int, shape: tuple[int, int] = (37, 53)) -> LabelMap:
    return np.random.default_rng(0).integers(-1, labels, shape).astype(np.int16)


def single_pixel() -> LabelMap:
    label_map = np.full((5, 4), -1, np.int16)
    label_map[4, 0] = 1
    return label_map


MAPS = {
    "empty": (3, np.full((6, 9), -1, np.int16)),
    "full": (1, np.zeros((6, 9), np.int16)),
    "one pixel": (1, np.zeros((1, 1), np.int16)),
    "single pixel": (2, single_pixel()),
    "blocks": (3, np.repeat(np.int16([[0, 2, -1], [1, 0, 2]]), 7, axis=0).repeat(5, axis=1)),
    "long runs": (2, np.kron(np.int16([[0, -1], [1, 0]]), np.ones((310, 450), np.int16))),
    "many labels": (340, noise(340)),
    "more labels than 16 bits of colour hold in one channel": (847, noise(847)),
}


def write(folder: Path, label_maps: dict[str, LabelMap], labels: int) -> tuple[Path, Path]:
    stuff = StuffWriter(folder / "stuff.json", names(labels))
    panoptic = PanopticWriter(folder / "panoptic.json", names(labels))
    for writer in (stuff, panoptic):
        for name, label_map in label_maps.items():
            writer.add(name, label_map)
        writer.close()
    return stuff.path, panoptic.path


def read_both(folder: Path, labels: int) -> list[LabelMapReaders]:
    return [
        load_stuff(folder / "stuff.json", labels),
        load_panoptic(folder / "panoptic.json", folder / "panoptic", labels),
    ]


def change(path: Path, **changed: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changed))


@pytest.fixture
def stuff(tmp_path: Path) -> Path:
    """A stuff file of one photo, a.jpg of 4 x 2 pixels, with three labels."""
    return write(tmp_path, {"a.jpg": np.int16([[0, 0, 1, -1], [0, 0, -1, 1]])}, 3)[0]


@pytest.mark.parametrize("case", MAPS)
def test_label_maps_come_back_exactly(case: str, tmp_path: Path) -> None:
    labels, label_map = MAPS[case]
    write(tmp_path, {"a.jpg": label_map}, labels)
    for label_maps in read_both(tmp_path, labels):
        assert list(label_maps) == ["a"]
        read = label_maps["a"]()
        assert read.dtype == np.int16
        assert read.shape == label_map.shape
        assert (read == label_map).all()


def test_photos_are_kept_apart_by_their_paths(tmp_path: Path) -> None:
    first, second, third = (np.full((2, 3), label, np.int16) for label in (0, 1, -1))
    write(tmp_path, {"x.one.jpg": first, "sub/x.one.jpg": second, "y.PNG": third}, 2)
    for label_maps in read_both(tmp_path, 2):
        found = {name: read()[0, 0] for name, read in label_maps.items()}
        assert found == {"x.one": 0, "sub/x.one": 1, "y": -1}
    assert sorted(path.name for path in tmp_path.rglob("*")) == sorted(
        ["panoptic", "panoptic.json", "stuff.json", "sub", "x.one.png", "x.one.png", "y.png"]
    )
    assert read_categories(tmp_path / "stuff.json") == read_categories(tmp_path / "panoptic.json")
    assert read_categories(tmp_path / "stuff.json").names == ("label 0", "label 1")


# pycocotools 2.0.11 is not ready for NumPy 2's __array__; the masks are right all the same.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_pycocotools_reads_the_same_from_file_and_results(tmp_path: Path) -> None:
    label_map = noise(5)
    path, _ = write(tmp_path, {"a.jpg": np.full((3, 3), -1, np.int16), "b.jpg": label_map}, 5)
    truth = COCO(str(path))
    results = truth.loadRes(stuff_annotations(label_map, 2, range(1, 6)))
    for coco in (truth, results):
        assert [image["file_name"] for image in coco.loadImgs(coco.getImgIds())] == ["a.jpg", "b.jpg"]
        assert [category["name"] for category in coco.loadCats(coco.getCatIds())] == names(5)
        assert coco.getAnnIds(imgIds=[1]) == []
        annotations = coco.loadAnns(coco.getAnnIds(imgIds=[2]))
        assert [annotation["category_id"] for annotation in annotations] == [1, 2, 3, 4, 5]
        for annotation in annotations:
            mask = label_map == annotation["category_id"] - 1
            rows, columns = np.nonzero(mask)
            assert (coco.annToMask(annotation) == mask).all()
            assert annotation["area"] == mask.sum()
            assert list(annotation["bbox"]) == [
                columns.min(),
                rows.min(),
                np.ptp(columns) + 1,
                np.ptp(rows) + 1,
            ]


def test_panoptic_pixels_are_ids_in_three_bytes(tmp_path: Path) -> None:
    _, path = write(tmp_path, {"a.jpg": np.int16([[-1, 0, 254, 255, 699]])}, 700)
    with Image.open(tmp_path / "panoptic" / "a.png") as image:
        assert image.mode == "RGB"
        assert np.array(image).tolist() == [[[0, 0, 0], [1, 0, 0], [255, 0, 0], [0, 1, 0], [188, 2, 0]]]
    content = json.loads(path.read_text())
    (annotation,) = content["annotations"]
    assert annotation["file_name"] == "a.png"
    assert annotation["segments_info"][1] == {
        "id": 255,
        "category_id": 255,
        "area": 1,
        "bbox": [2, 0, 1, 1],
        "iscrowd": 0,
    }
    assert not any(category["isthing"] for category in content["categories"])


def test_things_of_other_programs_become_labels(tmp_path: Path) -> None:
    """COCO's panoptic files have several segments a category and ids that use all three bytes."""
    Image.fromarray(np.uint8([[[1, 2, 3], [9, 0, 0], [0, 0, 0], [7, 0, 0]]])).save(tmp_path / "p.png")
    segments = [(1 + 2 * 256 + 3 * 65536, 200), (9, 200), (7, 17)]
    content = {
        "images": [{"id": "i", "file_name": "photo.jpg", "width": 4, "height": 1, "license": 3}],
        "categories": [{"id": 17, "name": "cat"}, {"id": 200, "name": "rug"}],
        "annotations": [
            {
                "image_id": "i",
                "file_name": "p.png",
                "segments_info": [{"id": id_, "category_id": category} for id_, category in segments],
            }
        ],
    }
    (tmp_path / "p.json").write_text(json.dumps(content))
    assert load_panoptic(tmp_path / "p.json", tmp_path, 2)["photo"]().tolist() == [[1, 1, -1, 0]]


def test_of_overlapping_masks_the_later_wins(stuff: Path) -> None:
    annotations = json.loads(stuff.read_text())["annotations"]
    over = coco_mask.encode(np.asfortranarray(np.uint8([[0, 1, 1, 0], [0, 0, 0, 0]])))
    annotations.append(annotations[0] | {"id": 9, "category_id": 3})
    annotations[-1]["segmentation"] = {"size": [2, 4], "counts": over["counts"].decode()}
    change(stuff, annotations=annotations)
    assert load_stuff(stuff, 3)["a"]().tolist() == [[0, 2, 2, -1], [0, 0, -1, 1]]


def test_runs_may_be_a_list_of_numbers(stuff: Path) -> None:
    annotations = json.loads(stuff.read_text())["annotations"]
    annotations[1]["segmentation"]["counts"] = [4, 1, 2, 1]
    change(stuff, annotations=annotations)
    assert load_stuff(stuff, 3)["a"]().tolist() == [[0, 0, 1, -1], [0, 0, -1, 1]]


@pytest.mark.parametrize("key", ["image_id", "file_name"])
def test_bare_results_name_their_photos(key: str, tmp_path: Path) -> None:
    first, second = noise(3), noise(3)[:9]
    results = []
    for name, label_map in (("datasets/val/one.x.jpg", first), ("two", second)):
        for annotation in stuff_annotations(label_map, 0, range(3)):
            del annotation["image_id"]
            results.append(annotation | {key: name})
    (tmp_path / "r.json").write_text(json.dumps(results))
    label_maps = load_stuff(tmp_path / "r.json", 3)
    assert list(label_maps) == ["one.x", "two"]
    assert (label_maps["one.x"]() == first).all()
    assert (label_maps["two"]() == second).all()


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("/etc/a.jpg", "a"),
        ("../../a.jpg", "a"),
        ("x/../../a.jpg", "a"),
        ("C:\\photos\\a.jpg", "a"),
        ("\\\\server\\share\\a.jpg", "a"),
        ("train\\a.jpg", "train/a"),
        ("https://example.com/some/a%20b.jpg?size=large#top", "a b"),
        ("http://studio/data/local-files/?d=street/a.jpg", "a"),
        ("/data/local-files/?d=street%5Ca.jpg", "a"),
        ("s3://bucket/street/a.jpg", "a"),
        ("a\u0308.jpg", "\u00e4"),
        ("a.heic", "a"),
    ],
)
def test_paths_of_photos_stay_inside_their_folder(name: str, key: str, stuff: Path) -> None:
    images = json.loads(stuff.read_text())["images"]
    change(stuff, images=[images[0] | {"file_name": name}])
    assert list(load_stuff(stuff, 3)) == [key]


def square(left: float, top: float, right: float, bottom: float) -> list[float]:
    return [left, top, right, top, right, bottom, left, bottom]


def instances(path: Path, polygons: list[list[list[float]]], **photo: object) -> Path:
    """Write COCO instances of a photo of 40 x 30 pixels, each of a category of its own."""
    content = {
        "images": [{"id": 7, "file_name": "a.jpg", "width": 40, "height": 30} | photo],
        "categories": [{"id": 10 + index, "name": name} for index, name in enumerate(names(len(polygons)))],
        "annotations": [
            {"id": index, "image_id": 7, "category_id": 10 + index, "iscrowd": 0, "area": 1.0,
             "bbox": [0, 0, 1, 1], "segmentation": of_one}
            for index, of_one in enumerate(polygons)
        ],
    }  # fmt: skip
    path.write_text(json.dumps(content))
    return path


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_polygons_are_filled_as_pycocotools_does(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    polygons = [(rng.random((2, 12)) * 50 - 5).round(2).tolist() for _ in range(20)]
    for number, polygon in enumerate(polygons):
        path = instances(tmp_path / f"{number}.json", [polygon])
        truth = COCO(str(path))
        mask = truth.annToMask(truth.loadAnns(truth.getAnnIds())[0])
        assert ((load_stuff(path, 1)["a"]() == 0) == mask).all()


def test_polygons_become_labels_and_the_later_wins(tmp_path: Path) -> None:
    two = [square(0, 0, 10, 10), square(30, 20, 100, 100)]
    path = instances(tmp_path / "i.json", [two, [square(5, 0, 15, 10)], [[3, 3, 4, 4]]])
    expected = np.full((30, 40), -1, np.int16)
    expected[:10, :10], expected[20:, 30:] = 0, 0
    expected[:10, 5:15] = 1
    assert (load_stuff(path, 3)["a"]() == expected).all()  # two corners have no inside


@pytest.mark.parametrize(
    ("polygon", "message"),
    [
        ([0, 0, 1, 0, 1, 1, 0], "a polygon has an x without its y"),
        ([0, 0, 1e6, 0] * 4, "outlines are longer than 5000000 pixels"),
    ],
)
def test_damaged_polygons_are_told(polygon: list[float], message: str, tmp_path: Path) -> None:
    read = load_stuff(instances(tmp_path / "i.json", [[polygon]]), 1)["a"]
    with pytest.raises(DataError, match=f"i.json: the mask of annotation 0 is damaged .*{message}"):
        read()


def test_a_byte_order_mark_is_passed_over(stuff: Path) -> None:
    stuff.write_bytes(b"\xef\xbb\xbf" + stuff.read_bytes())
    assert read_categories(stuff).names == ("label 0", "label 1", "label 2")
    assert load_stuff(stuff, 3)["a"]().tolist() == [[0, 0, 1, -1], [0, 0, -1, 1]]


def test_a_photo_without_a_size_has_that_of_its_masks(
    stuff: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    images = json.loads(stuff.read_text())["images"]
    nothing = {"width": None, "height": None}
    change(stuff, images=[images[0] | nothing, {"id": 2, "file_name": "b.jpg"} | nothing])
    assert load_stuff(stuff, 3).keys() == {"a"}
    assert load_stuff(stuff, 3)["a"]().tolist() == [[0, 0, 1, -1], [0, 0, -1, 1]]
    assert "1 photos have neither a size nor a mask and are left out, such as b.jpg" in caplog.text
    path = instances(tmp_path / "i.json", [[square(0, 0, 9, 9)]], **nothing)
    with pytest.raises(DataError, match="i.json: no size is given for a.jpg, which its polygons need"):
        load_stuff(path, 1)
    _, panoptic = write(tmp_path, {"a.jpg": np.int16([[0, 1]])}, 2)
    change(panoptic, images=[images[0] | nothing])
    assert load_panoptic(panoptic, tmp_path / "panoptic", 2)["a"]().tolist() == [[0, 1]]


def test_pngs_are_found_whatever_their_names_form_and_slashes(tmp_path: Path) -> None:
    _, path = write(tmp_path, {"x/a.jpg": np.int16([[0, 1]])}, 2)
    (tmp_path / "panoptic" / "x" / "a.png").rename(tmp_path / "panoptic" / "x" / "a\u0308.png")
    annotations = json.loads(path.read_text())["annotations"]
    change(path, annotations=[annotations[0] | {"file_name": "x\\\u00e4.png"}])
    assert load_panoptic(path, tmp_path / "panoptic", 2)["x/a"]().tolist() == [[0, 1]]


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ("04", "its runs do not make 4 x 2 pixels"),
        ("044:", "its runs do not make 4 x 2 pixels"),
        ("0O4", "its runs do not make 4 x 2 pixels"),  # a run of -1
        ("", "not COCO's run-length code"),
        ("04P", "not COCO's run-length code"),
        ("0PPPPPPPP4", "not COCO's run-length code"),
        ("zzzz", "not COCO's run-length code"),
        ("é\x00", "not COCO's run-length code"),
        ([], "its runs do not make 4 x 2 pixels"),
        ([0, 4], "its runs do not make 4 x 2 pixels"),
        ([0, 4, 5], "its runs do not make 4 x 2 pixels"),
    ],
)
def test_damaged_masks_are_told(counts: object, message: str, stuff: Path) -> None:
    annotations = json.loads(stuff.read_text())["annotations"]
    annotations[0]["segmentation"]["counts"] = counts
    change(stuff, annotations=annotations)
    read = load_stuff(stuff, 3)["a"]
    with pytest.raises(DataError, match="stuff.json: the mask of annotation 0 is damaged") as caught:
        read()
    assert message in str(caught.value)


def test_whatever_the_text_a_mask_is_read_or_refused() -> None:
    rng = np.random.default_rng(0)
    read = 0
    for _ in range(3000):
        text = bytes(rng.integers(48, 70, rng.integers(1, 6)).astype(np.uint8)).decode()
        try:
            mask = coco_masks.decode(text, (3, 5))
        except ValueError:
            continue
        read += 1
        assert mask.shape == (3, 5)
    assert read > 0


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (("annotations", 1, "segmentation", "counts"), None, "annotations.1.segmentation.counts"),
        (("annotations", 1, "segmentation", "counts"), [2**70], "annotations.1.segmentation.counts"),
        (("annotations", 1, "segmentation", "counts"), [-1], "annotations.1.segmentation.counts"),
        (("annotations", 1, "segmentation", "size"), [2], "annotations.1.segmentation.size"),
        (("annotations", 0, "segmentation"), [[0, 0, "x", 0]], "annotations.0.segmentation.0.2: "),
        (("annotations", 0, "segmentation"), [[0, 0, 1e9, 0]], "annotations.0.segmentation.0.2: "),
        (("annotations", 0, "segmentation"), "rle", "annotations.0.segmentation: "),
        (("annotations", 0, "segmentation"), [], "annotation 0 has no mask, and a box or points say nothing"),
        (("images", 0, "width"), 50_000_000, "a photo of 50000000 x 2 pixels is larger than 50 megapixels"),
        (("images", 0, "file_name"), "..", "stuff.json: no file can be called '..'"),
        (("annotations", 1, "category_id"), 4, "annotation 1 has the category 4, which is none of the 3"),
        (("annotations", 1, "image_id"), 7, "annotation 1 is of image 7, which is not listed"),
        (("images", 0, "width"), 0, "images.0.width"),
        (("images",), None, "images: "),
        (("categories", 0, "id"), 2, "2 different categories, but there are 3 labels"),
    ],
)
def test_faulty_entries_are_told(
    place: tuple[str | int, ...], value: object, message: str, stuff: Path
) -> None:
    content = json.loads(stuff.read_text())
    parent = content
    for key in place[:-1]:
        parent = parent[key]
    parent[place[-1]] = value
    stuff.write_text(json.dumps(content))
    with pytest.raises(DataError, match="stuff.json") as caught:
        load_stuff(stuff, 3)
    assert message in str(caught.value)


@pytest.mark.parametrize("content", ["", "{", "[1", "null", '{"images": []}', "[{}]", "\xff"])
def test_files_that_are_not_coco_are_told(content: str, tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(content.encode("latin-1"))
    for load in (lambda: load_stuff(path, 1), lambda: load_panoptic(path, tmp_path, 1)):
        with pytest.raises(DataError, match="x.json"):
            load()
    with pytest.raises(DataError, match="none.json: cannot be read"):
        load_stuff(tmp_path / "none.json", 1)


def test_other_label_lists_and_sizes_are_told(stuff: Path) -> None:
    with pytest.raises(DataError, match="3 different categories, but there are 171 labels"):
        load_stuff(stuff, 171)
    with pytest.raises(DataError, match="3 different categories, but there are 2 labels"):
        load_panoptic(stuff.with_name("panoptic.json"), stuff.with_name("panoptic"), 2)
    images = json.loads(stuff.read_text())["images"]
    change(stuff, images=[images[0] | {"width": 2, "height": 4}])
    with pytest.raises(DataError, match="4 x 2 pixels, but its photo has 2 x 4"):
        load_stuff(stuff, 3)["a"]()
    change(stuff, images=images * 2)
    with pytest.raises(DataError, match="two photos are called a"):
        load_stuff(stuff, 3)


def test_bare_results_without_names_are_told(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    path.write_text(json.dumps(stuff_annotations(noise(3), 139, range(3))))
    with pytest.raises(DataError, match="entry 0 is of image 139, which names no photo"):
        load_stuff(path, 3)


def test_the_other_kind_of_file_is_told(tmp_path: Path) -> None:
    stuff, panoptic = write(tmp_path, {"a.jpg": np.int16([[0, 1]])}, 2)
    with pytest.raises(DataError, match=r"panoptic.json: this is a panoptic file: give --panoptic DIR"):
        load_stuff(panoptic, 2)
    with pytest.raises(DataError, match=r"stuff.json: this is no panoptic file.*: leave --panoptic out"):
        load_panoptic(stuff, tmp_path, 2)


def test_pngs_that_do_not_fit_their_json_are_told(tmp_path: Path) -> None:
    _, path = write(tmp_path, {"a.jpg": np.int16([[0, 1]])}, 2)
    png = tmp_path / "panoptic" / "a.png"
    read = load_panoptic(path, png.parent, 2)["a"]
    Image.fromarray(np.uint8([[[1, 0, 0], [3, 0, 0]]])).save(png)
    with pytest.raises(DataError, match="a.png: its JSON does not list the segment 3"):
        read()
    Image.fromarray(np.zeros((5, 2, 3), np.uint8)).save(png)
    with pytest.raises(DataError, match="a.png: 2 x 5 pixels, but its photo has 2 x 1"):
        read()
    png.write_bytes(png.read_bytes()[:40])
    with pytest.raises(DataError, match="a.png: cannot be read as a PNG"):
        read()
    png.unlink()
    with pytest.raises(DataError, match="a.png: cannot be read as a PNG"):
        read()


@pytest.fixture
def app() -> typer.Typer:
    app = typer.Typer()
    app.command()(predict)
    app.command("import-coco")(import_coco)
    return app


def test_predictions_come_back_from_coco_files(
    app: typer.Typer, random_checkpoint: Path, tmp_path: Path
) -> None:
    photos, out = tmp_path / "photos", tmp_path / "out"
    for name in ("one.jpg", "sub/one.jpg", "two.png"):
        (photos / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(len(name)).integers(0, 256, (30, 40, 3), np.uint8)).save(
            photos / name
        )
    (photos / "broken.jpg").write_text("no photo")
    labels = "sky,road,car|automobile"
    arguments = ["--labels", labels, "--model", str(random_checkpoint), "--out", str(out), "--coco"]
    result = CliRunner().invoke(app, ["predict", str(photos), *arguments])
    assert result.exit_code == 1, result.output  # one photo is broken
    assert read_categories(out / "coco" / "stuff.json").names == ("sky", "road", "car")
    for options in (
        [out / "coco" / "stuff.json"],
        [out / "coco" / "panoptic.json", "--panoptic", out / "coco" / "panoptic"],
    ):
        imported = tmp_path / f"imported-{len(options)}"
        arguments = ["import-coco", *map(str, options), "--out", str(imported)]
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 0, result.output
        assert "3 label maps, 3 labels" in result.output
        (photos / "broken.jpg").unlink(missing_ok=True)
        source = FolderSource(photos, imported, read_file(imported / "labels.json"))
        assert source.without_labels == ()
        for name, sample in zip(source.names, source, strict=True):
            with Image.open((out / name).with_suffix(".png")) as image:
                assert (np.array(image) == sample.label_map.astype(np.uint8)).all()


def test_results_do_not_fall_among_coco_files(
    app: typer.Typer, random_checkpoint: Path, tmp_path: Path
) -> None:
    photo = tmp_path / "photos" / "coco" / "panoptic" / "a.jpg"
    photo.parent.mkdir(parents=True)
    Image.new("RGB", (40, 30)).save(photo)
    arguments = [
        "predict",
        str(tmp_path / "photos"),
        "--labels",
        "sky",
        "--out",
        str(tmp_path / "out"),
        "--coco",
    ]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2
    assert "would fall among the COCO files" in " ".join(result.output.replace("│", " ").split())
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["car", "Car", "sky"], "label 2 'Car' repeats 'car' of label 1"),
        (["car", "", "sky"], "label 2 has an empty name"),
        ([], "0 labels"),
    ],
)
def test_lists_of_categories_that_nothing_accepts_are_refused(
    names: list[str], message: str, app: typer.Typer, stuff: Path, tmp_path: Path
) -> None:
    change(stuff, categories=[{"id": id_, "name": name} for id_, name in enumerate(names, start=1)])
    with pytest.raises(VocabularyError, match=f"stuff.json: categories: .*{message}.*; rename or merge them"):
        read_categories(stuff)
    out = tmp_path / "out"
    result = CliRunner().invoke(app, ["import-coco", str(stuff), "--out", str(out)])
    assert result.exit_code == 1
    assert isinstance(result.exception, VocabularyError)
    assert not out.exists()


def test_an_imported_list_of_labels_can_be_predicted_with(
    app: typer.Typer, stuff: Path, random_checkpoint: Path, tmp_path: Path
) -> None:
    change(stuff, categories=[{"id": id_, "name": name} for id_, name in enumerate(("a|b", "道", "c"), 1)])
    result = CliRunner().invoke(app, ["import-coco", str(stuff), "--out", str(tmp_path / "maps")])
    assert result.exit_code == 0, result.output
    Image.new("RGB", (40, 30)).save(tmp_path / "a.png")
    result = CliRunner().invoke(
        app,
        ["predict", str(tmp_path / "a.png"), "--labels", f"@{tmp_path / 'maps' / 'labels.json'}",
         "--model", str(random_checkpoint), "--out", str(tmp_path / "out"), "--json"],
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    rows = json.loads(result.stdout)[0]["labels"]
    assert {row["index"]: row["label"] for row in rows} == {0: "a|b", 1: "道", 2: "c"}


@pytest.mark.parametrize(("labels", "label_map"), list(MAPS.values())[:5])
def test_polygons_are_the_label_map_to_the_pixel(tmp_path: Path, labels: int, label_map: LabelMap) -> None:
    writer = PolygonWriter(tmp_path / "polygons.json", names(labels))
    writer.add("a.jpg", label_map)
    writer.close()
    np.testing.assert_array_equal(load_stuff(writer.path, labels)["a"](), label_map)


@pytest.mark.parametrize("seed", range(20))
def test_polygons_keep_holes_and_touching_corners(seed: int) -> None:
    """Pycocotools fills by the even-odd rule, Label Studio's canvas by the nonzero one."""
    random = np.random.default_rng(seed)
    mask = random.random((17, 23)) < random.random()
    mask[0, 0] = True
    rings = polygons(mask)
    filled = coco_masks.fill([ring.ravel().tolist() for ring in rings], mask.shape)
    np.testing.assert_array_equal(filled, mask)
    drawn = [fill([(x / 23, y / 17) for x, y in ring.tolist()], 17, 23) for ring in rings]
    np.testing.assert_array_equal(np.any(drawn, axis=0), mask)
