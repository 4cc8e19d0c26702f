import base64
import gzip
import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import jwt
import pytest
from pydantic import SecretStr

from ebseg.errors import (
    AnnotationError,
    Curable,
    FetchError,
    HostUnavailable,
    ImageError,
    LabelConfigError,
    NoPhoto,
    Outage,
    Refused,
    TokenRefused,
    Unreachable,
)
from ebseg.label_studio.fetch import ImageFetcher
from ebseg.label_studio.transport import AddressNotAllowed
from tests.unit.label_studio.http_server import redirect, reply

PHOTO = b"the bytes of a photo"
UPLOAD = "/data/upload/1/photo.jpg"


def token(kind: str, seconds: float, number: int = 0) -> str:
    claims = {"token_type": kind, "exp": int(time.time() + seconds), "number": number}
    return jwt.encode(claims, "a key that only the server knows, 32 bytes", "HS256")


PERSONAL = token("refresh", 10_000)


def fetcher(server, *, api_key: str | None = PERSONAL, **options) -> ImageFetcher:
    secret = SecretStr(api_key) if api_key else None
    return ImageFetcher(label_studio_url=server.url, api_key=secret, timeout_s=5.0, **options)


def give_tokens(server, *, seconds: float = 300) -> list[str]:
    """Exchange personal for access tokens; the list of those given grows."""
    given: list[str] = []

    def answer(handler) -> None:
        body = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
        assert body == {"refresh": PERSONAL}
        given.append(token("access", seconds, len(given)))
        reply(json.dumps({"access": given[-1]}).encode(), Content_Type="application/json")(handler)

    server.routes["/api/token/refresh/"] = answer
    return given


def sent(server, path: str) -> list[str | None]:
    """The Authorization headers that arrived at a path."""
    return [headers.get("authorization") for seen, headers in server.seen if seen.partition("?")[0] == path]


# Whether there is anything to be had


WHOAMI = "/api/current-user/whoami"


def test_who_may_fetch_photos_is_seen_by_a_cheap_call(label_studio):
    given = give_tokens(label_studio)
    label_studio.routes[WHOAMI] = reply(b'{"id": 1}')
    fetcher(label_studio).require_access()
    assert sent(label_studio, WHOAMI) == [f"Bearer {given[0]}"]


@pytest.mark.parametrize(
    ("answer", "error", "reason"),
    [
        (reply(status=401), TokenRefused, "refused the token"),
        (reply(status=403), Refused, "denies access"),
        (reply(status=503), Unreachable, "answered 503"),
        (reply(status=404), Refused, "is LABEL_STUDIO_URL its address"),
        (redirect("/user/login/?next=/"), TokenRefused, "refused the token"),
        (redirect("http://elsewhere.test/api/current-user/whoami"), Refused, "set LABEL_STUDIO_URL to"),
        (reply(b"<html>Log in</html>"), Refused, "a web page"),
    ],
)
def test_why_nothing_can_be_had_is_told(label_studio, answer, error, reason):
    give_tokens(label_studio)
    label_studio.routes[WHOAMI] = answer
    with pytest.raises(error, match=reason):
        fetcher(label_studio).require_access()


# Tokens


def test_a_personal_token_is_exchanged_once_for_many_photos(label_studio):
    given = give_tokens(label_studio)
    label_studio.routes[UPLOAD] = reply(PHOTO)
    photos = fetcher(label_studio)
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(photos.fetch, [UPLOAD] * 24)) == [PHOTO] * 24
    assert len(given) == 1
    assert sent(label_studio, UPLOAD) == [f"Bearer {given[0]}"] * 24


def test_an_expired_access_token_is_replaced(label_studio):
    given = give_tokens(label_studio, seconds=-10)
    label_studio.routes[UPLOAD] = reply(PHOTO)
    photos = fetcher(label_studio)
    photos.fetch(UPLOAD)
    photos.fetch(UPLOAD)
    assert sent(label_studio, UPLOAD) == [f"Bearer {access}" for access in given]
    assert len(given) == 2


