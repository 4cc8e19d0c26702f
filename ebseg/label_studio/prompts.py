"""What a person points with at a part of a photo: a click, a box, a stroke."""

from dataclasses import dataclass

import numpy as np

from ebseg.ask import Mask
from ebseg.errors import AnnotationError
from ebseg.label_studio.brush import decode
from ebseg.label_studio.drawing import fill, solid


@dataclass(frozen=True)
class Point:
    """A click: place and radius as shares 0..1 of the photo's width and height (radius: of its width)."""

    x: float
    y: float
    radius: float
    positive: bool

    def draw(self, height: int, width: int) -> Mask:
        """Draw the disc in a photo of this size, at least one pixel: (height, width) bool."""
        x = min(max(int(self.x * width), 0), width - 1)
        y = min(max(int(self.y * height), 0), height - 1)
        radius = self.radius * width
        reach = int(min(abs(radius), height + width))
        around = np.s_[max(y - reach, 0) : y + reach + 1, max(x - reach, 0) : x + reach + 1]
        mask = np.zeros((height, width), dtype=bool)
        rows, columns = np.ogrid[:height, :width]
        rows, columns = rows[around[0]], columns[:, around[1]]
        mask[around] = (rows - y) ** 2 + (columns - x) ** 2 <= radius**2
        return mask


@dataclass(frozen=True)
class Box:
    """A rectangle, possibly turned: four corners (x, y) as shares 0..1 of width and height."""

    corners: tuple[tuple[float, float], ...]
    positive: bool

    def draw(self, height: int, width: int) -> Mask:
        """Fill the rectangle in a photo of this size: (height, width) bool.

        One that is too thin to hold a pixel's centre is drawn as its diagonal, so that a box as small as a
        click touches a pixel as a click does.
        """
        mask = fill(self.corners, height, width)
        if not mask.any():
            first, _, opposite, _ = np.array(self.corners) * (width, height)
            along = np.linspace(0, 1, 2 * max(height, width) + 1)[:, None]
            places = first + along * (opposite - first)
            places = places[((places >= 0) & (places <= (width, height))).all(axis=1)]
            columns, rows = np.minimum(places, (width - 1, height - 1)).astype(np.intp).T
            mask[rows, columns] = True
        return mask


@dataclass(frozen=True)
class Stroke:
    """A brush stroke, as it came: how large it says it is counts for nothing until the photo is known.

    ``rle``: Label Studio's brush RLE. ``height``, ``width``: pixels of the photo that it was drawn on.
    """

    rle: bytes
    height: int
    width: int
    positive: bool

    def draw(self, height: int, width: int) -> Mask:
        """Draw the stroke: (height, width) bool.

        Raises AnnotationError if it was drawn on a photo of another size, or is damaged.
        """
        if (self.height, self.width) != (height, width):
            raise AnnotationError(
                f"the stroke is {self.width} x {self.height} pixels but the photo is {width} x {height}; "
                "reload the task"
            )
        return solid(decode(self.rle, height, width))


Prompt = Point | Box | Stroke
