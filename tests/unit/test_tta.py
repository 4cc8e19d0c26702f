import numpy as np
import pytest
import torch

from ebseg import scores
from ebseg.config import BASE
from ebseg.evaluation import tta
from ebseg.predictor import resize_shortest_edge
from ebseg.vocabulary import Vocabulary

VOCABULARY = Vocabulary(["sky", "water", "road", "red ball"])


def test_views_are_those_of_the_protocol():
    assert tta.view_sizes(BASE) == tuple((size, 4480) for size in (320, 480, 640, 800, 960, 1120))


@pytest.mark.parametrize("size", [(50, 83), (97, 40)])
def test_scores_are_the_mean_of_views_that_the_model_scores_one_by_one(random_tiny, monkeypatch, size):
    monkeypatch.setattr(scores, "STRIP_ROWS", 7)
    random = np.random.default_rng(0)
    photo = random.integers(0, 255, (*size, 3), dtype=np.uint8)
    views = []
    for edge, longest in tta.view_sizes(random_tiny.config):
        resized = resize_shortest_edge(photo, edge, longest)
        views.append(torch.from_numpy(resized).permute(2, 0, 1).float())
    sizes = {view.shape[-2:] for view in views}
    assert len(sizes) == 6 and any(side % 32 for shape in sizes for side in shape), "padding has a part in it"
    expected = torch.zeros(len(VOCABULARY), *size)
    for view in views:
        expected += random_tiny.segment(view, VOCABULARY, size)
        expected += random_tiny.segment(view.flip(-1), VOCABULARY, size).flip(-1)
    strips = list(tta.score_strips(random_tiny, views, VOCABULARY, size))
    assert len(strips) == -(-size[0] // 7)
    assert torch.allclose(torch.cat(strips, dim=1), expected / 12, rtol=1e-4, atol=1e-5)
    once = random_tiny.segment(views[2], VOCABULARY, size)
    assert not torch.allclose(once, expected / 12, rtol=1e-2), "the views differ"
