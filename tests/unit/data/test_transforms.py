import cv2
import numpy as np
import pytest

from ebseg.config import TrainConfig
from ebseg.data.transforms import augment, change_colours
from ebseg.predictor import resize_shortest_edge
from ebseg.resize import shortest_edge_size

NOISE = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)


def recipe(short_edge: int, crop: int, **options) -> TrainConfig:
    return TrainConfig(short_edges=(short_edge,), crop=crop, **{"colour": False, **options})


def numbered(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """A photo that tells each pixel's row and column, and a label map that tells their sum."""
    rows, columns = np.mgrid[:height, :width]
    image = np.stack([rows, columns, np.zeros_like(rows)], axis=-1).astype(np.uint8)
    return image, (rows + columns).astype(np.int16)


@pytest.mark.parametrize(
    ("shape", "size", "max_size", "expected"),
    [
        ((480, 640), 320, 2560, (320, 427)),  # 426.67
        ((640, 480), 320, 2560, (427, 320)),
        ((100, 100), 320, 2560, (320, 320)),
        ((100, 1000), 320, 2560, (256, 2560)),
        ((1000, 100), 320, 2560, (2560, 256)),
        ((1, 9000), 320, 2560, (1, 2560)),  # never without pixels
    ],
)
def test_sizes(shape, size, max_size, expected):
    assert shortest_edge_size(*shape, size, max_size) == expected
    assert resize_shortest_edge(np.zeros((*shape, 3), np.uint8), size, max_size).shape[:2] == expected


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize(
    ("height", "width", "crop"), [(60, 90, 32), (90, 60, 32), (40, 90, 50), (40, 40, 50)]
)
def test_photo_and_labels_stay_together(seed, height, width, crop):
    """At the photo's own size every pixel can be traced: one window, perhaps mirrored, and padding."""
    image, label_map = numbered(height, width)
    crops, labels = augment(image, label_map, recipe(min(height, width), crop), np.random.default_rng(seed))
    assert crops.shape == (crop, crop, 3) and crops.dtype == np.uint8
    assert labels.shape == (crop, crop) and labels.dtype == np.int16
    shown = (slice(min(height, crop)), slice(min(width, crop)))
    rows, columns = (crops[shown][..., channel].astype(int) for channel in (0, 1))
    np.testing.assert_array_equal(labels[shown], rows + columns)
    assert (np.diff(rows, axis=0) == 1).all() and len({*np.diff(columns, axis=1).ravel()}) == 1
    assert abs(columns[0, 0] - columns[0, -1]) == shown[1].stop - 1
    outside = np.ones((crop, crop), bool)
    outside[shown] = False
    assert (crops[outside] == 128).all() and (labels[outside] == -1).all()


def test_every_window_and_both_directions_occur():
    image, label_map = numbered(12, 12)
    corners = set()
    mirrored = 0
    for seed in range(600):
        crops, _ = augment(image, label_map, recipe(12, 9), np.random.default_rng(seed))
        corners.add((int(crops[0, 0, 0]), int(crops[0, :, 1].min())))
        mirrored += int(crops[0, 0, 1] > crops[0, 1, 1])
    assert corners == {(row, column) for row in range(4) for column in range(4)}
    assert 240 < mirrored < 360


def test_resized_photo_and_labels_agree():
    """Two halves, red and blue: the border is at the same place in both, and labels are never mixed."""
    image = np.zeros((30, 44, 3), np.uint8)
    image[:, :17, 0] = image[:, 17:, 2] = 255
    label_map = np.full((30, 44), 5, np.int16)
    label_map[:, 17:] = -1
    for short_edge in (11, 30, 47, 100):
        crops, labels = augment(image, label_map, recipe(short_edge, 150), np.random.default_rng(1))
        assert set(np.unique(labels)) == {-1, 5}
        height, width = shortest_edge_size(30, 44, short_edge, 2560)
        red = crops[:height, :width, 0] > 127
        np.testing.assert_array_equal(red, labels[:height, :width] == 5)


def test_the_longer_edge_is_limited_and_the_short_edge_is_drawn():
    image, label_map = np.zeros((50, 200, 3), np.uint8), np.zeros((50, 200), np.int16)
    config = TrainConfig(short_edges=(20, 30, 60), max_edge=160, crop=300, colour=False)
    sizes = set()
    for seed in range(40):
        _, labels = augment(image, label_map, config, np.random.default_rng(seed))
        sizes.add(((labels >= 0).any(axis=1).sum(), (labels >= 0).any(axis=0).sum()))
    assert sizes == {(20, 80), (30, 120), (40, 160)}


@pytest.mark.parametrize("config", [recipe(40, 32, colour=True), recipe(30, 64, colour=True)])
def test_inputs_are_left_and_the_generator_decides_all(config):
    image, label_map = NOISE.copy(), np.full((40, 50), 3, np.int16)
    for array in (image, label_map):
        array.setflags(write=False)
    results = [augment(image, label_map, config, np.random.default_rng(seed)) for seed in (4, 4, 5)]
    np.testing.assert_array_equal(image, NOISE)
    for first, second in zip(*results[:2], strict=True):
        np.testing.assert_array_equal(first, second)
        assert not np.shares_memory(first, image) and first.flags.writeable
    assert not np.array_equal(results[0][0], results[2][0])


class Scripted:
    """A generator whose coins and numbers are given: what each draw asks for is checked by its range."""

    def __init__(self, coins: list[bool], numbers: list[tuple[float, float, float]]) -> None:
        self.coins, self.numbers = coins, numbers

    def random(self) -> float:
        return 0.25 if self.coins.pop(0) else 0.75

    def uniform(self, low: float, high: float) -> float:
        assert (low, high) == self.numbers[0][:2]
        return self.numbers.pop(0)[2]

    def integers(self, low: int, high: int, *, endpoint: bool) -> int:
        assert endpoint
        return int(self.uniform(low, high))


def recoloured(coins: list[bool], *numbers: tuple[float, float, float]) -> np.ndarray:
    script = Scripted(coins, list(numbers))
    changed = change_colours(NOISE, script)
    assert not script.coins and not script.numbers
    return changed


def reference_scaled(values: np.ndarray, factor: float, shift: float) -> np.ndarray:
    return np.clip(values.astype(np.float64) * factor + shift, 0, 255).astype(np.uint8)


NO, YES = False, True  # coins: brightness, contrast first, [contrast,] saturation, hue [, contrast]


def test_no_coin_changes_nothing():
    np.testing.assert_array_equal(recoloured([NO] * 5), NOISE)


@pytest.mark.parametrize("shift", [-32.0, 7.6, 32.0])
def test_brightness(shift):
    changed = recoloured([YES, NO, NO, NO, NO], (-32, 32, shift))
    np.testing.assert_array_equal(changed, reference_scaled(NOISE, 1, shift))


@pytest.mark.parametrize("factor", [0.5, 1.31, 1.5])
@pytest.mark.parametrize("first", [YES, NO])
def test_contrast(factor, first):
    coins = [NO, YES, YES, NO, NO] if first else [NO, NO, NO, NO, YES]
    np.testing.assert_array_equal(recoloured(coins, (0.5, 1.5, factor)), reference_scaled(NOISE, factor, 0))


@pytest.mark.parametrize("factor", [0.5, 1.5])
def test_saturation(factor):
    hsv = cv2.cvtColor(NOISE, cv2.COLOR_RGB2HSV)
    hsv[..., 1] = reference_scaled(hsv[..., 1], factor, 0)
    changed = recoloured([NO, NO, YES, NO, NO], (0.5, 1.5, factor))
    np.testing.assert_array_equal(changed, cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB))


