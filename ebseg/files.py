"""Small files, written whole or not at all."""

import errno
import os
from pathlib import Path

from ebseg.errors import ConfigError


def write_whole(path: Path, text: str) -> None:
    """Write a file so that nobody, and no kill, ever sees half of it; its folder is made where need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = _unfinished(path)
    try:
        unfinished.write_text(text, encoding="utf-8")
        os.replace(unfinished, path)
    except OSError:
        unfinished.unlink(missing_ok=True)
        raise


def require_writable(path: Path) -> None:
    """Try, before long work, whether ``write_whole`` can write there; the folder is made where need be.

    Raises ConfigError where it cannot.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        _unfinished(path).touch()
        _unfinished(path).unlink()
    except OSError as error:
        raise ConfigError(f"{path} cannot be written ({error.strerror}): give another path") from error


def _unfinished(path: Path) -> Path:
    return path.with_suffix(".unfinished")
