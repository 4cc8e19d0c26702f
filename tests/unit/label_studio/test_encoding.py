"""Packed answers: what they unpack to is bounded, in size and in time, whatever they claim."""

import gzip
import time
import tracemalloc
import zlib

import jwt
import pytest
from pydantic import SecretStr

from ebseg.errors import NoPhoto, Refused, Unreachable
from ebseg.label_studio.encoding import PIECE_BYTES, decoded
from ebseg.label_studio.fetch import ImageFetcher
from tests.unit.label_studio.http_server import reply

PHOTO = bytes(range(256)) * 1000


def raw_deflate(content: bytes) -> bytes:
    packer = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
    return packer.compress(content) + packer.flush()


def parts(content: bytes, size: int) -> list[bytes]:
    return [content[start : start + size] for start in range(0, len(content), size)]


@pytest.mark.parametrize("size", [1, 7, 1 << 20])
@pytest.mark.parametrize(
    ("encoding", "packed"),
    [
        ("", PHOTO),
        ("identity", PHOTO),
        ("utf-8", PHOTO),
        ("aws-chunked", PHOTO),
        ("gzip", gzip.compress(PHOTO)),
        ("x-gzip", gzip.compress(PHOTO)),
        ("aws-chunked, GZip", gzip.compress(PHOTO)),
        ("gzip", gzip.compress(PHOTO) + b"what comes behind"),
        ("deflate", zlib.compress(PHOTO)),
        ("deflate", zlib.compress(PHOTO, 1)),
        ("deflate", raw_deflate(PHOTO)),
        ("gzip", b""),
    ],
)
def test_what_is_packed_once_is_unpacked(encoding, packed, size):
    assert b"".join(decoded(encoding, parts(packed, size))) == (PHOTO if packed else b"")


@pytest.mark.parametrize(
    ("encoding", "packed", "message"),
    [
        ("gzip, gzip", gzip.compress(gzip.compress(PHOTO)), "encoded as gzip, gzip, which is not unpacked"),
        ("gzip,deflate", b"", "encoded as gzip,deflate"),
        ("br", b"", "encoded as br"),
        ("zstd", b"", "encoded as zstd"),
        ("compress", b"", "encoded as compress"),
        ("gzip", b"no gzip at all", "gzip encoding is damaged"),
        ("deflate", b"no deflate at all", "deflate encoding is damaged"),
        ("gzip", gzip.compress(PHOTO)[:-9], "gzip encoding is cut off"),
        ("deflate", zlib.compress(PHOTO)[:100], "deflate encoding is cut off"),
    ],
)
def test_what_is_not_unpacked_is_said(encoding, packed, message):
    with pytest.raises(NoPhoto, match=message):
        list(decoded(encoding, [packed] if packed else []))


def bomb(window: int, megabytes: int) -> bytes:
    packer = zlib.compressobj(9, wbits=window)
    return b"".join(packer.compress(bytes(1_000_000)) for _ in range(megabytes)) + packer.flush()


BOMBS = {
    "gzip": bomb(16 + zlib.MAX_WBITS, 30),
    "deflate": bomb(zlib.MAX_WBITS, 30),
    "gzip, gzip": gzip.compress(bomb(16 + zlib.MAX_WBITS, 30)),
    # brotli makes 304 bytes of 200 MB of zeros, zstd 6 kB; neither is looked at.
    "br": b"packed",
    "zstd": b"packed",
}


@pytest.mark.parametrize("encoding", BOMBS)
def test_a_bomb_costs_no_more_than_the_limit(label_studio, encoding):
    """httpx's own decoders made 1 GB of two layers of gzip in 1.8 kB."""
    label_studio.routes["/data/a.jpg"] = reply(BOMBS[encoding], Content_Encoding=encoding)
    photos = ImageFetcher(label_studio_url=label_studio.url, max_bytes=1_000_000)
    tracemalloc.start()
    with pytest.raises(NoPhoto, match=r"larger than the limit of 1 MB; .*EBSEG_MAX_BYTES|not unpacked"):
        photos.fetch("/data/a.jpg")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4_000_000


def test_pieces_are_small_however_much_a_chunk_holds():
    assert max(map(len, decoded("gzip", [BOMBS["gzip"]]))) <= PIECE_BYTES


def test_the_deadline_holds_while_unpacking(label_studio, monkeypatch):
    """All arrives at once, and time passes with each piece."""
    now = [0.0]

    class Clock:
        @staticmethod
        def monotonic() -> float:
            now[0] += 1.0
            return now[0]

    monkeypatch.setattr("ebseg.label_studio.transport.time", Clock)
    monkeypatch.setattr("ebseg.label_studio.fetch.time", Clock)
    label_studio.routes["/data/a.jpg"] = reply(BOMBS["gzip"], Content_Encoding="gzip")
    photos = ImageFetcher(label_studio_url=label_studio.url, timeout_s=60.0, max_bytes=300_000_000)
    with pytest.raises(Unreachable, match="no complete answer within 60 s"):
        photos.fetch("/data/a.jpg")


def test_packed_answers_are_not_asked_for(label_studio):
    label_studio.routes["/data/a.jpg"] = reply(PHOTO)
    ImageFetcher(label_studio_url=label_studio.url).fetch("/data/a.jpg")
    assert label_studio.seen[0][1]["accept-encoding"] == "identity"


def test_an_exchange_of_tokens_is_bounded_too(label_studio):
    key = jwt.encode({"token_type": "refresh", "exp": int(time.time()) + 1000}, "x" * 32, "HS256")
    label_studio.routes["/api/token/refresh/"] = reply(BOMBS["gzip"], Content_Encoding="gzip")
    photos = ImageFetcher(label_studio_url=label_studio.url, api_key=SecretStr(key), max_bytes=1_000_000)
    with pytest.raises(Refused, match="exchange of tokens: larger than the limit"):
        photos.fetch("/data/a.jpg")
