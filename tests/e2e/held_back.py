"""A domain that the packaged model never saw: things under a microscope, with names of their own."""

import numpy as np
import numpy.typing as npt
from scipy.ndimage import gaussian_filter

LABELS = ("agar", "biofilm", "diatom", "radiolarian", "spirochete", "vacuole")
SIZE = (240, 320)
"""Height and width in pixels."""

_COLOURS = {
    "agar": (232, 196, 214),
    "biofilm": (150, 96, 168),
    "diatom": (92, 180, 190),
    "radiolarian": (240, 150, 60),
    "spirochete": (60, 60, 130),
    "vacuole": (250, 245, 190),
}


def draw(index: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int16]]:
    """Draw a picture (H, W, 3) and its label map (H, W), indices into LABELS."""
    rng = np.random.default_rng((77, index))
    height, width = SIZE
    rows, columns = np.mgrid[:height, :width]
    label_map = np.zeros(SIZE, np.int16)
    film = gaussian_filter(rng.standard_normal(SIZE), 22)
    label_map[film > np.quantile(film, rng.uniform(0.6, 0.75))] = LABELS.index("biofilm")
    for label in rng.permutation(["diatom", "radiolarian", "spirochete", "vacuole"] * 2):
        y, x, turn = rng.uniform(30, height - 30), rng.uniform(30, width - 30), rng.uniform(0, np.pi)
        across = (columns - x) * np.cos(turn) + (rows - y) * np.sin(turn)
        along = (rows - y) * np.cos(turn) - (columns - x) * np.sin(turn)
        label_map[_shape(str(label), across, along, rng.uniform(0.8, 1.3))] = LABELS.index(str(label))
    image = np.zeros((*SIZE, 3))
    for number, label in enumerate(LABELS):
        inside = label_map == number
        image[inside] = np.array(_COLOURS[label]) * rng.uniform(0.85, 1.1)
        image[inside] += (_pattern(label, rows, columns) * 25)[inside][:, None]
    image += rng.standard_normal(image.shape) * 6
    return np.clip(gaussian_filter(image, (0.7, 0.7, 0)), 0, 255).astype(np.uint8), label_map


def _shape(
    label: str, across: npt.NDArray[np.float64], along: npt.NDArray[np.float64], scale: float
) -> npt.NDArray[np.bool_]:
    size = 26 * scale
    if label == "diatom":  # a boat
        return np.abs(along) < 0.5 * size * (1 - (across / (1.8 * size)) ** 2)
    if label == "radiolarian":  # a star
        angle = np.arctan2(along, across)
        return np.hypot(across, along) < size * (0.8 + 0.35 * np.cos(7 * angle))
    if label == "spirochete":  # a wave
        return (np.abs(along - 9 * np.sin(across / 8)) < 6) & (np.abs(across) < 2 * size)
    return np.hypot(across, along) < 0.9 * size


def _pattern(
    label: str, rows: npt.NDArray[np.int64], columns: npt.NDArray[np.int64]
) -> npt.NDArray[np.float64]:
    if label == "biofilm":
        return np.sin(rows / 3) * np.sin(columns / 3)
    if label == "diatom":
        return np.sign(np.sin(columns / 2.5))
    if label == "radiolarian":
        return np.sin(np.hypot(rows % 12 - 6, columns % 12 - 6))
    return np.zeros(rows.shape)
