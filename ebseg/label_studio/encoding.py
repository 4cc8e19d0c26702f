"""Undo an answer's Content-Encoding in pieces of bounded size: a kilobyte may unpack to gigabytes."""

import zlib
from collections.abc import Iterable, Iterator

from ebseg.errors import NoPhoto

PIECE_BYTES = 1 << 16

_GZIP, _ZLIB, _RAW = 16 + zlib.MAX_WBITS, zlib.MAX_WBITS, -zlib.MAX_WBITS
_UNPACKED = ("gzip", "x-gzip", "deflate")
_PACKED_OTHERWISE = ("br", "zstd", "compress", "x-compress", "dcb", "dcz")  # all others say nothing


def decoded(content_encoding: str, chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Yield a body's content in pieces of at most PIECE_BYTES, unless it is not packed.

    Photos are compressed by themselves, so that one encoding is all that servers are found to use.
    Raises NoPhoto for more than one, for one that is not unpacked here, and for a damaged one.
    """
    names = [name.strip().lower() for name in content_encoding.split(",")]
    packed = [name for name in names if name in (*_UNPACKED, *_PACKED_OTHERWISE)]
    if len(packed) > 1 or any(name in _PACKED_OTHERWISE for name in packed):
        raise NoPhoto(
            f"it is encoded as {content_encoding[:80]}, which is not unpacked; serve the file as it is"
        )
    return _unpacked(packed[0], chunks) if packed else iter(chunks)


def _unpacked(name: str, chunks: Iterable[bytes]) -> Iterator[bytes]:
    unpacker = None
    for chunk in chunks:
        if unpacker is None and chunk:
            unpacker = zlib.decompressobj(_window(name, chunk))
        rest = chunk
        while unpacker is not None and rest and not unpacker.eof:
            try:
                piece = unpacker.decompress(rest, PIECE_BYTES)
            except zlib.error as error:
                raise NoPhoto(f"its {name} encoding is damaged ({error}); serve the file as it is") from error
            rest = unpacker.unconsumed_tail
            yield piece
    if unpacker is not None and not unpacker.eof:
        yield unpacker.flush()  # of input that it has taken already: some hundred bytes at most
    if unpacker is not None and not unpacker.eof:
        raise NoPhoto(f"its {name} encoding is cut off; serve the file as it is")


def _window(name: str, beginning: bytes) -> int:
    """Tell zlib what comes: "deflate" means zlib's format, but some servers leave out its header."""
    if name != "deflate":
        return _GZIP
    checked = len(beginning) == 1 or int.from_bytes(beginning[:2]) % 31 == 0  # RFC 1950
    return _ZLIB if beginning[0] & 0x0F == 8 and checked else _RAW
