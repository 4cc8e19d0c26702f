from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ebseg.config import TrainConfig
from ebseg.data.batches import ATTEMPTS, Batch, StepBatches, StepData, loader
from ebseg.data.drawn.scenes import BENCHMARK_SEED, SceneSource, training_vocabulary
from ebseg.data.drawn.synthetic import SEEN_PHRASES, draw_scene
from ebseg.data.folder import FolderSource
from ebseg.errors import ConfigError, DataError
from ebseg.vocabulary import Vocabulary

SMALL = TrainConfig(steps=12, batch=4, short_edges=(24, 32), crop=32, seed=3)


def recipe(**options) -> TrainConfig:
    return SMALL.model_copy(update=options)


def folder(root: Path, count: int, value: int = 0) -> FolderSource:
    """Photos 000.png .. whose content tells their number, and label maps of one value."""
    for kind in ("photos", "labels"):
        (root / kind).mkdir(parents=True)
    for number in range(count):
        image = np.full((24, 30, 3), number, np.uint8)
        image[0, 0] = 255  # so that a mirrored photo differs
        Image.fromarray(image).save(root / f"photos/{number:03}.png")
        Image.fromarray(np.full((24, 30), value, np.uint8)).save(root / f"labels/{number:03}.png")
    return FolderSource(root / "photos", root / "labels", Vocabulary(["sky", "road"]))


def numbers(step: StepData) -> list[int]:
    return [int(Path(name).stem) for batch in step.batches for name in batch.names]


def assert_same(first: StepData, second: StepData) -> None:
    assert (first.broken, first.source) == (second.broken, second.source)
    assert_same_photos(first.batches, second.batches)


def assert_same_photos(first: list[Batch], second: list[Batch]) -> None:
    """The same photos in the same order, however they are split into batches."""
    for field in ("images", "label_maps"):
        tensors = (torch.cat([getattr(batch, field) for batch in part]) for part in (first, second))
        torch.testing.assert_close(*tensors, rtol=0, atol=0)
    for field in ("names", "photos"):
        one, other = (sum((getattr(batch, field) for batch in part), ()) for part in (first, second))
        assert one == other


def test_shapes_types_and_numbers():
    data = StepBatches([SceneSource(5, 20, (40, 48))], recipe(accumulation=2))[3]
    assert len(data.batches) == 2 and data.source == 0 and data.broken == ()
    for batch, photos in zip(data.batches, [(12, 13), (14, 15)], strict=True):
        assert batch.images.shape == (2, 3, 32, 32) and batch.images.dtype == torch.uint8
        assert batch.label_maps.shape == (2, 32, 32) and batch.label_maps.dtype == torch.int16
        assert batch.images.is_contiguous() and batch.label_maps.is_contiguous()
        assert batch.label_maps.min() >= -1 and batch.label_maps.max() < len(SEEN_PHRASES)
        assert batch.photos == photos and batch.source == 0
        assert all(name.endswith("of seed 5") for name in batch.names)


def test_steps_follow_from_the_seed_alone():
    sources = [SceneSource(5, 7, (40, 48)), SceneSource(6, 9, (40, 48))]
    first, second = (StepBatches(sources, SMALL) for _ in range(2))
    forwards = [first[step] for step in range(len(first))]
    backwards = [second[step] for step in reversed(range(len(second)))][::-1]
    for one, other in zip(forwards, backwards, strict=True):
        assert_same(one, other)
    longer = StepBatches(sources, recipe(steps=40))
    assert_same(forwards[11], longer[11])
    other_seed = StepBatches(sources, recipe(seed=4))
    assert [one.batches[0].names for one in forwards] != [
        other_seed[step].batches[0].names for step in range(12)
    ]
    with pytest.raises(IndexError):
        first[12]


def test_a_photo_is_augmented_anew_each_time(tmp_path):
    data = StepBatches([folder(tmp_path, 1)], recipe(batch=8))
    images = data[0].batches[0].images
    assert len({image.numpy().tobytes() for image in images}) > 4


@pytest.mark.parametrize(("processes", "accumulation"), [(1, 4), (2, 1), (2, 3), (3, 2), (6, 2), (12, 1)])
def test_processes_share_what_one_would_do(processes, accumulation):
    sources = [SceneSource(5, 30, (40, 48)), SceneSource(6, 10, (40, 48))]
    whole = StepBatches(sources, recipe(batch=12))
    parts = [
        StepBatches(sources, recipe(batch=12, accumulation=accumulation), rank=rank, processes=processes)
        for rank in range(processes)
    ]
    for step in (0, 5):
        shares = [part[step] for part in parts]
        assert {len(share.batches) for share in shares} == {accumulation}
        assert_same_photos(whole[step].batches, [batch for share in shares for batch in share.batches])
        assert {share.source for share in shares} == {whole[step].source}


def test_a_batch_that_cannot_be_shared_is_refused():
    with pytest.raises(ConfigError, match="12 photos .* 5 processes with 2 batches each: .* multiple of 10"):
        StepBatches([SceneSource(5, 30)], recipe(batch=12, accumulation=2), processes=5)


@pytest.mark.parametrize("count", [3, 4, 10, 23])
def test_every_photo_comes_once_before_any_comes_twice(tmp_path, count):
    data = StepBatches([folder(tmp_path, count)], recipe(steps=24))
    seen = [number for step in range(24) for number in numbers(data[step])]
    passes = [seen[start : start + count] for start in range(0, len(seen), count)]
    for whole in passes[:-1]:
        assert sorted(whole) == list(range(count))
    assert len(set(passes[-1])) == len(passes[-1])
    assert len({tuple(whole) for whole in passes[:-1]}) > 1


