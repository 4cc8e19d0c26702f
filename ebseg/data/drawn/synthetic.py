"""Scenes drawn by rule, with an exact label for every pixel.

They teach and test the small model without any download, and they are the demo's pictures. A scene
is a stack of layers from the back (sky or wall) to the front (things); the label map is the stack
seen from the front, so picture and labels agree by construction.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter

from ebseg.data.drawn.phrases import (
    PHRASES,
    SEEN_PHRASES,
    SEEN_THINGS,
    SURFACE_MATERIALS,
    UNSEEN_PHRASES,
    UNSEEN_THINGS,
)
from ebseg.data.drawn.shapes import can_float, paint_thing, usual_size
from ebseg.data.drawn.textures import Array, View, paint_stuff

__all__ = ["PHRASES", "SEEN_PHRASES", "UNSEEN_PHRASES", "Scene", "draw_scene"]

Mask = npt.NDArray[np.bool_]

_IDS = {phrase: index for index, phrase in enumerate(PHRASES)}
_SMALLEST_SHARE = 100 / 256**2  # of the picture; what shows less is left out


@dataclass(frozen=True)
class Scene:
    """A drawn picture and its truth.

    `image` is (H, W, 3) uint8 RGB; `label_map` is (H, W) int16, an index into `PHRASES`.
    """

    image: npt.NDArray[np.uint8]
    label_map: npt.NDArray[np.int16]


@dataclass
class _Layer:
    """Something that covers what was painted before it; `top`, `left` place its patch."""

    phrase: str
    colour: Array  # (h, w, 3)
    alpha: Array  # (h, w)
    top: int = 0
    left: int = 0
    stands: bool = False  # throws a shadow on the ground

    @property
    def window(self) -> tuple[slice, slice]:
        height, width = self.alpha.shape
        return slice(self.top, self.top + height), slice(self.left, self.left + width)


def draw_scene(seed: int, index: int, *, size: tuple[int, int] = (256, 256), unseen: bool = False) -> Scene:
    """Draw the scene of a seed and an index; the same arguments give the same scene.

    `size` is (height, width) in pixels, each at least 32. With `unseen` the nearest thing and about
    half of the others are combinations that scenes without it never show (`UNSEEN_PHRASES`).
    Raises ValueError for a smaller size.
    """
    height, width = size
    if min(size) < 32:
        raise ValueError(f"size {size} is too small for a scene: each side needs at least 32 pixels")
    rng = np.random.default_rng((seed, index, int(unseen)))
    view = View(height, width, int(height * rng.uniform(0.36, 0.58)), rng)
    layers = _stuff_layers(view, unseen) + _thing_layers(view, unseen)
    layers, label_map = _visible(layers, size)
    canvas = np.zeros((height, width, 3), dtype=np.float32)
    for layer in layers:
        _paint(canvas, layer, view)
    return Scene(_photograph(canvas, rng), label_map)


def _visible(layers: list[_Layer], size: tuple[int, int]) -> tuple[list[_Layer], npt.NDArray[np.int16]]:
    """Keep the layers that show enough, and label each pixel by the frontmost of them."""
    label_map = np.full(size, -1, dtype=np.int16)
    kept: list[_Layer] = []
    for layer in reversed(layers):
        under = label_map[layer.window]
        shown = (layer.alpha >= 0.5) & (under < 0)
        if shown.sum() >= _SMALLEST_SHARE * label_map.size:
            under[shown] = _IDS[layer.phrase]
            kept.append(layer)
    return kept[::-1], label_map


def _paint(canvas: Array, layer: _Layer, view: View) -> None:
    if layer.stands:
        _shade_ground(canvas, layer, view)
    patch = canvas[layer.window]
    patch += layer.alpha[..., None] * (layer.colour - patch)


def _shade_ground(canvas: Array, layer: _Layer, view: View) -> None:
    """Darken a flat ellipse under a standing thing."""
    side = layer.alpha.shape[0]
    centre_y, centre_x = layer.top + 0.95 * side, layer.left + 0.55 * side
    top, bottom = max(int(centre_y - 0.2 * side), 0), min(int(centre_y + 0.2 * side), view.height)
    left, right = max(int(centre_x - 0.7 * side), 0), min(int(centre_x + 0.7 * side), view.width)
    y, x = np.ogrid[top:bottom, left:right]
    distance = ((x - centre_x) / (0.6 * side)) ** 2 + ((y - centre_y) / (0.14 * side)) ** 2
    canvas[top:bottom, left:right] *= 1 - 0.42 * np.clip(1 - distance, 0, 1).astype(np.float32)[..., None]


def _photograph(canvas: Array, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Light the scene, blur it a little, add grain: float32 to uint8."""
    height, width, _ = canvas.shape
    warmth = rng.uniform(-0.05, 0.05)
    tint = rng.uniform(0.84, 1.1) * np.array((1 + warmth, 1, 1 - warmth), dtype=np.float32)
    slope_y, slope_x = rng.uniform(-0.1, 0.1, 2)
    light = 1 + np.linspace(-slope_y, slope_y, height)[:, None] + np.linspace(-slope_x, slope_x, width)
    lit = np.clip(canvas * tint * light.astype(np.float32)[..., None], 0, 255)
    radius = rng.uniform(0.3, 0.8) * min(height, width) / 256
    soft = Image.fromarray(lit.astype(np.uint8)).filter(ImageFilter.BoxBlur(radius))
    grain = rng.standard_normal((height, width, 1), dtype=np.float32) * rng.uniform(1, 5)
    return np.clip(np.asarray(soft, dtype=np.float32) + grain, 0, 255).astype(np.uint8)


