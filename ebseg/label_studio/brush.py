"""Label Studio's brush RLE: run-length coded RGBA pixels, packed bit by bit.

The format (of the JavaScript package rle-pack), most significant bit first: 32 bits element count
(height x width x 4, RGBA interleaved), 5 bits word size - 1, four times 4 bits length size - 1; then
blocks of 1 bit run flag, 2 bits choice of a length size, length - 1 in so many bits, and one word (a
run) or ``length`` words (literals). Label Studio reads a mask from the alpha channel.

``label_studio_sdk.converter.brush`` is the reference, and the tests compare with it. It is not used
here because importing it takes 1.5 s (it brings nltk and scipy), it holds the bits as text (a disk in
1024x1024 takes 13 ms to encode and 22 ms to decode, here 0.5 and 6; noise 3.8 s to encode, here 0.6),
and it does not notice damage.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ebseg.errors import AnnotationError

CHANNELS = 4
WORD_SIZE = 8
LENGTH_SIZES = (3, 4, 8, 16)
"""Bits of a block's length field, by the two bits that choose it; the editor and the SDK use these."""

_MAX_RUN = 1 << LENGTH_SIZES[-1]
_HEADER_BITS = 32 + 5 + 4 * 4
_MAX_ELEMENTS = (1 << 32) - 1


def encode(mask: NDArray[np.uint8]) -> list[int]:
    """Encode a mask as Label Studio's brush RLE, byte for byte as the SDK's ``mask2rle`` does.

    ``mask``: (H, W) uint8 alpha, 0 outside and 255 inside; the four channels all get this value.
    Returns bytes as a list of ints. Raises AnnotationError for another shape or dtype.
    """
    if mask.ndim != 2 or mask.dtype != np.uint8 or not 0 < mask.size * CHANNELS <= _MAX_ELEMENTS:
        raise AnnotationError(
            f"a brush mask must be a non-empty uint8 array (H, W), got {mask.dtype} {mask.shape}"
        )
    lengths, values, choice = _blocks(mask.ravel())
    size = np.array(LENGTH_SIZES)[choice]
    code = ((((4 | choice) << size) | (lengths - 1)) << WORD_SIZE) | values  # run flag, choice, length, word
    bits = 3 + size + WORD_SIZE
    return list(_pack(mask.size * CHANNELS, code, bits).tobytes())


def decode(rle: Sequence[int], height: int, width: int) -> NDArray[np.uint8]:
    """Decode Label Studio's brush RLE to (height, width) uint8 alpha.

    A person's strokes are antialiased: threshold the result where a yes or no is needed.
    Raises AnnotationError for damaged RLE and for RLE of a picture of another size, before it takes memory
    for the picture.
    """
    data = check(rle, height, width)
    header = _header(data)
    sizes = [(header >> shift & 15) + 1 for shift in (12, 8, 4, 0)]
    count = height * width * CHANNELS
    return _unpack(data, count, sizes).reshape(height, width, CHANNELS)[..., -1].copy()


def check(rle: Sequence[int], height: int, width: int) -> bytes:
    """Give brush RLE as bytes if its header is that of a picture of this size. Raises AnnotationError."""
    try:
        data = bytes(iter(rle))  # of a number, bytes() alone would make as many zeros
    except (TypeError, ValueError) as error:
        raise AnnotationError(
            "brush RLE must be a list of integers from 0 to 255; export it again"
        ) from error
    if len(data) * 8 < _HEADER_BITS:
        raise AnnotationError(f"brush RLE of {len(data)} bytes has no complete header; export it again")
    header = _header(data)
    count = header >> 21
    word_size = (header >> 16 & 31) + 1
    if min(height, width) < 1 or count != height * width * CHANNELS:
        raise AnnotationError(
            f"brush RLE holds {count} values, but a {width} x {height} picture has "
            f"{height * width * CHANNELS}; it belongs to a picture of another size, or is damaged"
        )
    if word_size != WORD_SIZE:
        raise AnnotationError(f"brush RLE has words of {word_size} bits; Label Studio writes {WORD_SIZE}")
    return data


def _header(data: bytes) -> int:
    return int.from_bytes(data[:7], "big") >> (7 * 8 - _HEADER_BITS)


def _blocks(pixels: NDArray[np.uint8]) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Lengths in RGBA elements, values and choices of a length size of the runs.

    A run too long for any length field becomes several blocks, all with the longest field, as in the SDK.
    """
    ends = np.append(np.flatnonzero(pixels[1:] != pixels[:-1]) + 1, pixels.size)
    lengths = np.diff(ends, prepend=0) * CHANNELS
    choice = np.searchsorted([1 << size for size in LENGTH_SIZES[:-1]], lengths)
    pieces = -(-lengths // _MAX_RUN)
    split = np.full(pieces.sum(), _MAX_RUN, dtype=np.int64)
    split[np.cumsum(pieces) - 1] = lengths - (pieces - 1) * _MAX_RUN
    return split, np.repeat(pixels[ends - 1], pieces).astype(np.int64), np.repeat(choice, pieces)


def _pack(count: int, code: NDArray[np.int64], bits: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Concatenate the header and codes of so many bits each into bytes."""
    header = count << 21 | (WORD_SIZE - 1) << 16
    for position, size in enumerate(LENGTH_SIZES):
        header |= (size - 1) << (12 - 4 * position)
    end = _HEADER_BITS + np.cumsum(bits)
    start = end - bits
    total = int(end[-1]) // 8 + 1  # a full last byte is followed by a zero byte, as the SDK has it
    # A code has at most 27 bits, so with its offset in a byte it lies within 5 bytes. Codes do not
    # overlap: adding up what falls into a byte is the same as combining its bits.
    window = code << (40 - bits - start % 8)
    packed = np.zeros(total + 4)
    packed[:7] = np.frombuffer((header << 3).to_bytes(7, "big"), np.uint8)
    for byte in range(5):
        part = window >> (32 - 8 * byte) & 255
        packed += np.bincount(start // 8 + byte, weights=part, minlength=total + 4)
    return packed[:total].astype(np.uint8)


def _unpack(data: bytes, count: int, sizes: list[int]) -> NDArray[np.uint8]:
    """Read the blocks after the header: (count,) uint8."""
    out = np.empty(count, dtype=np.uint8)
    padded = np.frombuffer(data + bytes(8), dtype=np.uint8)
    raw = padded.tobytes()
    total = len(data) * 8
    bit, done = _HEADER_BITS, 0
    while done < count:
        window = int.from_bytes(raw[bit >> 3 : (bit >> 3) + 5], "big") << (bit & 7) & 0xFFFFFFFFFF
        size = sizes[window >> 37 & 3]
        length = (window >> (37 - size) & (1 << size) - 1) + 1
        words = 1 if window >> 39 else length
        bit += 3 + size
        stop = done + length
        if stop > count or bit + words * WORD_SIZE > total:
            raise AnnotationError(
                "brush RLE is damaged: it ends early or runs past the picture; export it again"
            )
        if words == 1:
            out[done:stop] = window >> (29 - size) & 255
        else:
            first, shift = bit >> 3, bit & 7
            pair = padded[first : first + words + 1].astype(np.uint16)
            out[done:stop] = (pair[:-1] << shift | pair[1:] >> (8 - shift)) & 255
        bit += words * WORD_SIZE
        done = stop
    return out
