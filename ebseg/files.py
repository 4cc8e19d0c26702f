"""Files written whole or not at all, and locks between processes of one machine."""

import errno
import fcntl
import json
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from ebseg.errors import ConfigError, EBSegError, InUse

NOBODY_ELSES = ".unfinished-"
"""How the names begin that ``nobody_elses`` gives."""

LOOK_SECONDS = 0.1
"""Between tries for a lock that is waited for only so long."""


@contextmanager
def whole(
    path: Path, *, unfinished: Path | None = None, mode: int | None = None, durable: bool = False
) -> Iterator[Path]:
    """Give a path to write a file to, and move it to ``path`` at the end of the block.

    Nobody, and no kill, ever sees half of the file; where the block or the move fails, what was written is
    removed and what was there before stays. The file's folder is made where need be.

    ``unfinished``: the path that is given, on the same file system. By default it is hidden beside the file
    and always the same one, so that kills leave one file at most, which the next write takes; that is for
    files with one writer at a time (see ``nobody_elses`` for others). ``mode``: the file's permissions;
    else those that the writer gave it. ``durable``: also safe from a loss of power.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = unfinished or _hidden(path)
    try:
        yield unfinished
        if mode is not None:
            unfinished.chmod(mode)
        if durable:
            with unfinished.open("rb") as written:
                os.fsync(written.fileno())
        os.replace(unfinished, path)
    except BaseException:
        with suppress(OSError):
            unfinished.unlink(missing_ok=True)
        raise


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Give an empty folder to fill, and move it to ``path`` at the end of the block.

    Where the block fails, what was written is removed; a kill leaves it beside ``path``, under a hidden name
    that nobody reads. Raises ConfigError as ``require_free`` does.
    """
    path = path.absolute()
    require_free(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = nobody_elses(path)
    unfinished.mkdir()
    try:
        yield unfinished
        os.replace(unfinished, path)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise


def require_free(path: Path) -> None:
    """Tell, before long work, whether ``whole_folder`` can make a folder there.

    Raises ConfigError where ``path`` is anything but an empty folder or nothing at all, and where it is a
    file system of its own, into whose place nothing can be moved.
    """
    if os.path.lexists(path) and (path.is_symlink() or not path.is_dir() or any(path.iterdir())):
        raise ConfigError(f"{path} is there and is no empty folder: give another path, or remove it")
    if path.is_mount():
        raise ConfigError(f"{path} is a file system of its own: give a folder in it, such as {path / 'out'}")


def nobody_elses(path: Path) -> Path:
    """Name the unfinished form of what several may write at once; a kill leaves it behind."""
    return path.with_name(f"{NOBODY_ELSES}{secrets.token_hex(8)}")


def write_whole(path: Path, text: str) -> None:
    """Write a text, in UTF-8, as ``whole`` does."""
    with whole(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8")


def write_whole_bytes(path: Path, content: bytes) -> None:
    """Write bytes as ``whole`` does."""
    with whole(path) as unfinished:
        unfinished.write_bytes(content)


def write_whole_json(path: Path, content: object, *, indent: int | None = 2) -> None:
    """Write JSON with a newline at its end as ``whole`` does. ``indent``: None for a single line."""
    write_whole(path, json.dumps(content, indent=indent) + "\n")


def require_writable(path: Path) -> None:
    """Try, before long work, whether ``write_whole`` can write there; the folder is made where need be.

    Raises ConfigError where it cannot.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        _hidden(path).touch()
        _hidden(path).unlink()
    except OSError as error:
        raise ConfigError(f"{path} cannot be written ({error.strerror}): give another path") from error


def _hidden(path: Path) -> Path:
    return path.with_name(f".{path.name}.unfinished")


@contextmanager
def locked(path: Path, *, seconds: float | None = None, refusal: EBSegError | None = None) -> Iterator[None]:
    """Let one process of this machine at a time into the block; the others wait.

    ``path``: the lock's file, which stays; its folder is made where need be. The operating system gives the
    lock back when its process ends, however that comes about. ``seconds``: that are waited at most, 0 for
    one try. Raises ``refusal`` then, or InUse; and OSError on a file system that locks nothing.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        if seconds is None:
            fcntl.flock(file, fcntl.LOCK_EX)
        else:
            deadline = time.monotonic() + seconds
            while not _taken(file):
                if time.monotonic() >= deadline:
                    raise refusal or InUse(f"another process holds {path}: wait for its end, or stop it")
                time.sleep(LOOK_SECONDS)
        yield


class SharedLock:
    """A lock that any number of processes hold, each until it closes it or ends, however that comes about."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a")
        fcntl.flock(self._file, fcntl.LOCK_SH)

    def is_last(self) -> bool:
        """Tell whether nobody else holds it; then nobody else gets it any more."""
        return _taken(self._file)

    def close(self) -> None:
        """Give it back."""
        self._file.close()


def _taken(file: IO[Any]) -> bool:
    """Take a lock alone, unless another process holds it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
