"""What a person points with at a part of a photo: a click, a box, a stroke."""

from dataclasses import dataclass

import numpy as np

from ebseg.errors import AnnotationError
from ebseg.label_studio.drawing import Mask, fill


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
        rows, columns = np.ogrid[:height, :width]
        radius = self.radius * width
        return np.asarray((rows - y) ** 2 + (columns - x) ** 2 <= radius**2)


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


@dataclass(frozen=True, eq=False)
class Stroke:
    """A brush stroke: (H, W) bool."""

    mask: Mask
    positive: bool

    def draw(self, height: int, width: int) -> Mask:
        """Return the stroke. Raises AnnotationError if it was drawn on a photo of another size."""
        if self.mask.shape != (height, width):
            raise AnnotationError(
                f"the stroke is {self.mask.shape[1]} x {self.mask.shape[0]} pixels but the photo is "
                f"{width} x {height}; reload the task"
            )
        return self.mask


Prompt = Point | Box | Stroke
