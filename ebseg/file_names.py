"""Names of files as other people and other systems write them."""

import unicodedata
from pathlib import PurePosixPath, PureWindowsPath
from urllib.parse import parse_qs, unquote, urlsplit

from ebseg.errors import DataError

_MOST_BYTES = 240  # of a name: file systems take 255, and ours add endings

_LOCAL_FILES = "/data/local-files/"  # of Label Studio, with the file in the query


def one_form(name: str) -> str:
    """Give a name in one Unicode form, for comparison: macOS writes "é" as two characters, others as one."""
    return unicodedata.normalize("NFC", name)


def inside(file_name: str) -> PurePosixPath:
    r"""Give the path of a file below its folder, whatever another program calls it.

    Of addresses and of paths that lead elsewhere (from a root, a drive, or upwards) the last name is left;
    "\" is a separator, as on Windows. Raises DataError where no name of a file is left.
    """
    if "://" in file_name or file_name.startswith(_LOCAL_FILES):
        path = PureWindowsPath(PureWindowsPath(_path_of(file_name)).name)
    else:
        path = PureWindowsPath(file_name)
    if path.anchor or ".." in path.parts:
        path = PureWindowsPath(path.name)
    for part in path.parts or ("",):
        if part in ("", "..") or "\0" in part or len(part.encode(errors="replace")) > _MOST_BYTES:
            raise DataError(f"no file can be called {file_name[:_MOST_BYTES]!r}; rename it there")
    return PurePosixPath(*path.parts)


def _path_of(address: str) -> str:
    try:
        parts = urlsplit(address)
    except ValueError:
        return ""
    if parts.path.endswith(_LOCAL_FILES):
        return parse_qs(parts.query).get("d", [""])[0]
    return unquote(parts.path)