def test_a_revoked_access_token_is_replaced_at_once(label_studio):
    given = give_tokens(label_studio)

    def answer(handler) -> None:
        revoked = handler.headers["Authorization"] == f"Bearer {given[0]}"
        (reply(status=401) if revoked else reply(PHOTO))(handler)

    label_studio.routes[UPLOAD] = answer
    assert fetcher(label_studio).fetch(UPLOAD) == PHOTO
    assert len(given) == 2


def test_a_legacy_token_is_sent_as_such(label_studio):
    label_studio.routes[UPLOAD] = reply(PHOTO)
    assert fetcher(label_studio, api_key="0123456789abcdef").fetch(UPLOAD) == PHOTO
    assert sent(label_studio, UPLOAD) == ["Token 0123456789abcdef"]


@pytest.mark.parametrize(
    ("status", "api_key", "message"),
    [
        (401, None, r"needs a token \(401\); create a personal access token .* LABEL_STUDIO_API_KEY"),
        (403, None, r"needs a token \(403\)"),
        (401, "legacy", r"refused the token \(401\); it is expired or revoked.*LABEL_STUDIO_API_KEY"),
        (403, PERSONAL, r"denies access \(403\); may the token's user see this project\? .*LOCAL_FILES"),
        (401, PERSONAL, r"refused the token \(401\)"),
    ],
)
def test_refusals_say_how_to_get_a_token(label_studio, status, api_key, message):
    give_tokens(label_studio)
    label_studio.routes[UPLOAD] = reply(status=status)
    with pytest.raises(FetchError, match=message):
        fetcher(label_studio, api_key=api_key).fetch(UPLOAD)


def test_the_login_page_means_no_access(label_studio):
    label_studio.routes[UPLOAD] = redirect(f"/user/login/?next={UPLOAD}")
    label_studio.routes["/user/login/"] = reply(b"<html>", Content_Type="text/html")
    with pytest.raises(FetchError, match="needs a token .*LABEL_STUDIO_API_KEY"):
        fetcher(label_studio, api_key=None).fetch(UPLOAD)


def test_an_expired_personal_token_is_said_before_anything_is_asked(label_studio):
    with pytest.raises(FetchError, match="token was not accepted .*expired.*LABEL_STUDIO_API_KEY"):
        fetcher(label_studio, api_key=token("refresh", -10)).fetch(UPLOAD)
    assert label_studio.seen == []


@pytest.mark.parametrize(
    "answer",
    [
        reply(b'{"detail": "Token is invalid", "code": "token_not_valid"}', status=401),
        reply(b"<html>Bad gateway</html>", status=502),
        reply(b"[]"),
        reply(b"{}"),
        reply(b"not json"),
    ],
    ids=["invalid", "gateway", "list", "empty", "text"],
)
def test_a_failed_exchange_is_named(label_studio, answer):
    label_studio.routes["/api/token/refresh/"] = answer
    with pytest.raises(FetchError, match="token was not accepted .*LABEL_STUDIO_API_KEY") as caught:
        fetcher(label_studio).fetch(UPLOAD)
    assert PERSONAL not in str(caught.value)


def test_secrets_are_not_shown(label_studio):
    photos = ImageFetcher(
        label_studio_url=f"http://user:hunter2@{label_studio.host}", api_key=SecretStr("s3cret")
    )
    assert "s3cret" not in repr(photos)
    assert "hunter2" not in repr(photos)
    assert label_studio.host in repr(photos)
    with pytest.raises(FetchError) as caught:
        photos.fetch(f"http://user:hunter2@{label_studio.host}/data/a.jpg?X-Amz-Signature=s3cret")
    assert "s3cret" not in str(caught.value)
    assert "hunter2" not in str(caught.value)
    assert f"{label_studio.url}/data/a.jpg" in str(caught.value)


# Kinds of address


