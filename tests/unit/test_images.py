import io
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from ebseg.errors import ImageError
from ebseg.images import DEFAULT_MAX_PIXELS, read_image

ORIENTATION = 0x0112
LOSSLESS = {
    "PNG": {},
    "WEBP": {"lossless": True},
    "BMP": {},
    "TIFF": {},
    "GIF": {},
    "JPEG2000": {},
    "PPM": {},
}


def picture(height: int = 23, width: int = 31) -> np.ndarray:
    """Smooth colours without symmetry, so that every turn shows and JPEG keeps it."""
    rows, columns = np.mgrid[:height, :width]
    return np.stack([rows * 255 // height, columns * 255 // width, np.full_like(rows, 60)], -1).astype(
        np.uint8
    )


def saved(image: Image.Image, kind: str, **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def png_header(width: int, height: int) -> bytes:
    """A PNG that promises a size and holds no pixels."""
    ihdr = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    header = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + ihdr + struct.pack(">I", zlib.crc32(ihdr))
    return header + struct.pack(">I", 100) + b"IDAT"


@pytest.mark.parametrize("kind", LOSSLESS)
def test_lossless_formats_keep_every_pixel(kind):
    levels = np.array([0, 85, 170, 255], np.uint8)
    pixels = levels[np.random.default_rng(0).integers(0, 4, (23, 31, 3))]  # 64 colours fit a GIF's palette
    read = read_image(saved(Image.fromarray(pixels), kind, **LOSSLESS[kind]))
    assert read.dtype == np.uint8
    np.testing.assert_array_equal(read, pixels)


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}])
def test_jpeg(options):
    read = read_image(saved(Image.fromarray(picture()), "JPEG", quality=95, **options))
    assert np.abs(read.astype(int) - picture()).max() < 20


def test_avif():
    read = read_image(saved(Image.fromarray(picture()), "AVIF", quality=95))
    assert np.abs(read.astype(int) - picture()).max() < 20


def test_avif_that_calls_itself_by_its_containers_name():
    data = saved(Image.fromarray(picture()), "AVIF")
    assert data[8:12] == b"avif" and b"mif1" in data[16:64]
    assert read_image(data[:8] + b"mif1" + data[12:]).shape == (23, 31, 3)


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(40), "HEIC and what is like it"),
        (b"\0\0\0\x18ftypcrx \0\0\0\x01crx isom" + bytes(40), "HEIC and what is like it"),
        (b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(40), "JPEG XL"),
        (b"8BPS\0\x01" + bytes(40), "Photoshop"),
    ],
)
def test_pictures_of_other_kinds_are_to_be_converted(data, kind):
    with pytest.raises(ImageError, match=f"p: {kind} cannot be read; convert it to JPEG or PNG"):
        read_image(data, name="p")


def test_cmyk_jpeg():
    read = read_image(saved(Image.fromarray(picture()).convert("CMYK"), "JPEG", quality=95))
    assert np.abs(read.astype(int) - picture()).mean() < 5


def test_sources_agree(tmp_path):
    data = saved(Image.fromarray(picture()), "PNG")
    path = tmp_path / "photo.png"
    path.write_bytes(data)
    with path.open("rb") as stream:
        for source in (str(path), path, data, stream):
            np.testing.assert_array_equal(read_image(source), picture())
        assert not stream.closed


# How a stored picture has to be turned for display, by the EXIF standard.
UPRIGHT = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a, 2).transpose(1, 0, 2),
    8: lambda a: np.rot90(a),
}


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", UPRIGHT)
def test_exif_orientation_is_applied(kind, orientation):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    data = saved(Image.fromarray(picture()), kind, exif=exif, **LOSSLESS[kind])
    np.testing.assert_array_equal(read_image(data), UPRIGHT[orientation](picture()))


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_exif_orientation_of_an_avif(orientation):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    read = read_image(saved(Image.fromarray(picture()), "AVIF", quality=95, exif=exif))
    expected = UPRIGHT[orientation](picture())
    assert read.shape == expected.shape and np.abs(read.astype(int) - expected).max() < 20


