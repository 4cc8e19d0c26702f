"""Whatever an address holds, ``fetch`` gives a photo or raises an error of ours."""

import random
import socket
from collections import Counter

import pytest
from pydantic import SecretStr

from ebseg.errors import FetchError
from ebseg.label_studio import transport
from ebseg.label_studio.fetch import ImageFetcher
from tests.unit.label_studio.http_server import redirect

SEED = 9
COUNT = 3000

WORDS = """
http https HTTP ftp file s3 gs azure-blob data javascript :// : // / \\ ? # @ % %00 %2e%2e %2F %zz
.. . ... & = ; [ ] [::1] [::ffff:127.0.0.1] [fe80::1%25eth0] [v1.x] 127.0.0.1 0x7f.1 2130706433
xn-- xn--a xn--\u00fc xn--80ak6aa92e e.org .e.org e..org e.org. -e- _ b\u00fccher.org \u0130.org
' " < { | ^ ` * + , :80 :0 :65535 :65536 :-1 :x :99999999999999999999 :\u0661 user:pass@ user@@ :@
/data/upload/1/a.jpg /data/local-files/?d= /tasks/1/presign/ /label-studio api/users a.png
"""
SIGNS = "\x00\t\n\r \x7f\u200b\u202e\ud800\U0001f600\u2460\u3002\uff0e\u00df"
PARTS = [*WORDS.split(), *SIGNS, "a" * 64, "a." * 130, "x" * 3000]


def odd_address(dice: random.Random) -> str:
    """Some parts in a row, more often than not behind what makes it a whole address."""
    beginning = dice.choice(
        ["", "", "http://", "http://", "https://", "/", "//", "s3://", "http://127.0.0.1"]
    )
    return beginning + "".join(dice.choices(PARTS, k=dice.randint(0, 6)))


@pytest.fixture
def photos(label_studio, monkeypatch) -> ImageFetcher:
    """Every name that a resolver would look up at all is this machine's, and every address may be asked."""
    real = socket.getaddrinfo

    def resolve(host, port, *args, **more):
        asked = host.encode("idna")  # as the real one does first
        return real("127.0.0.1", port, *args, **more) if asked else real(host, port, *args, **more)

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    monkeypatch.setattr(transport, "is_public", lambda address: True)
    return ImageFetcher(
        label_studio_url=label_studio.url, hostname="http://e.org/label-studio", api_key=SecretStr("legacy")
    )


def test_odd_addresses_are_errors_of_ours(photos, label_studio):
    dice = random.Random(SEED)
    raised: Counter[str] = Counter()
    for number in range(COUNT):
        address = odd_address(dice)
        try:
            photos.fetch(address, task_id=number)
        except FetchError as error:
            raised[type(error).__name__] += 1
        except Exception as error:
            pytest.fail(f"number {number}, {address!a}: {error!r}")
    assert min(raised[kind] for kind in ("NoPhoto", "Refused", "HostUnavailable")) > 50, raised


def test_odd_redirects_are_errors_of_ours(photos, label_studio):
    dice = random.Random(SEED)
    for number in range(COUNT // 10):
        address = odd_address(dice)
        label_studio.routes["/data/a.jpg"] = redirect(address.encode(errors="replace").decode("latin-1"))
        try:
            photos.fetch("/data/a.jpg")
        except FetchError:
            continue
        except Exception as error:
            pytest.fail(f"number {number}, {address!a}: {error!r}")


@pytest.mark.parametrize(
    "address", ["http://xn--/a.png", "http://xn--a/a.png", "http://e.org:99999999999999999999/a.png"]
)
def test_addresses_that_once_ended_a_job(photos, label_studio, address):
    with pytest.raises(FetchError, match="is not a valid address"):
        photos.fetch(address)
    label_studio.routes["/data/a.jpg"] = redirect(address)
    with pytest.raises(FetchError, match="/data/a.jpg redirects to .* is not a valid address"):
        photos.fetch("/data/a.jpg")
