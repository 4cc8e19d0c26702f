"""Data in: other systems' masks become predictions or annotations of the tasks that are there."""

import json
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from ebseg.data.coco_writers import stuff_annotations
from ebseg.data.layouts import LayoutName
from ebseg.data.mask_sets import SourceName, open_masks
from ebseg.errors import DataError, HostUnavailable, VocabularyError
from ebseg.label_studio.annotations import paint
from ebseg.label_studio.tasks import TaskPhoto, read_label_config
from tests.unit.training.exchange_world import HEIGHT, WIDTH, ExchangeWorld, blocks, photo
from training.annotations import label_studio
from training.annotations.exporting import export
from training.annotations.importing import Imported, import_masks, regions_of
from training.annotations.label_studio import LabelStudioUnavailable
from training.annotations.labelled_photos import annotated
from training.annotations.labelled_photos import predicted as predicted_photos

SIZE = (HEIGHT, WIDTH)


@pytest.fixture
def world(tmp_path: Path) -> ExchangeWorld:
    return ExchangeWorld(tmp_path / "home")


def run(world: ExchangeWorld, path: Path, source: str = "coco", **options: Any) -> Imported:
    studio, photos, _, project, settings = world.given
    return import_masks(studio, photos, project, settings, open_masks(path, SourceName(source)), **options)


def write_coco(
    path: Path, photos: dict[str, list[dict[str, Any]]], names: tuple[str, ...] = ("sky", "car")
) -> Path:
    """Write a COCO file: for each photo its annotations, without their image."""
    images = [
        {"id": number, "file_name": name, "width": WIDTH, "height": HEIGHT}
        for number, name in enumerate(photos, start=7)
    ]
    annotations = [
        {"image_id": image["id"], **each} for image in images for each in photos[image["file_name"]]
    ]
    categories = [{"id": number, "name": name} for number, name in enumerate(names, start=1)]
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return path


def masks(label_map: np.ndarray) -> list[dict[str, Any]]:
    return [
        {key: value for key, value in each.items() if key != "image_id"}
        for each in stuff_annotations(label_map, 0, [1, 2])
    ]


def box(left: int = 0, right: int = 10, **more: Any) -> dict[str, Any]:
    return {"category_id": 1, "segmentation": [[left, 0, right, 0, right, 5, left, 5]]} | more


def predicted(world: ExchangeWorld, task: int) -> np.ndarray:
    (found,) = (each for each in world.fake.predictions.values() if each["task"] == task)
    question = read_label_config(world.fake.config).questions[0]
    return paint(found["result"], question, *SIZE).label_map


def test_predictions_of_a_version_that_the_content_names(world, tmp_path):
    truth = blocks(1)
    task = world.add("/data/upload/1/0123abcd-a.png")
    path = write_coco(tmp_path / "a.json", {"a.jpg": masks(truth)})
    done = run(world, path)
    assert (done.stored, done.there, done.left_out, done.unknown) == ([task], [], {}, [])
    np.testing.assert_array_equal(predicted(world, task), truth)
    assert {each["model_version"] for each in world.fake.predictions.values()} == {done.version}
    assert done.version.startswith("import-") and {
        each["score"] for each in world.fake.predictions.values()
    } == {1}


def test_the_same_import_twice_stores_nothing_twice(world, tmp_path):
    task = world.add("/a.png")
    path = write_coco(tmp_path / "a.json", {"a.png": masks(blocks(1))})
    first = run(world, path)
    fetched = len(world.photos.fetched)
    again = run(world, path)
    assert (again.stored, again.there, again.version) == ([], [task], first.version)
    assert (len(world.fake.predictions), len(world.photos.fetched)) == (1, fetched)
    other = run(world, write_coco(tmp_path / "a.json", {"a.png": masks(blocks(2))}))
    assert other.stored == [task] and other.version != first.version


def test_another_label_config_makes_another_version(world, tmp_path):
    """A category that was unknown may have a label by now."""
    task = world.add("/a.png")
    path = write_coco(tmp_path / "a.json", {"a.png": masks(blocks(1))}, ("sky", "tree"))
    assert run(world, path).unknown == ["tree"]
    world.fake.config = world.fake.config.replace('value="Auto" alias="car"', 'value="tree"')
    assert run(world, path).stored == [task]