@pytest.mark.parametrize(
    ("base", "address", "path"),
    [
        ("", UPLOAD, UPLOAD),
        ("/", UPLOAD, UPLOAD),
        ("", "/data/local-files/?d=street/photo%201.jpg", "/data/local-files/?d=street/photo%201.jpg"),
        ("", "/data/upload/1/ab-photo 1 ü.jpg", "/data/upload/1/ab-photo%201%20%C3%BC.jpg"),
        ("", f"  {UPLOAD}\n", UPLOAD),
        ("/ls", UPLOAD, f"/ls{UPLOAD}"),
        ("/ls/", f"/ls{UPLOAD}", f"/ls{UPLOAD}"),
    ],
)
def test_label_studio_paths(label_studio, base, address, path):
    label_studio.routes[path.partition("?")[0]] = reply(PHOTO)
    photos = ImageFetcher(label_studio_url=label_studio.url + base, api_key=SecretStr("legacy"))
    assert photos.fetch(address) == PHOTO
    assert [seen for seen, _ in label_studio.seen] == [path]
    assert sent(label_studio, path.partition("?")[0]) == ["Token legacy"]


def test_the_token_goes_to_label_studio_only(label_studio, elsewhere):
    for server in (label_studio, elsewhere):
        server.routes["/data/a.jpg"] = reply(PHOTO)
    photos = fetcher(label_studio, api_key="legacy", allowed_hosts=[elsewhere.host])
    assert photos.fetch(f"{label_studio.url}/data/a.jpg") == PHOTO
    assert photos.fetch(f"{elsewhere.url}/data/a.jpg") == PHOTO
    assert sent(label_studio, "/data/a.jpg") == ["Token legacy"]
    assert sent(elsewhere, "/data/a.jpg") == [None]


@pytest.mark.parametrize("uri", ["s3://bucket/street/a.jpg", "gs://b/ü.png", "azure-blob://c/d/e.jpg"])
def test_cloud_storage_goes_through_label_studio(label_studio, elsewhere, uri):
    label_studio.routes["/tasks/17/presign/"] = redirect(f"{elsewhere.url}/signed?sig=1", status=303)
    elsewhere.routes["/signed"] = reply(PHOTO)
    photos = fetcher(label_studio, api_key="legacy", allowed_hosts=[elsewhere.host])
    assert photos.fetch(uri, task_id=17) == PHOTO
    path, headers = label_studio.seen[0]
    query = path.partition("?fileuri=")[2].replace("%3D", "=")
    assert base64.urlsafe_b64decode(query).decode() == uri
    assert headers["authorization"] == "Token legacy"
    assert sent(elsewhere, "/signed") == [None]


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("s3://bucket/a.jpg", "s3://bucket/a.jpg: Label Studio signs .* the task has no id"),
        ("file:///etc/passwd", "file:///etc/passwd: cannot be fetched; use an upload"),
        ("ftp://e.org/a.jpg", "cannot be fetched"),
        ("gopher://e.org/", "cannot be fetched"),
        ("data:image/png;base64,AAAA", "cannot be fetched"),
        ("//e.org/a.jpg", "cannot be fetched"),
        ("photo.jpg", "cannot be fetched"),
        ("../photo.jpg", "cannot be fetched"),
        ("", "no photo's address"),
        (" ", "no photo's address"),
        (None, "no photo's address, but None"),
        (["/data/a.jpg", "/b.jpg"], "no photo's address"),
        ("http://", "not a valid address|cannot connect"),
        ("http:///a.jpg", "not a valid address|cannot connect"),
        ("http://[::1/a.jpg", "not a valid address"),
        ("http://e.org:99999999/a.jpg", "not a valid address|cannot connect"),
        ("http://e.org:port/a.jpg", "not a valid address"),
        ("http://e.org/a\x00.jpg", "not a valid address"),
        ("http://e.org/\ud800.jpg", "not a valid address"),
        ("http://\ud800.org/a.jpg", "not a valid address"),
        ("http://" + "a" * 300 + ".org/a.jpg", "not a valid address|cannot connect"),
        ("http://does-not-exist.invalid/a.jpg", "cannot connect .*cannot be resolved"),
    ],
)
def test_other_addresses_are_named_errors(label_studio, address, message):
    with pytest.raises(FetchError, match=message):
        fetcher(label_studio).fetch(address)
    assert label_studio.seen == []


@pytest.mark.parametrize("address", [UPLOAD, "s3://bucket/a.jpg"])
def test_label_studio_must_be_configured_for_its_own_files(address):
    with pytest.raises(FetchError, match="set LABEL_STUDIO_URL"):
        ImageFetcher().fetch(address, task_id=1)


