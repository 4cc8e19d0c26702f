"""Photos from files and bytes, as people see them in a browser."""

import io
import struct
import threading
import warnings
import zlib
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image
from PIL.AvifImagePlugin import AvifImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.ImageFile import ImageFile
from PIL.Jpeg2KImagePlugin import Jpeg2KImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.PpmImagePlugin import PpmImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from ebseg.errors import ImageError

DEFAULT_MAX_PIXELS = 50_000_000
"""Width times height of the largest photo read: 150 MB once decoded."""

PHOTO_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".mpo", ".jp2", ".j2k", ".jpc", ".jpf", ".jpx"}
    | {".png", ".webp", ".bmp", ".dib", ".tif", ".tiff", ".gif", ".avif"}
    | {".ppm", ".pgm", ".pbm", ".pnm"}
)
"""Files of a folder that are taken for photos."""

OTHER_SUFFIXES = frozenset(
    {".heic", ".heif", ".hif", ".jxl", ".jxr", ".psd", ".tga", ".svg", ".ico", ".exr", ".hdr", ".qoi"}
    | {".raw", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf", ".pef", ".srw"}
)
"""Files of a folder that are pictures to people, but cannot be read."""

_USUAL_SUFFIXES = {"JPEG": ".jpg", "JPEG2000": ".jp2", "TIFF": ".tif"}
"""Of the formats whose files do not end in their name."""

_FORMATS = "JPEG, PNG, WebP, BMP, TIFF, GIF, JPEG 2000, AVIF or PPM"

_CONVERT = "convert it to JPEG or PNG"

# Pillow's readers are called directly, and only these: Image.open would try every format it knows,
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
    (b"\x00\x00\x00\x0cjP  ", Jpeg2KImageFile),
    (b"\xff\x4f\xff\x51", Jpeg2KImageFile),
    *((b"P%d" % number, PpmImageFile) for number in range(1, 7)),
)

_KNOWN_BY_NAME = (
    (b"8BPS", "Photoshop"),
    (b"\xff\x0a", "JPEG XL"),
    (b"\x00\x00\x00\x0cJXL ", "JPEG XL"),
)
"""What is not read but can be named."""

_NAMED = 5
"""Pictures that are passed over and named."""

_HEAD = 64
"""Bytes at a file's beginning that tell its kind; those that share HEIC's container list theirs."""

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
    limited_by: str | None = None,
    name: str | None = None,
) -> NDArray[np.uint8]:
    """Read a photo as (H, W, 3) uint8 RGB.

    ``source``: a path, the file's bytes, or an open binary stream, which is read to its end and left
    open. ``name`` stands for the photo in messages; a path names itself. ``limited_by``: the option or
    setting that has ``max_pixels``, where people can raise it.

    The picture is the one a browser shows: turned as its EXIF orientation says, the first frame of an
    animation, transparency over white (Label Studio's page), 16-bit grey scaled to 8 bits. Colour
    profiles are not applied.

    Raises ImageError for a file that is missing, empty, truncated, not one of these formats, or has
    more than ``max_pixels`` pixels, which is read off its header before anything is decoded.
    """
    if name is None:
        name = str(source) if isinstance(source, str | Path) else "the picture"
    with _open(source, name) as stream:
        image = _undecoded(stream, name)
        width, height = image.size
        if width * height > max_pixels:
            raise ImageError(
                f"{name}: {width} x {height} pixels ({width * height / 1e6:.1f} megapixels) are more than "
                f"the limit of {max_pixels / 1e6:.1f} megapixels; make it smaller"
                + (f" or raise {limited_by}" if limited_by else "")
            )
        if image.mode in ("I", "F"):
            raise ImageError(
                f"{name}: 32-bit grey samples have no agreed black and white; save it with 8 or 16 bits"
            )
        try:
            return np.array(_to_rgb(image))
        except _DAMAGE as error:
            raise _damaged(name, error) from error


def file_kind(source: Path | bytes) -> tuple[str, bool]:
    """Tell how a photo's file should end, such as ".jpg", and whether its EXIF orientation turns it.

    Raises ImageError for a file that is none of a photo.
    """
    name = str(source) if isinstance(source, Path) else "the picture"
    with _open(source, name) as stream:
        image = _undecoded(stream, name)
        kind = str(image.format)
        return _USUAL_SUFFIXES.get(kind, f".{kind.lower()}"), _orientation(image) in _TURNS


def _undecoded(stream: BinaryIO, name: str) -> Image.Image:
    """Read a picture's header only. Raises ImageError."""
    reader = _reader(stream, name)
    try:
        with _quiet():
            return reader(stream)
    except _DAMAGE as error:
        raise _damaged(name, error) from error


def passed_over(folder: Path, pictures: Sequence[str]) -> str:
    """Say that pictures of a folder are of kinds that cannot be used, and name some."""
    some = ", ".join(pictures[:_NAMED])
    more = f" and {len(pictures) - _NAMED} more" if len(pictures) > _NAMED else ""
    return (
        f"{folder}: pictures of kinds that cannot be used are passed over, {len(pictures)}: {some}{more}; "
        "convert them to JPEG or PNG"
    )


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
    head = stream.read(_HEAD)
    stream.seek(0)
    if not head:
        raise ImageError(f"{name}: the file is empty; upload it again")
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return WebPImageFile
    for signature, reader in _READERS:
        if head.startswith(signature):
            return reader
    if head[4:8] == b"ftyp":
        if b"avif" in head[8:]:
            return AvifImageFile
        raise ImageError(f"{name}: HEIC and what is like it cannot be read; {_CONVERT}")
    for signature, kind in _KNOWN_BY_NAME:
        if head.startswith(signature):
            raise ImageError(f"{name}: {kind} cannot be read; {_CONVERT}")
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
