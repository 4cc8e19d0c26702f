import pytest
import torch

from ebseg import scores
from ebseg.model import EBSeg


@pytest.mark.parametrize("values", [2**24, 1], ids=["few strips", "row by row"])
@pytest.mark.parametrize(
    ("masks", "size"),
    [
        ((20, 30), (47, 61)),
        ((64, 48), (64, 100)),
        ((48, 64), (100, 64)),
        ((40, 40), (40, 40)),
        ((47, 61), (20, 30)),
        ((107, 160), (1001, 35)),
        ((1, 5), (7, 3)),
        ((5, 1), (1, 1)),
    ],
)
def test_strips_are_the_scores_of_the_whole(
    masks: tuple[int, int], size: tuple[int, int], values: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scores, "STRIP_VALUES", values)
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(5, *masks, generator=generator) * 10
    classes = torch.rand(5, 7, generator=generator)
    strips = list(scores.score_strips(logits, classes, size))
    whole = EBSeg.combine(logits, classes, size)
    # Coordinates are rounded in another order than in PyTorch's kernel: an ulp of a coordinate near 100,
    # 1e-5, times a step of up to 50 between logits, times the sigmoid's slope.
    torch.testing.assert_close(torch.cat(strips, dim=1), whole, rtol=0, atol=1e-4)
    assert max(strip.shape[1] for strip in strips) <= (scores.STRIP_ROWS if values > 1 else 1)


def test_memory_does_not_grow_with_photo_and_vocabulary() -> None:
    masks, classes = torch.zeros(4, 6, 8), torch.zeros(4, 1000)
    strip = next(scores.score_strips(masks, classes, (3000, 4000)))
    assert strip.numel() <= scores.STRIP_VALUES
