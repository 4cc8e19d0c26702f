import numpy as np
import pytest
import torch

from ebseg.ask import Ask
from ebseg.engine import EncodedPhotos, Engine
from ebseg.errors import ConfigError
from ebseg.predictor import Predictor
from ebseg.vocabulary import Vocabulary

SKY, ROAD = Vocabulary(["sky", "road"]), Vocabulary(["road", "a red ball", "sky"])


class Counting(Predictor):
    """A predictor that counts the photos that it encodes."""

    encoded = 0

    def encode_many(self, photos):
        self.encoded += len(photos)
        return super().encode_many(photos)


@pytest.fixture
def predictor(random_tiny):
    return Counting(random_tiny, version="random")


@pytest.fixture
def photos():
    return [np.random.default_rng(seed).integers(0, 256, (48, 64, 3), np.uint8) for seed in range(3)]


def same(found, expected) -> bool:
    return np.array_equal(found.label_map, expected.label_map) and np.array_equal(
        found.scores, expected.scores
    )


def test_it_answers_as_the_predictor_does_and_encodes_a_photo_once(predictor, photos):
    expected = [predictor.predict(photos[0], SKY, 0.1), predictor.predict(photos[0], ROAD)]
    engine, before = Engine(predictor), predictor.encoded
    # Equal pixels, not the same object: each request of a smart tool fetches the photo anew.
    found = [
        engine.predict_many([Ask(photos[0].copy(), labels, share)])[0]
        for labels, share in ((SKY, 0.1), (ROAD, None))
    ]
    assert predictor.encoded - before == 1
    assert all(same(*pair) for pair in zip(found, expected, strict=True))
    assert engine.version == "random"


def test_answers_come_in_the_order_of_the_questions(predictor, photos):
    engine = Engine(predictor)
    asks = [Ask(photos[number], labels) for number, labels in ((1, SKY), (0, ROAD), (1, ROAD))]
    found = engine.predict_many(asks)
    assert [answer.labels for answer in found] == [ask.vocabulary.names for ask in asks]
    assert all(
        same(answer, predictor.predict(ask.photo, ask.vocabulary))
        for answer, ask in zip(found, asks, strict=True)
    )


def test_photos_of_one_size_are_encoded_together_where_that_pays(predictor, photos, monkeypatch):
    batches = []
    encode = predictor.encode_batch

    def counted(images):
        batches.append(len(images))
        return encode(images)

    monkeypatch.setattr(type(predictor), "photos_at_once", 2)
    monkeypatch.setattr(predictor, "encode_batch", counted)
    wide = photos[0][: photos[0].shape[0] // 2]
    different = [photos[0], wide, photos[1], 255 - photos[0], photos[0]]
    engine = Engine(predictor)
    found = engine.predict_many([Ask(photo, SKY) for photo in different])
    assert batches == [1, 1, 2]  # two questions at a time: of two sizes; of one; and a photo that is known
    one_by_one = [predictor.predict(photo, SKY) for photo in different]
    for together, alone in zip(found, one_by_one, strict=True):
        assert together.label_map.shape == alone.label_map.shape
        np.testing.assert_allclose(together.scores, alone.scores, atol=1e-5)
        assert (together.label_map == alone.label_map).mean() > 0.999


def test_a_photo_of_a_batch_keeps_no_memory_of_the_others(predictor, photos, monkeypatch):
    monkeypatch.setattr(type(predictor), "photos_at_once", 2)
    for encoded in predictor.encode_many(photos[:2]):
        masks = encoded.encoded.masks
        assert masks.untyped_storage().nbytes() == masks.nbytes


def test_a_photo_of_other_pixels_or_another_shape_is_another(predictor, photos):
    engine = Engine(predictor)
    other = photos[0].copy()
    other[0, 0, 0] ^= 1
    for photo in (photos[0], other, photos[0].reshape(64, 48, 3)):
        [found] = engine.predict_many([Ask(photo, SKY)])
        assert same(found, predictor.predict(photo, SKY))
    assert predictor.encoded == 6  # three by each


def test_without_a_cache_nothing_is_kept(predictor, photos):
    engine = Engine(predictor, encoded=EncodedPhotos(0))
    engine.predict_many([Ask(photos[0], SKY), Ask(photos[0], ROAD)])
    assert predictor.encoded == 2


def test_models_that_share_a_memory_take_none_of_each_others_photos(predictor, random_tiny, photos):
    other = Counting(random_tiny.with_own_head(random_tiny.config, None), version="other")
    torch.nn.init.normal_(other.net.mask_decoder.query_features.weight)
    encoded = EncodedPhotos(2**25)
    engines = [Engine(model, encoded=encoded) for model in (predictor, other)]
    for _ in range(2):
        for engine, model in zip(engines, (predictor, other), strict=True):
            [found] = engine.predict_many([Ask(photos[0], SKY, 0.0)])
            before = model.encoded
            assert same(found, model.predict(photos[0], SKY, 0.0))
            model.encoded = before
    assert (predictor.encoded, other.encoded, len(encoded)) == (1, 1, 2)


def test_a_faulty_question_leaves_the_engine_usable(predictor, photos):
    engine = Engine(predictor)
    with pytest.raises(ConfigError, match="threshold 2"):
        engine.predict_many([Ask(photos[0], SKY, 2)])
    assert same(engine.predict_many([Ask(photos[0], SKY)])[0], predictor.predict(photos[0], SKY))


class Sized:
    def __init__(self, nbytes):
        self.nbytes = nbytes


def test_what_was_not_asked_for_longest_goes_first_and_the_bound_holds():
    kept = EncodedPhotos(10)
    for key in (b"a", b"b"):
        kept.put(key, Sized(4))
    assert kept.get(b"a") is not None  # which makes b the oldest
    kept.put(b"c", Sized(4))
    assert (kept.get(b"b"), len(kept), kept.nbytes) == (None, 2, 8)
    assert kept.get(b"a") and kept.get(b"c")


def test_a_photo_larger_than_the_bound_is_not_kept_and_costs_the_others_nothing():
    kept = EncodedPhotos(10)
    kept.put(b"a", Sized(6))
    kept.put(b"huge", Sized(11))
    kept.put(b"a", Sized(6))  # twice is once
    assert (kept.get(b"huge"), len(kept), kept.nbytes) == (None, 1, 6)