@pytest.mark.parametrize("url", ["localhost:8080", "ftp://host", "http://", "://"])
def test_a_wrong_label_studio_url_is_said_at_once(url):
    with pytest.raises(FetchError, match="must look like http://localhost:8080|not a valid address"):
        ImageFetcher(label_studio_url=url)


@pytest.mark.parametrize("host", ["", "host/path", "host:port", "http://host"])
def test_a_wrong_allowed_host_is_said_at_once(host):
    with pytest.raises(FetchError, match="must be a host or host:port|not a valid address"):
        ImageFetcher(allowed_hosts=[host])


# Redirects


def test_five_redirects_are_followed_and_no_more(label_studio):
    for hop in range(6):
        label_studio.routes[f"/data/{hop}"] = redirect(f"/data/{hop + 1}")
    label_studio.routes["/data/6"] = reply(PHOTO)
    photos = fetcher(label_studio, api_key=None)
    assert photos.fetch("/data/1") == PHOTO
    with pytest.raises(FetchError, match="more than 5 redirects"):
        photos.fetch("/data/0")


def test_redirects_to_private_addresses_are_refused(label_studio, elsewhere):
    elsewhere.routes["/secret"] = reply(b"secret")
    label_studio.routes["/data/a.jpg"] = redirect(f"{elsewhere.url}/secret")
    with pytest.raises(FetchError, match=f"{elsewhere.host} is at 127.0.0.1, not a public address"):
        fetcher(label_studio, api_key=None).fetch("/data/a.jpg")
    assert elsewhere.seen == []


def test_a_redirect_from_outside_does_not_spend_the_token(label_studio, elsewhere):
    elsewhere.routes["/data/a.jpg"] = redirect(f"{label_studio.url}/api/users")
    label_studio.routes["/api/users"] = reply(b"private")
    elsewhere.routes["/data/b.jpg"] = redirect(f"{label_studio.url}{UPLOAD}")
    photos = fetcher(label_studio, api_key="legacy", allowed_hosts=[elsewhere.host])
    for path in ("/data/a.jpg", "/data/b.jpg"):
        with pytest.raises(FetchError, match="not a public address"):
            photos.fetch(f"{elsewhere.url}{path}")
    open_to_all = fetcher(label_studio, api_key="legacy", allowed_hosts=[elsewhere.host, label_studio.host])
    label_studio.routes[UPLOAD] = reply(status=401)
    with pytest.raises(FetchError, match="access denied"):
        open_to_all.fetch(f"{elsewhere.url}/data/b.jpg")
    assert sent(label_studio, UPLOAD) == [None]


@pytest.mark.parametrize("location", ["file:///etc/passwd", "ftp://e.org/a", "javascript:alert(1)"])
def test_redirects_to_other_schemes_are_refused(label_studio, location):
    label_studio.routes["/data/a.jpg"] = redirect(location)
    with pytest.raises(FetchError, match="redirects to .* not followed|no usable answer"):
        fetcher(label_studio, api_key=None).fetch("/data/a.jpg")


def to_https(handler) -> None:
    redirect(f"https://{handler.headers['Host']}{handler.path}", status=301)(handler)


def to_another_name(handler) -> None:
    redirect(f"https://photos.example.com/labels{handler.path}", status=308)(handler)


@pytest.mark.parametrize("api_key", [None, "legacy", PERSONAL])
@pytest.mark.parametrize(
    ("answer", "there"),
    [
        (to_https, "https://{host}/: set LABEL_STUDIO_URL"),
        (to_another_name, "https://photos.example.com/labels/: "),
    ],
)
def test_a_label_studio_that_has_moved_says_where_it_is(label_studio, api_key, answer, there):
    label_studio.routes[UPLOAD] = label_studio.routes["/api/token/refresh/"] = answer
    with pytest.raises(Refused) as caught:
        fetcher(label_studio, api_key=api_key).fetch(UPLOAD)
    assert f"Label Studio at {label_studio.url}/ redirects to {there.format(host=label_studio.host)}" in str(
        caught.value
    )
    assert len(label_studio.seen) == 1


