"""A project's data out: what people annotated, in the files of other trainers."""

import io
import json
from pathlib import Path
from xml.sax.saxutils import quoteattr

import numpy as np
import pytest
import yaml
from PIL import Image
from pycocotools.coco import COCO

from ebseg.data.layouts import LayoutName
from ebseg.data.open import open_data
from ebseg.errors import ConfigError, DataError, LabelConfigError
from ebseg.label_studio.drawing import fill
from tests.unit.training.exchange_world import HEIGHT, WIDTH, ExchangeWorld, blocks
from training.annotations.exporting import Written, export
from training.annotations.labelled_photos import annotated, predicted
from training.annotations.snapshot import decided

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools


@pytest.fixture
def world(tmp_path: Path) -> ExchangeWorld:
    return ExchangeWorld(tmp_path / "home")


@pytest.fixture
def streets(world: ExchangeWorld) -> ExchangeWorld:
    """Four tasks, of which the last is held out, and one that nobody annotated."""
    for number in range(4):
        task = world.add(f"/data/upload/1/0123abc{number}-street_{number}.png", held_out=number == 3)
        world.annotate(task, blocks(number))
    world.add("/data/upload/1/0123abcd-untouched.png")
    return world


NAMES = [f"0123abc{number}-street_{number}" for number in range(4)]


def run(world: ExchangeWorld, out: Path, layout: str, **options) -> Written:
    return export(annotated(*world.given), out, LayoutName(layout), **options)


def maps_of_coco(path: Path) -> dict[str, np.ndarray]:
    """Read a COCO file by pycocotools alone."""
    coco = COCO(str(path))
    names = [category["name"] for category in coco.loadCats(coco.getCatIds())]
    assert names == ["sky", "car"]
    found = {}
    for image in coco.loadImgs(coco.getImgIds()):
        label_map = np.full((image["height"], image["width"]), -1)
        for annotation in coco.loadAnns(coco.getAnnIds([image["id"]])):
            mask = coco.annToMask(annotation) == 1
            assert annotation["area"] == mask.sum() and not annotation["iscrowd"]
            label_map[mask] = annotation["category_id"] - 1
        found[image["file_name"]] = label_map
    return found


@pytest.mark.parametrize("layout", ["coco", "coco-polygons"])
def test_coco_is_what_was_annotated(streets, tmp_path, layout):
    written = run(streets, tmp_path / "out", layout)
    assert (written.photos, written.turned) == ({"train": 3, "val": 1}, 0)
    for split, names in (("train", NAMES[:3]), ("val", NAMES[3:])):
        found = maps_of_coco(tmp_path / "out" / "annotations" / f"{split}.json")
        assert list(found) == [f"{name}.png" for name in names]
        for name, label_map in found.items():
            task = NAMES.index(Path(name).stem) + 1
            np.testing.assert_array_equal(label_map, streets.truth[task])
            photo = (tmp_path / "out" / "images" / split / name).read_bytes()
            assert photo == streets.photos.files[f"/data/upload/1/{name}"]


def lines_of_yolo(path: Path, classes: int) -> list[tuple[int, list[tuple[float, float]]]]:
    """Read a text as strictly as Ultralytics does."""
    found = []
    for line in path.read_text().splitlines():
        first, *numbers = line.split(" ")
        assert 0 <= int(first) < classes and len(numbers) % 2 == 0 and len(numbers) >= 6
        shares = [float(number) for number in numbers]
        assert all(0 <= share <= 1 for share in shares)
        found.append((int(first), list(zip(shares[::2], shares[1::2], strict=True))))
    return found


def test_yolo_is_what_was_annotated(streets, tmp_path):
    empty = streets.add("/empty.png")
    streets.annotate(empty, np.full((HEIGHT, WIDTH), -1, np.int16))
    run(streets, tmp_path / "out", "yolo")
    out = tmp_path / "out"
    description = yaml.safe_load((out / "data.yaml").read_text())
    assert description == {"train": "images/train", "val": "images/val", "names": {0: "sky", 1: "car"}}
    tasks = {**dict(zip(NAMES, range(1, 5), strict=True)), "empty": empty}
    for split, names in (("train", [*NAMES[:3], "empty"]), ("val", NAMES[3:])):
        photos = sorted((out / description[split]).iterdir())
        assert [photo.stem for photo in photos] == names
        for name in names:
            drawn = np.full((HEIGHT, WIDTH), -1)
            for index, points in lines_of_yolo(out / "labels" / split / f"{name}.txt", classes=2):
                drawn[fill(points, HEIGHT, WIDTH)] = index
            np.testing.assert_array_equal(drawn, streets.truth[tasks[name]])


