import pytest
import torch
import torch.nn.functional as F

from ebseg.config import LossConfig
from ebseg.losses import Prediction, Totals, criterion, match, sample_points, ssc_loss, targets_of
from ebseg.model import EBSeg
from ebseg.vocabulary import Vocabulary
from tests.unit.shallow import SHALLOW

QUERIES, LABELS, SIZE = 4, 5, 8
CONFIG = LossConfig(points=64)


def _prediction(photos=1):
    torch.manual_seed(0)
    return Prediction(
        masks=torch.randn(photos, QUERIES, SIZE, SIZE, requires_grad=True),
        a=torch.randn(photos, QUERIES, LABELS + 1, requires_grad=True),
        b=torch.randn(photos, QUERIES, LABELS + 1, requires_grad=True),
        embeddings=F.normalize(torch.randn(photos, QUERIES, 16), dim=-1).requires_grad_(),
    )


def _text():
    return F.normalize(torch.randn(LABELS + 1, 16, generator=torch.Generator().manual_seed(1)), dim=-1)


def _stripes(labels):
    """A label map (1, 16, 16) with one stripe a label."""
    rows = torch.arange(16) * len(labels) // 16
    return torch.tensor(labels)[rows][:, None].expand(16, 16)[None]


def test_targets_leave_ignored_pixels_out():
    label_map = torch.tensor([[[3, -1], [1, 3]]])
    (target,) = targets_of(label_map, CONFIG)
    assert target.labels.tolist() == [1, 3]
    assert target.masks.tolist() == [[[0, 0], [1, 0]], [[1, 0], [0, 1]]]


@pytest.mark.parametrize(
    "labels",
    [[-1], [2], [0, 1, 2, 3, 4], [-1, 3]],
    ids=["all ignored", "one label", "more labels than queries", "partly ignored"],
)
def test_losses_and_gradients_are_finite(labels):
    predictions = [_prediction(), _prediction()]
    losses = criterion(predictions, targets_of(_stripes(labels), CONFIG), _text(), CONFIG)
    assert set(losses) == {
        "class_a", "class_b", "mask", "dice", "ssc", "class_a_0", "class_b_0", "mask_0", "dice_0"
    }  # fmt: skip
    assert all(torch.isfinite(term) for term in losses.values())
    sum(losses.values()).backward()
    last = predictions[-1]
    assert all(torch.isfinite(x.grad).all() for x in (last.masks, last.a, last.b, last.embeddings))


def test_matching_finds_the_right_masks():
    label_map = _stripes([2, 0, 4])
    (target,) = targets_of(label_map, CONFIG)
    prediction = _prediction()
    order = [2, 0, 1]  # query 0 shows target 2, and so on; query 3 shows nothing
    with torch.no_grad():
        prediction.masks.fill_(-10)
        for query, segment in enumerate(order):
            prediction.masks[0, query] += 20 * F.max_pool2d(target.masks[segment][None], 2)[0]
    ((queries, segments),) = match(prediction, [target], CONFIG, [None])
    assert queries.tolist() == [0, 1, 2]
    assert segments.tolist() == order


def test_a_perfect_prediction_costs_almost_nothing():
    label_map = _stripes([1, 3])
    (target,) = targets_of(label_map, CONFIG)
    logits = torch.full((1, QUERIES, LABELS + 1), -20.0)
    logits[0, :, LABELS] = 20
    masks = torch.full((1, QUERIES, 16, 16), -20.0)
    for query, (label, mask) in enumerate(zip(target.labels, target.masks, strict=True)):
        logits[0, query, [label, LABELS]] = torch.tensor([20.0, -20.0])
        masks[0, query] = torch.where(mask > 0, 20.0, -20.0)
    text = _text()
    embeddings = torch.zeros(1, QUERIES, 16)
    embeddings[0, :2] = text[target.labels]
    losses = criterion([Prediction(masks, logits, logits, embeddings)], [target], text, CONFIG)
    empty = criterion([Prediction(-masks.abs(), logits, logits, embeddings)], [target], text, CONFIG)
    assert losses["class_a"] < 1e-6 and losses["class_b"] < 1e-6
    assert losses["ssc"] < 1e-10
    # Not zero: most points are drawn on the border, between two pixels.
    assert losses["dice"] < empty["dice"] / 3 and losses["mask"] < empty["mask"] / 3


