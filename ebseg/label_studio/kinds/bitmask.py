"""Bitmasks: a PNG of the photo's size, black on transparent, in four channels as a canvas makes it."""

import base64
import binascii
import io
import struct
import zlib

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngImageFile

from ebseg.ask import Mask
from ebseg.errors import AnnotationError
from ebseg.label_studio.drawing import solid
from ebseg.label_studio.kinds.kind import Kind, Value, Written
from ebseg.parts import Part

_PNG_URL = "data:image/png;base64,"


def _draw(value: Value, height: int, width: int) -> Mask:
    url = value["imageDataURL"]
    if not url.startswith(_PNG_URL):
        raise AnnotationError(f"its bitmask must begin with {_PNG_URL}, not with {url[:30]!r}")
    try:
        image = PngImageFile(io.BytesIO(base64.b64decode(url[len(_PNG_URL) :], validate=True)))
        if image.size != (width, height):  # before it is decoded, which takes memory
            raise AnnotationError(
                f"its bitmask is {image.size[0]} x {image.size[1]} pixels, but the photo has "
                f"{width} x {height}; was the photo replaced? Annotate it again"
            )
        if not image.has_transparency_data:
            raise AnnotationError("its bitmask has no transparent pixels; it must be black on transparent")
        return solid(np.asarray(image.convert("RGBA"))[..., 3])
    except (OSError, SyntaxError, binascii.Error, struct.error, zlib.error) as error:
        raise AnnotationError(f"its bitmask is damaged ({error}); annotate it again") from error


def _write(part: Part, _: float) -> Written:
    black = np.zeros((*part.size, 4), dtype=np.uint8)
    black[*part.box, 3] = part.mask * np.uint8(255)
    png = io.BytesIO()
    Image.fromarray(black).save(png, "PNG", compress_type=zlib.Z_RLE)  # half the time for as many bytes
    url = _PNG_URL + base64.b64encode(png.getvalue()).decode("ascii")
    return Written({"imageDataURL": url}, part.content)  # a PNG's bytes are others with another zlib


BITMASK = Kind("Bitmask", key="imageDataURL", draw=_draw, write=_write)