def _flat_layer(phrase: str, view: View, mask: Mask) -> _Layer:
    rows = np.flatnonzero(mask.any(axis=1))
    band = slice(int(rows[0]), int(rows[-1]) + 1) if rows.size else slice(0, 0)
    return _Layer(phrase, paint_stuff(phrase, view)[band], mask[band].astype(np.float32), top=band.start)


def _polygon_mask(view: View, points: list[tuple[float, float]]) -> Mask:
    image = Image.new("1", (view.width, view.height))
    ImageDraw.Draw(image).polygon(points, fill=1)
    return np.asarray(image)


def _surface(surface: str, view: View, unseen: bool) -> str:
    """Choose a wall or a floor of a material that may be shown."""
    phrases = [f"{material} {surface}" for material in SURFACE_MATERIALS]
    return str(view.rng.choice([phrase for phrase in phrases if unseen or phrase in SEEN_PHRASES]))


def _stuff_layers(view: View, unseen: bool) -> list[_Layer]:
    """Fill the picture, back to front."""
    everywhere = np.ones((view.height, view.width), dtype=bool)
    below = everywhere.copy()
    below[: view.horizon] = False
    outdoors = view.rng.random() < 0.66
    if not outdoors:
        grounds = ["grass", "sand", "snow", "road"]
        ground = (
            str(view.rng.choice(grounds)) if view.rng.random() < 0.25 else _surface("floor", view, unseen)
        )
        wall = _flat_layer(_surface("wall", view, unseen), view, everywhere)
        return [wall, _flat_layer(ground, view, below)]
    layers = [_flat_layer("sky", view, everywhere)]
    if view.rng.random() < 0.65:
        layers += [_cloud(view) for _ in range(view.rng.integers(1, 4))]
    if view.rng.random() < 0.4:
        layers.append(_flat_layer("mountain", view, _ridge(view)))
    elif view.rng.random() < 0.35:
        layers.append(_flat_layer(_surface("wall", view, unseen), view, _garden_wall(view)))
    grounds = ["grass", "sand", "snow", "water", "road", _surface("floor", view, unseen)]
    ground = str(view.rng.choice(grounds, p=[0.28, 0.18, 0.18, 0.1, 0.06, 0.2]))
    layers.append(_flat_layer(ground, view, below))
    if ground in ("grass", "sand", "snow"):
        feature = view.rng.random()
        if feature < 0.35:
            layers.append(_flat_layer("water", view, _shore(view)))
        elif feature < 0.75:
            layers.append(_flat_layer("road", view, _strip(view)))
    return layers


