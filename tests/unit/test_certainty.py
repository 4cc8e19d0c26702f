import math

import pytest
import torch

from ebseg.certainty import certainty
from ebseg.scores import Contest


def measured(measure, *scores):
    found = certainty(Contest.of_all(torch.tensor(scores)[:, None, None]), measure)
    assert found.shape == (1, 1) and found.dtype == torch.float32
    return found.item()


@pytest.mark.parametrize(
    ("scores", "margin", "entropy"),
    [
        ((1.0, 0.0), 1, 1),
        ((0.0, 0.0), 0, 1),  # it is sure that it is none of them
        ((0.5, 0.5), 0, 1 - math.log(2) / math.log(3)),
        ((2.0, 6.0), 0.5, 1 + (0.25 * math.log(0.25) + 0.75 * math.log(0.75)) / math.log(3)),
        ((1 / 3, 1 / 3), 0, 0),  # the rest of the whole is one more answer
        ((0.5,), 0.5, 0),
        ((1.0,), 1, 1),
        ((0.6, 0.1, 0.2), 0.4, None),
    ],
)
def test_a_pixel_is_as_sure_as_its_shares_differ(scores, margin, entropy):
    assert measured("margin", *scores) == pytest.approx(margin, abs=1e-6)
    if entropy is not None:
        assert measured("entropy", *scores) == pytest.approx(entropy, abs=1e-6)


@pytest.mark.parametrize("measure", ["margin", "entropy"])
def test_certainty_is_a_share_for_any_scores(measure):
    scores = torch.rand(7, 30, 40, generator=torch.Generator().manual_seed(0)) ** 4 * 3
    found = certainty(Contest.of_all(scores), measure)
    assert found.shape == (30, 40) and found.min() >= 0 and found.max() <= 1 and found.std() > 0.05
