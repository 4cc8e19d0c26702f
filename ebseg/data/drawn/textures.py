"""Colours and patterns of the drawn scenes: what sky, water, bricks or wood look like.

Letters: H, W = height and width of the picture in pixels. Colours are float32 RGB, 0..255.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.ndimage import gaussian_filter

Array = npt.NDArray[np.floating[Any]]  # float32 throughout, for speed

_NOISE_SIDE = 256
_NOISE_SEED = 20240617  # fixed for good: another value would change every scene


@cache
def _noise_tile(sigma: float) -> Array:
    """Periodic noise of one grain size: (256, 256), mean 0, deviation 1."""
    white = np.random.default_rng(_NOISE_SEED).standard_normal((_NOISE_SIDE, _NOISE_SIDE))
    smooth = gaussian_filter(white, sigma, mode="wrap") if sigma else white
    return np.asarray((smooth - smooth.mean()) / smooth.std(), dtype=np.float32)


@dataclass(frozen=True)
class View:
    """The picture's frame: its size, its horizon's row and its own random numbers.

    Lengths of textures are shares of the shorter side, so that a scene of any size looks alike.
    """

    height: int
    width: int
    horizon: int
    rng: np.random.Generator

    @property
    def unit(self) -> int:
        """The shorter side in pixels."""
        return min(self.height, self.width)

    def noise(self, sigma: float, stretch_y: float = 1.0, stretch_x: float = 1.0) -> Array:
        """Noise over the picture, (H, W): grain `sigma` in 256ths of the shorter side, stretched."""
        step = _NOISE_SIDE / self.unit
        top, left = self.rng.integers(0, _NOISE_SIDE, 2)
        rows = (top + np.arange(self.height) * step / stretch_y).astype(np.int64) % _NOISE_SIDE
        columns = (left + np.arange(self.width) * step / stretch_x).astype(np.int64) % _NOISE_SIDE
        return _noise_tile(sigma)[np.ix_(rows, columns)]

    def upright(self) -> tuple[Array, Array]:
        """Coordinates on a wall that faces us: x (1, W) and y (H, 1) in shorter sides."""
        rows, columns = np.ogrid[0 : self.height, 0 : self.width]
        return np.float32(1 / self.unit) * columns, np.float32(1 / self.unit) * rows

    def receding(self) -> tuple[Array, Array]:
        """Coordinates on the ground, which runs to the horizon: across (H, W), depth (H, 1)."""
        rows = np.arange(self.height, dtype=np.float32)[:, None] - self.horizon
        distance = 0.5 * self.unit / np.maximum(rows + 0.12 * self.unit, 0.12 * self.unit)
        across = (np.arange(self.width, dtype=np.float32)[None] - self.width / 2) / self.unit
        return across * distance + 8, distance * 1.2


def _rgb(red: float, green: float, blue: float) -> Array:
    return np.array((red, green, blue), dtype=np.float32)


def _tinted(base: tuple[int, int, int], shade: Array, jitter: Array) -> Array:
    """Put a colour (moved by `jitter`, 3 values) under a shade (H, W): (H, W, 3)."""
    return np.asarray((_rgb(*base) + jitter) * shade[..., None])


def _jitter(view: View, amount: float = 8.0) -> Array:
    return view.rng.uniform(-amount, amount, 3).astype(np.float32)


def sky(view: View) -> Array:
    """Blue that pales towards the horizon."""
    depth = np.clip(np.arange(view.height, dtype=np.float32) / max(view.horizon, 1), 0, 1)[:, None, None]
    top = _rgb(92, 158, 226) + _jitter(view, 14)
    low = _rgb(190, 220, 240) + _jitter(view, 8)
    return top + (low - top) * depth + 2 * view.noise(14, 1, 3)[..., None]


def cloud(view: View) -> Array:
    """White, softly mottled."""
    return _tinted((244, 246, 250), 0.97 + 0.035 * view.noise(9), _jitter(view, 4))


def mountain(view: View) -> Array:
    """Grey-violet rock with slanting ridges."""
    ridges = 0.95 + 0.1 * view.noise(6, 1.6) + 0.05 * view.noise(1.5)
    return _tinted((124, 116, 138), ridges, _jitter(view, 10))


def grass(view: View) -> Array:
    """Green blades: fine upright streaks over broad patches."""
    return _tinted(
        (98, 158, 62), 1 + 0.13 * view.noise(0.8, 4) + 0.07 * view.noise(12, 1, 2), _jitter(view, 10)
    )


def water(view: View) -> Array:
    """Deep blue-green with bright ripples that lie flat."""
    ripples = view.noise(2, 0.7, 6)
    shade = 1 + 0.09 * view.noise(4, 0.8, 6) + 0.22 * np.maximum(ripples - 0.9, 0)
    return _tinted((42, 122, 152), shade, _jitter(view, 9))


def sand(view: View) -> Array:
    """Tan grains over low dunes."""
    return _tinted((224, 196, 138), 1 + 0.05 * view.noise(0) + 0.05 * view.noise(8, 0.6, 4), _jitter(view, 8))


def snow(view: View) -> Array:
    """White with bluish hollows."""
    hollows = view.noise(12, 0.7, 2)[..., None] * _rgb(9, 6, 2)
    return _rgb(229, 237, 246) + hollows + 3 * view.noise(0)[..., None]


def road(view: View) -> Array:
    """Asphalt: dark grey with a fine grain."""
    return _tinted((92, 92, 98), 1 + 0.09 * view.noise(0) + 0.05 * view.noise(10), _jitter(view, 6))


def _cell_noise(row: Array, column: Array) -> Array:
    """One random value for each brick, plank or tile, deviation 1."""
    i = row.astype(np.int64) * 57 % _NOISE_SIDE
    j = (column.astype(np.int64) * 131 + i) % _NOISE_SIDE
    return np.asarray(_noise_tile(0)[i, j])


def _joint(x: Array, y: Array, width: float) -> npt.NDArray[np.bool_]:
    """Where a point lies in the gap between cells of side 1."""
    return (x % 1 < width) | (y % 1 < width)


def _brick(view: View, x: Array, y: Array) -> Array:
    y = y * 15 + view.rng.uniform(0, 1)
    x = x * 7 + 0.5 * (np.floor(y) % 2)
    shade = 1 + 0.1 * _cell_noise(np.floor(y), np.floor(x)) + 0.05 * view.noise(1)
    colour = _tinted((172, 82, 62), shade, _jitter(view))
    return np.where(
        _joint(x / 2, y, 0.09)[..., None] | (x % 1 < 0.06)[..., None], _rgb(206, 196, 184), colour
    )


def _stone(view: View, x: Array, y: Array) -> Array:
    y = y * 8 + 0.16 * view.noise(7)
    x = x * 6 + 0.37 * np.floor(y) + 0.16 * view.noise(7)
    shade = 1 + 0.13 * _cell_noise(np.floor(y), np.floor(x)) + 0.06 * view.noise(1.5)
    colour = _tinted((156, 156, 150), shade, _jitter(view))
    return np.where(_joint(x, y, 0.09)[..., None], _rgb(92, 92, 90), colour)


def _planks(view: View, x: Array, y: Array) -> Array:
    x = x * 8 + 0 * y
    grain = np.sin(9 * x + 3 * np.sin(5 * y) + 2 * view.noise(9, 4))
    shade = 1 + 0.08 * _cell_noise(np.floor(x), np.floor(x)) + 0.05 * grain
    colour = _tinted((160, 108, 60), shade, _jitter(view))
    return np.where((x % 1 < 0.07)[..., None], _rgb(84, 54, 32), colour)


def _tiles(view: View, x: Array, y: Array) -> Array:
    x, y = x * 8, y * 8
    chequer = (np.floor(x) + np.floor(y)) % 2
    shade = 0.86 + 0.16 * chequer + 0.02 * _cell_noise(np.floor(y), np.floor(x))
    colour = _tinted((186, 222, 214), shade, _jitter(view))
    return np.where(_joint(x, y, 0.07)[..., None], _rgb(250, 250, 250), colour)


_PATTERNS = {"brick": _brick, "stone": _stone, "wooden": _planks, "tiled": _tiles}
_PLAIN: dict[str, Callable[[View], Array]] = {
    "sky": sky, "cloud": cloud, "mountain": mountain, "grass": grass, "water": water, "sand": sand,
    "snow": snow, "road": road,
}  # fmt: skip


def paint_stuff(phrase: str, view: View) -> Array:
    """Fill a whole picture with one kind of stuff: (H, W, 3) float32 RGB.

    `phrase` is one of `phrases.STUFF`, or a material and a surface such as "brick wall".
    """
    if phrase in _PLAIN:
        return _PLAIN[phrase](view)
    material, surface = phrase.split()
    x, y = view.upright() if surface == "wall" else view.receding()
    return _PATTERNS[material](view, x, y)


_COLOURS = {
    "red": (212, 38, 40), "orange": (245, 132, 26), "yellow": (246, 216, 48), "green": (40, 156, 72),
    "blue": (44, 92, 206), "purple": (138, 66, 178), "white": (240, 240, 238), "black": (44, 44, 50),
}  # fmt: skip


def paint_coat(name: str, side: int, rng: np.random.Generator) -> Array:
    """Fill a square with a thing's colour or material: (side, side, 3) float32 RGB."""
    if name in _COLOURS:
        tone = np.array(_COLOURS[name], dtype=np.float32) * rng.uniform(0.88, 1.08) + rng.uniform(-8, 8, 3)
        return np.broadcast_to(tone.astype(np.float32), (side, side, 3))
    view = View(side, side, 0, rng)
    x, y = view.upright()
    if name == "wooden":
        rings = np.sin(30 * (y + 0.25 * np.sin(3 * x + rng.uniform(0, 6)) + 0.02 * view.noise(9)))
        return _tinted((172, 116, 64), 0.97 + 0.17 * rings + 0.03 * view.noise(1, 1, 8), _jitter(view, 6))
    if name == "metal":
        glints = np.sin(7 * (x + 0.6 * y) + rng.uniform(0, 6))
        return _tinted(
            (148, 156, 166), 0.95 + 0.5 * np.sign(glints) * glints**4 + 0.02 * view.noise(1), _jitter(view, 5)
        )
    first, second = rng.choice(list(_COLOURS.values())[:6], 2, replace=False)
    light = _rgb(246, 246, 242) if rng.random() < 0.7 else _rgb(*second)
    slant = float(rng.choice((-0.5, 0.5)))
    return np.where(((x + slant * y) * 7 % 1 < 0.5)[..., None], _rgb(*first), light)
