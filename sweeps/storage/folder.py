"""A folder that this process sees: a disk, or a mount that all nodes have.

A file is absent only where the file system says so. Any other error of a mount (a stale handle, a server that does not
answer) is waited for as an s3 server is, and then raised: taken for absence, it would run a finished trial again.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from quantizers.errors import InputError
from quantizers.files import part_path, replacing
from sweeps.storage.base import Entry, Storage, retried

_ABSENT = (FileNotFoundError, NotADirectoryError)
# What waiting does not change, or what the caller has an answer to.
_FINAL = {errno.EEXIST, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL, errno.ENOSPC, errno.EDQUOT, errno.EROFS}
_REFUSED = {errno.EACCES, errno.EPERM}
_T = TypeVar("_T")


def _steadily(call: Callable[[], _T], *, final: frozenset[int] | set[int] = _FINAL) -> _T:
    return retried(
        call, lambda error: isinstance(error, OSError) and not isinstance(error, _ABSENT) and error.errno not in final
    )


class Folder(Storage):
    """A folder that this process sees: a disk, or a mount that all nodes have."""

    def _path(self, name: str) -> Path:
        return Path(self.location, name)

    def _stat(self, name: str) -> os.stat_result | None:
        """Of a file; None where there is none."""
        try:
            found = _steadily(self._path(name).stat)
        except _ABSENT:
            return None
        return found if stat.S_ISREG(found.st_mode) else None

    def local(self, name: str) -> Path:
        """See :class:`Storage`."""
        path = self._path(name)
        _steadily(lambda: path.parent.mkdir(parents=True, exist_ok=True), final=_FINAL | _REFUSED)
        if path.is_dir():  # not ours: set aside, since no file can take its place
            _steadily(lambda: path.rename(part_path(path)), final=_FINAL | _REFUSED)
        return path

    def keep(self, name: str) -> None:
        """It is there already."""

    def fetch(self, name: str) -> Path | None:
        """See :class:`Storage`."""
        return self._path(name) if self.exists(name) else None

    def exists(self, name: str) -> bool:
        """See :class:`Storage`."""
        return self._stat(name) is not None

    def read(self, name: str) -> bytes | None:
        """See :class:`Storage`."""
        try:
            return _steadily(self._path(name).read_bytes)
        except (*_ABSENT, IsADirectoryError):
            return None

    def write(self, name: str, content: bytes) -> None:
        """See :class:`Storage`. Raises InputError where there is no space or permission."""
        path = self.local(name)

        def whole() -> None:
            with replacing(path) as part:
                part.write_bytes(content)

        try:
            _steadily(whole, final=_FINAL | _REFUSED)
        except OSError as error:
            raise InputError(f"{path}: cannot write it: {error.strerror or error}.") from error

    def delete(self, name: str) -> None:
        """See :class:`Storage`. One of several who delete the same file does it."""
        path = self._path(name)
        aside = part_path(path)
        with contextlib.suppress(*_ABSENT):
            _steadily(lambda: path.rename(aside))
            _steadily(aside.unlink)

    def entries(self, folder: str) -> Sequence[Entry]:
        """See :class:`Storage`."""
        try:
            names = _steadily(lambda: sorted(os.listdir(self._path(folder))))
        except _ABSENT:
            return []
        found = [(name, self._stat(os.path.join(folder, name))) for name in names]
        return [Entry(name, info.st_size, info.st_mtime) for name, info in found if info is not None]

    def claim(self, name: str, content: bytes) -> bool:
        """See :class:`Storage`. No two can create the same file, on NFS too."""
        path = self.local(name)

        def create() -> None:
            with path.open("xb") as out:
                out.write(content)

        try:
            _steadily(create, final=_FINAL | _REFUSED)
        except FileExistsError:
            return self.read(name) == content  # ours where the mount failed after it had made it
        return True

    def version(self, name: str) -> Any:
        """See :class:`Storage`."""
        info = self._stat(name)
        return None if info is None else info.st_mtime_ns

    def touch(self, name: str) -> None:
        """See :class:`Storage`."""
        _steadily(lambda: os.utime(self._path(name)))
