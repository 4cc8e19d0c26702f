import os
import pickle
import shutil
import threading
import uuid
from pathlib import Path

import pytest

from ebseg.errors import ConfigError
from training.storage import Storage


@pytest.fixture(params=["folder", "memory"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    url = str(tmp_path / "deep" / "storage") if request.param == "folder" else f"memory://{uuid.uuid4()}"
    return Storage(url, tmp_path / "cache")


def test_files_are_read_as_they_were_written(storage):
    storage.write("a/b.json", b"1")
    storage.write("a/b.json", b"two")
    storage.write("empty", b"")
    assert storage.read("a/b.json") == b"two"
    assert storage.read("empty") == b""
    assert storage.exists("a/b.json") and storage.exists("empty")


def test_what_is_not_there(storage):
    storage.write("a/b", b"1")
    for key in ("c", "a/c", "b", "a"):  # a folder is no file
        assert not storage.exists(key)
    for key in ("c", "a/c"):
        with pytest.raises(FileNotFoundError):
            storage.read(key)
        with pytest.raises(FileNotFoundError):
            storage.local(key)


def test_keys_are_listed_below_a_folder(storage):
    assert storage.keys() == storage.keys("a") == []
    for key in ("b", "a/2", "a/1", "a/c/3", "ab/4"):
        storage.write(key, b"")
    assert storage.keys() == ["a/1", "a/2", "a/c/3", "ab/4", "b"]
    assert storage.keys("a") == ["a/1", "a/2", "a/c/3"]
    assert storage.keys("a/c") == ["a/c/3"]
    assert storage.keys("nowhere") == []


def test_a_folder_s_files_are_removed(storage):
    for key in ("a/1", "a/c/3", "ab/4"):
        storage.write(key, b"")
    storage.remove("a")
    storage.remove("none")
    assert storage.keys() == ["ab/4"]


def test_a_file_of_this_machine_is_uploaded(storage, tmp_path):
    file = tmp_path / "file.bin"
    file.write_bytes(b"content")
    storage.upload("x/file", file)
    assert storage.read("x/file") == b"content"
    assert file.exists()
    with pytest.raises(FileNotFoundError):
        storage.upload("x/other", tmp_path / "missing")
    assert storage.keys() == ["x/file"]


@pytest.mark.parametrize("key", ["../a", "a/../b", "/a", "a//b", "", ".", "a/.", "..", "a/", "a\\..\\b"])
def test_a_key_leads_nowhere_else(storage, key):
    for use in (storage.read, storage.exists, storage.local, lambda key: storage.write(key, b"")):
        with pytest.raises(ConfigError, match="a key is a relative path"):
            use(key)
    with pytest.raises(ConfigError):
        storage.upload(key, Path(__file__))


def test_it_can_be_handed_to_another_process(storage):
    storage.write("a", b"1")
    copy = pickle.loads(pickle.dumps(storage))
    assert (copy.url, copy.cache) == (storage.url, storage.cache)
    assert copy.read("a") == b"1"


def test_a_folders_files_are_used_where_they_are(tmp_path):
    storage = Storage(str(tmp_path / "storage"), tmp_path / "cache")
    storage.write("a/b", b"1")
    assert storage.is_local
    assert storage.local("a/b") == tmp_path / "storage" / "a" / "b"
    assert not (tmp_path / "cache").exists()


def test_an_object_stores_files_are_downloaded_once(tmp_path):
    storage = Storage(f"memory://{uuid.uuid4()}", tmp_path / "cache")
    storage.write("a/b", b"1")
    assert not storage.is_local
    copy = storage.local("a/b")
    assert copy.read_bytes() == b"1" and copy.is_relative_to(tmp_path / "cache")
    storage.write("a/b", b"2")
    assert storage.local("a/b").read_bytes() == b"1"
    other = Storage(f"memory://{uuid.uuid4()}", tmp_path / "cache")
    other.write("a/b", b"3")
    assert other.local("a/b").read_bytes() == b"3"


def test_a_failed_download_leaves_nothing_behind(tmp_path, monkeypatch):
    storage = Storage(f"memory://{uuid.uuid4()}", tmp_path / "cache")
    storage.write("a", b"whole")

    def cut_off(path: str, target: str) -> None:
        Path(target).write_bytes(b"wh")
        raise OSError("the line is dead")

    with monkeypatch.context() as patch:
        patch.setattr(storage._place[0], "get_file", cut_off)
        with pytest.raises(OSError, match="the line is dead"):
            storage.local("a")
    assert [path for path in (tmp_path / "cache").rglob("*") if path.is_file()] == []
    assert storage.local("a").read_bytes() == b"whole"


def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch):
    storage = Storage(str(tmp_path), tmp_path / "cache")
    storage.write("a", b"old")
    (tmp_path / "file").write_bytes(b"new")

    def full(*args) -> None:
        raise OSError(28, "No space left on device")

    writes = [
        (lambda: storage.write("a", b"new"), (os, "fsync")),
        (lambda: storage.upload("a", tmp_path / "file"), (shutil, "copyfile")),
    ]
    for write, broken in writes:
        with monkeypatch.context() as patch:
            patch.setattr(*broken, full)
            with pytest.raises(OSError, match="No space left"):
                write()
    assert storage.read("a") == b"old"
    assert storage.keys() == ["a", "file"]


def test_what_a_kill_left_half_written_is_no_file(tmp_path):
    storage = Storage(str(tmp_path), tmp_path / "cache")
    (tmp_path / ".unfinished-0123").write_bytes(b"ha")
    storage.write("a", b"whole")
    assert storage.keys() == ["a"]


def test_readers_never_see_half_a_file(tmp_path):
    storage = Storage(str(tmp_path), tmp_path / "cache")
    contents = [bytes([number]) * 100_000 for number in range(4)]
    storage.write("a", contents[0])

    def write(content: bytes) -> None:
        for _ in range(30):
            storage.write("a", content)

    writers = [threading.Thread(target=write, args=(content,)) for content in contents]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        assert storage.read("a") in contents
    for writer in writers:
        writer.join()
    assert storage.keys() == ["a"]


def test_a_url_that_cannot_be_used_is_told(tmp_path):
    with pytest.raises(ConfigError, match="the storage nothing://bucket cannot be used.*EBSEG_STORAGE"):
        Storage("nothing://bucket", tmp_path).read("a")


def test_a_missing_package_is_told_without_the_password(tmp_path, monkeypatch):
    from fsspec import core

    def missing(url: str, **options: object) -> None:
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(core, "url_to_fs", missing)
    storage = Storage("s3://user:secret@bucket/loop", tmp_path)
    with pytest.raises(ConfigError, match=r"s3://bucket/loop needs a package.*Install s3fs") as caught:
        storage.write("a", b"")
    assert "secret" not in str(caught.value) and "secret" not in repr(storage)