def test_a_lost_answer_stores_nothing_twice(world, tmp_path, monkeypatch):
    monkeypatch.setattr(label_studio, "FIRST_PAUSE", 0.0)
    world.settings = world.settings.model_copy(update={"patience": 5.0})
    world.add("/a.png")
    path = write_coco(tmp_path / "a.json", {"a.png": masks(blocks(1))})

    def lost(request: httpx.Request) -> httpx.Response:
        world.fake.serve(request)
        raise httpx.ReadTimeout("lost")

    for options, stored in (({}, world.fake.predictions), ({"annotations": True}, world.fake.annotations)):
        world.fake.trouble = [world.fake.serve] * (4 if options else 3) + [lost]
        run(world, path, **options)
        assert (len(stored), world.fake.trouble) == (1, [])
    posted = [path for method, path in world.fake.seen if method == "POST"]
    assert posted == ["/api/predictions/", "/api/tasks/1/annotations/"]


def test_annotations_are_made_where_there_is_none(world, tmp_path):
    truth = blocks(1)
    tasks = [world.add(f"/{number}.png") for number in range(3)]
    world.fake.annotate(tasks[0], [])
    world.fake.annotate(tasks[1], [], was_cancelled=True)
    path = write_coco(tmp_path / "a.json", {f"{number}.png": masks(truth) for number in range(3)})
    done = run(world, path, annotations=True)
    assert (done.stored, done.there) == (tasks[1:], tasks[:1])
    again = run(world, path, annotations=True)
    assert (again.stored, again.there) == ([], tasks)
    assert len(world.fake.annotations) == 4 and world.fake.predictions == {}


def test_who_annotates_meanwhile_keeps_it(world, tmp_path):
    task = world.add("/a.png")
    path = write_coco(tmp_path / "a.json", {"a.png": masks(blocks(1))})
    fetch = world.photos.fetch

    def annotated_meanwhile(url: str, *, task_id: int | None = None) -> bytes:
        world.fake.annotate(task, [])
        return fetch(url, task_id=task_id)

    world.photos.fetch = annotated_meanwhile
    done = run(world, path, annotations=True)
    assert (done.stored, done.there) == ([], [task])


@pytest.mark.parametrize("kind", ["compressed", "plain", "polygons"])
def test_every_form_of_mask_is_read(world, tmp_path, kind):
    task = world.add("/a.png")
    truth = np.full(SIZE, -1, np.int16)
    truth[3:9, 4:20] = 1
    [mask] = masks(truth)
    if kind == "plain":
        inside = (truth >= 0).T.ravel()
        ends = np.flatnonzero(np.diff(inside)) + 1
        mask["segmentation"]["counts"] = np.diff([0, *ends, inside.size]).tolist()
    if kind == "polygons":
        mask["segmentation"] = [[4, 3, 20, 3, 20, 9, 4, 9]]
    run(world, write_coco(tmp_path / "a.json", {"a.png": [mask]}))
    np.testing.assert_array_equal(predicted(world, task), truth)


@pytest.mark.parametrize("name", ["car", "CAR", " Car ", "Auto", "AUTO"])
def test_labels_are_found_by_key_and_value_whatever_their_case(world, tmp_path, name):
    task = world.add("/a.png")
    run(world, write_coco(tmp_path / "a.json", {"a.png": [box()]}, (name, "moon")))
    assert predicted(world, task).max() == 1


def test_labels_are_found_by_synonyms(world, tmp_path):
    task = world.add("/a.png")
    done = run(world, write_coco(tmp_path / "a.json", {"a.png": [box()]}, ("Heaven", "moon")))
    assert (predicted(world, task).max(), done.unknown) == (0, ["moon"])


def test_unknown_labels_are_named_and_cover_nothing(world, tmp_path):
    task = world.add("/a.png")
    moon = box(0, 40, category_id=2)
    done = run(world, write_coco(tmp_path / "a.json", {"a.png": [box(), moon]}, ("sky", "moon")))
    assert done.unknown == ["moon"]
    assert (predicted(world, task)[:5, :10] == 0).all()


def test_a_source_without_a_label_of_the_project_is_told(world, tmp_path):
    world.add("/a.png")
    path = write_coco(tmp_path / "a.json", {"a.png": [box()]}, ("moon", "tree"))
    with pytest.raises(
        DataError, match=r"none of the source's labels \(moon, tree\) is one of the project's \(sky, car\)"
    ):
        run(world, path)


