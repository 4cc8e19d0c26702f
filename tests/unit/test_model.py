import numpy as np
import pytest
import torch

from ebseg.balance import balance, pool_dense_features
from ebseg.config import TINY, VARIANTS, BalanceConfig
from ebseg.model import EBSeg
from ebseg.vocabulary import Vocabulary

LABELS = ["sky", "road", ["car", "automobile"]]


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return EBSeg(TINY)


@pytest.mark.parametrize(("height", "width"), [(32, 32), (64, 96), (50, 77), (33, 161)])
@pytest.mark.parametrize("size", [(40, 60), (1, 1)])
def test_any_photo_gives_scores_of_the_size_asked_for(net, height, width, size):
    scores = net.segment(torch.rand(3, height, width) * 255, Vocabulary(LABELS), size)
    assert scores.shape == (3, *size)
    assert torch.isfinite(scores).all() and (scores >= 0).all()


def test_padding_is_cut_off_again(net):
    masks, classes = net.masks_and_classes(torch.rand(3, 50, 77) * 255, Vocabulary(LABELS))
    assert masks.shape == (TINY.decoder.queries, 50, 77)
    assert classes.shape == (TINY.decoder.queries, 3)
    assert (classes.sum(dim=1) <= 1 + 1e-5).all()


def test_synonyms_are_averaged(net):
    names = net.encode_names(["car", "automobile"])
    text = net.class_embeddings(Vocabulary(LABELS))
    expected = torch.nn.functional.normalize(names.mean(dim=0), dim=-1)
    assert torch.allclose(text[2], expected, atol=1e-6)
    assert text.shape == (4, TINY.clip.embed_dim)


def test_text_does_not_depend_on_what_is_encoded_beside_it(net):
    """Texts are cut to the longest of a batch; that must not change the shorter ones."""
    alone = net.encode_names(["sky"])
    beside = net.encode_names(["sky", "a very long name of something that nobody has ever seen"])
    assert torch.allclose(alone[0], beside[0], atol=1e-6)


def test_a_label_is_seen_if_it_was_trained_on(net):
    vocabulary = Vocabulary(LABELS)
    assert net.seen(vocabulary) == (False, False, False)
    net.training_vocabulary = Vocabulary(["roads", "automobile"])
    assert net.seen(vocabulary) == (False, True, True)
    net.training_vocabulary = None


def test_seen_labels_use_the_decoder_and_unseen_ones_do_not():
    config = BalanceConfig(alpha=0.1, beta=0.3, gamma=0.7)
    a = torch.zeros(1, 1, 3)
    a[..., 0] = 3.0  # the decoder is sure of label 0
    flat = torch.zeros(1, 1, 2)
    seen = balance(a, flat, flat, torch.tensor([True, True]), config).exp()
    unseen = balance(a, flat, flat, torch.tensor([False, False]), config).exp()
    assert seen[0, 0, 0] > seen[0, 0, 1]
    assert unseen[0, 0, 0] == pytest.approx(unseen[0, 0, 1].item(), abs=1e-6)


def test_balanced_probabilities_leave_the_background_its_share():
    torch.manual_seed(0)
    a, b, c = torch.randn(3, 1, 4, 6)
    config = BalanceConfig(alpha=0.1, beta=0.3, gamma=0.7)
    balanced = balance(a[None], b[None], c[None], torch.tensor([True] * 3 + [False] * 2), config).exp()
    assert torch.allclose(balanced[..., -1], a[None].softmax(dim=-1)[..., -1], atol=1e-6)
    assert torch.allclose(balanced.sum(dim=-1), torch.ones(1, 1, 4), atol=1e-5)


def test_dense_features_are_averaged_inside_the_mask():
    dense = torch.arange(8.0).reshape(1, 2, 2, 2)
    masks = torch.tensor([[[[5.0, 5.0], [-5.0, -5.0]], [[-5.0] * 2] * 2]])
    pooled = pool_dense_features(masks, dense)
    assert torch.allclose(pooled, torch.tensor([[[0.5, 4.5], [0.0, 0.0]]]))


def test_tiny_is_small():
    assert sum(p.numel() for p in EBSeg(VARIANTS["tiny"]).parameters()) <= 12_000_000


def test_the_same_photo_gives_the_same_scores(net):
    image = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 64, 64))).float()
    first = net.segment(image, Vocabulary(LABELS), (64, 64))
    assert torch.equal(first, net.segment(image, Vocabulary(LABELS), (64, 64)))
