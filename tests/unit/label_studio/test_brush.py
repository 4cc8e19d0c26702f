import sys

import numpy as np
import pytest
from label_studio_sdk.converter import brush as reference

from ebseg.errors import AnnotationError
from ebseg.label_studio import brush


def disk(size: int) -> np.ndarray:
    rows, columns = np.mgrid[:size, :size]
    inside = (rows - size / 2) ** 2 + (columns - size / 2) ** 2 < (size * 0.4) ** 2
    return inside.astype(np.uint8) * 255


def random_mask(height: int, width: int, values: list[int], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).choice(values, (height, width)).astype(np.uint8)


MASKS = {
    "one pixel off": np.zeros((1, 1), np.uint8),
    "one pixel on": np.full((1, 1), 255, np.uint8),
    "row": random_mask(1, 37, [0, 255]),
    "column": random_mask(41, 1, [0, 255]),
    "empty": np.zeros((31, 17), np.uint8),
    "full": np.full((31, 17), 255, np.uint8),
    "runs longer than a block": np.full((300, 301), 255, np.uint8),
    "runs of exactly one block": np.full((128, 128), 255, np.uint8),
    "runs of two blocks": np.full((128, 256), 255, np.uint8),
    "disk": disk(97),
    "noise": random_mask(53, 61, [0, 255]),
    "antialiased": random_mask(53, 61, [0, 1, 127, 128, 254, 255]),
    "every alpha": np.arange(256, dtype=np.uint8).reshape(16, 16),
    "not contiguous": disk(64)[::2, ::3],
}


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
def test_equals_the_sdk_byte_for_byte_and_comes_back(mask):
    rle = brush.encode(mask)
    assert rle == reference.mask2rle(mask)
    assert all(type(byte) is int for byte in rle)
    np.testing.assert_array_equal(brush.decode(rle, *mask.shape), mask)


@pytest.mark.parametrize("pixels", [2, 3, 4, 5, 63, 64, 65, 16384, 16385, 16400, 32768, 32769])
def test_every_length_of_run(pixels):
    """Around the lengths at which another size of the length field is chosen (in pixels of 4 elements)."""
    mask = np.repeat(np.array([[0, 255, 0]], np.uint8), [1, pixels, 2], axis=1)
    rle = brush.encode(mask)
    assert rle == reference.mask2rle(mask)
    np.testing.assert_array_equal(brush.decode(rle, *mask.shape), mask)


def packed(
    count: int, blocks: list[tuple[int, int, list[int]]], sizes=(3, 4, 8, 16), word_size=8
) -> list[int]:
    """Write blocks (run flag, choice of size, words) bit by bit; a run is as long as its words are many."""
    bits = f"{count:032b}{word_size - 1:05b}" + "".join(f"{size - 1:04b}" for size in sizes)
    for run, choice, words in blocks:
        bits += f"{run:b}{choice:02b}{len(words) - 1:0{sizes[choice]}b}"
        bits += "".join(f"{word:0{word_size}b}" for word in (words[:1] if run else words))
    bits += "0" * (-len(bits) % 8)
    return [int(bits[i : i + 8], 2) for i in range(0, len(bits), 8)]


@pytest.mark.parametrize("offset", range(8))
def test_literals_as_the_editor_writes_them(offset):
    """Colour strokes: literal blocks at any bit offset, other length sizes, one value a channel."""
    words = [(index * 37 + offset) % 256 for index in range(48)]
    blocks = [(0, 2, words[:17]), (1, 1, [9] * 3), (0, 0, [5])] + [(0, 0, [index]) for index in range(offset)]
    flat = words[:17] + [9] * 3 + [5] + list(range(offset))
    rest = -len(flat) % 8 + 8
    rle = packed(len(flat) + rest, [*blocks, (0, 3, words[:rest])], sizes=(2, 5, 7, 11))
    flat += words[:rest]
    decoded = brush.decode(rle, 2, len(flat) // 8)
    np.testing.assert_array_equal(decoded.ravel(), flat[3::4])
    np.testing.assert_array_equal(reference.decode_rle(rle), flat)


VALID = brush.encode(disk(32))


@pytest.mark.parametrize(
    ("rle", "message"),
    [
        ([], "no complete header"),
        (VALID[:6], "no complete header"),
        (VALID[:7], "ends early"),
        (VALID[: len(VALID) // 2], "ends early"),
        (VALID[:-3], "ends early"),
        ([0, 0, 0x20, *VALID[3:]], "8192 values, but a 32 x 32 picture has 4096"),
        (packed(4096, [(1, 3, [1] * 5000)]), "runs past the picture"),
        (packed(4096, [(0, 3, [1] * 4100)]), "runs past the picture"),
        (packed(4096, [(1, 3, [1] * 4096)], word_size=16), "words of 16 bits"),
        ([*VALID[:20], 256, *VALID[21:]], "integers from 0 to 255"),
        ([*VALID[:20], -1, *VALID[21:]], "integers from 0 to 255"),
        ([*VALID[:20], 1.5, *VALID[21:]], "integers from 0 to 255"),
        ("AAAA", "integers from 0 to 255"),
        (None, "integers from 0 to 255"),
    ],
)
def test_damage_is_a_named_error(rle, message):
    with pytest.raises(AnnotationError, match=message):
        brush.decode(rle, 32, 32)


@pytest.mark.parametrize(("height", "width"), [(31, 32), (64, 32), (0, 32), (-32, -32)])
def test_another_size_is_a_named_error(height, width):
    with pytest.raises(AnnotationError, match="another size"):
        brush.decode(VALID, height, width)


def test_random_damage_never_escapes():
    generator = np.random.default_rng(0)
    data = np.array(brush.encode(random_mask(20, 20, [0, 255])))
    for _ in range(500):
        damaged = data.copy()
        damaged[generator.integers(7, len(data), 3)] = generator.integers(0, 256, 3)
        try:
            decoded = brush.decode(damaged.tolist(), 20, 20)
        except AnnotationError:
            continue
        assert decoded.shape == (20, 20)


@pytest.mark.parametrize(
    "mask",
    [
        np.zeros((2, 2), bool),
        np.zeros((2, 2), int),
        np.zeros((2, 2, 4), np.uint8),
        np.zeros((0, 2), np.uint8),
    ],
)
def test_only_uint8_pictures_are_encoded(mask):
    with pytest.raises(AnnotationError, match=r"non-empty uint8 array \(H, W\)"):
        brush.encode(mask)


def test_a_larger_mask_takes_no_more_steps_of_python():
    """NumPy works through the pixels and the runs: a loop over either takes a thousand times as long."""
    steps = []
    for radius in (16, 1024):
        mask, taken = disk(radius), []
        sys.setprofile(lambda _frame, event, _argument, taken=taken: taken.append(event))
        try:
            brush.encode(mask)
        finally:
            sys.setprofile(None)
        steps.append(len(taken))
    assert steps[0] == steps[1] < 1000
