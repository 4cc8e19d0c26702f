import numpy as np
import pytest
import torch
import torch.nn.functional as F

from ebseg.config import TINY, BalanceConfig
from ebseg.data.drawn.synthetic import PHRASES, draw_scene
from ebseg.vocabulary import Vocabulary
from training.tiny.exponents import Choice, Observation, choose, class_probabilities, grid, observe, score

A_ALONE = BalanceConfig(alpha=0, beta=0, gamma=0)
C_FOR_UNSEEN = BalanceConfig(alpha=0, beta=1, gamma=0)


def two_halves():
    """Build a photo whose left half is label 0 (seen), its right half label 1 (unseen), one mask each.

    A says label 0 of both; B and C tell them apart.
    """
    a = torch.tensor([[[9.0, 0.0, -9.0], [1.0, 0.0, -9.0]]])
    b = c = torch.tensor([[[9.0, 0.0, 0.0], [0.0, 9.0, 0.0]]])
    left = torch.zeros(4, 4)
    left[:, :2] = 1
    return Observation(a, b, c, torch.stack([left, 1 - left]), np.array([[0, 0, 1, 1]] * 4))


def test_observing_ends_where_the_models_own_forward_pass_does(random_tiny):
    scene = draw_scene(3, 0, size=(64, 96))
    vocabulary = Vocabulary(["sky", "road", "red ball", "cup"])
    outcome = observe(random_tiny, scene.image, scene.label_map, random_tiny.class_embeddings(vocabulary))
    image = torch.from_numpy(scene.image).permute(2, 0, 1).float()
    encoded = random_tiny.encode([image])
    masks, classes = encoded.resizable().at_test_size(0, 64), random_tiny.classify(encoded, vocabulary)[0]
    exponents = random_tiny.config.balance
    found = class_probabilities(outcome, random_tiny.seen(vocabulary), exponents)
    torch.testing.assert_close(found, classes)
    resized = F.interpolate(outcome.masks.logit()[None], size=(64, 96), mode="bilinear")[0]
    torch.testing.assert_close(resized, masks, rtol=1e-3, atol=1e-3)  # through a sigmoid and back
    assert outcome.truth.shape == (16, 24) and outcome.truth[5, 7] == scene.label_map[22, 30]
    assert outcome.truth.max() < len(PHRASES)


def test_padding_is_cut_off(random_tiny):
    scene = draw_scene(3, 0, size=(64, 80))
    text = random_tiny.class_embeddings(Vocabulary(["sky"]))
    outcome = observe(random_tiny, scene.image, scene.label_map, text)
    assert outcome.masks.shape[1:] == outcome.truth.shape == (16, 20)


def test_iou_by_hand():
    outcomes, seen = [two_halves()], (True, False)
    alone = score(outcomes, seen, A_ALONE)
    assert (alone.seen, alone.unseen, alone.harmonic) == (50, 0, 0)  # all is called label 0
    balanced = score(outcomes, seen, C_FOR_UNSEEN)
    assert (balanced.seen, balanced.unseen, balanced.harmonic) == (100, 100, 100)


def test_the_largest_harmonic_mean_is_chosen():
    choice = choose([two_halves()], (True, False), [A_ALONE, C_FOR_UNSEEN])
    assert choice.best == C_FOR_UNSEEN
    assert [result.harmonic for _, result in choice.measured] == [100, 0]


def test_neighbours_differ_by_one_step_in_each():
    some = score([two_halves()], (True, False), A_ALONE)
    exponents = [
        BalanceConfig(alpha=alpha, beta=beta, gamma=gamma)
        for alpha, beta, gamma in ((0.1, 0.5, 0.5), (0.2, 0.4, 0.6), (0.1, 0.5, 0.3), (0.3, 0.5, 0.5))
    ]
    choice = Choice(best=exponents[0], measured=tuple((one, some) for one in exponents))
    assert choice.neighbours() == [some.harmonic]


def test_the_grid_leaves_a_share_to_a():
    candidates = grid()
    assert len(candidates) == len(set(candidates)) > 300
    assert A_ALONE in candidates and TINY.balance in candidates
    for exponents in candidates:
        assert max(exponents.alpha, exponents.beta) + exponents.gamma == pytest.approx(
            min(max(exponents.alpha, exponents.beta) + exponents.gamma, 1)
        )
