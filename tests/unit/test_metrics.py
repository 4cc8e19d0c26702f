"""Metrics on cases computed by hand, and beside slow definitions."""

import math

import cv2
import numpy as np
import pytest

from ebseg.evaluation.metrics import (
    BoundaryCounts,
    ConfusionMatrix,
    Pairs,
    band,
    count_pairs,
    harmonic_mean,
    scores,
)

TRUTH = np.array([[0, 0, 1, 1], [2, 2, -1, -1]])
PREDICTED = np.array([[0, 1, 1, -1], [2, 2, 0, 3]])


def counted(predicted, truth, labels):
    matrix, boundary = ConfusionMatrix(labels), BoundaryCounts(labels)
    matrix.add(predicted, truth)
    boundary.add(predicted, truth)
    return matrix, boundary


def test_counts_by_hand():
    matrix, _ = counted(PREDICTED, TRUTH, 4)
    assert matrix.counts.tolist() == [[1, 1, 0, 0, 0], [0, 1, 0, 0, 1], [0, 0, 2, 0, 0], [0, 0, 0, 0, 0]]
    assert matrix.counts.dtype == np.int64
    assert matrix.pixels().tolist() == [2, 2, 2, 0]
    iou, accuracy = matrix.iou(), matrix.accuracy()
    assert iou[:3] == pytest.approx([1 / 2, 1 / 3, 1.0])  # ignored pixels count nowhere
    assert accuracy[:3] == pytest.approx([1 / 2, 1 / 2, 1.0])
    assert np.isnan([iou[3], accuracy[3]]).all()  # no truth shows label 3


@pytest.mark.parametrize("predicted", [-1, 0, 2])
def test_an_ignored_pixel_is_counted_for_no_label_whatever_is_predicted_there(predicted):
    matrix, boundary = counted(np.full((2, 3), predicted), np.full((2, 3), -1), 3)
    assert not matrix.counts.any() and not boundary.union.any()
    pairs = count_pairs(np.full((2, 3), predicted), np.full((2, 3), -1), 3)
    assert [len(pairs.truth), len(pairs.predicted), len(pairs.pixels)] == [0, 0, 0]


def test_means_by_hand():
    found = scores(*counted(PREDICTED, TRUTH, 4), seen=[True, False, False, True])
    assert found.miou == pytest.approx(100 * (1 / 2 + 1 / 3 + 1) / 3)
    assert found.fwiou == pytest.approx(100 * (1 / 2 + 1 / 3 + 1) / 3)  # all labels are equally frequent
    assert found.macc == pytest.approx(100 * (1 / 2 + 1 / 2 + 1) / 3)
    assert found.pacc == pytest.approx(100 * 4 / 6)
    assert found.seen == pytest.approx(50) and found.unseen == pytest.approx(100 * (1 / 3 + 1) / 2)
    assert found.harmonic == pytest.approx(2 / (1 / found.seen + 1 / found.unseen))


def test_frequent_labels_weigh_more_in_fwiou_alone():
    truth = np.array([[0, 0, 0, 1]])
    found = scores(*counted(np.array([[0, 0, 1, 1]]), truth, 2), seen=[True, True])
    assert found.fwiou == pytest.approx(100 * (3 / 4 * 2 / 3 + 1 / 4 * 1 / 2))
    assert found.miou == pytest.approx(100 * (2 / 3 + 1 / 2) / 2)
    assert found.macc == pytest.approx(100 * (2 / 3 + 1) / 2)
    assert found.pacc == pytest.approx(75)
    assert math.isnan(found.unseen) and math.isnan(found.harmonic)


def test_predicted_labels_that_no_truth_shows_count_against_the_others_alone():
    found = scores(*counted(np.array([[0, 2]]), np.array([[0, 0]]), 3), seen=[True, True, False])
    assert (found.miou, found.macc) == (50, 50)


def test_nothing_but_ignored_pixels_is_not_a_number():
    found = scores(*counted(np.zeros((2, 2), int), np.full((2, 2), -1), 2), seen=[True, False])
    assert all(math.isnan(value) for value in vars(found).values())


