import os
import pickle
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ebseg.data.folder import PHOTO_SUFFIXES, FolderSource, list_files
from ebseg.data.subset import sample_of
from ebseg.errors import DataError
from ebseg.vocabulary import Vocabulary

SKY_ROAD_CAR = Vocabulary(["sky", "road", "car"])
INDICES = np.array([[0, 1, 2, 0, 1], [2, 2, 1, 0, 0], [1, 0, 2, 2, 1]], np.uint8)


def save(path: Path, values: np.ndarray, **options) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path, **options)


def save_photo(path: Path, height: int = 3, width: int = 5) -> None:
    save(path, np.full((height, width, 3), 90, np.uint8))


def source(root: Path, vocabulary: Vocabulary = SKY_ROAD_CAR, **options) -> FolderSource:
    return FolderSource(root / "photos", root / "labels", vocabulary, **options)


def one_pair(root: Path, values: np.ndarray = INDICES, label_map: str = "a.png", **options) -> Path:
    save_photo(root / "photos/a.jpg")
    path = root / "labels" / label_map
    save(path, values, **options)
    return path


def test_pairs_by_relative_path_in_the_order_of_names(tmp_path):
    for photo in ("b.jpg", "a.JPG", "aachen/b.jpeg", "zurich/a.webp", "zurich/c.png", "lonely.png"):
        save_photo(tmp_path / "photos" / photo)
    for number, label_map in enumerate(("b.tif", "a.png", "aachen/b.PNG", "zurich/a.tiff", "zurich/c.png")):
        save(tmp_path / "labels" / label_map, np.full((3, 5), number % 3, np.uint8))
    (tmp_path / "photos/.hidden.jpg").touch()
    (tmp_path / "photos/notes.txt").touch()
    photos = source(tmp_path)
    samples = [photos[index] for index in range(len(photos))]
    below = [Path(sample.name).relative_to(tmp_path / "photos").as_posix() for sample in samples]
    assert below == ["a.JPG", "aachen/b.jpeg", "b.jpg", "zurich/a.webp", "zurich/c.png"]
    assert [sample.label_map[0, 0] for sample in samples] == [1, 2, 0, 0, 1]
    assert photos.without_labels == ("lonely.png",)
    assert photos.name == str(tmp_path / "photos")
    assert samples[0].image.shape == (3, 5, 3) and samples[0].image.dtype == np.uint8
    assert samples[0].label_map.dtype == np.int16


def palette_png(values: np.ndarray) -> Image.Image:
    image = Image.fromarray(values).convert("L")
    image.putpalette([7, 8, 9] * 256)  # one colour: only the indices can tell the labels apart
    return image


@pytest.mark.parametrize(
    ("name", "image", "options"),
    [
        ("a.png", Image.fromarray(INDICES), {}),
        ("a.png", palette_png(INDICES), {}),
        ("a.png", palette_png(INDICES), {"bits": 2}),
        ("a.png", Image.fromarray(INDICES.astype(np.uint16)), {}),
        ("a.tif", Image.fromarray(INDICES), {}),
        ("a.tif", Image.fromarray(INDICES.astype(np.uint16)), {}),
        ("a.tiff", Image.fromarray(INDICES.astype(np.uint16)), {"compression": "tiff_lzw"}),
        ("a_labelTrainIds.png", Image.fromarray(INDICES), {}),
    ],
)
def test_kinds_of_label_maps(tmp_path, name, image, options):
    one_pair(tmp_path)
    (tmp_path / "labels/a.png").unlink()
    image.save(tmp_path / "labels" / name, **options)
    np.testing.assert_array_equal(source(tmp_path)[0].label_map, INDICES)


@pytest.mark.parametrize("bits", [2, 4])
def test_grey_of_few_bits_is_read_unstretched(tmp_path, bits):
    """As PNG optimisers write label maps of few labels."""
    path = one_pair(tmp_path)
    path.write_bytes(grey_png(INDICES, bits))
    np.testing.assert_array_equal(source(tmp_path)[0].label_map, INDICES)


