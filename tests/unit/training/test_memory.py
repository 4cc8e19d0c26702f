"""A memory of corrections: which photos it is made of, what it learns, when it does not count, its file."""

import logging
from dataclasses import replace

import numpy as np
import pytest
import torch

from ebseg.errors import DataError
from ebseg.predictor import Predictor
from ebseg.vocabulary import Vocabulary
from training.annotations.entry import Entry, LabelEntry
from training.annotations.manifest import Manifest
from training.memory import files, fitting
from training.memory.choosing import chosen, samples_key
from training.memory.files import Header, StoredMemory, Worth
from training.memory.fitting import fit, score
from training.memory.samples import PIXELS, Samples
from training.memory.sampling import sample
from training.storage import Storage

NAMES = ("sky", "road", "tree")


def photo(seed=0, *, labels=(0, 1), text="wrong", noise=0.1):
    """Make samples whose features tell their labels; ``text``: what the text says of them."""
    rng = np.random.default_rng(seed)
    truth = rng.permutation(np.repeat(labels, 60)).astype(np.int16)
    features = rng.normal(0, noise, (len(truth), 8))
    features[np.arange(len(truth)), truth] += 1
    said = np.zeros((len(truth), 3), np.float16)
    said[np.arange(len(truth)), {"wrong": (truth + 1) % 2, "right": truth}[text]] = 0.9
    return Samples(features.astype(np.float16), truth, np.full(len(truth), 1 / len(truth), np.float32), said)


@pytest.mark.parametrize("count", [1, 2, 7])
def test_it_learns_what_the_text_does_not_know(count):
    fitted = fit([photo(seed) for seed in range(count)], NAMES, "model-1")
    assert (fitted.memory.labels, fitted.memory.model, fitted.photos) == (("sky", "road"), "model-1", count)
    assert fitted.memory.share.tolist() == [1, 1]
    assert fitted.text == 0
    assert fitted.remembered > 95
    assert score(fitted.memory, [photo(100)], NAMES) == (0, pytest.approx(100, abs=3))


@pytest.mark.parametrize("count", [1, 5])
def test_it_does_not_count_where_the_text_is_as_good(count):
    fitted = fit([photo(seed, text="right", noise=2.0) for seed in range(count)], NAMES, "model-1")
    assert fitted.memory.share.tolist() == [0, 0]
    assert fitted.remembered == fitted.text == 100


def test_nothing_is_fitted_to_a_single_label_or_to_no_photo():
    assert fit([], NAMES, "model-1") is None
    assert fit([photo(labels=(2,))], NAMES, "model-1") is None


def test_one_label_may_count_alone():
    photos = [photo(seed, labels=(0, 1, 2), text="right") for seed in range(16)]
    for each in photos:
        each.text[each.labels == 2] = (0, 0.5, 0.1)  # what is "tree" the text takes for a road
    fitted = fit(photos, NAMES, "model-1")
    assert fitted.memory.share[2] > 0
    assert fitted.remembered > fitted.text + 20


@pytest.mark.parametrize(("shown_by", "counts"), [(2, False), (3, True)])
def test_a_label_of_few_photos_does_not_count_alone(monkeypatch, shown_by, counts):
    """Of many labels one looks good by chance."""
    monkeypatch.setattr(fitting, "LEAST_GAIN", 1000.0)  # all together never do
    photos = [photo(seed, text="right") for seed in range(6 - shown_by)]
    for seed in range(shown_by):
        photos.append(photo(seed, labels=(0, 1, 2), text="right"))
        photos[-1].text[photos[-1].labels == 2] = (0, 0.5, 0)
    share = fit(photos, NAMES, "model-1").memory.share
    assert bool(share[2] > 0) is counts


def test_memories_of_the_same_photos_have_the_same_name_and_others_another():
    one, again, other = (fit([photo(seed)], NAMES, "model-1").memory.name for seed in (0, 0, 1))
    assert one == again != other
    assert len(one) == 6


def test_what_is_changed_is_unlearnt():
    """The same pixels, now with the labels the other way round."""
    before = photo()
    after = replace(before, labels=1 - before.labels)
    fitted = fit([after], NAMES, "model-1")
    assert score(fitted.memory, [after], NAMES)[1] > 95
    assert score(fitted.memory, [before], NAMES)[1] < 5


def test_a_label_that_one_photo_shows_is_learnt_with_the_others():
    fitted = fit([photo(0), photo(1), photo(2, labels=(0, 2))], NAMES, "model-1")
    assert fitted.memory.labels == NAMES
    assert np.isfinite(fitted.memory.weight).all()


def test_samples_are_few_pixels_of_each_label(random_tiny):
    predictor = Predictor(random_tiny, version="random", device="cpu")
    image = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    label_map = np.full((40, 60), -1, np.int16)
    label_map[:20], label_map[30, 5:8] = 1, 0
    found, again = (
        sample(predictor, predictor.encode(image), label_map, Vocabulary(["sky", "road"])) for _ in range(2)
    )
    assert np.bincount(found.labels).tolist() == [3, PIXELS]
    assert found.features.shape == (3 + PIXELS, 2 * random_tiny.config.decoder.width)
    assert found.text.shape == (3 + PIXELS, 2)
    assert found.features.dtype == np.float16
    assert found.areas.sum() == pytest.approx((20 * 60 + 3) / (40 * 60))
    assert np.array_equal(found.features, again.features)
    nothing = sample(predictor, predictor.encode(image), np.full_like(label_map, -1), Vocabulary(["sky"]))
    assert len(nothing) == 0


