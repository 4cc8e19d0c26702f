"""Files that are written whole, and locks: what other processes and kills see of them."""

import json
import os
import signal
import subprocess
import sys

import pytest

from ebseg.errors import ConfigError, EBSegError, InUse
from ebseg.files import (
    SharedLock,
    locked,
    nobody_elses,
    require_free,
    require_writable,
    whole,
    whole_folder,
    write_whole,
    write_whole_bytes,
    write_whole_json,
)

PATIENCE = 60


@pytest.mark.parametrize(
    ("write", "expected"),
    [
        (lambda path: write_whole(path, "größer"), "größer".encode()),
        (lambda path: write_whole_bytes(path, b"\x00\xff"), b"\x00\xff"),
        (lambda path: write_whole_json(path, {"a": [1]}), b'{\n  "a": [\n    1\n  ]\n}\n'),
        (lambda path: write_whole_json(path, {"a": [1]}, indent=None), b'{"a": [1]}\n'),
    ],
    ids=["text", "bytes", "JSON", "JSON in a line"],
)
def test_a_file_is_written_into_a_new_folder_and_over_an_old_one(tmp_path, write, expected):
    path = tmp_path / "new" / "deep" / "file.json"
    for _ in range(2):
        write(path)
        assert path.read_bytes() == expected
        assert os.listdir(path.parent) == [path.name]


def test_files_of_one_stem_do_not_meet(tmp_path):
    with whole(tmp_path / "r.json") as one, whole(tmp_path / "r.html") as other:
        one.write_text("{}")
        other.write_text("<html>")
    assert (tmp_path / "r.json").read_text() == "{}"
    assert (tmp_path / "r.html").read_text() == "<html>"


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_what_fails_before_the_move_leaves_the_old_file_alone(tmp_path, error):
    path = tmp_path / "file"
    path.write_text("old")

    def fail():
        with whole(path) as unfinished:
            unfinished.write_text("ne")
            raise error

    with pytest.raises(type(error)):
        fail()
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file"]