def test_photos_without_a_mask_of_the_project_are_counted(world, tmp_path):
    for name in ("/a.png", "/b.png"):
        world.add(name)
    moon = box(category_id=2)
    done = run(world, write_coco(tmp_path / "a.json", {"a.png": [moon], "b.png": []}, ("sky", "moon")))
    assert (done.stored, done.empty) == ([], ["a.png"])  # b.png, of which nothing is said, is not


def test_photos_without_a_task_and_of_several_are_named(world, tmp_path):
    task = world.add("/data/upload/1/0123abcd-a.png")
    for prefix in ("4567abcd", "89ababcd"):
        world.add(f"/data/upload/1/{prefix}-b.png")
    path = write_coco(tmp_path / "a.json", {name: [box()] for name in ("a.png", "b.png", "c.png", "..")})
    done = run(world, path)
    assert done.stored == [task]
    assert done.left_out == {
        "b.png": "2 tasks have a photo of this name (2, 3); rename it for one",
        "c.png": "no task has a photo of this name",
        "..": "no file can be called '..'; rename it there",
    }


def test_two_photos_of_one_task_are_named(world, tmp_path):
    world.add("/data/upload/1/0123abcd-a.png")
    path = write_coco(tmp_path / "a.json", {name: [box()] for name in ("left/a.png", "right/a.png")})
    done = run(world, path)
    assert (done.stored, list(done.left_out)) == ([], ["left/a.png", "right/a.png"])
    assert done.left_out["left/a.png"] == "left/a.png, right/a.png are all task 1's by name; keep one"


def test_a_size_of_the_file_takes_no_memory(world, tmp_path):
    """Whatever the file says, nothing is allocated before it is compared with the photo."""
    tasks = [world.add(f"/{number}.png") for number in range(4)]
    path = write_coco(tmp_path / "a.json", {f"{number}.png": [box()] for number in range(4)})
    content = json.loads(path.read_text())
    content["images"][0] |= {"width": 10**9, "height": 10**9}
    del content["images"][1]["width"]
    huge = {"size": [10**6, 10**6], "counts": [10**7]}
    content["images"][1]["height"] = None
    content["annotations"][1]["segmentation"] = huge
    content["annotations"][2]["segmentation"] = coco_mask.encode(np.zeros((5, 6), np.uint8, order="F"))
    content["annotations"][2]["segmentation"]["counts"] = "0N"
    path.write_text(json.dumps(content))
    done = run(world, path)
    assert done.stored == tasks[3:]
    assert (
        "0.png is listed with 1000000000 x 1000000000 pixels, but the photo has 40 x 24"
        in done.left_out["0.png"]
    )
    assert "annotation 1 has 1000000 x 1000000 pixels, but its photo has 40 x 24" in done.left_out["1.png"]
    assert "annotation 2 has 6 x 5 pixels" in done.left_out["2.png"]


@pytest.mark.parametrize(
    ("annotation", "message"),
    [
        ({"segmentation": []}, "annotation 0 has no mask"),
        ({"segmentation": {"size": [HEIGHT, WIDTH], "counts": "no code"}}, "annotation 0 is damaged"),
        ({"segmentation": [[0, 0, 5, 5, 0, 5, 3]]}, "annotation 0 is damaged"),
        ({"category_id": 5}, "annotation 0 has the category 5, which is none of the 2"),
    ],
)
def test_a_bad_mask_is_its_photos_fault(world, tmp_path, annotation, message):
    world.add("/a.png")
    good = world.add("/b.png")
    done = run(world, write_coco(tmp_path / "a.json", {"a.png": [box() | annotation], "b.png": [box()]}))
    assert done.stored == [good]
    assert message in done.left_out["a.png"]


def test_a_photo_that_cannot_be_had_is_named(world, tmp_path):
    world.add("/a.png")
    world.photos.files.clear()
    done = run(world, write_coco(tmp_path / "a.json", {"a.png": [box()]}))
    assert "task 1: /a.png: not found (404)" in done.left_out["a.png"]


