"""Random mutations of annotations and tasks: none stops the reading or the labelling of its project."""

import json
import random
import uuid

import numpy as np

from ebseg.label_studio import brush
from tests.unit.label_studio.test_annotations import box, brush_region, ellipse, points, region
from tests.unit.mutations import mutated
from tests.unit.training import test_labelling, test_snapshot
from tests.unit.training.test_snapshot import HEIGHT, WIDTH, photo, tasks
from training.annotations.manifest import latest
from training.jobs.reading import summary
from training.storage import Storage

ANNOTATION = json.loads(json.dumps([
    brush_region(np.eye(HEIGHT, WIDTH) * 255, "sky", name="a"),
    region("rectanglelabels", box(0, 0, 3, 2, 10), "car", name="b"),
    region("polygonlabels", points((0, 0), (3, 0), (3, 4)), "car", name="c"),
    region("ellipselabels", ellipse(3, 2, 2, 1, 20), "sky", name="d"),
    region("vectorlabels", {"closed": True, "vertices": [
        {"id": "1", "x": 0, "y": 0, "prevPointId": "2", "isBezier": True, "controlPoint2": {"x": 5, "y": 9}},
        {"id": "2", "x": 90, "y": 0, "prevPointId": "3"}, {"id": "3", "x": 50, "y": 90, "prevPointId": "1"},
    ]}, "sky", name="e"),
    region("keypointlabels", {"x": 50, "y": 50, "width": 1}, "sky", name="f"),
    region("brush", {"rle": brush.encode(np.full((HEIGHT, WIDTH), 9, np.uint8))}, None, name="g"),
    region("labels", {}, "car", name="g"),
    {"type": "relation", "from_id": "a", "to_id": "b", "direction": "right"},
    {"id": "x", "type": "choices", "to_name": "image", "from_name": "c", "value": {"choices": ["day"]}},
]))  # fmt: skip
ROUNDS, TASKS = 50, 50


def test_no_annotation_or_task_stops_a_reading(tmp_path, caplog):
    """2,500 of them, and of the predictions that they correct; each is read or has a reason."""
    chance, read = random.Random(1), 0
    for _ in range(ROUNDS):
        world = test_snapshot.World(Storage(f"memory://{uuid.uuid4()}", tmp_path / "cache"))
        world.photos.files["/a.png"] = photo(1)
        for number in range(1, TASKS + 1):
            world.fake.add_task(image="/a.png")
            if number % 5 == 0:
                world.fake.tasks[number]["data"] = mutated({"image": "/a.png", "text": "x"}, chance)
            prediction = world.fake.predict(number, mutated(ANNOTATION, chance), "v1")
            world.fake.annotate(number, mutated(ANNOTATION, chance), parent_prediction=prediction)
        good = world.task(2)
        world.fake.annotate(good, ANNOTATION)
        manifest = world.take()
        assert set(tasks(manifest)) | manifest.skipped.keys() == set(range(1, good + 1))
        assert good in tasks(manifest) and latest(world.storage, 1) == manifest
        json.dumps(summary(manifest)).encode()
        read += len(manifest.entries)
    assert ROUNDS * TASKS / 4 < read < ROUNDS * TASKS * 3 / 4
    assert [record.exc_info[1] for record in caplog.records if record.exc_info] == []


def test_no_task_stops_a_labelling(tmp_path, caplog):
    """2,500 of them, of photos that are fetched in odd ways."""
    chance = random.Random(2)
    for _ in range(ROUNDS):
        world = test_labelling.World(tmp_path)
        for _ in range(TASKS):
            number = world.fake.add_task()
            world.fake.tasks[number]["data"] = mutated({"image": "/a.png", "text": ["x"]}, chance)
        good = world.fake.add_task(image="/a.png")
        done = world.label([*range(1, good + 1)])
        assert good in done.pushed
        assert {*done.pushed, *done.left_out} == set(range(1, good + 1))
        json.dumps(done.left_out).encode()
    assert [record.exc_info[1] for record in caplog.records if record.exc_info] == []