def grey_png(values: np.ndarray, bits: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width = values.shape
    spread = np.unpackbits(values[..., None], axis=2)[..., 8 - bits :].reshape(height, -1)
    rows = b"".join(b"\0" + row.tobytes() for row in np.packbits(spread, axis=1))
    header = struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def test_one_bit_maps_hold_two_labels(tmp_path):
    one_pair(tmp_path, INDICES == 2)
    np.testing.assert_array_equal(source(tmp_path)[0].label_map, INDICES == 2)


@pytest.mark.parametrize(
    ("values", "ignored", "expected"),
    [
        (np.array([[0, 2, 255, 1, 0]] * 3, np.uint8), (), [0, 2, -1, 1, 0]),
        (np.array([[0, 2, 65535, 1, 0]] * 3, np.uint16), (), [0, 2, -1, 1, 0]),
        (np.array([[0, 2, 255, 3, 0]] * 3, np.uint8), (3,), [0, 2, -1, -1, 0]),
        (np.array([[0, 2, 255, 3, 0]] * 3, np.uint16), (3, 255), [0, 2, -1, -1, 0]),
        (np.array([[0, 2, 2, 1, 0]] * 3, np.uint8), (0,), [-1, 2, 2, 1, -1]),
    ],
)
def test_ignored_values(tmp_path, values, ignored, expected):
    one_pair(tmp_path, values, "a.tif")
    np.testing.assert_array_equal(source(tmp_path, ignored=ignored)[0].label_map, [expected] * 3)


def test_more_labels_than_eight_bits_hold(tmp_path):
    vocabulary = Vocabulary([f"label {number}" for number in range(847)])
    one_pair(tmp_path, np.array([[0, 255, 256, 846, 65535]] * 3, np.uint16), "a.tif")
    np.testing.assert_array_equal(source(tmp_path, vocabulary)[0].label_map[0], [0, 255, 256, 846, -1])
    (tmp_path / "labels/a.tif").unlink()
    one_pair(tmp_path, np.array([[0, 254, 255, 1, 2]] * 3, np.uint8))
    np.testing.assert_array_equal(source(tmp_path, vocabulary)[0].label_map[0], [0, 254, -1, 1, 2])


def test_labels_that_start_at_1_are_told_what_to_do(tmp_path):
    one_pair(tmp_path, INDICES + 1)
    remedy = (
        "Values start at 0: .* subtract 1 from all, and make an unlabelled 0 the ignored 255.* ignored = "
    )
    with pytest.raises(DataError, match=f"value 3 is neither .*{remedy}"):
        source(tmp_path)[0]


@pytest.mark.parametrize("value", [3, 254, 255])
def test_a_value_without_meaning_is_named(tmp_path, value):
    path = one_pair(tmp_path, np.array([[0, 1, value, 2, 2]] * 3, np.uint16), "a.tif")
    with pytest.raises(DataError, match=f"{path}: value {value} is neither one of the 3 labels"):
        source(tmp_path)[0]


def test_only_some_of_many_bad_values_are_named(tmp_path):
    one_pair(tmp_path, np.arange(15, dtype=np.uint8).reshape(3, 5))
    with pytest.raises(DataError, match=r"value 3, 4, 5, 6, 7 \.\.\. is neither"):
        source(tmp_path)[0]


def test_sizes_that_differ_are_named(tmp_path):
    path = one_pair(tmp_path, INDICES.T)
    with pytest.raises(DataError, match=f"{path}: 3 x 5 pixels, but its photo .*a.jpg has 5 x 3"):
        source(tmp_path)[0]


def test_coloured_label_maps_are_refused(tmp_path):
    path = one_pair(tmp_path, np.zeros((3, 5, 3), np.uint8))
    with pytest.raises(DataError, match=f"{path}: a picture of the kind RGB"):
        source(tmp_path)[0]


def test_damaged_label_maps_are_named(tmp_path):
    save_photo(tmp_path / "photos/a.jpg", 64, 64)
    path = tmp_path / "labels/a.png"
    save(path, np.random.default_rng(0).integers(0, 3, (64, 64), np.uint8))
    whole = path.read_bytes()
    half = len(whole) // 2
    for content in (b"", b"no picture at all", whole[:20], whole[:half], whole[:half] + b"\xff" * half):
        path.write_bytes(content)
        with pytest.raises(DataError, match=f"{path}: cannot be read as a label map"):
            source(tmp_path)[0]


def test_a_truncated_photo_is_named(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    photo = tmp_path / "photos/a.jpg"
    save(photo, noise)
    save(tmp_path / "labels/a.png", np.zeros((64, 64), np.uint8))
    photo.write_bytes(photo.read_bytes()[:1500])
    with pytest.raises(DataError, match=f"{photo}: the file is damaged or truncated"):
        source(tmp_path)[0]


def test_a_file_that_has_gone_is_named(tmp_path):
    path = one_pair(tmp_path)
    photos = source(tmp_path)
    path.unlink()
    with pytest.raises(DataError, match=f"{path}: cannot be read"):
        photos[0]
    with pytest.raises(DataError, match=f"{path}: cannot be read"):
        photos.fingerprint()


def test_no_pairs_and_missing_folders_are_named(tmp_path):
    with pytest.raises(DataError, match=f"{tmp_path / 'photos'} is missing"):
        source(tmp_path)
    save_photo(tmp_path / "photos/a.jpg")
    with pytest.raises(DataError, match=f"{tmp_path / 'labels'} is missing"):
        source(tmp_path)
    save(tmp_path / "labels/b.png", INDICES)
    with pytest.raises(
        DataError, match="photos .1 photos. has a label map in .*labels .1 label maps."
    ) as info:
        source(tmp_path)
    assert str(tmp_path / "photos") in str(info.value)


def test_two_files_of_one_name_are_refused(tmp_path):
    one_pair(tmp_path)
    save_photo(tmp_path / "photos/a.png")
    with pytest.raises(DataError, match="has both a.jpg and a.png"):
        source(tmp_path)


def test_names_are_compared_in_one_unicode_form(tmp_path):
    composed, decomposed = "\u00e4", "a\u0308"
    save_photo(tmp_path / "photos" / composed / f"{composed}.jpg")
    save(tmp_path / "labels" / decomposed / f"{decomposed}_labelTrainIds.png", INDICES)
    photos = source(tmp_path)
    assert photos.without_labels == ()
    np.testing.assert_array_equal(photos[0].label_map, INDICES)


def test_the_unicode_form_of_names_decides_nothing_else(tmp_path):
    for place, letter in (("one", "\u00e4"), ("two", "a\u0308")):
        for name in (f"{letter}1", "b2", f"c{letter}"):
            save_photo(tmp_path / place / "photos" / f"{name}.jpg")
            save(tmp_path / place / "labels" / f"{name}.png", INDICES)
    first, second = (source(tmp_path / place) for place in ("one", "two"))
    assert first.fingerprint() == second.fingerprint()
    assert sample_of(first, 2).indices == sample_of(second, 2).indices


def test_two_forms_of_one_name_are_refused(tmp_path):
    one_pair(tmp_path)
    for name in ("\u00e4.jpg", "a\u0308.jpg"):
        save_photo(tmp_path / "photos" / name)
    with pytest.raises(DataError, match="has both"):
        source(tmp_path)


def test_converted_maps_are_read_where_raw_ones_lie_beside(tmp_path):
    one_pair(tmp_path, np.full((3, 5), 181, np.uint8))
    save_photo(tmp_path / "photos/b.jpg")
    save(tmp_path / "labels/b.png", np.full((3, 5), 181, np.uint8))
    save(tmp_path / "labels/a_labelTrainIds.png", INDICES)
    photos = source(tmp_path)
    np.testing.assert_array_equal(photos[0].label_map, INDICES)
    assert photos.without_labels == ("b.jpg",)


def test_label_maps_below_the_photos_are_no_photos(tmp_path):
    save_photo(tmp_path / "a.jpg")
    save(tmp_path / "labels/a.png", INDICES)
    photos = FolderSource(tmp_path, tmp_path / "labels", SKY_ROAD_CAR)
    assert len(photos) == 1 and photos.without_labels == ()


def test_the_same_goes_for_a_folder_named_in_another_unicode_form(tmp_path):
    save_photo(tmp_path / "a.jpg")
    save(tmp_path / "u\u0308/a.png", INDICES)
    files = list_files(tmp_path, PHOTO_SUFFIXES, without=tmp_path / "\u00fc")  # on macOS, one folder
    assert list(files) == ["a.jpg"]


def test_pictures_that_cannot_be_read_are_named(tmp_path):
    one_pair(tmp_path)
    for name in ("b.HEIC", "sub/c.cr2", ".hidden.heic", "notes.txt"):
        (tmp_path / "photos" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "photos" / name).touch()
    assert source(tmp_path).unreadable == ("b.HEIC", "sub/c.cr2")
    (tmp_path / "photos/a.jpg").unlink()
    message = r"no photo .*/labels.*b.tif\. .*passed over, 2: b.HEIC, sub/c.cr2; convert them to JPEG or PNG"
    with pytest.raises(DataError, match=message):
        source(tmp_path)


@pytest.mark.parametrize(
    ("suffix", "kind"),
    [(".jfif", "JPEG"), (".jpe", "JPEG"), (".jp2", "JPEG2000"), (".avif", "AVIF"), (".ppm", "PPM")],
)
def test_what_can_be_read_is_read(tmp_path, suffix, kind):
    one_pair(tmp_path)
    (tmp_path / "photos/a.jpg").unlink()
    Image.new("RGB", (5, 3)).save(tmp_path / f"photos/a{suffix}", kind)
    assert source(tmp_path)[0].image.shape == (3, 5, 3)


def test_no_limit_is_to_be_raised_where_none_can_be(tmp_path):
    one_pair(tmp_path)
    Image.new("1", (10_000, 10_000)).save(tmp_path / "photos/a.jpg", "PNG")
    with pytest.raises(DataError, match="more than the limit of 50.0 megapixels; make it smaller$"):
        source(tmp_path)[0]


def test_linked_folders_are_searched(tmp_path):
    one_pair(tmp_path / "disk")
    for kind in ("photos", "labels"):
        (tmp_path / kind).mkdir()
        (tmp_path / kind / "linked").symlink_to(tmp_path / "disk" / kind)
    assert len(source(tmp_path)) == 1


def test_fingerprint_names_the_content_and_not_the_place(tmp_path):
    for place in ("one", "two"):
        one_pair(tmp_path / place)
    first, second = source(tmp_path / "one"), source(tmp_path / "two")
    assert first.fingerprint() == second.fingerprint()
    os.utime(tmp_path / "two/photos/a.jpg", (0, 0))
    assert first.fingerprint() == second.fingerprint()
    seen = {first.fingerprint(), source(tmp_path / "one", Vocabulary(["a", "b", "c"])).fingerprint()}
    seen.add(source(tmp_path / "one", ignored=(7,)).fingerprint())
    save(tmp_path / "two/photos/a.jpg", np.zeros((30, 50, 3), np.uint8))
    seen.add(second.fingerprint())
    save_photo(tmp_path / "one/photos/b.jpg")
    save(tmp_path / "one/labels/b.png", INDICES)
    seen.add(source(tmp_path / "one").fingerprint())
    assert len(seen) == 5


def test_reads_the_same_in_another_process(tmp_path):
    one_pair(tmp_path)
    photos = source(tmp_path)
    copy = pickle.loads(pickle.dumps(photos))
    np.testing.assert_array_equal(copy[0].label_map, photos[0].label_map)
    assert copy.vocabulary == SKY_ROAD_CAR and copy.fingerprint() == photos.fingerprint()
