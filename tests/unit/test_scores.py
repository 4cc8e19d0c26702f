import pytest
import torch
import torch.nn.functional as F

from ebseg import scores
from ebseg.certainty import certainty
from ebseg.model import EBSeg
from ebseg.predictor import best_labels
from ebseg.scores import Contest, Masks


def at_test_size(logits: torch.Tensor) -> Masks:
    """Give masks that are of test size as they are."""
    size = (logits.shape[1], logits.shape[2])
    return Masks(logits, size, size)


@pytest.mark.parametrize("values", [2**24, 1], ids=["few strips", "row by row"])
@pytest.mark.parametrize(
    ("small", "test_size", "size"),
    [((40, 56), (150, 213), (90, 128)), ((40, 56), (160, 224), (410, 97)), ((8, 8), (1, 31), (5, 1))],
)
def test_two_resizings_in_one_are_pytorchs_own(
    small: tuple[int, int],
    test_size: tuple[int, int],
    size: tuple[int, int],
    values: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(scores, "STRIP_VALUES", values)
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(5, *small, generator=generator) * 10
    classes = torch.rand(5, 7, generator=generator)
    padded = (4 * small[0], 4 * small[1])
    first = F.interpolate(logits[None], size=padded, mode="bilinear")[..., : test_size[0], : test_size[1]]
    second = F.interpolate(first, size=size, mode="bilinear")[0]
    masks = Masks(logits, padded, test_size)
    torch.testing.assert_close(masks.at_test_size(0, test_size[0]), first[0], rtol=0, atol=1e-4)
    expected = torch.einsum("qk,qhw->khw", classes, second.sigmoid())
    torch.testing.assert_close(EBSeg.combine(masks, classes, size), expected, rtol=0, atol=1e-4)


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
    strips = list(scores.score_strips(at_test_size(logits), classes, size))
    resized = F.interpolate(logits[None], size=size, mode="bilinear")[0].sigmoid()
    whole = torch.einsum("qk,qhw->khw", classes, resized)
    # Coordinates are rounded in another order than in PyTorch's kernel: an ulp of a coordinate near 100,
    # 1e-5, times a step of up to 50 between logits, times the sigmoid's slope.
    torch.testing.assert_close(torch.cat(strips, dim=1), whole, rtol=0, atol=1e-4)
    assert max(strip.shape[1] for strip in strips) <= (scores.STRIP_ROWS if values > 1 else 1)


def test_memory_does_not_grow_with_photo_and_vocabulary() -> None:
    masks, classes = at_test_size(torch.zeros(4, 6, 8)), torch.zeros(4, 1000)
    strip = next(scores.score_strips(masks, classes, (3000, 4000)))
    assert strip.numel() <= scores.STRIP_VALUES


def drawn(masks: tuple[int, int], labels: int, seed: int) -> tuple[Masks, torch.Tensor]:
    """Give smooth masks (Q, h, w) with edges, and probabilities (Q, K) of a few labels a mask."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(1, 12, 3, 4, generator=generator) * 8
    logits = torch.nn.functional.interpolate(coarse, size=masks, mode="bicubic")[0]
    return at_test_size(logits), (torch.randn(12, labels, generator=generator) * 3).softmax(dim=1)


@pytest.mark.parametrize("values", [2**24, 1], ids=["few strips", "row by row"])
@pytest.mark.parametrize(
    ("small", "size"),
    [
        ((40, 50), (40, 50)),
        ((21, 29), (63, 87)),
        ((80, 60), (33, 31)),
        ((1, 9), (5, 40)),
        ((10, 1), (40, 5)),
        ((8, 8), (9, 9)),
    ],
)
def test_a_contest_has_the_same_winners(
    small: tuple[int, int], size: tuple[int, int], values: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scores, "STRIP_VALUES", values)
    for seed in range(5):
        masks, classes = drawn(small, 300, seed)
        whole = Contest.of_all(EBSeg.combine(masks, classes, size))
        contests = list(scores.contests(masks, classes, size, best=2))
        label_map, shares = (
            torch.cat(parts) for parts in zip(*(best_labels(c, 0.2) for c in contests), strict=True)
        )
        margins = torch.cat([certainty(contest, "margin") for contest in contests])
        expected, their_shares = best_labels(whole, 0.2)
        # Sums of other numbers of labels may be rounded otherwise: where two are equal, either may win.
        sure = (certainty(whole, "margin") > 1e-6) & ((their_shares - 0.2).abs() > 1e-6)
        assert sure.float().mean() > 0.9 and torch.equal(label_map[sure], expected[sure])
        torch.testing.assert_close(shares, their_shares, rtol=0, atol=1e-6)
        torch.testing.assert_close(margins, certainty(whole, "margin"), rtol=0, atol=1e-6)
        assert all(torch.equal(each.labels, each.labels.sort().values) for each in contests)


def test_few_of_many_labels_are_scored() -> None:
    masks, classes = drawn((64, 80), 800, 0)
    [*contests] = scores.contests(masks, classes, (256, 320))
    assert max(len(contest.labels) for contest in contests) < 80
    [*contests] = scores.contests(masks, classes, (256, 320), best=800)
    assert {len(contest.labels) for contest in contests} == {800}


def test_a_strip_is_as_high_as_of_few_labels_where_few_are_scored() -> None:
    """Each strip has a cost of its own, above all to find out which labels these are."""
    size = (96, 4000)
    masks, few = drawn((24, 1000), scores.FEW_LABELS, 0)
    heights = [contest.total.shape[0] for contest in scores.contests(masks, few, size)]
    sure = torch.zeros(few.shape[0], 800)
    sure[:, :20] = few[:, :20]  # and 780 labels that no mask is of
    assert [contest.total.shape[0] for contest in scores.contests(masks, sure, size)] == heights
    alike = torch.full_like(sure, 1 / 800)
    for contest in scores.contests(masks, alike, size):
        assert len(contest.labels) == 800 and contest.scores.numel() <= scores.STRIP_VALUES


def test_few_labels_are_all_scored() -> None:
    masks, classes = drawn((16, 20), scores.FEW_LABELS, 0)
    [contest] = scores.contests(masks, classes, (16, 20))
    assert contest.labels.tolist() == list(range(scores.FEW_LABELS))
