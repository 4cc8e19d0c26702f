"""Photos from files and bytes, as people see them in a browser."""

import io
import struct
import threading
import warnings
import zlib
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from ebseg.errors import ImageError

DEFAULT_MAX_PIXELS = 50_000_000
"""Width times height of the largest photo read: 150 MB once decoded."""

_FORMATS = "JPEG, PNG, WebP, BMP, TIFF or GIF"

# Pillow's readers are called directly, and only these six: Image.open would try every format it knows,
# and warn of decompression bombs before our own limit could speak.
_READERS: tuple[tuple[bytes, type[ImageFile]], ...] = (
    (b"\xff\xd8\xff", JpegImageFile),
    (b"\x89PNG\r\n\x1a\n", PngImageFile),
    (b"GIF8", GifImageFile),
    (b"BM", BmpImageFile),
    (b"II*\x00", TiffImageFile),
    (b"MM\x00*", TiffImageFile),
    (b"II+\x00", TiffImageFile),
    (b"MM\x00+", TiffImageFile),
)

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""How to undo each EXIF orientation. (Pillow's exif_transpose fails where the EXIF data are damaged.)"""

# What Pillow's readers were seen to raise on damaged files.
_DAMAGE = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    EOFError,
    MemoryError,
    OverflowError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)

_warning_filters = threading.Lock()  # they belong to the process, and photos are read in parallel


def read_image(
    source: str | Path | bytes | BinaryIO,
    *,
    max_pixels: int = DEFAULT_MAX_PIXELS,
    name: str | None = None,
) -> NDArray[np.uint8]:
    """Read a photo as (H, W, 3) uint8 RGB.

    ``source``: a path, the file's bytes, or an open binary stream, which is read to its end and left
    open. ``name`` stands for the photo in messages; a path names itself.

    The picture is the one a browser shows: turned as its EXIF orientation says, the first frame of an
    animation, transparency over white (Label Studio's page), 16-bit grey scaled to 8 bits. Colour
    profiles are not applied.

    Raises ImageError for a file that is missing, empty, truncated, not one of the six formats, or has
    more than ``max_pixels`` pixels, which is read off its header before anything is decoded.
    """
    if name is None:
        name = str(source) if isinstance(source, str | Path) else "the picture"
    with _open(source, name) as stream:
        reader = _reader(stream, name)
        try:
            with _quiet():
                image = reader(stream)
        except _DAMAGE as error:
            raise _damaged(name, error) from error
        width, height = image.size
        if width * height > max_pixels:
            raise ImageError(
                f"{name}: {width} x {height} pixels ({width * height / 1e6:.1f} megapixels) are more than "
                f"the limit of {max_pixels / 1e6:.1f} megapixels; make it smaller or raise the limit"
            )
        if image.mode in ("I", "F"):
            raise ImageError(
                f"{name}: 32-bit grey samples have no agreed black and white; save it with 8 or 16 bits"
            )
        try:
            return np.array(_to_rgb(image))
        except _DAMAGE as error:
            raise _damaged(name, error) from error


def _open(source: str | Path | bytes | BinaryIO, name: str) -> AbstractContextManager[BinaryIO]:
    if isinstance(source, bytes):
        return io.BytesIO(source)
    if not isinstance(source, str | Path):
        return io.BytesIO(source.read())
    try:
        return Path(source).open("rb")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ImageError(f"{name}: cannot be opened ({reason}); check the path") from error


def _reader(stream: BinaryIO, name: str) -> type[ImageFile]:
    head = stream.read(12)
    stream.seek(0)
    if not head:
        raise ImageError(f"{name}: the file is empty; upload it again")
    if head.startswith(b"RIFF") and head[8:] == b"WEBP":
        return WebPImageFile
    for signature, reader in _READERS:
        if head.startswith(signature):
            return reader
    raise ImageError(f"{name}: not an image of a known kind; expected {_FORMATS}")


def _to_rgb(image: Image.Image) -> Image.Image:
    turn = _TURNS.get(_orientation(image))
    image.load()
    if turn is not None and not isinstance(image, TiffImageFile):  # Pillow turns these while loading
        image = image.transpose(turn)
    if image.mode.startswith("I;16"):
        # 65535 = 255 * 257, so this is exact rounding; Pillow's own conversion would clip at 255
        samples = np.asarray(image).astype(np.uint32)
        image = Image.fromarray(((samples + 128) // 257).astype(np.uint8))
    if image.has_transparency_data:
        overlay = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", overlay.size, "white"), overlay)
    return image.convert("RGB")


def _orientation(image: Image.Image) -> int:
    """Read the EXIF orientation; damaged EXIF data count as none, as in browsers."""
    try:
        with _quiet():
            return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except _DAMAGE:
        return 1


@contextmanager
def _quiet() -> Iterator[None]:
    """Drop Pillow's warnings about damaged metadata: a photo is read or an ImageError says why not."""
    with _warning_filters, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _damaged(name: str, error: BaseException) -> ImageError:
    return ImageError(f"{name}: the file is damaged or truncated ({error}); upload it again")
