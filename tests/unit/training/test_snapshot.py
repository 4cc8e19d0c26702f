import io
import json
import multiprocessing
import pickle
import re
import types
import uuid
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from ebseg.errors import DataError, FetchError, LabelConfigError, Unreachable
from ebseg.images import read_image
from ebseg.label_studio import brush
from ebseg.label_studio.regions import masks_to_regions
from ebseg.label_studio.tasks import read_label_config
from tests.unit.training.fake_label_studio import CONFIG, FakeLabelStudio
from training.annotations import label_studio as studio_module
from training.annotations import snapshot
from training.annotations.label_studio import (
    LabelStudioAnnotation,
    LabelStudioClient,
    LabelStudioUnavailable,
    NotInLabelStudio,
)
from training.annotations.manifest import Manifest, latest, load
from training.annotations.snapshot import SnapshotSource, choose
from training.jobs.reading import summary
from training.settings import Settings
from training.storage import Storage

HEIGHT, WIDTH = 4, 6


class Photos:
    """Hands out photos by their address. ``fetched``: which, in order. ``trouble``: what to raise first."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.fetched: list[str] = []
        self.trouble: list[Exception] = []

    def fetch(self, url: str, *, task_id: int | None = None) -> bytes:
        self.fetched.append(url)
        if self.trouble:
            raise self.trouble.pop(0)
        if url not in self.files:
            raise FetchError(f"{url}: not found (404)")
        return self.files[url]


class World:
    """A project in Label Studio, and a storage."""

    def __init__(self, storage: Storage) -> None:
        self.fake, self.photos, self.storage = FakeLabelStudio(), Photos(), storage

    def take(self, **changes) -> Manifest:
        settings = Settings(
            **{"label_studio_url": "http://studio", "label_studio_api_key": "key", "patience": 0.0} | changes
        )
        studio = LabelStudioClient(settings, http=self.fake.http)
        return snapshot.take(studio, self.photos, self.storage, 1, settings)  # type: ignore[arg-type]

    def task(self, seed: int, url: str | None = None) -> int:
        url = url or f"/data/{seed}.png"
        self.photos.files[url] = photo(seed)
        return self.fake.add_task(image=url)

    def annotated(self, seed: int, label: str = "sky", **more) -> int:
        task = self.task(seed)
        self.fake.annotate(task, [rectangle(label)], **more)
        return task

    def source(self, manifest: Manifest, part: str = "train") -> SnapshotSource:
        return SnapshotSource(self.storage, manifest, part)

    def files(self, kind: str) -> list[str]:
        return self.storage.keys(f"snapshots/project-1/{kind}")


def photo(seed: int, height: int = HEIGHT, width: int = WIDTH) -> bytes:
    content = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(content, "PNG")
    return content.getvalue()


def rectangle(label: str = "sky", *, left: float = 0, width: float = 50, **more):
    value = {"x": left, "y": 0, "width": width, "height": 100, "rectanglelabels": [label]}
    return {
        "id": "r",
        "type": "rectanglelabels",
        "to_name": "image",
        "from_name": "box",
        "value": value,
    } | more


def tasks(manifest: Manifest) -> list[int]:
    return sorted(entry.task for entry in manifest.entries)


def entry_of(manifest: Manifest, task: int):
    (entry,) = (entry for entry in manifest.entries if entry.task == task)
    return entry


@pytest.fixture(params=["folder", "memory"])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> World:
    url = str(tmp_path / "storage") if request.param == "folder" else f"memory://{uuid.uuid4()}"
    return World(Storage(url, tmp_path / "cache"))


def test_photos_and_label_maps_are_what_was_annotated(world):
    task = world.task(1)
    annotation = world.fake.annotate(task, [rectangle("sky"), rectangle("car", left=50, width=34)])
    manifest = world.take(held_out_share=0.001)
    entry = entry_of(manifest, task)
    assert (entry.annotation, entry.time) == (annotation, "2026-01-01T00:00:02.500000+00:00")
    assert entry.pixels == {"sky": 12, "car": 8}
    assert manifest.labels[0].key == "sky" and manifest.labels[0].prompts == ("sky", "heaven")
    assert manifest.vocabulary == read_label_config(CONFIG).questions[0].vocabulary
    assert manifest.shown_labels == {"sky", "car"}
    source = world.source(manifest)
    assert (len(source), source.name, source.tasks) == (1, "project 1, to train on", (task,))
    assert source.vocabulary == manifest.vocabulary
    sample = source[0]
    assert sample.name == "task 1"
    np.testing.assert_array_equal(sample.image, read_image(photo(1)))
    np.testing.assert_array_equal(sample.label_map, [[0, 0, 0, 1, 1, -1]] * 4)
    assert sample.label_map.dtype == np.int16
    assert world.storage.read(f"snapshots/project-1/photos/{entry.photo}") == photo(1)  # as it came
    with pytest.raises(IndexError):
        source[1]


def test_only_annotated_tasks_count(world):
    world.task(1)
    skipped = world.annotated(2, was_cancelled=True)
    kept = world.annotated(3)
    manifest = world.take()
    assert tasks(manifest) == [kept]
    assert manifest.skipped == {} and skipped not in manifest.skipped


def annotation(number: int, time: str, *, ground_truth: bool = False) -> LabelStudioAnnotation:
    return LabelStudioAnnotation(number, time, ground_truth, [], None)


@pytest.mark.parametrize(
    ("annotations", "chosen"),
    [
        ([], None),
        ([annotation(1, "2"), annotation(2, "1")], 1),  # changed later
        ([annotation(1, "1"), annotation(2, "1")], 2),
        ([annotation(1, "1", ground_truth=True), annotation(2, "2")], 1),
        ([annotation(1, "1", ground_truth=True), annotation(2, "2", ground_truth=True)], 2),
    ],
)
def test_ground_truth_counts_first_then_the_newest(annotations, chosen):
    for order in (annotations, annotations[::-1]):
        found = choose(order)
        assert (found.id if found else None) == chosen


def test_an_annotation_of_nothing_is_one(world):
    task = world.task(1)
    world.fake.annotate(task, [])
    manifest = world.take(held_out_share=0.001)
    assert entry_of(manifest, task).pixels == {}
    assert (world.source(manifest)[0].label_map == -1).all()


def test_what_has_not_changed_is_read_no_second_time(world):
    for seed in range(3):
        world.annotated(seed)
    first = world.take()
    world.fake.seen.clear(), world.photos.fetched.clear()
    assert world.take() == first
    assert world.photos.fetched == []
    assert world.fake.seen == [("GET", "/api/projects/1/"), ("GET", "/api/tasks/")]


def test_a_changed_annotation_is_read_again_but_its_photo_is_not_fetched_again(world):
    task, other = world.annotated(1), world.annotated(2)
    first = world.take()
    world.fake.change(1, result=[rectangle("car")])
    world.fake.seen.clear(), world.photos.fetched.clear()
    second = world.take()
    assert entry_of(second, task).pixels == {"car": 12}
    assert entry_of(second, other) == entry_of(first, other)
    assert second.fingerprint != first.fingerprint
    assert world.photos.fetched == []
    assert world.fake.requests(f"/api/tasks/{task}/annotations/") == 1
    assert world.fake.requests(f"/api/tasks/{other}/annotations/") == 0


def test_a_new_prediction_is_no_reason_to_convert_an_annotation_again(world, monkeypatch):
    task = world.annotated(1)
    first = world.take()
    world.fake.predict(task, [], "v1")
    monkeypatch.setattr(snapshot, "paint", None)  # it would be called
    second = world.take()
    assert second.fingerprint == first.fingerprint
    assert entry_of(second, task).revision != entry_of(first, task).revision


def test_a_task_whose_photo_has_another_address_is_fetched_again(world):
    task = world.annotated(1)
    first = world.take()
    world.photos.files["/data/other.png"] = photo(9)
    world.fake.tasks[task]["data"]["image"] = "/data/other.png"
    second = world.take()
    assert world.photos.fetched == ["/data/1.png", "/data/other.png"]
    assert entry_of(second, task).photo != entry_of(first, task).photo


def test_another_label_config_makes_other_label_maps_of_the_same_photos(world):
    task = world.annotated(1, "car")
    first = world.take(held_out_share=0.001)
    world.fake.config = CONFIG.replace('<Label value="sky" synonyms="heaven"/>', "")
    second = world.take(held_out_share=0.001)
    assert world.source(first)[0].label_map.max() == 1
    assert world.source(second)[0].label_map.max() == 0
    assert entry_of(second, task).pixels == {"car": 12}
    assert first.fingerprint != second.fingerprint
    assert len(world.photos.fetched) == 1


def test_a_synonym_makes_another_fingerprint_but_the_same_label_maps(world):
    world.annotated(1)
    first = world.take()
    world.fake.config = CONFIG.replace("heaven", "firmament")
    second = world.take()
    assert first.fingerprint != second.fingerprint
    assert [entry.content for entry in first.entries] == [entry.content for entry in second.entries]


def test_a_deleted_annotation_or_task_is_no_longer_there(world):
    kept, without, deleted = world.annotated(1), world.annotated(2), world.annotated(3)
    assert tasks(world.take()) == [kept, without, deleted]
    world.fake.annotations.pop(2)
    world.fake.annotations.pop(3), world.fake.tasks.pop(deleted)
    assert tasks(world.take()) == [kept]


def test_a_task_that_is_deleted_while_it_is_read_is_left_out(world):
    gone, kept = world.annotated(1), world.annotated(2)
    fine = world.fake.serve
    world.fake.trouble = [fine, fine, lambda request: httpx.Response(404, json={"detail": "No Task."})]
    manifest = world.take()
    assert tasks(manifest) == [kept] and gone not in manifest.skipped


def test_the_same_annotations_have_the_same_fingerprint_in_whatever_order(tmp_path):
    def read(order: list[int]) -> Manifest:
        world = World(Storage(f"memory://{uuid.uuid4()}", tmp_path))
        for seed in order:
            world.annotated(seed, "sky" if seed % 2 else "car")
        manifest = world.take()
        assert world.take().fingerprint == manifest.fingerprint
        return manifest

    one, other = read([1, 2, 3, 4]), read([3, 1, 4, 2])
    assert one.fingerprint == other.fingerprint
    contents = [[entry.content for entry in manifest.entries] for manifest in (one, other)]
    assert contents[0] == contents[1], "a training that is resumed sees the photos in the same order"
    assert read([1, 2, 3]).fingerprint not in (one.fingerprint, read([1, 2, 5]).fingerprint)


def test_label_maps_have_the_same_names_whatever_compresses_them(world, monkeypatch):
    world.annotated(1)
    names = world.take() and world.files("label_maps")
    other = World(Storage(f"memory://{uuid.uuid4()}", world.storage.cache))
    other.annotated(1)
    save = Image.Image.save
    monkeypatch.setattr(Image.Image, "save", lambda self, *args: save(self, *args, compress_level=0))
    assert other.take() and other.files("label_maps") == names
    (name,) = names
    assert len(other.storage.read(name)) != len(world.storage.read(name))


def test_manifests_are_found_again(world):
    assert latest(world.storage, 1) is None
    world.annotated(1)
    first = world.take()
    world.annotated(2)
    second = world.take()
    assert latest(world.storage, 1) == second != first
    assert load(world.storage, 1, first.fingerprint) == first
    assert len(world.files("manifests")) == 2
    with pytest.raises(DataError, match="manifests/0123.json is not in .*have the annotations read again"):
        load(world.storage, 1, "0123")


def test_a_damaged_manifest_is_told(world):
    world.annotated(1)
    manifest = world.take()
    key = f"snapshots/project-1/manifests/{manifest.fingerprint}.json"
    whole = json.loads(world.storage.read(key))
    for damaged in ({**whole, "extra": 1}, {**whole, "entries": [{}]}, [], {**whole, "project": "x"}):
        world.storage.write(key, json.dumps(damaged).encode())
        with pytest.raises(DataError, match=f"{manifest.fingerprint}.json: cannot be read"):
            latest(world.storage, 1)
    world.storage.write("snapshots/project-1/latest.json", b"{")
    with pytest.raises(DataError, match="latest.json: cannot be read"):
        latest(world.storage, 1)


def test_a_damaged_index_costs_time_only(world, caplog):
    world.annotated(1)
    first = world.take()
    for name in ("index.json", "photos.json"):
        world.storage.write(f"snapshots/project-1/{name}", b"{")
    assert world.take() == first
    assert "everything is read anew" in caplog.text
    assert len(world.photos.fetched) == 2


BAD = {
    "/data/missing.png": "not found",
    "/data/text.png": "not an image",
    "/data/empty.png": "empty",
}


def test_a_bad_task_costs_only_itself(world):
    good = world.annotated(1)
    world.photos.files |= {"/data/text.png": b"hello, world", "/data/empty.png": b""}
    bad = {world.fake.add_task(image=url): why for url, why in BAD.items()}
    bad[world.fake.add_task(text="no photo")] = 'the label config takes the photo from "image"'
    bad[world.task(2)] = 'annotation .*region "r": .*6 x 5 pixels'
    for task in bad:
        world.fake.annotate(task, [rectangle(original_width=6, original_height=5)])
    manifest = world.take()
    assert tasks(manifest) == [good]
    assert manifest.skipped.keys() == bad.keys()
    for task, why in bad.items():
        assert re.search(why, manifest.skipped[task])
    assert latest(world.storage, 1) == manifest


def test_a_bad_task_is_tried_again_and_its_photo_is_not_fetched_again(world):
    task = world.task(1)
    number = world.fake.annotate(task, [rectangle(original_width=HEIGHT, original_height=WIDTH)])
    assert "was the photo replaced?" in world.take().skipped[task]
    world.fake.change(number, result=[rectangle()])
    manifest = world.take()
    assert (tasks(manifest), manifest.skipped) == ([task], {})
    assert len(world.photos.fetched) == 1


def test_a_photo_that_is_too_large_is_left_out(world):
    task = world.annotated(1)
    reason = world.take(max_pixels=HEIGHT * WIDTH - 1).skipped[task]
    assert "its photo" in reason and "more than the limit" in reason and "or raise EBSEG_MAX_PIXELS" in reason


def test_labels_that_the_config_lacks_are_told(world, caplog):
    task = world.task(1)
    world.fake.annotate(task, [rectangle("sky"), rectangle("moon", width=25)])
    entry = entry_of(world.take(), task)
    assert entry.unknown == ("moon",) and entry.pixels == {"sky": 8}
    assert 'task 1 has regions of labels that the label config lacks: "moon"' in caplog.text


def brush_stroke(alpha: int, label: str = "sky", name: str = "b", **more):
    rle = brush.encode(np.full((HEIGHT, WIDTH), alpha, np.uint8)) if alpha else []
    value = {"format": "rle", "rle": rle, "brushlabels": [label]}
    return {"id": name, "type": "brushlabels", "to_name": "image", "from_name": "m", "value": value} | more


def test_faint_masks_and_turned_photos_are_read(world):
    task = world.task(1)
    world.fake.annotate(task, [brush_stroke(100, image_rotation=90)])
    manifest = world.take()
    assert (entry_of(manifest, task).pixels, manifest.skipped) == ({"sky": HEIGHT * WIDTH}, {})


def test_regions_without_a_pixel_and_tasks_of_which_nothing_is_left_are_in_the_jobs_result(world):
    partly, wholly, renamed, nothing = (world.task(seed) for seed in range(4))
    world.fake.annotate(partly, [rectangle(), brush_stroke(0, name="gone")])
    world.fake.annotate(wholly, [brush_stroke(0, name="gone"), brush_stroke(0, name="too")])
    world.fake.annotate(renamed, [rectangle("moon")])
    world.fake.annotate(nothing, [])
    manifest = world.take()
    told = summary(manifest)
    assert tasks(manifest) == [partly, wholly, renamed, nothing] and told["skipped"] == {}
    assert entry_of(manifest, partly).pixels == {"sky": 12}
    assert told["blank_regions"] == {str(partly): ["gone"], str(wholly): ["gone", "too"]}
    assert told["lost"] == {
        str(wholly): "none of its 2 regions shows a label; without a pixel: 'gone', 'too'",
        str(renamed): "none of its 1 regions shows a label; unknown to the label config: 'moon'",
    }
    assert json.loads(json.dumps(told)) == told


def test_what_was_painted_by_other_rules_is_painted_anew_and_no_photo_fetched_again(world, monkeypatch):
    task = world.annotated(1)
    monkeypatch.setattr(snapshot, "PAINTING", 1)
    first = world.take()
    index = json.loads(world.storage.read("snapshots/project-1/index.json"))
    assert index.pop("painting") == 1
    index["entries"][0] |= {"label_map": "of masks that had vanished"}
    world.storage.write("snapshots/project-1/index.json", json.dumps(index).encode())  # as older versions do
    assert entry_of(world.take(), task).label_map == "of masks that had vanished"
    monkeypatch.undo()
    assert entry_of(world.take(), task).label_map == entry_of(first, task).label_map
    assert len(world.photos.fetched) == 1


def test_a_label_config_that_cannot_be_served_is_told(world):
    world.fake.config = "<View/>"
    with pytest.raises(LabelConfigError):
        world.take()
    with pytest.raises(NotInLabelStudio):
        settings = Settings(label_studio_url="http://studio", label_studio_api_key="key")
        snapshot.take(
            LabelStudioClient(settings, http=world.fake.http), world.photos, world.storage, 2, settings
        )


def test_when_label_studio_goes_away_what_was_read_stays(world):
    for seed in range(4):
        world.annotated(seed)
    fine = world.fake.serve
    world.fake.trouble = [fine, fine, fine, fine, httpx.ConnectError("refused")]
    with pytest.raises(LabelStudioUnavailable):
        world.take()
    assert latest(world.storage, 1) is None
    assert world.photos.fetched == ["/data/0.png", "/data/1.png"]
    world.fake.seen.clear()
    manifest = world.take()
    assert tasks(manifest) == [1, 2, 3, 4]
    assert world.photos.fetched == [f"/data/{seed}.png" for seed in range(4)]
    assert world.fake.requests("/api/tasks/1/annotations/") == 0


def test_a_killed_reading_loses_no_more_than_it_has_not_noted(world, monkeypatch):
    """A kill runs no cleaning up: what counts is what was noted on the way."""
    for seed in range(4):
        world.annotated(seed)
    now = iter(range(0, 1000, 20))
    monkeypatch.setattr(snapshot, "time", types.SimpleNamespace(monotonic=lambda: next(now)))
    save, saved = snapshot._Reading.save, []

    def killed_later(self) -> None:
        saved.append(len(self._known))
        if len(saved) == 1:
            save(self)
        else:
            raise SystemExit

    monkeypatch.setattr(snapshot._Reading, "save", killed_later)
    with pytest.raises(SystemExit):
        world.take()
    assert saved[0] == 2  # every 30 s, and a task takes 20
    monkeypatch.setattr(snapshot._Reading, "save", save)
    world.photos.fetched.clear()
    assert tasks(world.take()) == [1, 2, 3, 4]
    assert world.photos.fetched == ["/data/2.png", "/data/3.png"]


def test_a_reading_is_noted_now_and_then_and_at_its_end(world, monkeypatch):
    for seed in range(5):
        world.annotated(seed)
    moments = iter(range(0, 1000, 16))  # more than half of what passes between two notes
    monkeypatch.setattr(snapshot, "time", types.SimpleNamespace(monotonic=lambda: next(moments)))
    written, write = [], world.storage.write
    monkeypatch.setattr(
        world.storage, "write", lambda key, content: (written.append(key), write(key, content))
    )
    world.take()
    assert written.count("snapshots/project-1/index.json") == 2 + 1


def test_a_photo_is_asked_for_again_when_label_studio_is_back(world, monkeypatch):
    task = world.annotated(1)
    monkeypatch.setattr(
        studio_module, "time", types.SimpleNamespace(monotonic=lambda: 0.0, sleep=lambda seconds: None)
    )
    world.photos.trouble = [Unreachable("no answer")]
    fine = world.fake.serve
    world.fake.trouble = [fine, fine, fine, 503, 503]  # while it starts
    manifest = world.take(patience=60.0)
    assert (tasks(manifest), manifest.skipped) == ([task], {})
    assert world.fake.requests("/api/projects/1/") == 4


def test_a_photo_that_only_label_studio_cannot_get_is_left_out(world):
    bad, good = world.annotated(1), world.annotated(2)
    world.photos.trouble = [Unreachable("no complete answer within 20 s")] * 2
    manifest = world.take()
    assert tasks(manifest) == [good]
    assert "no complete answer" in manifest.skipped[bad]


def test_when_label_studio_is_away_for_photos_too_nothing_is_taken_for_bad(world):
    world.annotated(1)
    world.photos.trouble = [Unreachable("refused")]
    fine = world.fake.serve
    world.fake.trouble = [fine, fine, fine, httpx.ConnectError("refused")]
    with pytest.raises(LabelStudioUnavailable):
        world.take()
    assert latest(world.storage, 1) is None
    assert tasks(world.take()) == [1]


def test_a_token_that_is_refused_ends_the_reading(world):
    world.annotated(1)
    fine = world.fake.serve
    world.fake.trouble = [fine, fine, 401, 401]
    with pytest.raises(FetchError, match="refused the token"):
        world.take()
    assert latest(world.storage, 1) is None


def sides(manifest: Manifest) -> dict[int, bool]:
    return {entry.task: entry.held_out for entry in manifest.entries}


def test_about_the_share_is_held_out_by_the_photos_content(world):
    for seed in range(60):
        world.annotated(seed)
    held_out = sides(world.take(held_out_share=0.3))
    assert 8 <= sum(held_out.values()) <= 28
    manifest = world.take(held_out_share=0.3)
    train, held = world.source(manifest, "train"), world.source(manifest, "held_out")
    assert len(train) + len(held) == 60 and not set(train.tasks) & set(held.tasks)
    assert {task for task, out in held_out.items() if out} == set(held.tasks)
    assert held.name == "project 1, held out"
    assert len({train.fingerprint(), held.fingerprint(), manifest.fingerprint}) == 3


def test_the_same_photo_in_two_tasks_is_on_one_side(world):
    pairs = []
    for seed in range(12):
        first = world.annotated(seed)
        second = world.task(seed, url=f"/data/again-{seed}.png")
        world.fake.annotate(second, [rectangle("car")])
        pairs.append((first, second))
    held_out = sides(world.take(held_out_share=0.5))
    assert {held_out[first] for first, _ in pairs} == {True, False}
    assert all(held_out[first] == held_out[second] for first, second in pairs)


def test_held_out_photos_stay_held_out_and_others_never_become_so(world):
    for seed in range(20):
        world.annotated(seed)
    first = sides(world.take(held_out_share=0.5))
    assert set(first.values()) == {True, False}
    for share in (0.01, 0.99, 0.5):
        assert sides(world.take(held_out_share=share)) == first
    for seed in range(20, 24):
        world.annotated(seed)
    later = sides(world.take(held_out_share=0.99))
    assert {task: later[task] for task in first} == first
    assert all(later[task] for task in later.keys() - first.keys())


def test_a_photo_that_was_away_comes_back_to_its_side(world):
    for seed in range(10):
        world.annotated(seed)
    first = sides(world.take(held_out_share=0.5))
    assert set(first.values()) == {True, False}
    annotations = dict(world.fake.annotations)
    world.fake.annotations.clear()
    assert world.take(held_out_share=0.5).entries == ()
    world.storage.write("snapshots/project-1/index.json", b"{")
    world.fake.annotations |= annotations
    assert sides(world.take(held_out_share=0.01)) == first


def test_without_the_record_of_what_is_held_out_nothing_is_decided(world):
    world.annotated(1)
    world.take()
    world.storage.write("snapshots/project-1/held_out.json", b"[")
    with pytest.raises(DataError, match=r"held_out.json in .* is damaged: restore it"):
        world.take()


def label_regions(label_map, config: str = CONFIG):
    [control] = [served.control for served in read_label_config(config).questions[0].controls]
    scores = np.ones(label_map.shape, np.float32)
    return [each.result for each in masks_to_regions(label_map, scores, control)]


def test_a_correction_is_measured_once(world):
    task, accepted = world.task(1), world.task(2)
    said = np.zeros((HEIGHT, WIDTH), np.int16)
    meant = said.copy()
    meant[:, :3] = 1
    for each, made in ((task, meant), (accepted, said)):
        prediction = world.fake.predict(each, label_regions(said), "v1")
        world.fake.annotate(each, label_regions(made), parent_prediction=prediction)
    first = world.take()
    found = entry_of(first, task).correction
    assert (found.version, found.iou, found.changed, found.untouched) == ("v1", 0.25, 0.5, False)
    assert entry_of(first, accepted).correction.untouched
    world.fake.predictions.clear()  # Label Studio keeps no prediction for ever
    world.fake.seen.clear()
    assert world.take() == first
    assert load(world.storage, 1, first.fingerprint) == first
    assert world.fake.requests("/api/predictions/1/") == 0


def test_a_correction_of_a_prediction_that_is_gone_says_nothing(world):
    task = world.annotated(1, parent_prediction=77)
    assert entry_of(world.take(), task).correction is None


def test_the_labels_of_all_controls_of_an_image_count_whichever_made_a_region(world):
    world.fake.config = (
        '<View><Image name="image" value="$image"/>'
        '<BrushLabels name="things" toName="image"><Label value="car"/></BrushLabels>'
        '<BrushLabels name="stuff" toName="image"><Label value="sky"/><Label value="car"/></BrushLabels>'
        "</View>"
    )
    task = world.task(1)
    world.fake.annotate(task, [rectangle("sky", id="a"), rectangle("car", left=50, width=34, id="b")])
    manifest = world.take(held_out_share=0.001)
    assert [label.key for label in manifest.labels] == ["car", "sky"]
    assert entry_of(manifest, task).pixels == {"car": 8, "sky": 12}
    np.testing.assert_array_equal(world.source(manifest)[0].label_map, [[1, 1, 1, 0, 0, -1]] * 4)


DYNAMIC = (
    '<View><Image name="image" value="$image"/>'
    '<BrushLabels name="mask" toName="image" value="$labels"/></View>'
)


def dynamic_task(world, seed, labels, annotated):
    task = world.task(seed)
    world.fake.tasks[task]["data"]["labels"] = labels
    if annotated:
        world.fake.annotate(task, [rectangle(annotated)])
    return task


def test_labels_that_are_in_the_tasks_are_those_of_all_annotated_ones(world):
    world.fake.config = DYNAMIC
    one = dynamic_task(world, 1, ["sky", {"value": "Auto", "alias": "car", "synonyms": "motor car"}], "car")
    dynamic_task(world, 2, ["never annotated"], None)
    bad = dynamic_task(world, 3, "sea", "sea")
    two = dynamic_task(world, 4, [{"value": "sea"}, "sky", {"value": "Auto", "alias": "car"}], "sea")
    manifest = world.take(held_out_share=0.001)
    assert [(label.key, label.prompts) for label in manifest.labels] == [
        ("sky", ("sky",)), ("car", ("Auto", "motor car")), ("sea", ("sea",)),
    ]  # fmt: skip
    assert entry_of(manifest, one).pixels == {"car": 12} and entry_of(manifest, two).pixels == {"sea": 12}
    assert entry_of(manifest, bad).pixels == {"sea": 12}  # what it shows is known, whatever it lists
    fetched = len(world.photos.fetched)
    three = dynamic_task(world, 5, ["boat"], "boat")
    manifest = world.take(held_out_share=0.001)
    assert [label.key for label in manifest.labels] == ["sky", "car", "sea", "boat"]
    assert entry_of(manifest, three).pixels == {"boat": 12} and entry_of(manifest, two).pixels == {"sea": 12}
    assert len(world.photos.fetched) == fetched + 1


def test_labels_of_several_tasks_that_ask_for_the_same_are_learnt_as_one(world):
    world.fake.config = DYNAMIC
    one = dynamic_task(world, 1, ["car", "sky"], "car")
    other = {"value": "Auto", "alias": "vehicle", "predicted_values": "Car"}
    two = dynamic_task(world, 2, [other, "sky"], "vehicle")
    manifest = world.take(held_out_share=0.001)
    assert [label.key for label in manifest.labels] == ["car", "sky"]
    for task in (one, two):
        entry = entry_of(manifest, task)
        assert (entry.pixels, entry.unknown) == ({"car": 12}, ())


TWO_IMAGES = (
    '<View><Image name="left" value="$left"/><Image name="right" valueList="$right"/>'
    '<BrushLabels name="a" toName="left"><Label value="sky"/><Label value="Auto" alias="car"/></BrushLabels>'
    '<BrushLabels name="b" toName="right"><Label value="tree"/><Label value="car" predicted_values="Auto"/>'
    '<Label value="Himmel" predicted_values="sky"/></BrushLabels></View>'
)


def several(world, seed: int, pages: int = 2, config: str = TWO_IMAGES) -> int:
    """Add a task of two images, of which the second has pages; their photos are all different."""
    world.fake.config = config
    addresses = [f"/data/{seed}-{number}.png" for number in range(pages + 1)]
    for number, address in enumerate(addresses):
        world.photos.files[address] = photo(1000 * seed + number)
    return world.fake.add_task(left=addresses[0], right=addresses[1:])


def on(image: str, label: str, page: int = 0, **more):
    return rectangle(label, to_name=image, id=f"{image} {page} {label}", item_index=page, **more)


def entries_of(manifest: Manifest, task: int):
    found = [entry for entry in manifest.entries if entry.task == task]
    return {(entry.image, entry.page): entry for entry in found}


def test_every_image_and_page_of_a_task_is_learnt_from(world):
    task = several(world, 1)
    regions = [
        on("left", "car"),
        on("right", "tree"),
        on("right", "car", 1),
        on("right", "Himmel", 1, left=50),
    ]
    world.fake.annotate(task, regions)
    manifest = world.take(held_out_share=0.001)
    assert [label.key for label in manifest.labels] == ["sky", "car", "tree"]
    found = entries_of(manifest, task)
    assert {key: entry.pixels for key, entry in found.items()} == {
        ("", 0): {"car": 12}, ("right", 0): {"tree": 12}, ("right", 1): {"car": 12, "sky": 12},
    }  # fmt: skip
    assert {entry.unknown for entry in found.values()} == {()}
    source = world.source(manifest)
    assert sorted(source[index].name for index in range(3)) == [
        "task 1", "task 1, right", "task 1, right, page 2",
    ]  # fmt: skip
    assert set(source.tasks) == {task} and len(set(source.groups)) == 1
    world.fake.seen.clear(), world.photos.fetched.clear()
    assert world.take(held_out_share=0.001) == manifest
    assert world.photos.fetched == [] and world.fake.requests(f"/api/tasks/{task}/annotations/") == 0
    assert load(world.storage, 1, manifest.fingerprint) == manifest


def test_another_annotation_fetches_no_photo_of_the_task_again(world):
    task = several(world, 1)
    world.fake.annotate(task, [on("left", "car")])
    world.take()
    world.photos.fetched.clear()
    world.fake.change(1, result=[on("right", "tree", 1)])
    found = entries_of(world.take(), task)
    assert [entry.pixels for entry in found.values() if entry.pixels] == [{"tree": 12}]
    assert found["right", 1].pixels and world.photos.fetched == []


def test_all_photos_of_a_task_are_on_the_side_of_its_first(world):
    for seed in range(1, 15):
        world.fake.annotate(several(world, seed, pages=3), [on("left", "car")])
    manifest = world.take(held_out_share=0.5)
    firsts = {entry.task: entry.held_out for entry in manifest.entries if not entry.image}
    assert set(firsts.values()) == {True, False}
    assert all(entry.held_out == firsts[entry.task] for entry in manifest.entries)
    assert all(
        held == snapshot.is_held_out(entries_of(manifest, task)["", 0].photo, 0.5)
        for task, held in firsts.items()
    )
    assert len(manifest.judging("train")) + len(manifest.judging("held_out")) == 14


def test_pages_of_a_task_whose_first_was_decided_before_follow_it(world):
    """An earlier form of the loop read the first photo of a task only."""
    only_left = TWO_IMAGES.replace('<Image name="right" valueList="$right"/>', "")
    tasks_there = [several(world, seed, config=only_left) for seed in range(1, 11)]
    for task in tasks_there:
        world.fake.annotate(task, [on("left", "car")])
    before = world.take(held_out_share=0.5)
    index = json.loads(world.storage.read("snapshots/project-1/index.json"))
    for entry in index["entries"]:
        del entry["image"], entry["page"]
    world.storage.write("snapshots/project-1/index.json", json.dumps(index).encode())
    world.photos.fetched.clear()
    world.fake.config = TWO_IMAGES
    after = world.take(held_out_share=0.01)
    assert len(after.entries) == 30 and len(world.photos.fetched) == 20  # none of the first ones
    for task in tasks_there:
        old = entry_of(before, task)
        found = entries_of(after, task)
        assert found["", 0].photo == old.photo
        assert {entry.held_out for entry in found.values()} == {old.held_out}


def test_a_bad_page_costs_only_itself(world):
    task = several(world, 1)
    del world.photos.files["/data/1-1.png"]
    world.fake.annotate(task, [on("left", "car"), on("right", "tree", 1)])
    manifest = world.take()
    assert set(entries_of(manifest, task)) == {("", 0), ("right", 1)}
    assert manifest.skipped == {task: 'page 1 of "right": /data/1-1.png: not found (404)'}
    world.fake.tasks[task]["data"].pop("left")
    manifest = world.take()
    assert set(entries_of(manifest, task)) == {("right", 1)}
    assert '"left": its data has "right"' in manifest.skipped[task]


def test_a_correction_of_several_photos_is_measured_for_each(world):
    task = several(world, 1)
    said = [on("left", "car"), on("right", "tree"), on("right", "tree", 1)]
    prediction = world.fake.predict(task, said, "v1")
    world.fake.annotate(task, [*said[:2], on("right", "car", 1)], parent_prediction=prediction)
    found = entries_of(world.take(), task)
    assert {key: entry.correction.iou for key, entry in found.items()} == {
        ("", 0): 1.0, ("right", 0): 1.0, ("right", 1): 0.0,
    }  # fmt: skip
    assert world.fake.requests(f"/api/predictions/{prediction}/") == 1


def test_what_is_known_of_a_project_of_one_image_is_as_ever(world):
    """Names of files and decisions of an earlier form stay: nothing is fetched or decided anew."""
    world.annotated(1)
    manifest = world.take()
    [entry] = manifest.entries
    assert entry.key == (1, "", 0)
    assert manifest.groups == {entry.photo: entry.photo}
    assert list(json.loads(world.storage.read("snapshots/project-1/photos.json"))) == ["1"]


def test_without_an_annotated_task_there_are_no_labels_in_tasks(world):
    world.fake.config = DYNAMIC
    dynamic_task(world, 1, ["sky"], None)
    manifest = world.take()
    assert (manifest.labels, manifest.entries) == ((), ())


def test_more_labels_in_tasks_than_a_model_is_asked_for_are_told(world):
    world.fake.config = DYNAMIC
    for seed in range(3):
        dynamic_task(world, seed, [f"label {seed} {number}" for number in range(400)], f"label {seed} 0")
    with pytest.raises(LabelConfigError, match="tasks bring more than 1000 labels together"):
        world.take()


def test_more_than_255_labels_take_16_bits(world):
    names = "".join(f'<Label value="label {number}"/>' for number in range(300))
    world.fake.config = (
        '<View><Image name="image" value="$image"/>'
        f'<BrushLabels name="mask" toName="image">{names}</BrushLabels></View>'
    )
    task = world.task(1)
    label_map = np.arange(HEIGHT * WIDTH, dtype=np.int16).reshape(HEIGHT, WIDTH) + 280 - 5
    label_map[0, :3] = 254, 255, -1
    world.fake.annotate(task, label_regions(label_map, world.fake.config))
    manifest = world.take(held_out_share=0.001)
    np.testing.assert_array_equal(world.source(manifest)[0].label_map, label_map)
    with Image.open(io.BytesIO(world.storage.read(world.files("label_maps")[0]))) as image:
        values = np.asarray(image)
    assert values.max() == 65535 and values[0, 1] == 255


def test_up_to_255_labels_take_8_bits(world):
    names = "".join(f'<Label value="label {number}"/>' for number in range(255))
    world.fake.config = (
        '<View><Image name="image" value="$image"/>'
        f'<BrushLabels name="mask" toName="image">{names}</BrushLabels></View>'
    )
    task = world.task(1)
    label_map = np.full((HEIGHT, WIDTH), -1, np.int16)
    label_map[0, 0] = 254
    world.fake.annotate(task, label_regions(label_map, world.fake.config))
    manifest = world.take(held_out_share=0.001)
    np.testing.assert_array_equal(world.source(manifest)[0].label_map, label_map)
    with Image.open(io.BytesIO(world.storage.read(world.files("label_maps")[0]))) as image:
        assert image.mode == "L"


def test_files_that_are_gone_or_damaged_name_their_task(world):
    world.annotated(1), world.annotated(2)
    manifest = world.take(held_out_share=0.001)
    label_map, photo_file = world.files("label_maps")[0], world.files("photos")[0]
    for key, content in ((photo_file, b"no photo"), (label_map, b"no label map")):
        whole = world.storage.read(key)
        world.storage.write(key, content)
        fresh = SnapshotSource(
            Storage(world.storage.url, world.storage.cache / uuid.uuid4().hex), manifest, "train"
        )
        with pytest.raises(DataError, match=r"project 1, to train on, task \d: "):
            [fresh[index] for index in range(2)]
        world.storage.write(key, whole)


def test_a_source_can_be_read_in_another_process(tmp_path):
    world = World(Storage(str(tmp_path / "storage"), tmp_path / "cache"))
    world.annotated(1)
    manifest = world.take(held_out_share=0.001)
    source = world.source(manifest)
    copy = pickle.loads(pickle.dumps(source))
    assert (copy.fingerprint(), copy.name, copy.tasks) == (source.fingerprint(), source.name, source.tasks)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        sample = pool.apply(source.__getitem__, (0,))
    np.testing.assert_array_equal(sample.label_map, source[0].label_map)


def test_each_part_has_a_fingerprint_of_its_own_content(world):
    for seed in range(12):
        world.annotated(seed)
    first = world.take(held_out_share=0.5)
    held = next(entry for entry in first.entries if entry.held_out)
    number = entry_of(first, held.task).annotation
    world.fake.change(number, result=[rectangle("car")])
    second = world.take(held_out_share=0.5)
    assert world.source(first, "train").fingerprint() == world.source(second, "train").fingerprint()
    assert world.source(first, "held_out").fingerprint() != world.source(second, "held_out").fingerprint()


def test_10000_tasks_take_a_hundred_pages(tmp_path):
    world = World(Storage(f"memory://{uuid.uuid4()}", tmp_path))
    for _ in range(10_000):
        world.fake.add_task(image="/x")
    settings = Settings(label_studio_url="http://studio", label_studio_api_key="key")
    studio = LabelStudioClient(settings, http=world.fake.http)
    world.fake.serve = _pages(world.fake)
    assert sum(1 for _ in studio.unlabelled(1)) == 10_000
    assert len(world.fake.seen) == 100


def _pages(fake: FakeLabelStudio):
    numbers = sorted(fake.tasks)

    def serve(request: httpx.Request) -> httpx.Response:
        _, after = json.loads(request.url.params["query"])["filters"]["items"]
        left = [number for number in numbers if number > after["value"]]
        page = [fake._row(fake.tasks[number]) for number in left[: int(request.url.params["page_size"])]]
        return httpx.Response(200, json={"tasks": page, "total": len(left)})

    return serve
