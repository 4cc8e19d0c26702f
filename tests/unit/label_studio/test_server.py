"""One Label Studio with two addresses: photos under either come from the one, with the token; no more."""

import base64

import pytest
from pydantic import SecretStr

from ebseg.errors import FetchError, Refused
from ebseg.label_studio.fetch import ImageFetcher
from ebseg.label_studio.server import is_media, read_hostname
from tests.unit.label_studio.http_server import redirect, reply

PHOTO = b"the bytes of a photo"
URI = base64.urlsafe_b64encode(b"s3://bucket/a.jpg").decode()

MEDIA = [
    "/data/upload/7/1a2b-photo.jpg",
    "/data/upload/7/1a2b-photo%201.jpg",
    "/data/upload/7/data/upload.jpg",
    "/data/local-files/?d=street/photo%201.jpg",
    "/data/local-files/?d=street/photo.jpg&x=1",
    "/storage-data/uploaded/?filepath=upload/7/photo.jpg",
    f"/tasks/17/presign/?fileuri={URI}",
    f"/tasks/17/resolve/?fileuri={URI}",
    f"/projects/3/resolve/?fileuri={URI}",
]


def photos(server, sub_path: str = "", hostname: str = "") -> ImageFetcher:
    return ImageFetcher(
        label_studio_url=server.url + sub_path,
        hostname=hostname,
        api_key=SecretStr("legacy"),
        timeout_s=5.0,
    )


def serve(server, path: str) -> None:
    server.routes[path.partition("?")[0]] = reply(PHOTO)


PUBLIC = "http://labels.example.com"

# (sub-path of LABEL_STUDIO_URL, what Label Studio calls itself, what stands before the path in a task)
ADDRESSES = [
    ("", "", ""),
    ("", PUBLIC, PUBLIC),
    ("", PUBLIC, "HTTP://Labels.Example.com"),
    ("", PUBLIC, "https://labels.example.com"),
    ("", f"{PUBLIC}:8443/", f"{PUBLIC}:8443"),
    ("", "http://localhost:8080", "http://localhost:8080"),
    ("", f"{PUBLIC}/label-studio", f"{PUBLIC}/label-studio"),
    ("", f"{PUBLIC}/label-studio", "/label-studio"),
    ("", f"{PUBLIC}/label-studio", "http://{host}/label-studio"),
    ("", f"{PUBLIC}/label-studio", "http://{host}"),
    ("", f"{PUBLIC}/data", "/data"),
    ("", "/label-studio", "/label-studio"),
    ("", "", "/label-studio"),
    ("/ls", "", "/ls"),
    ("/ls/", "", ""),
    ("/ls", "", "http://{host}/ls"),
    ("/ls", f"{PUBLIC}/label-studio", "/label-studio"),
    ("/ls", f"{PUBLIC}/label-studio", f"{PUBLIC}/label-studio"),
    ("", "http://bücher.example.com/tägs", "http://xn--bcher-kva.example.com/t%C3%A4gs"),
]


@pytest.mark.parametrize(("sub_path", "hostname", "before"), ADDRESSES)
@pytest.mark.parametrize("path", MEDIA)
def test_photos_under_any_address_come_from_the_one_that_is_reached(
    label_studio, sub_path, hostname, before, path
):
    there = sub_path.rstrip("/") + path
    serve(label_studio, there)
    address = before.format(host=label_studio.host) + path
    assert photos(label_studio, sub_path, hostname).fetch(address) == PHOTO
    assert [seen for seen, _ in label_studio.seen] == [there.replace("=\n", "")]
    assert label_studio.seen[0][1]["authorization"] == "Token legacy"


NO_MEDIA = [
    "/",
    "/api/users",
    "/api/current-user/reset-token",
    "/api/projects/1/export?exportType=JSON",
    "/user/login/",
    "/data",
    "/data/",
    "/database/a.jpg",
    "/static/samples/sample.jpg",
    "/tasks/17/",
    "/tasks/x/presign/",
    "/tasks/17/presign/x",
    "/tasks/17/annotations/",
    "/data/../api/users",
    "/data/upload/../../api/users",
    "/data/%2e%2e/api/users",
    "/data/.%2E/api/users",
    "/data/%252e%252e/api/users",
    "/data/%25252525252525252e./api/users",
    "/data/..%2fapi%2fusers",
    "/data/..\\api\\users",
    "/data/%5c..%5capi",
    "/tasks/17/presign/%2e%2e/%2e%2e/api/users",
    "/x/api/users",
]


