"""A folder that this process sees: a disk, or a mount that all nodes have."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from quantizers.files import write_bytes
from sweeps.storage.base import Storage


class Folder(Storage):
    """A folder that this process sees: a disk, or a mount that all nodes have."""

    def _path(self, name: str) -> Path:
        return Path(self.location, name)

    def local(self, name: str) -> Path:
        """See :class:`Storage`."""
        path = self._path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def keep(self, name: str) -> None:
        """It is there already."""

    def fetch(self, name: str) -> Path | None:
        """See :class:`Storage`."""
        path = self._path(name)
        return path if path.is_file() else None

    def exists(self, name: str) -> bool:
        """See :class:`Storage`."""
        return self._path(name).is_file()

    def read(self, name: str) -> bytes | None:
        """See :class:`Storage`."""
        try:
            return self._path(name).read_bytes()
        except OSError:
            return None

    def write(self, name: str, content: bytes) -> None:
        """See :class:`Storage`."""
        write_bytes(self.local(name), content)

    def delete(self, name: str) -> None:
        """See :class:`Storage`. One of several who delete the same file does it."""
        path = self._path(name)
        aside = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.gone")
        with contextlib.suppress(FileNotFoundError):
            path.rename(aside)
            aside.unlink()

    def names(self, folder: str) -> Sequence[str]:
        """See :class:`Storage`."""
        place = self._path(folder)
        return sorted(path.name for path in place.iterdir() if path.is_file()) if place.is_dir() else []

    def claim(self, name: str, content: bytes) -> bool:
        """See :class:`Storage`. No two can create the same file, on NFS too."""
        try:
            with self.local(name).open("xb") as out:
                out.write(content)
        except FileExistsError:
            return False
        return True

    def version(self, name: str) -> Any:
        """See :class:`Storage`."""
        try:
            return self._path(name).stat().st_mtime_ns
        except OSError:
            return None

    def touch(self, name: str) -> None:
        """See :class:`Storage`."""
        os.utime(self._path(name))
