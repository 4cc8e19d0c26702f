import socket
import ssl

import pytest
import trustme

from ebseg.errors import FetchError
from ebseg.label_studio.fetch import ImageFetcher
from ebseg.label_studio.transport import is_public
from tests.unit.label_studio.http_server import reply

PHOTO = b"the bytes of a photo"


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("8.8.8.8", True),
        ("93.184.216.34", True),
        ("2606:4700::1111", True),
        ("2a00:1450:4001:81b::200e", True),
        ("0.0.0.0", False),
        ("10.1.2.3", False),
        ("100.64.0.1", False),
        ("127.0.0.1", False),
        ("127.255.255.254", False),
        ("169.254.169.254", False),
        ("172.16.0.1", False),
        ("172.31.255.255", False),
        ("192.0.2.1", False),
        ("192.168.0.1", False),
        ("198.18.0.1", False),
        ("224.0.0.1", False),
        ("239.255.255.250", False),
        ("240.0.0.1", False),
        ("255.255.255.255", False),
        ("::", False),
        ("::1", False),
        ("::127.0.0.1", False),
        ("::ffff:127.0.0.1", False),
        ("::ffff:10.0.0.1", False),
        ("::ffff:8.8.8.8", False),
        ("64:ff9b::7f00:1", False),
        ("64:ff9b:1::1", False),
        ("100::1", False),
        ("2001:0:4136:e378:8000:63bf:3fff:fdd2", False),
        ("2001:db8::1", False),
        ("2002:7f00:1::1", False),
        ("2002:808:808::1", False),
        ("fc00::1", False),
        ("fd12:3456::1", False),
        ("fe80::1", False),
        ("fe80::1%eth0", False),
        ("fec0::1", False),
        ("ff02::1", False),
    ],
)
def test_public_addresses(address, public):
    assert is_public(address) is public


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "127.1",
        "2130706433",
        "0x7f000001",
        "0x7f.1",
        "0177.0.0.1",
        "017700000001",
        "localhost",
        "LOCALHOST",
        "localhost.",
        "0.0.0.0",
        "0",
        "10.0.0.1",
        "172.16.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "[::1]",
        "[::]",
        "[0:0:0:0:0:0:0:1]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[64:ff9b::7f00:1]",
        "[2002:7f00:1::]",
        "[fd00::1]",
        "[fe80::1]",
        "user:password@127.0.0.1",
        "e.org@127.0.0.1",
        "①②⑦.⓪.⓪.①",
    ],
)
def test_private_hosts_are_refused_however_they_are_written(start_server, host):
    server = start_server()
    with pytest.raises(FetchError, match="not a public address|not a valid address|cannot be resolved"):
        ImageFetcher().fetch(f"http://{host}:{server.server_port}/data/a.jpg")
    assert server.seen == []


def test_label_studios_host_does_not_open_its_other_ports(label_studio, elsewhere):
    with pytest.raises(FetchError, match="not a public address"):
        ImageFetcher(label_studio_url=label_studio.url).fetch(f"{elsewhere.url}/data/a.jpg")
    assert elsewhere.seen == []


@pytest.mark.parametrize(("allowed", "served"), [("127.0.0.1:{port}", True), ("127.0.0.1", False)])
def test_allowed_hosts_name_their_port(elsewhere, allowed, served):
    elsewhere.routes["/data/a.jpg"] = reply(PHOTO)
    photos = ImageFetcher(allowed_hosts=[allowed.format(port=elsewhere.server_port)])
    if served:
        assert photos.fetch(f"{elsewhere.url}/data/a.jpg") == PHOTO
    else:
        with pytest.raises(FetchError, match=f'add "{elsewhere.host}" to EBSEG_ALLOWED_HOSTS'):
            photos.fetch(f"{elsewhere.url}/data/a.jpg")


def test_localhost_is_reached_by_whichever_address_answers(label_studio):
    """The name has an IPv6 and an IPv4 address on most machines; the server listens on IPv4 only."""
    label_studio.routes["/data/a.jpg"] = reply(PHOTO)
    photos = ImageFetcher(label_studio_url=f"http://LocalHost:{label_studio.server_port}")
    assert photos.fetch("/data/a.jpg") == PHOTO


class Resolver:
    """Plays the name server: each lookup of a name takes the next of its answers."""

    def __init__(self, **answers: list[list[str]]) -> None:
        self.answers = {name.replace("_", "."): list(found) for name, found in answers.items()}
        self.real = socket.getaddrinfo

    def __call__(self, host, port, *args, **options):
        if host not in self.answers:
            return self.real(host, port, *args, **options)
        found = self.answers[host].pop(0)
        return [entry for address in found for entry in self.real(address, port, *args, **options)]


def test_a_name_is_resolved_once_and_the_connection_goes_to_what_was_checked(elsewhere, monkeypatch):
    elsewhere.routes["/data/a.jpg"] = reply(PHOTO)
    resolver = Resolver(photos_test=[["127.0.0.1"]])  # a second lookup would fail
    monkeypatch.setattr(socket, "getaddrinfo", resolver)
    host = f"photos.test:{elsewhere.server_port}"
    assert ImageFetcher(allowed_hosts=[host]).fetch(f"http://{host}/data/a.jpg") == PHOTO
    assert elsewhere.seen[0][1]["host"] == host
    assert resolver.answers["photos.test"] == []


def test_international_names_can_be_allowed(elsewhere, monkeypatch):
    elsewhere.routes["/data/a.jpg"] = reply(PHOTO)
    resolver = Resolver()
    resolver.answers["xn--straenfotos-y6a.test"] = [["127.0.0.1"]]
    monkeypatch.setattr(socket, "getaddrinfo", resolver)
    host = f"Straßenfotos.test:{elsewhere.server_port}"
    assert ImageFetcher(allowed_hosts=[host]).fetch(f"http://{host}/data/a.jpg") == PHOTO


@pytest.mark.parametrize("found", [["127.0.0.1"], ["8.8.8.8", "127.0.0.1"], ["8.8.8.8", "::1"]])
def test_a_name_with_any_private_address_is_refused(elsewhere, monkeypatch, found):
    monkeypatch.setattr(socket, "getaddrinfo", Resolver(rebind_test=[found]))
    with pytest.raises(FetchError, match="rebind.test:.* is at (127.0.0.1|::1), not a public address"):
        ImageFetcher().fetch(f"http://rebind.test:{elsewhere.server_port}/data/a.jpg")
    assert elsewhere.seen == []


@pytest.fixture
def authority(tmp_path, monkeypatch) -> trustme.CA:
    """A certificate authority that this test's clients trust."""
    authority = trustme.CA()
    path = tmp_path / "authority.pem"
    authority.cert_pem.write_to_path(path)
    monkeypatch.setenv("SSL_CERT_FILE", str(path))
    return authority


@pytest.mark.parametrize(
    ("certified", "message"), [("localhost", None), ("other.test", "CERTIFICATE_VERIFY_FAILED")]
)
def test_https_is_verified_by_name(start_server, authority, certified, message):
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(certified).configure_cert(tls)
    server = start_server(tls)
    server.routes["/data/a.jpg"] = reply(PHOTO)
    photos = ImageFetcher(label_studio_url=f"https://localhost:{server.server_port}")
    if message is None:
        assert photos.fetch("/data/a.jpg") == PHOTO
    else:
        with pytest.raises(FetchError, match=message):
            photos.fetch("/data/a.jpg")
        assert server.seen == []
