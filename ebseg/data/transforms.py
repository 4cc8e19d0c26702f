"""The paper's augmentation (section 4.2): another size, a crop, other colours and a flip for each photo."""

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from ebseg.config import TrainConfig
from ebseg.data.samples import LabelMap
from ebseg.resize import shortest_edge_size

Photo = npt.NDArray[np.uint8]

PADDING = 128
"""Grey of a photo's padding, 0..255."""

_BRIGHTNESS = 32.0
_FACTORS = (0.5, 1.5)  # of contrast and of saturation
_HUE = 18
_HUES = 180  # OpenCV's: half degrees, so that they fit 8 bits


def augment(
    image: Photo, label_map: LabelMap, config: TrainConfig, rng: np.random.Generator
) -> tuple[Photo, LabelMap]:
    """Make a training sample of a photo: resize, crop, change colours, flip, pad, in the reference's order.

    ``image``: (H, W, 3) uint8 RGB. ``label_map``: (H, W) int16, -1 ignored. Both are left as they are.
    Returns new arrays (crop, crop, 3) and (crop, crop): where the resized photo is smaller than
    ``config.crop``, it is padded right and below with grey, which is ignored.
    """
    size = int(rng.choice(config.short_edges))
    image, label_map = _resized(image, label_map, size, config.max_edge)
    window = _crop(label_map.shape, config.crop, rng)
    image, label_map = image[window], label_map[window]
    if config.colour:
        image = change_colours(image, rng)
    if rng.random() < 0.5:
        image, label_map = image[:, ::-1], label_map[:, ::-1]
    return _padded(image, label_map, config.crop)


def change_colours(image: Photo, rng: np.random.Generator) -> Photo:
    """Change brightness, contrast, saturation and hue, each with probability 1/2, as SSD does.

    Takes and returns (H, W, 3) uint8 RGB; the contrast comes before or after saturation and hue. Values are
    cut to whole numbers after each change, as in detectron2's ColorAugSSDTransform.
    """
    if rng.random() < 0.5:
        image = _scaled(image, shift=rng.uniform(-_BRIGHTNESS, _BRIGHTNESS))
    contrast_first = rng.random() < 0.5
    if contrast_first:
        image = _contrasted(image, rng)
    if rng.random() < 0.5:
        image = _saturated(image, rng.uniform(*_FACTORS))
    if rng.random() < 0.5:
        image = _hue_turned(image, int(rng.integers(-_HUE, _HUE, endpoint=True)))
    return image if contrast_first else _contrasted(image, rng)


def _resized(image: Photo, label_map: LabelMap, size: int, max_edge: int) -> tuple[Photo, LabelMap]:
    height, width = shortest_edge_size(label_map.shape[0], label_map.shape[1], size, max_edge)
    photo = Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR)
    # Pillow has no signed 16-bit pictures; nearest only moves the values, so they can pass as unsigned.
    labels = Image.fromarray(label_map.view(np.uint16)).resize((width, height), Image.Resampling.NEAREST)
    return np.asarray(photo), np.asarray(labels).view(np.int16)


def _crop(shape: tuple[int, ...], crop: int, rng: np.random.Generator) -> tuple[slice, slice]:
    """Choose a square window, or as much of one as there is, everywhere equally likely."""
    top, left = (int(rng.integers(max(side - crop, 0) + 1)) for side in shape)
    return slice(top, top + crop), slice(left, left + crop)


def _padded(image: Photo, label_map: LabelMap, crop: int) -> tuple[Photo, LabelMap]:
    height, width = label_map.shape
    photo = np.full((crop, crop, 3), PADDING, dtype=np.uint8)
    labels = np.full((crop, crop), -1, dtype=np.int16)
    photo[:height, :width] = image
    labels[:height, :width] = label_map
    return photo, labels


def _contrasted(image: Photo, rng: np.random.Generator) -> Photo:
    return _scaled(image, factor=rng.uniform(*_FACTORS)) if rng.random() < 0.5 else image


def _saturated(image: Photo, factor: float) -> Photo:
    hsv = _hsv(image)
    hsv[..., 1] = _scaled(hsv[..., 1], factor=factor)
    return _rgb(hsv)


def _hue_turned(image: Photo, turn: int) -> Photo:
    hsv = _hsv(image)
    hsv[..., 0] = (hsv[..., 0].astype(np.int16) + turn) % _HUES
    return _rgb(hsv)


def _hsv(rgb: Photo) -> Photo:
    return np.asarray(cv2.cvtColor(rgb, cv2.COLOR_RGB2HSV), dtype=np.uint8)


def _rgb(hsv: Photo) -> Photo:
    return np.asarray(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB), dtype=np.uint8)


def _scaled(values: Photo, *, factor: float = 1.0, shift: float = 0.0) -> Photo:
    table = np.clip(np.arange(256) * factor + shift, 0, 255).astype(np.uint8)
    return np.asarray(cv2.LUT(values, table), dtype=np.uint8)