def test_what_fails_behind_a_redirect_names_both_addresses(label_studio, elsewhere):
    elsewhere.routes["/old.jpg"] = redirect("/new.jpg?secret=1")
    with pytest.raises(NoPhoto) as caught:
        fetcher(label_studio, allowed_hosts=[elsewhere.host]).fetch(f"{elsewhere.url}/old.jpg?secret=2")
    assert f"{elsewhere.url}/old.jpg redirects to {elsewhere.url}/new.jpg: not found (404)" in str(
        caught.value
    )
    assert "secret" not in str(caught.value)


def test_a_page_behind_a_proxys_login_is_no_photo(label_studio, elsewhere):
    """Else it would be taken for a damaged photo, and an empty prediction for the answer."""
    label_studio.routes[UPLOAD] = redirect(f"{elsewhere.url}/oauth2/start")
    elsewhere.routes["/oauth2/start"] = PAGE
    photos = fetcher(label_studio, api_key="legacy", allowed_hosts=[elsewhere.host])
    with pytest.raises(Refused, match="answered with a web page, not a photo; does one have to log in"):
        photos.fetch(UPLOAD)


def test_cookies_are_not_kept(label_studio, elsewhere):
    label_studio.routes["/data/a.jpg"] = reply(PHOTO, Set_Cookie="sessionid=1; Path=/")
    elsewhere.routes["/data/a.jpg"] = reply(PHOTO)
    photos = fetcher(label_studio, api_key=None, allowed_hosts=[elsewhere.host])
    for server in (label_studio, label_studio, elsewhere):
        photos.fetch(f"{server.url}/data/a.jpg")
    assert all("cookie" not in headers for _, headers in label_studio.seen + elsewhere.seen)


# Limits and failures


def test_the_size_limit_is_inclusive(label_studio):
    label_studio.routes["/data/a.jpg"] = reply(b"x" * 1000)
    assert len(fetcher(label_studio, api_key=None, max_bytes=1000).fetch("/data/a.jpg")) == 1000
    with pytest.raises(FetchError, match=r"/a\.jpg: larger than the limit of 0\.000999 MB; make it smaller"):
        fetcher(label_studio, api_key=None, max_bytes=999).fetch("/data/a.jpg")


def test_an_endless_body_is_cut_off(label_studio):
    def endless(handler) -> None:
        handler.send_response(200)
        handler.end_headers()
        while True:
            handler.wfile.write(b"x" * 65536)

    label_studio.routes["/data/a.jpg"] = endless
    with pytest.raises(FetchError, match="larger than the limit"):
        fetcher(label_studio, api_key=None, max_bytes=1_000_000).fetch("/data/a.jpg")


def test_compressed_bodies_count_unpacked(label_studio):
    label_studio.routes["/data/a.jpg"] = reply(gzip.compress(bytes(5_000_000)), Content_Encoding="gzip")
    with pytest.raises(FetchError, match="larger than the limit"):
        fetcher(label_studio, api_key=None, max_bytes=1_000_000).fetch("/data/a.jpg")


def drip(handler, given_up: threading.Event) -> None:
    for _ in range(1000):
        handler.wfile.write(b"x")
        if given_up.wait(0.02):
            break


def drip_body(handler, given_up: threading.Event) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    drip(handler, given_up)


def drip_headers(handler, given_up: threading.Event) -> None:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
    drip(handler, given_up)


def silence(handler, given_up: threading.Event) -> None:
    given_up.wait(20)


TOO_LATE = r"/a\.jpg: no complete answer within 0\.4 s"


@pytest.mark.parametrize("answer", [drip_body, drip_headers, silence])
def test_the_time_limit_holds_for_the_whole_photo(label_studio, answer):
    """It is given up while the answer goes on."""
    answered, given_up = threading.Event(), threading.Event()

    def route(handler) -> None:
        answer(handler, given_up)
        answered.set()

    label_studio.routes["/data/a.jpg"] = route
    photos = ImageFetcher(label_studio_url=label_studio.url, timeout_s=0.4)
    with pytest.raises(FetchError, match=TOO_LATE):
        photos.fetch("/data/a.jpg")
    assert not answered.is_set()
    given_up.set()