def _cloud(view: View) -> _Layer:
    """Heap overlapping discs on a flat bottom."""
    width = view.unit * view.rng.uniform(0.22, 0.42)
    left = view.rng.uniform(-0.1 * width, view.width - 0.8 * width)
    base = view.rng.uniform(0.3, 0.85) * view.horizon
    image = Image.new("1", (view.width, view.height))
    draw = ImageDraw.Draw(image)
    for place in (0.18, 0.4, 0.62, 0.82):
        radius = width * view.rng.uniform(0.13, 0.2) * (1.2 if 0.3 < place < 0.7 else 0.85)
        x, y = left + place * width, base - 0.6 * radius
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=1)
    draw.rectangle((0, base, view.width, view.height), fill=0)
    return _flat_layer("cloud", view, np.asarray(image))


def _ridge(view: View) -> Mask:
    """Raise peaks behind the horizon."""
    count = int(view.rng.integers(3, 6))
    across = np.linspace(-0.1, 1.1, 2 * count + 1) * view.width
    heights = np.where(np.arange(2 * count + 1) % 2, view.rng.uniform(0.4, 0.85, 2 * count + 1), 0.15)
    peaks = [(float(x), float(view.horizon * (1 - h))) for x, h in zip(across, heights, strict=True)]
    return _polygon_mask(view, [*peaks, (view.width * 1.1, view.height), (-0.1 * view.width, view.height)])


def _garden_wall(view: View) -> Mask:
    """Stand a wall behind the ground; it may end within the picture."""
    mask = np.zeros((view.height, view.width), dtype=bool)
    top = int(view.horizon * view.rng.uniform(0.2, 0.6))
    end = int(view.width * view.rng.uniform(0.5, 1.3))
    mask[top:, :end] = True
    return mask if view.rng.random() < 0.5 else mask[:, ::-1]


def _shore(view: View) -> Mask:
    """Let water reach from the horizon to a wavy shore."""
    depth = (view.height - view.horizon) * view.rng.uniform(0.25, 0.5)
    x = np.arange(view.width) / view.unit
    waves = 0.03 * view.unit * np.sin(view.rng.uniform(3, 8) * x + view.rng.uniform(0, 6))
    rows = np.arange(view.height)[:, None]
    return (rows >= view.horizon) & (rows < view.horizon + depth + waves[None])


def _strip(view: View) -> Mask:
    """Narrow a road towards the horizon."""
    far = view.width * view.rng.uniform(0.2, 0.8)
    near = far + view.width * view.rng.uniform(-0.35, 0.35)
    half_far, half_near = view.unit * view.rng.uniform(0.03, 0.07), view.unit * view.rng.uniform(0.22, 0.4)
    return _polygon_mask(
        view,
        [
            (far - half_far, view.horizon),
            (far + half_far, view.horizon),
            (near + half_near, view.height),
            (near - half_near, view.height),
        ],
    )


def _thing_layers(view: View, unseen: bool) -> list[_Layer]:
    """Place three to six things, the farthest first."""
    count = int(view.rng.integers(3, 7))
    feet = np.sort(view.rng.uniform(0.12, 0.97, count))  # 0 at the horizon, 1 at the lower edge
    columns = view.rng.permutation(count)
    layers = []
    for place, (foot, column) in enumerate(zip(feet, columns, strict=True)):
        new = unseen and (place == count - 1 or view.rng.random() < 0.5)
        phrase = str(view.rng.choice(UNSEEN_THINGS if new else SEEN_THINGS))
        centre = (column + view.rng.uniform(0.2, 0.8)) / count
        layers.append(_thing(view, phrase, float(foot), float(centre)))
    return layers


def _thing(view: View, phrase: str, foot: float, centre: float) -> _Layer:
    """Place a thing: `foot` and `centre` are its lower edge's and its middle's place, 0..1."""
    side = int(view.unit * (0.17 + 0.13 * foot) * view.rng.uniform(0.85, 1.25) * usual_size(phrase))
    colour, alpha = paint_thing(phrase, side, view.rng)
    hangs = can_float(phrase) and view.rng.random() < 0.5
    if hangs:
        bottom = int(view.rng.uniform(0.35, 0.8) * view.horizon) + side // 2
    else:
        bottom = int(view.horizon + foot * (view.height - view.horizon))
    top = min(max(bottom - side, 0), view.height - side)
    left = min(max(int(centre * view.width - side / 2), 0), view.width - side)
    return _Layer(phrase, colour, alpha, top, left, stands=not hangs)