@pytest.mark.parametrize("turn", [-18, -1, 5, 18])
def test_hue_turns_round_at_180(turn):
    hsv = cv2.cvtColor(NOISE, cv2.COLOR_RGB2HSV)
    assert (hsv[..., 0] < 18).any() and (hsv[..., 0] >= 162).any()
    hsv[..., 0] = (hsv[..., 0].astype(int) + turn) % 180
    changed = recoloured([NO, NO, NO, YES, NO], (-18, 18, turn))
    np.testing.assert_array_equal(changed, cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB))


def test_contrast_comes_before_or_after_the_others():
    numbers = [(0.5, 1.5, 1.5), (0.5, 1.5, 0.6), (-18, 18, 9)]
    before = recoloured([NO, YES, YES, YES, YES], *numbers)
    after = recoloured([NO, NO, YES, YES, YES], *numbers[1:], numbers[0])

    def saturated_and_turned(image: np.ndarray) -> np.ndarray:
        hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
        hsv[..., 1] = reference_scaled(hsv[..., 1], 0.6, 0)
        hsv = cv2.cvtColor(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB), cv2.COLOR_RGB2HSV)
        hsv[..., 0] = (hsv[..., 0].astype(int) + 9) % 180
        return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)

    np.testing.assert_array_equal(before, saturated_and_turned(reference_scaled(NOISE, 1.5, 0)))
    np.testing.assert_array_equal(after, reference_scaled(saturated_and_turned(NOISE), 1.5, 0))


def test_colours_change_only_where_the_recipe_says_so_and_never_in_the_padding():
    image, label_map = np.full((20, 30, 3), 100, np.uint8), np.zeros((20, 30), np.int16)
    values = {True: set(), False: set()}
    for colour, found in values.items():
        for seed in range(40):
            crops, labels = augment(
                image, label_map, recipe(20, 40, colour=colour), np.random.default_rng(seed)
            )
            found |= set(crops[labels == 0].ravel().tolist())
            assert (crops[labels < 0] == 128).all()
    assert values[False] == {100} and len(values[True]) > 20