def test_ssc_counts_only_photos_with_labels():
    targets = targets_of(torch.cat([_stripes([1, 2]), _stripes([-1])]), CONFIG)
    prediction = _prediction(photos=2)
    matching = match(prediction, targets, CONFIG, [None, None])
    totals = Totals.of([len(target.labels) for target in targets], QUERIES, CONFIG)
    assert totals == Totals(masks=2, class_weight=pytest.approx(2 + 6 * CONFIG.background), photos=1)
    both = ssc_loss(prediction.embeddings, targets, matching, _text()[:-1], totals)
    first = ssc_loss(prediction.embeddings[:1], targets[:1], matching[:1], _text()[:-1], totals)
    assert both == first > 0


def test_points_outside_are_zero_and_centres_are_exact():
    maps = torch.arange(4.0).reshape(1, 2, 2)
    points = torch.tensor([[[0.25, 0.25], [0.75, 0.25], [0.5, 0.5], [2.0, 2.0]]])
    assert sample_points(maps, points)[0].tolist() == [0.0, 1.0, 1.5, 0.0]


def test_a_models_losses_reach_every_trainable_parameter():
    torch.manual_seed(0)
    net = EBSeg(SHALLOW)
    image = torch.rand(1, 3, 64, 96) * 255
    label_map = torch.zeros(1, 64, 96, dtype=torch.long)
    label_map[:, 32:] = 1
    losses = net.losses(image, label_map, Vocabulary(["sky", "road"]))
    sum(losses.values()).backward()
    without = [n for n, p in net.named_parameters() if p.requires_grad and p.grad is None]
    assert not without
    assert all(p.grad is None for p in net.parameters() if not p.requires_grad)


def test_pixels_that_are_not_known_change_no_loss():
    """A photo whose right half is unlabelled, and not known, costs the same whatever is predicted there."""
    config = CONFIG.model_copy(update={"unlabelled": "ignored"})
    label_map = _stripes([1, 3]).clone()
    label_map[:, :, 8:] = -1

    def losses(right, config):
        prediction = _prediction()
        with torch.no_grad():
            prediction.masks[..., 5:] = right
            prediction.masks[..., 4] = 0  # reaches across the border
        torch.manual_seed(1)
        return criterion([prediction], targets_of(label_map, config), _text(), config)

    low, high = losses(-5.0, config), losses(5.0, config)
    for name in low:
        assert low[name].item() == pytest.approx(high[name].item(), rel=1e-6), name
    low, high = losses(-5.0, CONFIG), losses(5.0, CONFIG)
    assert high["mask"] > low["mask"] + 1 and high["dice"] > low["dice"]


@pytest.mark.parametrize(
    "labels",
    [[-1], [2], list(range(SHALLOW.decoder.queries + 4)), [-1, 3]],
    ids=["all ignored", "one label", "more labels than queries", "partly ignored"],
)
@pytest.mark.parametrize("autocast", [False, True])
def test_a_models_losses_and_gradients_are_finite(labels, autocast):
    torch.manual_seed(0)
    net = EBSeg(SHALLOW)
    stripes = torch.tensor(labels)[torch.arange(80) * len(labels) // 80]
    label_maps = torch.stack([stripes.expand(48, 80), torch.full((48, 80), -1)])
    vocabulary = Vocabulary([f"thing {number}" for number in range(SHALLOW.decoder.queries + 4)])
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        losses = net.losses(torch.rand(2, 3, 48, 80) * 255, label_maps, vocabulary)
    assert all(torch.isfinite(term) for term in losses.values())
    sum(losses.values()).backward()
    assert all(torch.isfinite(p.grad).all() for p in net.parameters() if p.requires_grad)