def test_every_photo_comes_once_in_mixed_sources_too(tmp_path):
    sources = [folder(tmp_path / "a", 9, value=0), folder(tmp_path / "b", 5, value=1)]
    data = StepBatches(sources, recipe(steps=40))
    seen: dict[int, list[int]] = {0: [], 1: []}
    for step in range(40):
        loaded = data[step]
        assert {batch.source for batch in loaded.batches} == {loaded.source}
        labels = loaded.batches[0].label_maps
        assert set(labels.unique().tolist()) <= {-1, loaded.source}
        seen[loaded.source] += numbers(loaded)
    for source, count in ((0, 9), (1, 5)):
        shown = seen[source]
        passes = [shown[start : start + count] for start in range(0, len(shown), count)]
        assert len(passes) > 3
        assert all(sorted(whole) == list(range(count)) for whole in passes[:-1])


@pytest.mark.parametrize(("weights", "share"), [(None, 0.75), ((1, 1), 0.5), ((1, 9), 0.1)])
def test_sources_are_mixed_in_proportion(weights, share):
    sources = [SceneSource(5, 300), SceneSource(6, 100)]
    data = StepBatches(sources, recipe(steps=4000), weights=weights)
    first = Counter(data._source_of.tolist())[0] / 4000
    assert abs(first - share) < 0.03


@pytest.mark.parametrize("weights", [(1,), (1, 2, 3), (1, 0), (1, -1), (1, float("nan")), (1, float("inf"))])
def test_weights_that_do_not_fit_are_refused(weights):
    with pytest.raises(ConfigError, match="positive number for each of 2 sources"):
        StepBatches([SceneSource(5, 9), SceneSource(6, 9)], SMALL, weights=weights)


def test_no_source_is_refused():
    with pytest.raises(ConfigError, match="at least one"):
        StepBatches([], SMALL)


def broken_folder(root: Path, count: int, broken: list[int]) -> FolderSource:
    source = folder(root, count)
    for number in broken:
        photo = root / f"photos/{number:03}.png"
        photo.write_bytes(photo.read_bytes()[:40])
    return source


def test_a_broken_photo_is_replaced_and_named(tmp_path):
    data = StepBatches([broken_folder(tmp_path, 12, [2, 7])], recipe(steps=3))
    steps = [data[step] for step in range(3)]
    messages = [message for step in steps for message in step.broken]
    named = {number for number in (2, 7) for message in messages if f"photos/{number:03}.png" in message}
    assert named == {2, 7}
    assert all(len(numbers(step)) == 4 and not {2, 7} & set(numbers(step)) for step in steps)
    whole = StepBatches([folder(tmp_path / "whole", 12)], recipe(steps=3))
    for step, loaded in enumerate(steps):
        assert_same(loaded, data[step])
        for got, meant in zip(numbers(loaded), numbers(whole[step]), strict=True):
            assert got == meant or meant in (2, 7)


def test_broken_photos_are_replaced_alike_in_all_processes(tmp_path):
    source = broken_folder(tmp_path, 8, [0, 1, 2, 3])
    whole = StepBatches([source], SMALL)[1]
    shares = [StepBatches([source], SMALL, rank=rank, processes=2)[1] for rank in range(2)]
    assert_same_photos(whole.batches, [batch for share in shares for batch in share.batches])
    assert set(whole.broken) == {message for share in shares for message in share.broken}


def test_a_source_that_is_broken_altogether_stops_the_run(tmp_path):
    data = StepBatches([broken_folder(tmp_path, 5, list(range(5)))], SMALL)
    with pytest.raises(
        DataError, match=rf"a photo and {ATTEMPTS} tried in its place are broken; the last: .*00"
    ):
        data[0]


def test_loader_goes_on_from_any_step_and_leaves_the_global_generator_alone():
    data = StepBatches([SceneSource(5, 20, (40, 48))], SMALL)
    before = torch.get_rng_state()
    loaded = list(loader(data, 9, 0))
    assert len(loaded) == 3
    for step, got in zip(range(9, 12), loaded, strict=True):
        assert_same(got, data[step])
    assert list(loader(data, 12, 0)) == []
    assert torch.equal(before, torch.get_rng_state())


def test_scenes_are_a_source():
    source = SceneSource(5, 3, (40, 48))
    scene = draw_scene(5, 2, size=(40, 48))
    np.testing.assert_array_equal(source[2].image, scene.image)
    np.testing.assert_array_equal(source[2].label_map, scene.label_map)
    assert source[2].name == "scene 2 of seed 5" and source.name == "drawn scenes of seed 5"
    assert source.vocabulary == training_vocabulary() and len(source) == 3
    with pytest.raises(IndexError):
        source[3]


def test_scenes_have_a_fingerprint_and_refuse_what_cannot_be_drawn():
    sources = [SceneSource(5, 3), SceneSource(6, 3), SceneSource(5, 4), SceneSource(5, 3, (256, 128))]
    assert len({source.fingerprint() for source in sources}) == 4
    assert SceneSource(5, 3).fingerprint() == sources[0].fingerprint()
    with pytest.raises(ConfigError, match="benchmark"):
        SceneSource(BENCHMARK_SEED, 3)
    for seed, count, size in ((-1, 3, (256, 256)), (5, 0, (256, 256)), (5, 3, (31, 256))):
        with pytest.raises(ConfigError, match="cannot draw"):
            SceneSource(seed, count, size)