@pytest.mark.parametrize("kind", [np.int16, np.int64])
def test_pairs_are_those_of_a_slow_count(kind):
    random = np.random.default_rng(0)
    truth = random.integers(-1, 847, (60, 80)).astype(kind)
    predicted = np.where(random.random(truth.shape) < 0.5, truth, random.integers(-1, 847, truth.shape))
    expected = np.zeros((847, 848), np.int64)
    for true, named in zip(truth.ravel(), predicted.ravel(), strict=True):
        if true >= 0:
            expected[true, named] += 1  # -1 is the last column
    matrix = ConfusionMatrix(847)
    matrix.add(predicted.astype(kind), truth)
    assert (matrix.counts == expected).all()
    matrix.add(predicted.astype(kind), truth)
    assert (matrix.counts == 2 * expected).all()


def test_a_photos_own_miou():
    assert count_pairs(PREDICTED, TRUTH, 4).miou() == pytest.approx(100 * (1 / 2 + 1 / 3 + 1) / 3)
    nothing = np.zeros(0, np.int64)
    assert math.isnan(Pairs(nothing, nothing, nothing).miou())


def test_most_confused_pairs_come_first():
    matrix = ConfusionMatrix(3)
    matrix.counts[:] = [[9, 0, 4, 0], [2, 9, 0, 7], [0, 0, 9, 0]]
    assert matrix.confused(2) == [(1, 3, 7), (0, 2, 4)]
    assert matrix.confused(50) == [(1, 3, 7), (0, 2, 4), (1, 0, 2)]


def test_harmonic_mean():
    assert harmonic_mean(0.0, 0.0) == 0 and harmonic_mean(30.0, 60.0) == pytest.approx(40)


def reference_band(mask, width):
    """The boundary IoU's authors' own way (``mask_to_boundary``): a mask less the eroded mask."""
    padded = cv2.copyMakeBorder(mask.astype(np.uint8), 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    eroded = cv2.erode(padded, np.ones((3, 3), np.uint8), iterations=width)[1:-1, 1:-1]
    return mask & (eroded == 0)


def patches(random, height, width, labels):
    small = random.integers(-1, labels, (height // 7 + 1, width // 9 + 1)).astype(np.int16)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_NEAREST)


@pytest.mark.parametrize("width", [1, 2, 5])
def test_bands_of_all_labels_at_once_are_those_of_each_mask(width):
    label_map = patches(np.random.default_rng(width), 50, 70, 4)
    found = band(label_map, width)
    for label in range(4):
        mask = label_map == label
        assert ((found & mask) == reference_band(mask, width)).all()
    assert 0 < found.mean() < 1


def test_boundary_iou_is_that_of_each_labels_masks():
    random = np.random.default_rng(0)
    boundary = BoundaryCounts(5)
    expected = np.zeros((5, 2))
    for height, width in ((60, 80), (120, 160)):  # bands of 2 and of 4 pixels
        truth, predicted = (patches(random, height, width, 4) for _ in range(2))
        predicted[: height // 2] = truth[: height // 2]
        boundary.add(predicted, truth)
        distance = {60: 2, 120: 4}[height]
        for label in range(5):
            true, named = (reference_band((m == label) & (truth >= 0), distance) for m in (truth, predicted))
            expected[label] += (true & named).sum(), (true | named).sum()
    assert (boundary.intersection == expected[:, 0]).all() and (boundary.union == expected[:, 1]).all()
    assert np.isnan(boundary.iou()[4]) and (boundary.iou()[:4] < 1).all()


def test_boundary_iou_by_hand():
    truth = np.full((8, 8), 1)
    truth[2:6, 2:6] = 0  # its band, 1 pixel wide: 12 pixels; that of the rest: 28 at the edges and 20 around
    predicted = np.full((8, 8), 1)
    predicted[2:6, 2:7] = (
        0  # a column more: a band of 14, of which column 2 and the ends of the rows are common
    )
    boundary = BoundaryCounts(2)
    boundary.add(predicted, truth)
    assert boundary.intersection.dtype == boundary.union.dtype == np.int64  # sums of processes are exact
    assert boundary.intersection[0] == 4 + 3 + 3 and boundary.union[0] == 12 + 14 - 10


def test_ignored_pixels_have_no_part_in_boundaries():
    truth = np.zeros((40, 40), int)
    truth[:, 20:] = -1
    boundary = BoundaryCounts(2)
    predicted = np.zeros((40, 40), int)
    predicted[10:30, 25:] = 1
    boundary.add(predicted, truth)
    assert boundary.iou()[0] == 1 and boundary.union[1] == 0
