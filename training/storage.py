"""Files that all workers share: in a folder, or in an object store by its fsspec URL."""

import hashlib
import shutil
from contextlib import AbstractContextManager
from pathlib import Path, PurePosixPath

import fsspec
from fsspec.implementations.local import LocalFileSystem

from ebseg.errors import ConfigError
from ebseg.files import NOBODY_ELSES, nobody_elses, whole
from ebseg.label_studio.tasks import without_secrets


class Storage:
    """Files by their keys, which are relative paths such as "snapshots/a.json".

    ``url``: a folder's path, or an fsspec URL (s3://bucket/path, gs://...), whose credentials the package
    of that store finds by itself. ``cache``: folder for copies of an object store's files. Nobody ever sees
    half a file. May be handed to other processes and threads.

    Raises ConfigError for a URL that cannot be used, and for a key that leads elsewhere; what the store
    itself raises otherwise is an OSError as a rule.
    """

    def __init__(self, url: str, cache: Path) -> None:
        self.url = url
        self.cache = cache

    def __repr__(self) -> str:
        return f"Storage({without_secrets(self.url)!r})"

    @property
    def is_local(self) -> bool:
        """Whether the files are in a folder of this machine (or one that is mounted)."""
        return isinstance(self._place[0], LocalFileSystem)

    def read(self, key: str) -> bytes:
        """Read a file. Raises FileNotFoundError."""
        files, _ = self._place
        content: bytes = files.cat_file(self._path(key))
        return content

    def write(self, key: str, content: bytes) -> None:
        """Write a file, whole or not at all."""
        files, _ = self._place
        path = self._path(key)
        if not self.is_local:
            files.pipe_file(path, content)
            return
        with _whole(Path(path)) as unfinished:
            unfinished.write_bytes(content)

    def upload(self, key: str, path: Path) -> None:
        """Copy a file of this machine into the storage, whole or not at all."""
        files, _ = self._place
        target = self._path(key)
        if not self.is_local:
            files.put_file(str(path), target)
            return
        with _whole(Path(target)) as unfinished:
            shutil.copyfile(path, unfinished)

    def exists(self, key: str) -> bool:
        """Tell whether there is such a file."""
        files, _ = self._place
        return bool(files.isfile(self._path(key)))

    def stamp(self, key: str) -> str:
        """Give what is another whenever a file is written anew; empty where there is none."""
        files, _ = self._place
        try:
            return str(files.ukey(self._path(key)))
        except FileNotFoundError:
            return ""

    def keys(self, prefix: str = "") -> list[str]:
        """List the files below a folder, sorted; none where it does not exist."""
        files, root = self._place
        found = files.find(self._path(prefix) if prefix else root)
        # Nobody reads what a kill has left behind.
        keys = (str(path).removeprefix(root).lstrip("/") for path in found)
        return sorted(key for key in keys if not PurePosixPath(key).name.startswith(NOBODY_ELSES))

    def remove(self, prefix: str) -> None:
        """Remove the files of a folder; nothing where it does not exist."""
        files, _ = self._place
        for key in self.keys(prefix):
            files.rm_file(self._path(key))

    def local(self, key: str) -> Path:
        """Give the path of a file on this machine, which must not be written to.

        In an object store's case it is a copy in the cache, made at the first call: only for files that never
        change. Raises FileNotFoundError.
        """
        files, _ = self._place
        path = self._path(key)
        if self.is_local:
            if not files.isfile(path):
                raise FileNotFoundError(path)
            return Path(path)
        copy = self.cache / hashlib.sha256(self.url.encode()).hexdigest()[:16] / key
        if not copy.exists():
            with _whole(copy) as unfinished:
                files.get_file(path, str(unfinished))
        return copy

    @property
    def _place(self) -> tuple[fsspec.AbstractFileSystem, str]:
        """The file system and the path of the storage's root in it.

        It is not kept here: fsspec keeps one for each process and thread, as connections survive no fork.
        """
        shown = without_secrets(self.url)
        try:
            # Listings that are kept would hide what other workers write.
            files, root = fsspec.core.url_to_fs(self.url, use_listings_cache=False)
        except ImportError as error:
            raise ConfigError(
                f"the storage {shown} needs a package that is not installed here ({error}): install it, or "
                "set EBSEG_STORAGE to a folder that all workers share"
            ) from error
        except ValueError as error:
            raise ConfigError(
                f"the storage {shown} cannot be used ({error}): set EBSEG_STORAGE to a folder or such as "
                "s3://bucket/path"
            ) from error
        return files, str(root).rstrip("/")

    def _path(self, key: str) -> str:
        _, root = self._place
        parts = key.split("/")
        if key.startswith("/") or "\\" in key or any(part in ("", ".", "..") for part in parts):
            raise ConfigError(f"the storage has no file {key!r}: a key is a relative path without . and ..")
        return f"{root}/{key}"


def _whole(path: Path) -> AbstractContextManager[Path]:
    """Give a path to write to, which is moved to its place when it is written and safe on disk."""
    return whole(path, unfinished=nobody_elses(path), durable=True)