def test_a_move_that_fails_leaves_nothing_either(tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.write_text("old")

    def fail(*_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="Input/output error"):
        write_whole(path, "new")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file"]


KILLED = """
import os, signal, sys
from pathlib import Path
from ebseg.files import nobody_elses, whole
path = Path(sys.argv[1])
with whole(path, unfinished=nobody_elses(path) if len(sys.argv) > 2 else None) as unfinished:
    unfinished.write_text("ne")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def _killed_while_it_writes(path, *arguments):
    done = subprocess.run([sys.executable, "-c", KILLED, str(path), *arguments], check=False)
    assert done.returncode == -signal.SIGKILL


def test_kills_leave_the_old_file_and_one_rest_that_the_next_write_takes(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    for _ in range(2):
        _killed_while_it_writes(path)
    assert path.read_text() == "old"
    assert sorted(os.listdir(tmp_path)) == [".file.unfinished", "file"]
    write_whole(path, "new")
    assert path.read_text() == "new"
    assert os.listdir(tmp_path) == ["file"]


def test_a_rest_of_one_of_several_writers_is_in_nobodys_way(tmp_path):
    path = tmp_path / "file"
    _killed_while_it_writes(path, "several")
    (rest,) = os.listdir(tmp_path)
    assert rest.startswith(".unfinished-")
    with whole(path, unfinished=nobody_elses(path)) as one, whole(path, unfinished=nobody_elses(path)) as two:
        assert len({rest, one.name, two.name}) == 3
        one.write_text("one")
        two.write_text("two")
    assert path.read_text() == "one"
    assert sorted(os.listdir(tmp_path)) == [rest, "file"]


@pytest.fixture
def usual_umask():
    before = os.umask(0o022)
    yield
    os.umask(before)


@pytest.mark.usefixtures("usual_umask")
@pytest.mark.parametrize(("mode", "expected"), [(None, 0o600), (0o644, 0o644)])
def test_the_writer_decides_on_permissions_unless_told(tmp_path, mode, expected):
    with whole(tmp_path / "file", mode=mode) as unfinished:
        os.close(os.open(unfinished, os.O_CREAT | os.O_WRONLY, 0o600))  # as safetensors and tempfile do
    assert (tmp_path / "file").stat().st_mode & 0o777 == expected
    write_whole(tmp_path / "text", "")
    assert (tmp_path / "text").stat().st_mode & 0o777 == 0o644


def test_a_durable_file_is_on_disk_before_it_takes_its_place(tmp_path, monkeypatch):
    done = []
    sync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda number: (done.append("fsync"), sync(number)))
    monkeypatch.setattr(os, "replace", lambda *paths: (done.append("replace"), replace(*paths)))
    with whole(tmp_path / "file", durable=True) as unfinished:
        unfinished.write_text("new")
    assert done == ["fsync", "replace"]
    write_whole(tmp_path / "file", "newer")
    assert done == ["fsync", "replace", "replace"]


def test_where_nothing_can_be_written_is_told_before(tmp_path):
    with pytest.raises(ConfigError, match="cannot be written .*: give another path"):
        require_writable(tmp_path)
    require_writable(tmp_path / "new" / "s.json")
    assert os.listdir(tmp_path / "new") == []


HOLDER = """
import sys
from pathlib import Path
from ebseg.files import SharedLock, locked
path = Path(sys.argv[1])
if sys.argv[2] == "shared":
    lock = SharedLock(path)
    print("held", flush=True)
    sys.stdin.read()
else:
    with locked(path):
        print("held", flush=True)
        sys.stdin.read()
"""


@pytest.fixture
def holder():
    """Start processes that hold a lock until their standard input is closed."""
    started = []

    def start(path, kind="alone"):
        process = subprocess.Popen(
            [sys.executable, "-c", HOLDER, str(path), kind],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate(timeout=PATIENCE)


def _holds(process):
    assert process.stdout.readline() == "held\n"


def test_two_processes_exclude_each_other(tmp_path, holder):
    path = tmp_path / "new" / "run.lock"
    with locked(path):
        other = holder(path)
        with pytest.raises(InUse), locked(path, seconds=0):
            pass
    _holds(other)  # it got what it waited for
    with pytest.raises(InUse, match=f"another process holds {path}: wait"), locked(path, seconds=0):
        pass
    other.communicate(timeout=PATIENCE)
    with locked(path, seconds=0):
        pass
    assert path.read_bytes() == b""


def test_a_lock_dies_with_its_process(tmp_path, holder):
    path = tmp_path / "run.lock"
    other = holder(path)
    _holds(other)
    other.kill()
    with locked(path, seconds=PATIENCE):
        pass


def test_who_waits_too_long_is_told_what_the_caller_says(tmp_path, holder):
    path = tmp_path / "run.lock"
    _holds(holder(path))
    refusal = ConfigError("a demo already runs")
    with pytest.raises(ConfigError, match="a demo already runs"), locked(path, seconds=0.2, refusal=refusal):
        pass
    assert isinstance(refusal, EBSegError) and not isinstance(refusal, InUse)


def test_the_last_of_those_who_share_knows_it(tmp_path, holder):
    path = tmp_path / "users.lock"
    own, other = SharedLock(path), holder(path, "shared")
    _holds(other)
    assert not own.is_last()
    other.communicate(timeout=PATIENCE)
    assert own.is_last()
    own.close()


def test_json_that_cannot_be_written_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.json"
    write_whole_json(path, {"a": 1})
    with pytest.raises(TypeError):
        write_whole_json(path, {"a": object()})
    assert json.loads(path.read_text()) == {"a": 1}


def test_a_folder_is_there_whole_or_not_at_all(tmp_path):
    out = tmp_path / "new" / "out"
    with whole_folder(out) as folder:
        (folder / "a.txt").write_text("a")
        assert not out.exists()
    assert [path.name for path in out.iterdir()] == ["a.txt"]
    with pytest.raises(RuntimeError), whole_folder(tmp_path / "other") as folder:
        (folder / "a.txt").write_text("a")
        raise RuntimeError
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new"]


def test_an_empty_folder_is_filled(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    with whole_folder(out) as folder:
        (folder / "a.txt").write_text("a")
    assert [path.name for path in out.iterdir()] == ["a.txt"]


@pytest.mark.parametrize("kind", ["file", "folder", "link"])
def test_what_is_there_is_not_written_over(tmp_path, kind):
    out = tmp_path / "out"
    if kind == "file":
        out.write_text("mine")
    elif kind == "folder":
        (out / "mine").mkdir(parents=True)
    else:
        out.symlink_to(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match=r"out is there and is no empty folder"), whole_folder(out):
        raise AssertionError


def test_a_file_system_of_its_own_is_not_replaced(tmp_path, monkeypatch):
    monkeypatch.setattr("pathlib.Path.is_mount", lambda path: path == tmp_path)
    with pytest.raises(ConfigError, match="is a file system of its own: give a folder in it, such as"):
        require_free(tmp_path)