def test_yolo_without_held_out_photos_has_a_folder_for_them(world, tmp_path):
    world.annotate(world.add("/a.png"), blocks(1))
    run(world, tmp_path / "out", "yolo")
    assert list((tmp_path / "out" / "images" / "val").iterdir()) == []


def test_any_name_is_yaml(world, tmp_path):
    odd = ["no", "a: b", "#1", 'it\'s "so"', "back\\slash", "😀 été", "null", "a\u0085b"]
    labels = "".join(f"<Label value={quoteattr(name)}/>" for name in odd)
    world.fake.config = (
        '<View><Image name="image" value="$image"/><BrushLabels name="mask" toName="image">'
        f"{labels}</BrushLabels></View>"
    )
    world.annotate(world.add("/a.png"), blocks(1))
    run(world, tmp_path / "out", "yolo")
    assert yaml.safe_load((tmp_path / "out" / "data.yaml").read_text())["names"] == dict(enumerate(odd))


def test_png_is_what_training_takes(streets, tmp_path):
    run(streets, tmp_path / "out", "png")
    for split, tasks in (("train", [1, 2, 3]), ("val", [4])):
        source = open_data(str(tmp_path / "out" / "data.toml"), split, root=tmp_path, seed=0)
        assert source.vocabulary.prompts == (("sky", "heaven"), ("Auto",))
        assert [source[index].label_map.tolist() for index in range(len(source))] == [
            streets.truth[task].tolist() for task in tasks
        ]


def test_png_without_held_out_photos_has_no_such_part(world, tmp_path):
    world.annotate(world.add("/a.png"), blocks(1))
    run(world, tmp_path / "out", "png")
    assert "[val]" not in (tmp_path / "out" / "data.toml").read_text()
    assert len(open_data(str(tmp_path / "out" / "data.toml"), "train", root=tmp_path, seed=0)) == 1


def test_voc_has_background_0_and_void_255(streets, tmp_path):
    run(streets, tmp_path / "out", "voc")
    out = tmp_path / "out"
    assert (out / "classes.txt").read_text() == "background\nsky\ncar\n"
    sets = out / "ImageSets" / "Segmentation"
    assert (sets / "train.txt").read_text().split() == NAMES[:3]
    assert (sets / "val.txt").read_text().split() == NAMES[3:]
    for task, name in enumerate(NAMES, start=1):
        with Image.open(out / "SegmentationClass" / f"{name}.png") as image:
            assert image.mode == "P"
            assert image.getpalette()[:9] == [0, 0, 0, 128, 0, 0, 0, 128, 0]
            assert image.getpalette()[-3:] == [224, 224, 192]
            values = np.asarray(image)
        expected = streets.truth[task] + 1
        np.testing.assert_array_equal(values, np.where(expected == 0, 255, expected))
        assert (out / "JPEGImages" / f"{name}.png").is_file()


def test_a_label_called_background_is_vocs(world, tmp_path):
    world.fake.config = world.fake.config.replace('value="sky"', 'value="Background"')
    label_map = blocks(1)
    world.annotate(world.add("/a.png"), label_map)
    run(world, tmp_path / "out", "voc")
    assert (tmp_path / "out" / "classes.txt").read_text() == "background\ncar\n"
    with Image.open(tmp_path / "out" / "SegmentationClass" / "a.png") as image:
        np.testing.assert_array_equal(np.asarray(image), np.where(label_map < 0, 255, label_map))


def test_voc_has_room_for_254_labels(world, tmp_path):
    labels = "".join(f'<Label value="label {number}"/>' for number in range(255))
    world.fake.config = (
        '<View><Image name="image" value="$image"/><BrushLabels name="mask" toName="image">'
        f"{labels}</BrushLabels></View>"
    )
    world.annotate(world.add("/a.png"), blocks(1, labels=255))
    with pytest.raises(DataError, match="voc has room for 254 labels, but there are 255: use png or coco"):
        run(world, tmp_path / "out", "voc")
    run(world, tmp_path / "out", "png")
    source = open_data(str(tmp_path / "out" / "data.toml"), "train", root=tmp_path, seed=0)
    np.testing.assert_array_equal(source[0].label_map, world.truth[1])


