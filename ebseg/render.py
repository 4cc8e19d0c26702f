"""Pictures of a segmentation: an overlay with a legend for people, an indexed PNG for programs."""

import unicodedata
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from ebseg.errors import ImageError
from ebseg.segmentation import Segmentation

OPACITY = 0.5
"""How much of a label's colour covers the photo."""

UNLABELLED_8_BIT, UNLABELLED_16_BIT = 255, 65535
"""Pixel values of indexed PNGs for pixels without a label."""

_EYE_WEIGHTS = np.sqrt([2, 4, 3])
"""How much a step in red, green and blue shows (the "redmean" colour distance at medium red)."""

_LEGEND_ROWS = 12
"""Labels that a legend has room for, however small the photo."""
_LEGEND_LETTERS = 28
_UNICODE_FONTS = ("NotoSansCJK-Regular.ttc", "DejaVuSans.ttf")
"""Fonts tried for names that Pillow's own font, which is Latin, cannot write."""


@dataclass(frozen=True)
class _Font:
    """Pillow's own font for Latin letters and, where one is installed, a font with more scripts."""

    latin: ImageFont.FreeTypeFont | ImageFont.ImageFont
    others: ImageFont.FreeTypeFont | ImageFont.ImageFont

    @classmethod
    def of_size(cls, size: int) -> "_Font":
        latin = ImageFont.load_default(size)
        for name in _UNICODE_FONTS:
            try:
                return cls(latin, ImageFont.truetype(name, size))
            except OSError:  # not installed here
                continue
        return cls(latin, latin)

    def for_text(self, text: str) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
        return self.latin if text.isascii() else self.others


@cache
def palette(count: int) -> npt.NDArray[np.uint8]:
    """Give distinct RGB colours (count, 3) uint8; a label's colour depends on its index alone.

    Starting from red, each is the vivid colour that is farthest from all before it. ``count``: up to 1,000.
    """
    steps = np.arange(0, 256, 15)
    candidates = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), axis=-1).reshape(-1, 3)
    brightest, spread = candidates.max(axis=1), np.ptp(candidates, axis=1)
    candidates = candidates[(brightest >= 90) & (spread >= 60)]
    seen = candidates * _EYE_WEIGHTS
    chosen = [int(np.flatnonzero((candidates == (225, 0, 0)).all(axis=1))[0])]
    distance = np.full(len(candidates), np.inf)
    while len(chosen) < count:
        distance = np.minimum(distance, np.linalg.norm(seen - seen[chosen[-1]], axis=1))
        chosen.append(int(distance.argmax()))
    colours: npt.NDArray[np.uint8] = candidates[chosen[:count]].astype(np.uint8)
    colours.setflags(write=False)  # the cache hands the same array to everybody
    return colours


def indexed_png(segmentation: Segmentation, path: Path) -> None:
    """Write the label map as a PNG whose pixel values are label indices.

    Up to 255 labels: 8 bits with a palette, 255 where unlabelled. More: 16-bit grey, 65535 where unlabelled.
    """
    labels = len(segmentation.labels)
    label_map = segmentation.label_map
    if labels > UNLABELLED_8_BIT:
        # -1 becomes 65535 in unsigned 16 bits
        Image.fromarray(label_map.astype(np.uint16)).save(path, format="PNG")
        return
    image = Image.fromarray(label_map.astype(np.uint8))  # and 255 in unsigned 8 bits
    colours = np.zeros((256, 3), np.uint8)
    colours[:labels] = palette(labels)
    image.putpalette(colours.tobytes())
    image.save(path, format="PNG")


def overlay(image: npt.NDArray[np.uint8] | Image.Image, segmentation: Segmentation) -> Image.Image:
    """Draw the labels over the photo, with a legend of names and areas to its right.

    ``image``: the photo, (H, W, 3) uint8 RGB, as large as the segmentation. Returns an RGB image; the photo
    is at its upper left. Raises ImageError where the sizes differ.
    """
    photo = np.asarray(image.convert("RGB") if isinstance(image, Image.Image) else image)
    if photo.shape[:2] != segmentation.label_map.shape:
        raise ImageError(
            f"the photo has {photo.shape[1]} x {photo.shape[0]} pixels, its label map "
            f"{segmentation.label_map.shape[1]} x {segmentation.label_map.shape[0]}"
        )
    colours = palette(len(segmentation.labels))
    labelled = segmentation.label_map >= 0
    painted = photo.copy()
    tint = colours[segmentation.label_map[labelled]]
    painted[labelled] = (photo[labelled] * (1 - OPACITY) + tint * OPACITY).astype(np.uint8)
    legend = _legend(segmentation, colours, photo.shape[0])
    canvas = Image.new("RGB", (photo.shape[1] + legend.width, max(photo.shape[0], legend.height)), "white")
    canvas.paste(Image.fromarray(painted), (0, 0))
    canvas.paste(legend, (photo.shape[1], 0))
    return canvas


def _legend(segmentation: Segmentation, colours: npt.NDArray[np.uint8], height: int) -> Image.Image:
    """Draw the labels found, the largest first, as far as there is room, then the unlabelled rest."""
    size = max(12, height // 40)
    line = size * 3 // 2
    room = max(_LEGEND_ROWS, height // line - 3)
    found = [row for row in segmentation.table() if row.confidence is not None]
    entries: list[tuple[int | None, str]] = [
        (row.index, f"{_shown(row.label)}  {row.area:.1%}") for row in found[:room]
    ]
    if len(found) > room:
        entries.append((None, f"and {len(found) - room} more"))
    if segmentation.unlabelled > 0:
        entries.append((None, f"unlabelled  {segmentation.unlabelled:.1%}"))
    font = _Font.of_size(size)
    width = max(int(font.for_text(text).getlength(text)) for _, text in entries)
    image = Image.new("RGB", (width + 3 * line, line * (len(entries) + 1)), "white")
    draw = ImageDraw.Draw(image)
    for row, (label, text) in enumerate(entries):
        top = line // 2 + row * line
        if label is not None:
            red, green, blue = colours[label].tolist()
            corners = (line // 2, top, line // 2 + size, top + size)
            draw.rectangle(corners, fill=(red, green, blue), outline="black")
        draw.text((2 * line, top), text, fill="black", font=font.for_text(text))
    return image


def _shown(name: str) -> str:
    """Make a name fit for one line: control characters and surplus letters left out."""
    text = "".join(character for character in name if unicodedata.category(character)[0] != "C")
    text = " ".join(text.split())
    return text if len(text) <= _LEGEND_LETTERS else text[: _LEGEND_LETTERS - 1] + "…"