def test_the_time_limit_holds_for_all_redirects_together(label_studio):
    def slow(handler) -> None:
        time.sleep(0.15)
        redirect("/data/a.jpg")(handler)

    label_studio.routes["/data/a.jpg"] = slow
    with pytest.raises(FetchError, match=TOO_LATE):
        ImageFetcher(label_studio_url=label_studio.url, timeout_s=0.4).fetch("/data/a.jpg")
    assert len(label_studio.seen) <= 3


def cut(handler) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b"x" * 10)


def babble(handler) -> None:
    handler.wfile.write(b"this is not HTTP\r\n\r\n")


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (cut, "no usable answer .*try again"),
        (babble, "no usable answer"),
        (reply(b"not gzip", Content_Encoding="gzip"), "its gzip encoding is damaged"),
        (reply(status=404), r"not found \(404\)"),
        (reply(status=410), r"not found \(410\)"),
        (reply(status=500), "answered 500"),
        (reply(status=204), "answered 204"),
        (reply(status=304), "answered 304"),
    ],
)
def test_failures_are_named(label_studio, answer, message):
    label_studio.routes["/data/a.jpg"] = answer
    with pytest.raises(FetchError, match=message) as caught:
        fetcher(label_studio, api_key=None).fetch("/data/a.jpg")
    assert f"{label_studio.url}/data/a.jpg" in str(caught.value)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


@pytest.mark.parametrize("api_key", [None, "legacy", PERSONAL])
def test_label_studio_is_down(api_key):
    url = f"http://127.0.0.1:{free_port()}"
    photos = ImageFetcher(label_studio_url=url, api_key=SecretStr(api_key) if api_key else None)
    with pytest.raises(Unreachable, match=f"cannot connect .*is Label Studio running at {url}/"):
        photos.fetch(UPLOAD)


# Whose fault it is

OUTAGES = [reply(status=status) for status in (408, 429, 500, 501, 502, 503, 504)] + [cut, babble, silence]


@pytest.mark.parametrize("answer", OUTAGES)
def test_what_a_server_cannot_do_now_may_succeed_later(label_studio, elsewhere, answer):
    label_studio.routes["/data/a.jpg"] = elsewhere.routes["/data/a.jpg"] = answer
    photos = ImageFetcher(label_studio_url=label_studio.url, allowed_hosts=[elsewhere.host], timeout_s=0.3)
    for server, kind in ((label_studio, Unreachable), (elsewhere, HostUnavailable)):
        with pytest.raises(Outage) as caught:
            photos.fetch(f"{server.url}/data/a.jpg")
        assert type(caught.value) is kind


PAGE = reply(b"\n<!DOCTYPE html><html><title>Sign in</title>", Content_Type="text/html")


@pytest.mark.parametrize(
    ("answer", "of_label_studio", "of_another"),
    [
        (reply(status=401), TokenRefused, Refused),
        (reply(status=403), Refused, Refused),
        (reply(status=404), Refused, NoPhoto),
        (reply(status=410), Refused, NoPhoto),
        (reply(status=400), Refused, Refused),
        (reply(status=204), Refused, Refused),
        (reply(status=206), Refused, Refused),
        (PAGE, Refused, Refused),
        (redirect("ftp://e.org/a.jpg"), Refused, Refused),
        (redirect("http://127.0.0.1:1/a.jpg"), AddressNotAllowed, AddressNotAllowed),
        (redirect("/data/a.jpg?again"), Refused, Refused),
        (redirect("http://[/"), NoPhoto, NoPhoto),
        (redirect("/user/login/?next=/data/a.jpg"), TokenRefused, NoPhoto),
        (reply(b"x" * 1001), NoPhoto, NoPhoto),
        (reply(b"no gzip", Content_Encoding="gzip"), NoPhoto, NoPhoto),
        (reply(b"brotli", Content_Encoding="br"), NoPhoto, NoPhoto),
        (reply(gzip.compress(b"x")[:-1], Content_Encoding="gzip"), NoPhoto, NoPhoto),
    ],
)
def test_whose_fault_it_is(label_studio, elsewhere, answer, of_label_studio, of_another):
    label_studio.routes["/data/a.jpg"] = elsewhere.routes["/data/a.jpg"] = answer
    photos = fetcher(label_studio, api_key="legacy", allowed_hosts=[elsewhere.host], max_bytes=1000)
    for server, kind in ((label_studio, of_label_studio), (elsewhere, of_another)):
        with pytest.raises(FetchError) as caught:
            photos.fetch(f"{server.url}/data/a.jpg")
        assert type(caught.value) is kind
        assert isinstance(caught.value, Curable) == (kind is not NoPhoto)
        assert not isinstance(caught.value, Outage)