def test_exif_orientation_of_a_phone_jpeg():
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    read = read_image(saved(Image.fromarray(picture()), "JPEG", quality=95, exif=exif))
    assert np.abs(read.astype(int) - UPRIGHT[6](picture())).max() < 20


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_damaged_exif_does_not_cost_the_photo(kind):
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    data = saved(Image.fromarray(picture()), kind, exif=exif)
    start = data.index(exif.tobytes()[6:] if kind != "JPEG" else b"Exif\0\0") + (6 if kind == "JPEG" else 0)
    damaged = bytearray(data)
    damaged[start + 4 : start + 8] = b"\xff\xff\xff\xff"  # the first directory's offset
    if kind == "PNG":
        chunk = data.index(b"eXIf")
        length = struct.unpack(">I", data[chunk - 4 : chunk])[0]
        crc = zlib.crc32(damaged[chunk : chunk + 4 + length])
        damaged[chunk + 4 + length : chunk + 8 + length] = struct.pack(">I", crc)
    assert read_image(bytes(damaged)).shape == (23, 31, 3)


@pytest.mark.parametrize(
    ("kind", "mode"),
    [("PNG", "I;16"), ("TIFF", "I;16"), ("TIFF", "I;16B")],
    ids=["png", "tiff", "tiff-big-endian"],
)
def test_sixteen_bit_grey_is_scaled(kind, mode):
    levels = np.array([[0, 128, 129, 257, 32768, 65278, 65535]], np.uint16)
    image = Image.frombytes(mode, (7, 1), levels.astype(">u2" if mode == "I;16B" else "<u2").tobytes())
    read = read_image(saved(image, kind))
    np.testing.assert_array_equal(read[0, :, 0], [0, 0, 1, 1, 128, 254, 255])
    np.testing.assert_array_equal(read[..., 0], read[..., 2])


def test_animation_gives_its_first_frame():
    frames = [Image.new("RGB", (8, 6), colour) for colour in ("red", "green", "blue")]
    for kind in ("GIF", "PNG", "WEBP"):
        options = {"lossless": True} if kind == "WEBP" else {}
        data = saved(frames[0], kind, save_all=True, append_images=frames[1:], **options)
        read = read_image(data)
        assert read.shape == (6, 8, 3)
        assert (read == [255, 0, 0]).all(), kind


def with_alpha() -> Image.Image:
    image = Image.new("RGBA", (3, 1), (200, 0, 0, 255))
    image.putpixel((1, 0), (200, 0, 0, 0))
    image.putpixel((2, 0), (200, 0, 0, 51))
    return image


def palette_with_transparency() -> Image.Image:
    image = Image.new("P", (3, 1))
    image.putpalette([200, 0, 0, 0, 200, 0, 0, 0, 200])
    for x in range(3):
        image.putpixel((x, 0), x)
    return image


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (saved(with_alpha(), "PNG"), [(200, 0, 0), (255, 255, 255), (244, 204, 204)]),
        (
            saved(with_alpha(), "WEBP", lossless=True, exact=True),
            [(200, 0, 0), (255, 255, 255), (244, 204, 204)],
        ),
        (
            saved(palette_with_transparency(), "PNG", transparency=1),
            [(200, 0, 0), (255, 255, 255), (0, 0, 200)],
        ),
        (
            saved(palette_with_transparency(), "PNG", transparency=b"\x33\xff\x00"),
            [(244, 204, 204), (0, 200, 0), (255, 255, 255)],
        ),
        (
            saved(palette_with_transparency(), "GIF", transparency=2),
            [(200, 0, 0), (0, 200, 0), (255, 255, 255)],
        ),
        (saved(palette_with_transparency(), "PNG"), [(200, 0, 0), (0, 200, 0), (0, 0, 200)]),
        (
            saved(Image.frombytes("LA", (3, 1), bytes([9, 255, 9, 0, 80, 255])), "PNG"),
            [(9, 9, 9), (255, 255, 255), (80, 80, 80)],
        ),
        (
            saved(Image.frombytes("L", (3, 1), bytes([0, 7, 255])), "PNG"),
            [(0, 0, 0), (7, 7, 7), (255, 255, 255)],
        ),
        (
            saved(Image.frombytes("1", (3, 1), b"\xa0"), "PNG"),
            [(255, 255, 255), (0, 0, 0), (255, 255, 255)],
        ),
    ],
    ids=["rgba", "webp", "index", "alphas", "gif", "palette", "grey-alpha", "grey", "bilevel"],
)
def test_modes_become_rgb_over_white(data, expected):
    assert [tuple(pixel) for pixel in read_image(data)[0].tolist()] == expected


