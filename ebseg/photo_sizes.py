"""Sizes of photos that benchmarks ask for, by their megapixels."""

import math

from ebseg.errors import ConfigError

LEAST_MEGAPIXELS, MOST_MEGAPIXELS = 0.05, 16.0
ASPECT = 4 / 3
"""Width by height of a photo."""


def photo_size(megapixels: float) -> tuple[int, int]:
    """Give the (height, width) of a photo of so many pixels, 4 wide to 3 high. Raises ConfigError."""
    if not LEAST_MEGAPIXELS <= megapixels <= MOST_MEGAPIXELS:
        raise ConfigError(
            f"photos of {megapixels:g} megapixels are not measured; choose from {LEAST_MEGAPIXELS:g} to "
            f"{MOST_MEGAPIXELS:g}"
        )
    height = round(math.sqrt(megapixels * 1e6 / ASPECT))
    return height, round(height * ASPECT)