def test_what_is_held_out_stays_so(streets, tmp_path):
    """The export decides as the loop does, which remembers it."""
    run(streets, tmp_path / "first", "coco")
    assert sorted(decided(streets.storage, 1).values()) == [False, False, False, True]
    streets.settings = streets.settings.model_copy(update={"held_out_share": 0.99})
    assert run(streets, tmp_path / "second", "coco").photos == {"train": 3, "val": 1}


def test_the_storage_has_what_was_read(streets, tmp_path):
    run(streets, tmp_path / "first", "coco")
    fetched = len(streets.photos.fetched)
    run(streets, tmp_path / "second", "voc")
    assert len(streets.photos.fetched) == fetched == 4


def test_a_bad_task_is_named_and_the_rest_goes_on(streets, tmp_path):
    del streets.photos.files["/data/upload/1/0123abc1-street_1.png"]
    odd = streets.add("/odd.png")
    streets.fake.annotate(odd, [{"to_name": "image", "id": "r", "value": {"rle": [1, 2]}}])
    empty = streets.add("/empty.png")
    streets.fake.annotate(empty, [])
    labelled = annotated(*streets.given)
    assert export(labelled, tmp_path / "out", LayoutName.COCO).photos == {"train": 3, "val": 1}
    assert list(labelled.left_out) == [2, odd]
    assert "not found" in labelled.left_out[2] and 'region "r"' in labelled.left_out[odd]
    found = maps_of_coco(tmp_path / "out" / "annotations" / "train.json")
    assert (found["empty.png"] == -1).all()  # somebody looked at it, and labelled nothing


def test_a_task_of_whose_regions_nothing_is_left_is_named(streets, tmp_path):
    streets.fake.config = streets.fake.config.replace('value="sky"', 'value="moon"')
    sky = streets.add("/sky.png")
    value = {"x": 0, "y": 0, "width": 50, "height": 50, "rectanglelabels": ["sky"]}
    streets.fake.annotate(sky, [{"to_name": "image", "id": "r", "value": value}])
    labelled = annotated(*streets.given)
    export(labelled, tmp_path / "out", LayoutName.COCO)
    assert "none of its 1 regions shows a label" in labelled.left_out[sky]


def test_a_damaged_file_of_the_storage_is_its_tasks_fault(streets, tmp_path):
    labelled = annotated(*streets.given)
    (broken, *_) = streets.storage.keys("snapshots/project-1/label_maps")
    streets.storage.write(broken, b"no PNG")
    assert export(labelled, tmp_path / "out", LayoutName.PNG).photos.total() == 3
    ((_, why),) = labelled.left_out.items()
    assert "cannot be read as a label map" in why


def test_only_what_a_person_marked_as_ground_truth(streets, tmp_path):
    streets.fake.change(2, ground_truth=True)
    labelled = annotated(*streets.given, reviewed_only=True)
    export(labelled, tmp_path / "out", LayoutName.COCO)
    assert list(maps_of_coco(tmp_path / "out" / "annotations" / "train.json")) == [f"{NAMES[1]}.png"]
    assert run(streets, tmp_path / "all", "coco").photos.total() == 4  # the snapshot has them still


def test_predictions_of_the_version_that_the_project_shows(streets, tmp_path):
    ours, other = blocks(7), blocks(8)
    for task in (2, 4, 5):
        streets.fake.predict(task, streets.regions(other), "model-2")
        streets.fake.predict(task, streets.regions(other), "model-1")
        streets.fake.predict(task, streets.regions(ours), "model-1")
    streets.fake.predict(1, streets.regions(other), "model-2")
    streets.fake.model_version = "model-1"
    labelled = predicted(*streets.given)
    assert export(labelled, tmp_path / "out", LayoutName.COCO).photos == {"train": 2, "val": 1}
    found = maps_of_coco(tmp_path / "out" / "annotations" / "train.json")
    assert list(found) == [f"{NAMES[1]}.png", "0123abcd-untouched.png"]
    for label_map in found.values():
        np.testing.assert_array_equal(label_map, ours)


def test_a_bad_prediction_is_named(streets, tmp_path):
    streets.fake.predict(1, streets.regions(blocks(1)), "model-1")
    streets.fake.predict(2, streets.regions(blocks(1, (HEIGHT, WIDTH + 4))), "model-1")
    streets.fake.model_version = "model-1"
    labelled = predicted(*streets.given)
    assert export(labelled, tmp_path / "out", LayoutName.COCO).photos == {"train": 1}
    assert "was the photo replaced?" in labelled.left_out[2]