TRUNCATED = [
    (kind, share)
    for kind in ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "JPEG2000", "AVIF", "PPM")
    for share in (0.2, 0.5, 0.9)
]


@pytest.mark.parametrize(("kind", "share"), TRUNCATED)
def test_truncated_files_are_named_errors(kind, share, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    data = saved(Image.fromarray(noise), kind)
    path = tmp_path / "half.img"
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(ImageError, match=r"half\.img: the file is damaged or truncated .*upload it again"):
        read_image(path)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "photo 7: the file is empty"),
        (
            b"x",
            "photo 7: not an image of a known kind; expected JPEG, PNG, WebP, BMP, TIFF, GIF, JPEG 2000, "
            "AVIF or PPM",
        ),
        (b"<!DOCTYPE html><title>Log in</title>", "photo 7: not an image"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "photo 7: not an image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "photo 7: not an image"),
        (b"\xff\xd8\xff", "photo 7: the file is damaged"),
        (b"BM" + bytes(60), "photo 7: the file is damaged"),
        (png_header(10, 10), "photo 7: the file is damaged"),
        (saved(Image.fromarray(np.ones((2, 2), np.float32)), "TIFF"), "photo 7: 32-bit grey.*8 or 16 bits"),
    ],
)
def test_unreadable_bytes_are_named_errors(data, message):
    with pytest.raises(ImageError, match=message):
        read_image(data, name="photo 7")


def test_missing_file_and_folder_are_named_errors(tmp_path):
    with pytest.raises(ImageError, match=r"nowhere\.jpg: cannot be opened \(No such file"):
        read_image(tmp_path / "nowhere.jpg")
    with pytest.raises(ImageError, match="cannot be opened"):
        read_image(tmp_path)
    with pytest.raises(ImageError, match="cannot be opened"):
        read_image("a\0b.jpg")


def gif_header(width: int, height: int) -> bytes:
    frame = b"," + struct.pack("<HHHHB", 0, 0, width, height, 0) + b"\x02\x00;"
    return b"GIF89a" + struct.pack("<HHBBB", width, height, 0, 0, 0) + frame


def bmp_header(width: int, height: int) -> bytes:
    file_header = b"BM" + struct.pack("<IHHI", 54, 0, 0, 54)
    return file_header + struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)


def jpeg_header(width: int, height: int) -> bytes:
    frame = b"\xff\xc0" + struct.pack(">HBHHB", 17, 8, height, width, 3) + b"\x01\x11\0\x02\x11\0\x03\x11\0"
    return b"\xff\xd8" + frame + b"\xff\xda\0\x0c\x03\x01\0\x02\x11\x03\x11\0\x3f\0"


def tiff_header(width: int, height: int) -> bytes:
    tags = [
        (256, width),
        (257, height),
        (258, 8),
        (259, 1),
        (262, 1),
        (273, 8),
        (277, 1),
        (278, height),
        (279, 1),
    ]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4)


@pytest.mark.parametrize(("width", "height"), [(10_000, 10_000), (12_000, 10_000), (60_000, 60_000)])
@pytest.mark.parametrize("header", [png_header, gif_header, bmp_header, jpeg_header, tiff_header])
def test_huge_files_are_refused_by_their_header(header, width, height):
    message = rf"big: {width} x {height} pixels .* more than the limit of 50\.0 megapixels; make it smaller"
    with pytest.raises(ImageError, match=message):
        read_image(header(width, height), name="big")


def test_the_pixel_limit_is_inclusive_and_can_be_set():
    data = saved(Image.fromarray(picture(10, 20)), "PNG")
    assert read_image(data, max_pixels=200).shape == (10, 20, 3)
    with pytest.raises(ImageError, match="; make it smaller$"):
        read_image(data, max_pixels=199)
    with pytest.raises(ImageError, match="; make it smaller or raise --max-pixels$"):
        read_image(data, max_pixels=199, limited_by="--max-pixels")
    assert DEFAULT_MAX_PIXELS == 50_000_000


def test_photos_are_read_in_parallel():
    data = [saved(Image.fromarray(picture(20 + size, 30)), "PNG") for size in range(32)]
    with ThreadPoolExecutor(8) as pool:
        for size, read in enumerate(pool.map(read_image, data)):
            np.testing.assert_array_equal(read, picture(20 + size, 30))