@pytest.mark.parametrize("before", ["", "http://{host}", "/label-studio"])
@pytest.mark.parametrize("path", NO_MEDIA)
def test_nothing_but_photos_is_asked_of_label_studio(label_studio, before, path):
    for hostname in ("", f"{PUBLIC}/label-studio"):
        with pytest.raises(Refused, match="no photo's path on Label Studio"):
            photos(label_studio, hostname=hostname).fetch(before.format(host=label_studio.host) + path)
    assert label_studio.seen == []


@pytest.mark.parametrize("path", [path for path in NO_MEDIA if "data/../" not in path])
def test_what_is_media(path):
    assert not is_media(path.partition("?")[0])


@pytest.mark.parametrize(
    "address",
    [
        "http://labels.example.com.evil.test/data/upload/1/a.jpg",
        "http://labels.example.com@evil.test/data/upload/1/a.jpg",
        "http://evil.test/data/upload/1/a.jpg?labels.example.com",
        "http://labels.example.com:81/data/upload/1/a.jpg",
        "http://labels.example.com/other/data/upload/1/a.jpg",
        "http://labels.example.com/label-studios/data/upload/1/a.jpg",
    ],
)
def test_another_servers_photos_are_not_taken_for_label_studios(label_studio, monkeypatch, address):
    monkeypatch.setattr("socket.getaddrinfo", lambda *args, **more: [(0, 0, 0, "", ("127.0.0.1", 0))])
    with pytest.raises(FetchError, match="not a public address"):
        photos(label_studio, hostname=f"{PUBLIC}/label-studio").fetch(address)
    assert label_studio.seen == []


@pytest.mark.parametrize("there", ["/api/users", "/tasks/1/", "{url}/api/users"])
def test_a_redirect_of_label_studio_opens_none_of_its_other_paths(label_studio, there):
    label_studio.routes["/data/a.jpg"] = redirect(there.format(url=label_studio.url))
    with pytest.raises(Refused, match="redirects to .* no photo's path"):
        photos(label_studio).fetch("/data/a.jpg")
    assert [path for path, _ in label_studio.seen] == ["/data/a.jpg"]


def test_an_object_that_label_studio_gives_under_its_public_address(label_studio):
    label_studio.routes["/tasks/17/presign/"] = redirect(f"{PUBLIC}/storage-data/uploaded/?filepath=x", 303)
    serve(label_studio, "/storage-data/uploaded/")
    assert photos(label_studio, hostname=PUBLIC).fetch("s3://bucket/a.jpg", task_id=17) == PHOTO
    assert {headers["authorization"] for _, headers in label_studio.seen} == {"Token legacy"}


def test_the_token_stays_at_the_server_that_is_configured(label_studio, elsewhere):
    """Whoever makes up another name for Label Studio does not get to see it."""
    fetcher = photos(label_studio, hostname=elsewhere.url)
    serve(label_studio, "/data/upload/1/a.jpg")
    assert fetcher.fetch(f"{elsewhere.url}/data/upload/1/a.jpg") == PHOTO
    assert elsewhere.seen == []


def test_the_last_name_that_was_told_counts(label_studio):
    serve(label_studio, "/data/upload/1/a.jpg")
    fetcher = photos(label_studio, hostname="http://old.test")
    assert fetcher.hostname == "http://old.test"
    fetcher.note_hostname(f"{PUBLIC}/")
    assert fetcher.fetch(f"{PUBLIC}/data/upload/1/a.jpg") == PHOTO
    for odd in ("", None, 7, "labels.example.com", "http://", "http://[", "ftp://x", "http://" + 1000 * "x"):
        fetcher.note_hostname(odd)
    assert fetcher.hostname == PUBLIC
    nowhere = ImageFetcher()
    nowhere.note_hostname(PUBLIC)
    assert nowhere.hostname == ""


@pytest.mark.parametrize(
    ("told", "read"),
    [
        ("http://labels.example.com/", "http://labels.example.com"),
        (" http://u:p@labels.example.com/label-studio ", "http://labels.example.com/label-studio"),
        ("https://h:8443/a/b/", "https://h:8443/a/b"),
        ("/label-studio/", "/label-studio"),
        ("/", ""),
        ("//evil.test", ""),
        ("label-studio", ""),
        ({}, ""),
    ],
)
def test_what_a_server_calls_itself(told, read):
    assert read_hostname(told) == read


def test_an_address_that_only_its_own_server_knows_says_how_label_studio_tells_it(label_studio, elsewhere):
    with pytest.raises(Refused, match="EBSEG_ALLOWED_HOSTS. If that is Label Studio .* LABEL_STUDIO_HOST"):
        photos(label_studio).fetch(f"{elsewhere.url}/data/local-files/?d=a.jpg")
    with pytest.raises(Refused, match="EBSEG_ALLOWED_HOSTS$"):
        photos(label_studio).fetch(f"{elsewhere.url}/a.jpg")