def test_a_project_that_shows_no_version_is_told(streets):
    with pytest.raises(DataError, match="project 1 shows no version of predictions: choose one"):
        predicted(*streets.given)


def test_a_version_of_no_prediction_is_told(streets, tmp_path):
    streets.fake.predict(1, [], "model-1")
    streets.fake.model_version = "the backend's title"
    with pytest.raises(DataError, match="there is nothing to export: no task has what was asked for"):
        export(predicted(*streets.given), tmp_path / "out", LayoutName.COCO)


def test_nothing_is_left_where_there_is_nothing_to_export(world, tmp_path):
    world.annotate(world.add("/a.png"), blocks(1))
    world.photos.files.clear()
    with pytest.raises(DataError, match="1 tasks cannot be read, such as 1: /a.png: not found"):
        run(world, tmp_path / "below" / "out", "coco")
    assert list((tmp_path / "below").iterdir()) == []


def test_a_config_that_cannot_be_read_is_told(world, tmp_path):
    world.fake.config = "<View/>"
    with pytest.raises(LabelConfigError):
        run(world, tmp_path / "out", "coco")


@pytest.mark.parametrize("stop", [KeyboardInterrupt, OSError])
def test_what_is_stopped_leaves_no_folder(streets, tmp_path, stop):
    def break_off() -> None:
        raise stop

    with pytest.raises(stop):
        run(streets, tmp_path / "below" / "out", "coco", progress=break_off)
    assert list((tmp_path / "below").iterdir()) == []


def test_photos_are_linked(streets, tmp_path):
    run(streets, tmp_path / "out", "coco", link=True)
    for photo in (tmp_path / "out" / "images" / "train").iterdir():
        assert photo.stat().st_nlink == 2
        assert photo.read_bytes() == streets.photos.files[f"/data/upload/1/{photo.name}"]


def test_photos_on_another_file_system_are_pointed_to(streets, tmp_path, monkeypatch):
    def refuse(*paths: Path) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr("os.link", refuse)
    run(streets, tmp_path / "out", "coco", link=True)
    photo = tmp_path / "out" / "images" / "train" / f"{NAMES[0]}.png"
    assert photo.is_symlink()
    assert photo.read_bytes() == streets.photos.files[f"/data/upload/1/{NAMES[0]}.png"]


def test_photos_that_are_no_files_here_are_not_linked(streets, tmp_path):
    streets.fake.predict(1, streets.regions(blocks(1)), "model-1")
    streets.fake.model_version = "model-1"
    with pytest.raises(
        ConfigError, match="task 1 was fetched just now and is no file here: leave --link out"
    ):
        export(predicted(*streets.given), tmp_path / "out", LayoutName.COCO, link=True)
    assert not (tmp_path / "out").exists()


def test_photos_of_one_name_get_their_tasks_numbers(world, tmp_path):
    for name in ("s3://bucket/left/1.png", "s3://bucket/right/1.png", "s3://bucket/left/2.png"):
        world.annotate(world.add(name), blocks(1))
    run(world, tmp_path / "out", "png")
    assert sorted(path.name for path in (tmp_path / "out" / "images" / "train").iterdir()) == [
        "2.png", "task1-1.png", "task2-1.png",
    ]  # fmt: skip


def test_a_photo_without_an_ending_gets_its_formats(world, tmp_path):
    world.annotate(world.add("http://cameras.test/shot?id=1"), blocks(1))
    world.annotate(world.add("data:image/png;base64,AAAA/"), blocks(1))
    run(world, tmp_path / "out", "png")
    assert sorted(path.name for path in (tmp_path / "out" / "images" / "train").iterdir()) == [
        "shot.png", "task2.png",
    ]  # fmt: skip


def test_photos_that_are_turned_are_counted(world, tmp_path):
    lying = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (HEIGHT, WIDTH)).save(lying, "JPEG", exif=exif)
    task = world.add("/a.jpg")
    world.photos.files["/a.jpg"] = lying.getvalue()
    world.annotate(task, blocks(1, (HEIGHT, WIDTH)))
    assert run(world, tmp_path / "out", "coco").turned == 1


def test_the_same_photos_make_the_same_files(streets, tmp_path):
    for name in ("first", "second"):
        run(streets, tmp_path / name, "coco")
    first, second = (
        {path.relative_to(tmp_path / name): path.read_bytes() for path in _files(tmp_path / name)}
        for name in ("first", "second")
    )
    assert first == second
    assert json.loads(first[Path("annotations/train.json")])["images"][0]["file_name"] == f"{NAMES[0]}.png"


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]
