"""Where a run keeps its files: a folder, an ``s3://`` bucket, or a folder of the driver's node that is reached through Ray.

A location is a path or ``s3://bucket/path`` (``?endpoint_override=host:port&scheme=http``: not Amazon's).
A worker never takes a folder for the driver's because it has the same name: it looks for a mark that the driver has put
there. Where it finds none, it hands its files to the driver's node (:mod:`sweeps.storage.through_driver`).
"""

from __future__ import annotations

import dataclasses
import os
import posixpath
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import tenacity

from quantizers.files import replacing
from sweeps.storage.temporary import scratch

RETRY_SECONDS = 120.0  # a link that is cut for a minute fails no trial
_T = TypeVar("_T")


def is_remote(location: str) -> bool:
    """Whether ``location`` is an ``s3://`` address, not a path."""
    return location.startswith("s3://")


def join(location: str, *names: str) -> str:
    """``location`` with ``names`` behind it: ``join("s3://b/runs?scheme=http", "a") == "s3://b/runs/a?scheme=http"``.

    ``..`` goes up.
    """
    if not is_remote(location):
        return os.path.normpath(Path(location, *names))
    path, mark, options = location.removeprefix("s3://").partition("?")
    return f"s3://{posixpath.normpath(posixpath.join(path, *names))}{mark}{options}"


def split(location: str) -> tuple[str, str]:
    """The folder and the name of a file's location: ``s3://b/runs/a?x=y`` is ``a`` in ``s3://b/runs?x=y``."""
    path, mark, options = location.partition("?") if is_remote(location) else (location, "", "")
    folder, _, name = path.rpartition("/")
    return folder + mark + options, name


def retried(call: Callable[[], _T], again: Callable[[BaseException], bool]) -> _T:
    """``call()``, once more after growing pauses while ``again`` says so of its error; for :data:`RETRY_SECONDS` in all."""
    attempts = tenacity.Retrying(
        stop=tenacity.stop_before_delay(RETRY_SECONDS),
        wait=tenacity.wait_exponential(multiplier=0.2, max=10.0),
        retry=tenacity.retry_if_exception(again),
        reraise=True,
    )
    return attempts(call)


@dataclasses.dataclass(frozen=True)
class Entry:
    """A file in a listing.

    Attributes:
        name: without its folder.
        size: in bytes.
        mtime: when it was last written, in seconds since 1970.
    """

    name: str
    size: int
    mtime: float


class Storage(ABC):
    """Files by name (``results/ab12.json``), each whole or not there.

    Args:
        location: where they are: what errors and results call it.
    """

    def __init__(self, location: str) -> None:
        self.location = location

    @abstractmethod
    def local(self, name: str) -> Path:
        """Where the file is, or goes, on this node; its folder is there."""

    @abstractmethod
    def keep(self, name: str) -> None:
        """Move the file at ``local(name)`` to where all see it."""

    @abstractmethod
    def fetch(self, name: str) -> Path | None:
        """The file on this node, or None where there is none of that name."""

    @abstractmethod
    def exists(self, name: str) -> bool:
        """Whether there is such a file."""

    @abstractmethod
    def read(self, name: str) -> bytes | None:
        """The file's content, or None where there is none of that name."""

    @abstractmethod
    def write(self, name: str, content: bytes) -> None:
        """Write a small file."""

    @abstractmethod
    def delete(self, name: str) -> None:
        """Delete the file, if it is there."""

    @abstractmethod
    def entries(self, folder: str) -> Sequence[Entry]:
        """The files right in ``folder``, by name; none where there is no such folder."""

    def names(self, folder: str) -> Sequence[str]:
        """The names of the files right in ``folder``, in alphabetical order."""
        return [entry.name for entry in self.entries(folder)]

    def read_many(self, names: Sequence[str]) -> Mapping[str, bytes | None]:
        """The files' contents by name, as :meth:`read` has them; side by side where each is a request to a server."""
        return {name: self.read(name) for name in names}

    @abstractmethod
    def claim(self, name: str, content: bytes) -> bool:
        """Create the file ``name`` if there is none, with content that nobody else would write; whether it is ours."""

    @abstractmethod
    def version(self, name: str) -> Any:
        """What changes when the file is written or touched; None where it is not there."""

    @abstractmethod
    def touch(self, name: str) -> None:
        """Change the file's version."""


class _NotThereError(Exception):
    """There is no file to download."""


class Copied(Storage):
    """Storage of which this node has copies: what is fetched stays in a scratch folder, what is kept leaves it."""

    def local(self, name: str) -> Path:
        """See :class:`Storage`."""
        path = scratch(self.location) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def keep(self, name: str) -> None:
        """See :class:`Storage`."""
        path = self.local(name)
        self._upload(path, name)
        path.unlink()

    def fetch(self, name: str) -> Path | None:
        """See :class:`Storage`."""
        path = self.local(name)
        if path.is_file():
            return path
        try:
            with replacing(path) as part:
                if not self._download(name, part):
                    raise _NotThereError
        except _NotThereError:
            return None
        return path

    @abstractmethod
    def _upload(self, source: Path, name: str) -> None: ...

    @abstractmethod
    def _download(self, name: str, target: Path) -> bool: ...