def test_what_label_studio_refuses_is_its_tasks_fault(world, tmp_path):
    tasks = [world.add("/a.png"), world.add("/b.png")]
    path = write_coco(tmp_path / "a.json", {"a.png": [box()], "b.png": [box()]})

    def refuse(request: httpx.Request) -> httpx.Response:
        return httpx.Response(400, json={"detail": "too large"})

    world.fake.trouble = [world.fake.serve] * 3 + [refuse]
    done = run(world, path)
    assert done.stored == tasks[1:]
    assert "is refused (400: too large" in done.left_out["a.png"]


def test_label_studio_that_is_away_ends_it(world, tmp_path):
    world.add("/a.png")
    world.fake.trouble = [world.fake.serve] * 3 + [503]
    with pytest.raises(LabelStudioUnavailable):
        run(world, write_coco(tmp_path / "a.json", {"a.png": [box()]}))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "a bare list of results does not name its labels"),
        (
            {"images": [], "annotations": [], "categories": [{"id": 1, "name": "a"}] * 2},
            "two categories have the",
        ),
        (
            {"images": [], "annotations": [box(image_id=3)], "categories": []},
            "of image 3, which is not listed",
        ),
        (
            {"images": [{"id": 1, "file_name": name} for name in "ab"], "annotations": [], "categories": []},
            "two images have the same id",
        ),
        ({"images": []}, "Field required; export it again as COCO JSON"),
    ],
)
def test_a_file_that_is_none_is_told(world, tmp_path, content, message):
    (tmp_path / "a.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=message):
        run(world, tmp_path / "a.json")


def test_a_folder_that_is_none_is_told(world, tmp_path):
    with pytest.raises(DataError, match=r"has no annotations/\*.json"):
        run(world, tmp_path)
    with pytest.raises(DataError, match="has no labels.json or labels.txt"):
        run(world, tmp_path, "png")
    (tmp_path / "labels.txt").write_text("sky\nsky\n")
    with pytest.raises(VocabularyError, match="labels.txt"):
        run(world, tmp_path, "png")


def test_label_maps_of_a_folder_are_read(world, tmp_path):
    """Values are places of labels; 255 and unknown labels are nothing."""
    task = world.add("/data/upload/1/0123abcd-a.jpg")
    values = np.full(SIZE, 255, np.uint8)
    values[:4], values[4:8], values[8:12] = 0, 1, 2
    (tmp_path / "left").mkdir()
    Image.fromarray(values).save(tmp_path / "left" / "a.png")
    (tmp_path / "labels.txt").write_text("moon\nAutomobile|AUTO\nsky\n")
    done = run(world, tmp_path, "png")
    assert (done.stored, done.unknown) == ([task], ["moon"])
    expected = np.full(SIZE, -1)
    expected[4:8], expected[8:12] = 1, 0
    np.testing.assert_array_equal(predicted(world, task), expected)


def test_label_maps_that_do_not_fit_are_named(world, tmp_path):
    for name in ("a", "b", "c"):
        world.add(f"/{name}.png")
    (tmp_path / "labels.txt").write_text("sky\ncar\n")
    Image.fromarray(np.zeros((5, 6), np.uint8)).save(tmp_path / "a.png")
    Image.fromarray(np.full(SIZE, 2, np.uint8)).save(tmp_path / "b.png")
    (tmp_path / "c.png").write_bytes(b"no PNG")
    done = run(world, tmp_path, "png")
    assert "6 x 5 pixels, but its photo a.png has 40 x 24" in done.left_out["a.png"]
    assert "value 2 is neither one of the 2 labels (0 to 1) nor ignored (255)" in done.left_out["b.png"]
    assert "cannot be read as a label map" in done.left_out["c.png"]


@pytest.mark.parametrize("form", ["coco", "coco-polygons", "png"])
def test_a_round_trip_is_equal_to_the_pixel(world, tmp_path, form):
    """From a project to files and into another project: all that was annotated, and nothing else."""
    names = [f"/data/upload/1/0123abc{number}-street_{number}.png" for number in range(5)]
    for number, name in enumerate(names):
        world.annotate(world.add(name, held_out=number == 4), blocks(number))
    export(annotated(*world.given), tmp_path / "out", LayoutName(form))
    other = ExchangeWorld(tmp_path / "other home")
    for number, name in enumerate(names):
        content = world.photos.files[name]
        name = name.replace("0123abc", "ffffff0")  # uploaded again
        other.photos.files[name] = content
        assert other.fake.add_task(image=name) == number + 1
    done = run(other, tmp_path / "out", form.removesuffix("-polygons"), annotations=True)
    assert (done.stored, done.left_out, done.unknown) == ([1, 2, 3, 4, 5], {}, [])
    back = {photo.task: photo for photo in annotated(*other.given)}
    assert {task: photo.split for task, photo in back.items()} == dict.fromkeys(range(1, 5), "train") | {
        5: "val"
    }
    for task, label_map in world.truth.items():
        np.testing.assert_array_equal(back[task].label_map, label_map)


TWO_CONTROLS = (
    '<View><Image name="image" value="$image"/><BrushLabels name="stuff" toName="image"><Label value="sky"/>'
    '</BrushLabels><BitmaskLabels name="things" toName="image"><Label value="car"/></BitmaskLabels></View>'
)


def test_each_label_becomes_a_region_of_its_control(world, tmp_path):
    world.fake.config = TWO_CONTROLS
    task = world.add("/a.png")
    truth = blocks(1)
    run(world, write_coco(tmp_path / "a.json", {"a.png": masks(truth)}), annotations=True)
    [annotation] = world.fake.annotations.values()
    assert [region["from_name"] for region in annotation["result"]] == ["stuff", "things"]
    [back] = annotated(*world.given)
    assert back.task == task
    np.testing.assert_array_equal(back.label_map, truth)


def test_labels_that_tasks_bring_are_found(world, tmp_path):
    """Each task is asked for its own, and they leave together."""
    tag = '<BrushLabels name="mask" toName="image" value="$labels"/>'
    world.fake.config = f'<View><Image name="image" value="$image"/>{tag}</View>'
    tasks = [world.add(f"/{name}.png") for name in "abc"]
    for task, labels in zip(tasks, (["sky"], ["car", "sky"], ["moon"]), strict=True):
        world.fake.tasks[task]["data"]["labels"] = labels
    truth = blocks(1)
    path = write_coco(tmp_path / "a.json", {f"{name}.png": masks(truth) for name in "abc"})
    done = run(world, path)
    assert (done.stored, done.empty, done.unknown) == (tasks[:2], ["c.png"], [])
    world.fake.model_version = done.version
    labelled = predicted_photos(*world.given)
    found = {photo.task: photo.label_map for photo in labelled}
    assert labelled.labels == ("sky", "car")
    np.testing.assert_array_equal(found[tasks[0]], np.where(truth == 0, 0, -1))
    np.testing.assert_array_equal(found[tasks[1]], truth)


PAGES_AND_IMAGES = (
    '<View><Image name="photo" value="$photo"/><Image name="doc" valueList="$pages"/>'
    '<BrushLabels name="mask" toName="photo"><Label value="sky"/><Label value="car"/></BrushLabels>'
    '<BitmaskLabels name="marks" toName="doc"><Label value="car"/><Label value="sky"/></BitmaskLabels></View>'
)


def several(world: ExchangeWorld, number: int) -> int:
    """Add a task of a photo and three pages, of which two have the photo's name."""
    world.fake.config = PAGES_AND_IMAGES
    names = [
        f"/left/{number}.png",
        f"/right/{number}.png",
        f"/right/other/{number}.png",
        f"/right/{number}b.png",
    ]
    for name in names:
        seed = len(world.photos.files) + 1
        world.photos.files.setdefault(name, photo(seed, SIZE))
    return world.fake.add_task(photo=names[0], pages=names[1:])


def drawn(world: ExchangeWorld, seed: int) -> list[dict[str, Any]]:
    """Draw label maps of sky (0) and car (1) on a photo and its pages; the second page stays empty."""
    on_photo, on_doc = read_label_config(world.fake.config).questions
    found = []
    for number, (question, page) in enumerate([(on_photo, None), (on_doc, 0), (on_doc, 2)]):
        label_map = blocks(10 * seed + number)
        if question is on_doc:
            label_map = np.where(label_map < 0, label_map, 1 - label_map).astype(
                np.int16
            )  # car is first there
        found += regions_of(label_map, TaskPhoto(question, "", page))
    return [region.result for region in found]


@pytest.mark.parametrize(
    ("form", "annotations"), [("coco", True), ("coco-polygons", False), ("png", True), ("png", False)]
)
def test_a_round_trip_of_images_and_pages_is_equal_to_the_pixel(world, tmp_path, form, annotations):
    for number in (1, 2):
        world.fake.annotate(several(world, number), drawn(world, number))
    before = list(annotated(*world.given))
    assert [photo.name for photo in before[:4]] == ["task1-1.png", "task1.2-1.png", "task1.3-1.png", "1b.png"]
    np.testing.assert_array_equal(before[1].label_map, blocks(11))
    assert len({photo.split for photo in before[:4]}) == 1 and (before[2].label_map == -1).all()
    export(annotated(*world.given), tmp_path / "out", LayoutName(form))
    other = ExchangeWorld(tmp_path / "other home")
    other.photos.files = world.photos.files
    for number in (1, 2):
        several(other, number)
    done = run(other, tmp_path / "out", form.removesuffix("-polygons"), annotations=annotations)
    assert (done.stored, done.left_out, done.unknown) == ([1, 2], {}, [])
    other.fake.model_version = done.version
    back = list((annotated if annotations else predicted_photos)(*other.given))
    assert [(each.name, each.split) for each in back] == [(each.name, each.split) for each in before]
    for ours, theirs in zip(back, before, strict=True):
        np.testing.assert_array_equal(ours.label_map, theirs.label_map)


def test_a_page_that_is_bad_costs_only_itself_and_one_that_is_away_its_task(world, tmp_path):
    tasks = [several(world, number) for number in (1, 2)]
    files = {name: masks(blocks(1)) for name in ("task1-1.png", "1b.png", "task2-2.png", "2b.png")}
    path = write_coco(tmp_path / "a.json", files)
    world.photos.files["/right/1b.png"] = photo(1, (5, 6))
    fetch = world.photos.fetch

    def unreachable(url: str, **more: Any) -> bytes:
        if url == "/right/2b.png":
            raise HostUnavailable("photos.test does not answer")
        return fetch(url, **more)

    world.photos.fetch = unreachable
    done = run(world, path)
    assert done.stored == tasks[:1]
    assert set(done.left_out) == {"1b.png", "task2-2.png", "2b.png"}
    assert "photos.test does not answer" in done.left_out["task2-2.png"]
    world.photos.fetch = fetch
    assert run(world, path).stored == tasks[1:]


@pytest.mark.parametrize("shape", ["Brush", "Bitmask", "Polygon"])
def test_labels_beside_their_shapes_come_back(world, tmp_path, shape):
    world.fake.config = (
        f'<View><Image name="image" value="$image"/><{shape} name="shape" toName="image" '
        'model_polygon_tolerance="0"/><Labels name="labels" toName="image"><Label value="sky"/>'
        '<Label value="car"/></Labels></View>'
    )
    world.add("/a.png")
    truth = blocks(1)
    done = run(world, write_coco(tmp_path / "a.json", {"a.png": masks(truth)}), annotations=True)
    assert done.stored == [1]
    [photo] = annotated(*world.given)
    np.testing.assert_array_equal(photo.label_map, truth)


@pytest.mark.parametrize("form", ["coco", "coco-polygons", "png"])
def test_a_round_trip_of_polygons_keeps_their_areas(world, tmp_path, form):
    """What people drew as polygons is filled, outlined again and simplified, as predictions are."""
    world.fake.config = world.fake.config.replace("BrushLabels", "PolygonLabels")
    size = 180, 240
    task = world.add("/a.png", size=size)
    world.annotate(task, shapes(size))
    [before] = annotated(*world.given)
    export(annotated(*world.given), tmp_path / "out", LayoutName(form))
    done = run(world, tmp_path / "out", form.removesuffix("-polygons"))
    assert done.stored == [task]
    world.fake.model_version = done.version
    [after] = predicted_photos(*world.given)
    for label in (0, 1):
        inside, back = before.label_map == label, after.label_map == label
        assert (inside & back).sum() >= 0.98 * (inside | back).sum() > 0


def shapes(size: tuple[int, int]) -> np.ndarray:
    """Draw two discs of a label, the larger one with a hole, on a slope of another."""
    rows, columns = np.indices(size)
    label_map = np.where(rows > 100 + columns / 7, 0, -1)
    for row, column, radius, inner in ((70, 80, 55, 20), (140, 190, 30, 0)):
        distance = np.hypot(rows - row, columns - column)
        label_map[(distance < radius) & (distance >= inner)] = 1
    return label_map.astype(np.int16)