@pytest.mark.parametrize(
    ("address", "kind"),
    [
        (None, NoPhoto),
        ("photo.jpg", NoPhoto),
        ("file:///etc/passwd", NoPhoto),
        ("http://xn--/a.png", NoPhoto),
        ("s3://bucket/a.jpg", NoPhoto),
        ("/api/users", Refused),
        ("http://127.0.0.1:1/a.jpg", AddressNotAllowed),
        ("http://does-not-exist.invalid/a.jpg", HostUnavailable),
    ],
)
def test_whose_fault_an_address_is(label_studio, address, kind):
    with pytest.raises(FetchError) as caught:
        fetcher(label_studio).fetch(address)
    assert type(caught.value) is kind


def test_wrong_settings_can_be_put_right(label_studio):
    for make in (
        lambda: ImageFetcher(label_studio_url="localhost:8080"),
        lambda: ImageFetcher(allowed_hosts=["http://host"]),
        lambda: ImageFetcher().fetch(UPLOAD),
        lambda: fetcher(label_studio, api_key=None).fetch(UPLOAD),
    ):
        label_studio.routes[UPLOAD] = reply(status=401)
        with pytest.raises(Refused) as caught:
            make()
        assert not isinstance(caught.value, TokenRefused)
    for key in (token("refresh", -10), PERSONAL):
        label_studio.routes["/api/token/refresh/"] = reply(b'{"detail": "Token is invalid"}', status=401)
        with pytest.raises(TokenRefused):
            fetcher(label_studio, api_key=key).fetch(UPLOAD)


def test_every_error_of_a_fetch_says_whose_fault_it_is():
    leaves = {kind for kind in FetchError.__subclasses__()}
    assert leaves == {NoPhoto, Refused, Unreachable, HostUnavailable}
    assert not issubclass(NoPhoto, Curable)
    assert all(issubclass(kind, Curable) for kind in leaves - {NoPhoto})
    assert [kind for kind in leaves if issubclass(kind, Outage)].count(Refused) == 0
    assert not any(issubclass(kind, Curable) for kind in (ImageError, LabelConfigError, AnnotationError))


def test_an_exchange_of_tokens_that_a_proxy_breaks_may_succeed_later(label_studio):
    label_studio.routes[UPLOAD] = reply(PHOTO)
    label_studio.routes["/api/token/refresh/"] = reply(b"<html>", 502)
    photos = fetcher(label_studio)
    with pytest.raises(Unreachable):
        photos.fetch(UPLOAD)
    give_tokens(label_studio)
    assert photos.fetch(UPLOAD) == PHOTO


def test_other_servers_that_are_down_do_not_blame_label_studio(label_studio):
    host = f"127.0.0.1:{free_port()}"
    with pytest.raises(FetchError, match="cannot connect") as caught:
        fetcher(label_studio, allowed_hosts=[host]).fetch(f"http://{host}/data/a.jpg")
    assert "Label Studio" not in str(caught.value)


def test_cloud_storage_that_label_studio_does_not_know(label_studio):
    label_studio.routes["/tasks/17/presign/"] = reply(status=404)
    with pytest.raises(FetchError, match="not found .* is its storage connected"):
        fetcher(label_studio, api_key="legacy").fetch("s3://bucket/a.jpg", task_id=17)


def test_access_denied_elsewhere_does_not_ask_for_a_token(label_studio, elsewhere):
    elsewhere.routes["/data/a.jpg"] = reply(status=403)
    with pytest.raises(FetchError, match=r"access denied \(403\)"):
        fetcher(label_studio, allowed_hosts=[elsewhere.host]).fetch(f"{elsewhere.url}/data/a.jpg")