def test_samples_are_what_the_model_says_there(random_tiny):
    """Where the photo is as large as at test size, a pixel in the middle of four places is their mean."""
    predictor = Predictor(random_tiny, version="random", device="cpu")
    image = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    label_map = np.full((64, 96), -1, np.int16)
    label_map[10, 21] = 0
    encoded = predictor.encode(image)
    [found] = sample(predictor, encoded, label_map, Vocabulary(["sky"])).features
    whole = torch.nn.functional.interpolate(
        encoded.encoded.features.float(), scale_factor=4, mode="bilinear", align_corners=False
    )[0, :, 10, 21]
    assert found[: len(whole)] == pytest.approx(whole.numpy(), abs=1e-3)


def entry(task, time, **pixels):
    return Entry(task, task, time, f"photo-{task}", f"map-{task}", False, pixels, (), None, "", "")


def test_the_newest_photos_stay_and_the_only_ones_of_a_label():
    entries = [
        entry(1, "2026-01-01", sky=500, bench=4),
        entry(2, "2026-01-02", sky=500),
        entry(3, "2026-01-03", sky=500),
        entry(4, "2026-01-04", sky=500),
        entry(5, "2026-01-05"),
    ]
    assert [each.task for each in chosen(entries, 10)] == [4, 1, 3, 2]
    room = 10 * (3 * PIXELS + 4)
    assert [each.task for each in chosen(entries, 10, room)] == [4, 1, 3]
    assert chosen(entries, 10, 0) == []


def test_bytes_are_bounded_however_many_photos_there_are():
    entries = [entry(number, f"{number:06}", sky=10_000, road=10_000) for number in range(2000)]
    kept = chosen(entries, 800)
    assert 60e6 < sum(2 * PIXELS * 800 for _ in kept) <= 64 * 2**20


def test_samples_are_named_by_what_decides_them():
    manifest = Manifest(1, "", "image", (LabelEntry("sky", ("sky",)), LabelEntry("road", ("road",))))
    first = entry(1, "2026-01-01", sky=5)
    key = samples_key(manifest, first, "model-1")
    later = replace(first, time="2026-02-02", revision="another", annotation=9)
    assert samples_key(manifest, later, "model-1") == key
    others = {
        samples_key(manifest, replace(first, label_map="other"), "model-1"),
        samples_key(manifest, replace(first, photo="other"), "model-1"),
        samples_key(manifest, first, "model-2"),
        samples_key(replace(manifest, labels=manifest.labels[:1]), first, "model-1"),
    }
    assert len(others - {key}) == 4


@pytest.fixture
def storage(tmp_path):
    return Storage(str(tmp_path / "storage"), tmp_path / "cache")


def stored(**changed):
    fitted = fit([photo()], NAMES, "model-1")
    memory, worth = fitted.memory, Worth(1, fitted.text, fitted.remembered)
    shares = tuple(memory.share.tolist())
    header = Header(memory.name, "model-1", memory.labels, shares, (60, 60), "abc", worth, None, used=True)
    return StoredMemory(replace(header, **changed), memory)


def test_a_memory_is_read_as_it_was_written(storage):
    assert files.find(storage, 1) is None
    written = stored()
    files.store(storage, 1, written)
    found = files.find(storage, 1)
    assert found.header == written.header
    assert np.array_equal(found.memory.weight, written.memory.weight)
    assert np.array_equal(found.memory.share, written.memory.share)
    files.forget_memory(storage, 1)
    assert files.find(storage, 1) is None


@pytest.mark.parametrize("damage", ["cut", "nothing", "text", "labels", "nan", "pickle"])
def test_a_damaged_file_is_no_memory_and_a_warning(storage, caplog, damage, tmp_path):
    files.store(storage, 1, stored())
    whole = storage.read("memory/project-1/memory.npz")
    if damage == "labels":
        files.store(storage, 1, stored(labels=("sky",)))
    elif damage == "nan":
        broken = stored()
        broken.memory.bias[0] = np.nan
        files.store(storage, 1, broken)
    elif damage == "pickle":
        np.savez(tmp_path / "evil.npz", header=np.array([{"a": 1}], object))
        storage.write("memory/project-1/memory.npz", (tmp_path / "evil.npz").read_bytes())
    else:
        content = {"cut": whole[: len(whole) // 2], "nothing": b"", "text": b"no such file"}[damage]
        storage.write("memory/project-1/memory.npz", content)
    with caplog.at_level(logging.WARNING):
        assert files.find(storage, 1) is None
    assert "memory/project-1/memory.npz cannot be read" in caplog.text


def test_samples_are_kept_and_dropped(storage):
    made = photo()
    files.keep_samples(storage, 1, "a", made)
    files.keep_samples(storage, 1, "b", made)
    found = files.read_samples(storage, 1, "a")
    assert np.array_equal(found.features, made.features)
    assert np.array_equal(found.text, made.text)
    files.drop_samples(storage, 1, {"a"})
    assert files.stored_samples(storage, 1) == {"b"}
    storage.write("memory/project-1/samples/b.npz", b"damaged")
    with pytest.raises(DataError, match=r"samples/b\.npz: cannot be read"):
        files.read_samples(storage, 1, "b")
