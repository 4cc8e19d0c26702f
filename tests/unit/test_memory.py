"""How a memory joins the text's scores."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from ebseg.ask import Ask, Memory
from ebseg.memory import join, joined, surroundings
from ebseg.predictor import Predictor
from ebseg.scores import score_strips
from ebseg.vocabulary import Vocabulary
from tests.unit.shallow import SHALLOW

LABELS = Vocabulary(["sky", "road", ["car", "automobile"], "tree"])
PHOTO = np.random.default_rng(0).integers(0, 256, (61, 90, 3), dtype=np.uint8)


@pytest.fixture
def predictor(random_tiny):
    return Predictor(random_tiny, version="random", device="cpu", threshold=0.0)


def memory(labels=("road", "car"), share=(1.0, 1.0), model="random"):
    width = 2 * SHALLOW.decoder.width
    weight = torch.randn(width, len(labels), generator=torch.Generator().manual_seed(0))
    return Memory(
        "abcdef", model, labels, weight.numpy(),
        np.zeros(len(labels), np.float32), np.array(share, np.float32),
    )  # fmt: skip


@torch.inference_mode()
def scores(predictor, with_memory=None):
    photo = predictor.encode(PHOTO)
    classes = predictor.net.classify(photo.encoded, LABELS)[0]
    strips = score_strips(photo.encoded.resizable(), classes, photo.size)
    if with_memory is not None:
        strips = join(with_memory, strips, photo.encoded, LABELS.names, photo.size)
    return torch.cat([strip.clone() for strip in strips], dim=1)


def test_scores_of_labels_without_corrections_stay_to_the_bit(predictor):
    text, found = scores(predictor), scores(predictor, memory())
    assert torch.equal(found[[0, 3]], text[[0, 3]])
    assert not torch.allclose(found[[1, 2]], text[[1, 2]])
    left = (1 - text[[0, 3]].sum(dim=0)).clamp(0, 1)
    assert torch.allclose(found[[1, 2]].sum(dim=0), left, atol=1e-6)


def test_a_label_whose_share_is_nothing_keeps_the_texts_score(predictor):
    text, found = scores(predictor), scores(predictor, memory(share=(0.0, 1.0)))
    assert torch.equal(found[1], text[1])
    assert not torch.allclose(found[2], text[2])


def test_half_a_share_is_the_mean():
    text, others = torch.tensor([0.2, 0.4]), torch.tensor(0.5)
    found = joined(text, others, torch.tensor([0.0, 1.0]), torch.tensor([0.5, 0.5]))
    assert torch.allclose(found, torch.tensor([0.1, 0.45]))


def test_what_nobody_asks_for_changes_nothing(predictor):
    assert torch.equal(scores(predictor, memory(labels=("lamp", "bench"))), scores(predictor))


def test_a_memory_decides_pixels_as_its_features_say(predictor):
    """The strips' rows and columns are those of the whole map, resized at once."""
    found = predictor.predict_many([Ask(PHOTO, LABELS, memory=memory(labels=LABELS.names, share=(1.0,) * 4))])
    encoded = predictor.encode(PHOTO).encoded
    weight = memory(labels=LABELS.names, share=(1.0,) * 4).weight
    own, around = torch.from_numpy(weight).chunk(2)
    features = encoded.features[0].float()
    logits = torch.einsum("ds,dhw->shw", own, features)
    logits += torch.einsum("ds,dhw->shw", around, surroundings(features))
    padded = F.interpolate(logits[None], size=encoded.padded, mode="bilinear", align_corners=False)
    height, width = encoded.sizes[0]
    whole = F.interpolate(padded[:, :, :height, :width], size=PHOTO.shape[:2], mode="bilinear")[0]
    assert (whole.argmax(dim=0).numpy() == found[0].label_map).mean() > 0.97  # resized twice, not once


def test_another_models_memory_is_not_used(predictor):
    [alone], [other], [own] = (
        predictor.predict_many([Ask(PHOTO, LABELS, memory=each)])
        for each in (None, memory(model="another"), memory())
    )
    assert np.array_equal(alone.label_map, other.label_map)
    assert np.array_equal(alone.scores, other.scores)
    assert not np.array_equal(alone.scores, own.scores)


@pytest.mark.parametrize("size", [(1, 1), (7, 300), (200, 3), (61, 90)])
def test_photos_of_any_size_get_an_answer(predictor, size):
    photo = np.zeros((*size, 3), np.uint8)
    [found] = predictor.predict_many([Ask(photo, LABELS, memory=memory())])
    assert found.label_map.shape == size
    assert np.isfinite(found.scores).all()


def test_what_is_around_is_the_mean_of_the_places_there_are():
    values = torch.zeros(1, 20, 20)
    values[0, 0, 0] = 25.0
    found = surroundings(values)[0]
    assert found[0, 0] == 1  # of 5 x 5 places
    assert found[4, 4] == pytest.approx(25 / 81)
    assert found[5, 5] == 0
