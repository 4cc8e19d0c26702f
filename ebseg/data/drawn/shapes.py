"""The things of the drawn scenes: each is painted into a square patch with its own outline."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from ebseg.data.drawn.textures import Array, paint_coat

Point = tuple[float, float]
Colour = tuple[int, int, int]

_SUPERSAMPLING = 2
_FULL_SHADE = 170  # grey level of the stencil that leaves the coat's colour as it is


class _Stencil:
    """Where a thing is, how light each part is, and which parts have a colour of their own.

    Coordinates run from 0 to 1, x to the right and y down.
    """

    def __init__(self, side: int) -> None:
        self.side = side
        self.shade = Image.new("L", (side, side), 0)
        self.fixed = Image.new("RGBA", (side, side), (0, 0, 0, 0))
        self._shade = ImageDraw.Draw(self.shade)
        self._fixed = ImageDraw.Draw(self.fixed)

    def _scaled(self, points: Sequence[Point]) -> list[Point]:
        return [(x * self.side, y * self.side) for x, y in points]

    def polygon(self, points: Sequence[Point], light: float = 1.0, colour: Colour | None = None) -> None:
        self._shade.polygon(self._scaled(points), fill=int(_FULL_SHADE * light))
        if colour:
            self._fixed.polygon(self._scaled(points), fill=(*colour, 255))

    def ellipse(self, box: tuple[Point, Point], light: float = 1.0, colour: Colour | None = None) -> None:
        self._shade.ellipse(self._scaled(box), fill=int(_FULL_SHADE * light))
        if colour:
            self._fixed.ellipse(self._scaled(box), fill=(*colour, 255))

    def rectangle(self, box: tuple[Point, Point], light: float = 1.0, colour: Colour | None = None) -> None:
        (left, top), (right, bottom) = box
        self.polygon([(left, top), (right, top), (right, bottom), (left, bottom)], light, colour)


def _ball(stencil: _Stencil) -> None:
    stencil.ellipse(((0.02, 0.02), (0.98, 0.98)))


def _box(stencil: _Stencil) -> None:
    stencil.polygon([(0.02, 0.3), (0.28, 0.08), (0.98, 0.08), (0.72, 0.3)], 1.25)
    stencil.polygon([(0.72, 0.3), (0.98, 0.08), (0.98, 0.74), (0.72, 0.98)], 0.6)
    stencil.rectangle(((0.02, 0.3), (0.72, 0.98)), 0.95)


def _cone(stencil: _Stencil) -> None:
    stencil.ellipse(((0.1, 0.82), (0.9, 0.98)))
    stencil.polygon([(0.5, 0.02), (0.1, 0.9), (0.9, 0.9)])


def _star(stencil: _Stencil) -> None:
    tips = []
    for corner in range(10):
        radius = 0.5 if corner % 2 == 0 else 0.22
        angle = math.pi * (corner / 5 - 0.5)
        tips.append((0.5 + radius * math.cos(angle), 0.52 + radius * math.sin(angle)))
    for corner in range(10):
        stencil.polygon([(0.5, 0.52), tips[corner], tips[(corner + 1) % 10]], 1.1 if corner % 2 else 0.8)


def _ring(stencil: _Stencil) -> None:
    stencil.ellipse(((0.02, 0.02), (0.98, 0.98)), 0.8)
    stencil.ellipse(((0.06, 0.05), (0.93, 0.92)), 1.0)
    stencil.ellipse(((0.12, 0.11), (0.86, 0.85)), 1.2)
    stencil.ellipse(((0.16, 0.15), (0.84, 0.83)), 0.9)
    stencil.ellipse(((0.26, 0.26), (0.74, 0.74)), 0.0)


def _house(stencil: _Stencil) -> None:
    stencil.rectangle(((0.14, 0.44), (0.86, 0.98)))
    stencil.polygon([(0.02, 0.48), (0.5, 0.03), (0.98, 0.48)], 0.6)
    stencil.rectangle(((0.42, 0.66), (0.6, 0.98)), colour=(92, 60, 38))
    stencil.rectangle(((0.21, 0.56), (0.36, 0.72)), colour=(250, 236, 170))
    stencil.rectangle(((0.66, 0.56), (0.81, 0.72)), colour=(250, 236, 170))


def _tree(stencil: _Stencil) -> None:
    stencil.polygon([(0.44, 0.5), (0.56, 0.5), (0.6, 0.98), (0.4, 0.98)], colour=(108, 74, 44))
    stencil.ellipse(((0.08, 0.26), (0.56, 0.7)), 0.82)
    stencil.ellipse(((0.44, 0.26), (0.92, 0.7)), 0.76)
    stencil.ellipse(((0.2, 0.02), (0.8, 0.56)), 1.0)
    stencil.ellipse(((0.28, 0.08), (0.58, 0.34)), 1.15)


def _car(stencil: _Stencil) -> None:
    stencil.polygon([(0.2, 0.5), (0.32, 0.24), (0.66, 0.24), (0.82, 0.5)], 0.9)
    stencil.polygon([(0.02, 0.54), (0.1, 0.47), (0.9, 0.47), (0.98, 0.56), (0.98, 0.78), (0.02, 0.78)], 1.05)
    stencil.polygon([(0.27, 0.47), (0.36, 0.29), (0.47, 0.29), (0.47, 0.47)], colour=(206, 230, 244))
    stencil.polygon([(0.51, 0.47), (0.51, 0.29), (0.63, 0.29), (0.74, 0.47)], colour=(206, 230, 244))
    for left in (0.14, 0.64):
        stencil.ellipse(((left, 0.65), (left + 0.23, 0.88)), colour=(34, 34, 38))
        stencil.ellipse(((left + 0.07, 0.72), (left + 0.16, 0.81)), colour=(186, 186, 190))


def _cup(stencil: _Stencil) -> None:
    stencil.ellipse(((0.56, 0.3), (0.98, 0.76)), 0.85)
    stencil.ellipse(((0.66, 0.4), (0.88, 0.66)), 0.0)
    stencil.ellipse(((0.16, 0.84), (0.64, 0.98)))
    stencil.polygon([(0.04, 0.16), (0.76, 0.16), (0.64, 0.92), (0.16, 0.92)])
    stencil.ellipse(((0.04, 0.06), (0.76, 0.26)), 1.2)
    stencil.ellipse(((0.09, 0.09), (0.71, 0.23)), 0.45)


def _flag(stencil: _Stencil) -> None:
    stencil.rectangle(((0.08, 0.02), (0.15, 0.98)), colour=(150, 150, 154))
    wave = [(0.15 + 0.05 * step, 0.04 * math.sin(step / 2.4)) for step in range(17)]
    for (left, near), (right, far) in zip(wave, wave[1:], strict=False):
        corners = [(left, 0.08 + near), (right, 0.08 + far), (right, 0.6 + far), (left, 0.6 + near)]
        stencil.polygon(corners, 1 + 2.5 * (far - near) * 4)


@dataclass(frozen=True)
class _Shape:
    draw: Callable[[_Stencil], None]
    rounding: str = "flat"  # how light falls on it: flat, cylinder or sphere
    floats: bool = False  # may hang in the air
    size: float = 1.0  # of the usual side


_SHAPES = {
    "ball": _Shape(_ball, "sphere", size=0.9),
    "box": _Shape(_box),
    "cone": _Shape(_cone, "cylinder", size=1.05),
    "star": _Shape(_star, floats=True, size=1.1),
    "ring": _Shape(_ring, floats=True),
    "house": _Shape(_house, size=1.2),
    "tree": _Shape(_tree, size=1.3),
    "car": _Shape(_car, size=1.3),
    "cup": _Shape(_cup, "cylinder", size=0.95),
    "flag": _Shape(_flag, size=1.25),
}


def can_float(phrase: str) -> bool:
    """Whether the thing named may hang in the air instead of standing on the ground."""
    return _SHAPES[phrase.split()[1]].floats


def usual_size(phrase: str) -> float:
    """How large the thing named is beside the others, about 1."""
    return _SHAPES[phrase.split()[1]].size


def _light(rounding: str, side: int) -> Array:
    """How much light reaches each point of a patch lit from the upper left: (side, side)."""
    rows, columns = np.ogrid[0:side, 0:side]
    y, x = rows * np.float32(1 / side), columns * np.float32(1 / side)
    light = 1.08 - 0.1 * x - 0.1 * y
    if rounding == "sphere":
        light = 1.28 - 1.15 * ((x - 0.34) ** 2 + (y - 0.28) ** 2)
    elif rounding == "cylinder":
        light = 1.2 - 1.5 * (x - 0.34) ** 2 + 0 * y
    return np.asarray(light)


def paint_thing(phrase: str, side: int, rng: np.random.Generator) -> tuple[Array, Array]:
    """Paint a thing such as "red ball" or "wooden box" into a square patch.

    Returns its colours, (side, side, 3) float32 RGB, and its coverage, (side, side) float32 0..1.
    """
    coat, name = phrase.split()
    shape = _SHAPES[name]
    stencil = _Stencil(side * _SUPERSAMPLING)
    shape.draw(stencil)
    outline = stencil.shade.point(lambda level: 255 if level else 0)
    alpha = np.asarray(outline.reduce(_SUPERSAMPLING), dtype=np.float32) / 255
    shade = np.asarray(stencil.shade.reduce(_SUPERSAMPLING), dtype=np.float32) / _FULL_SHADE
    shade = np.where(alpha > 0, shade / np.maximum(alpha, 1e-3), 0) * _light(shape.rounding, side)
    colour = paint_coat(coat, side, rng) * shade[..., None]
    fixed = np.asarray(stencil.fixed.convert("RGBa").reduce(_SUPERSAMPLING), dtype=np.float32)
    cover = fixed[..., 3:] / 255
    colour = colour * (1 - cover) + fixed[..., :3]  # already multiplied by its cover
    if rng.random() < 0.5:
        colour, alpha = colour[:, ::-1], alpha[:, ::-1]
    return np.clip(colour, 0, 255).astype(np.float32), alpha
