"""Connected parts of masks, found within the box of all of them."""

import numpy as np

from ebseg.parts import connected


def test_parts_lie_where_they_are_in_the_photo():
    mask = np.zeros((40, 50), dtype=bool)
    mask[20:26, 30:34] = True
    mask[8:10, 12:17] = True
    mask[10, 17] = True  # by a corner
    parts = connected(mask, least=1, most=5)
    assert [(part.top, part.left, part.mask.sum()) for part in parts] == [(20, 30, 24), (8, 12, 11)]
    assert all(part.size == mask.shape for part in parts)
    assert np.array_equal(parts[0].whole | parts[1].whole, mask)


def test_the_largest_that_are_large_enough_are_kept_of_a_part_of_a_photo_too():
    mask = np.zeros((40, 50), dtype=bool)
    mask[20:26, 30:34], mask[30:33, 40:44], mask[0, 0] = True, True, True
    below = mask[10:, 20:]
    assert [part.mask.sum() for part in connected(below, least=1, most=5)] == [24, 12]
    assert [part.mask.sum() for part in connected(below, least=13, most=5)] == [24]
    [part] = connected(below, least=1, most=1)
    assert np.array_equal(part.whole[10:16, 10:14], np.ones((6, 4), dtype=bool))


def test_nothing_has_no_parts():
    assert connected(np.zeros((3, 4), dtype=bool), least=1, most=5) == []
