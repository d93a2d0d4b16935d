"""This program's folder in the temporary directory (``frontier-UID``): copies of files, and what Ray keeps of a local sweep.

Whoever uses a folder in it leaves a note there (:func:`sweeps.storage.processes.note`). What only processes that have ended
have used is cleared by whoever comes next, at the latest; a killed process cannot do it itself.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from quantizers.errors import InputError
from sweeps.storage.processes import is_gone, note

_NOTE = ".used-by-"
_STRANGE_AGE_SECONDS = 86_400.0  # a folder without any note: of an earlier version, which may be at work
_SOCKET_BYTES = 107  # the longest path of a socket
# The longest that Ray makes below its folder.
_SOCKET = "/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store"


def scratch(location: str) -> Path:
    """This node's folder for copies of what is at ``location``; made, and this user's alone.

    It stays as long as this process, at least.

    Raises:
        InputError: somebody else has made a folder of that name.
    """
    name = hashlib.blake2b(location.encode(), digest_size=8).hexdigest()
    folder = _base() / name
    if not _own_note(folder).is_file():
        with _locked() as base:
            _clear(base)
            _join(folder)
    return folder


@contextlib.contextmanager
def ray_folder() -> Iterator[Path]:
    """A folder for Ray, as long as this lasts; after a kill, whoever comes next deletes it.

    Raises:
        InputError: somebody else has made a folder of that name.
    """
    folder = _base() / f"ray-{os.getpid()}"
    if len(f"{folder}{_SOCKET}".encode()) > _SOCKET_BYTES:  # a long TMPDIR: right in it, where nobody looks for it later
        folder = Path(tempfile.gettempdir()) / f"fr{os.getpid()}"
    with _locked() as base:
        _clear(base)
        shutil.rmtree(folder, ignore_errors=True)  # of another process of this number
        _join(folder)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def leave() -> None:
    """This process needs none of its folders any more: clear what nobody else uses."""
    if not _base().is_dir():
        return
    with contextlib.suppress(OSError, InputError), _locked() as base:  # what cannot be deleted stays
        for mine in base.glob(f"*/{_NOTE}{os.getpid()}"):
            mine.unlink()
            _delete_unused(mine.parent, seconds=0.0)
        _clear(base)
        with contextlib.suppress(OSError):  # not empty
            base.rmdir()


def _base() -> Path:
    return Path(tempfile.gettempdir()) / f"frontier-{os.getuid()}"


def _own_note(folder: Path) -> Path:
    return folder / f"{_NOTE}{os.getpid()}"


def _join(folder: Path) -> None:
    folder.mkdir(mode=0o700, exist_ok=True)
    _own_note(folder).write_text(note(), encoding="utf-8")


@contextlib.contextmanager
def _locked() -> Iterator[Path]:
    """Within this, no other process makes or deletes a folder in the program's, which is there.

    Raises:
        InputError: it belongs to another user.
    """
    base = _base()
    descriptor = _opened(base)
    while descriptor is None:  # deleted, as empty, since it was made here
        descriptor = _opened(base)
    try:
        yield base
    finally:
        os.close(descriptor)


def _opened(base: Path) -> int | None:
    """A locked handle of the program's folder; None where it was deleted while we waited for the lock."""
    try:
        base.mkdir(mode=0o700, exist_ok=True)
        descriptor = os.open(base, os.O_RDONLY | os.O_DIRECTORY)
    except (FileNotFoundError, FileExistsError):  # deleted after it was found there
        if base.is_file():
            raise
        return None
    try:
        if os.fstat(descriptor).st_uid != os.getuid():
            raise InputError(f"{base}: belongs to another user.")
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(base.stat(), os.fstat(descriptor)):
                return descriptor
    except BaseException:
        os.close(descriptor)
        raise
    os.close(descriptor)
    return None


def _clear(base: Path) -> None:
    for folder in base.iterdir():
        with contextlib.suppress(OSError):  # what cannot be deleted stays
            if folder.is_dir() and not folder.is_symlink():
                _delete_unused(folder, seconds=_STRANGE_AGE_SECONDS)


def _delete_unused(folder: Path, *, seconds: float) -> None:
    """Delete a folder that no process uses; one without any note only if nothing was made in it for ``seconds``."""
    notes = list(folder.glob(f"{_NOTE}*"))
    if not all(is_gone(left.read_text(encoding="utf-8", errors="replace"), on_own_disk=True) for left in notes):
        return
    if notes or time.time() - folder.stat().st_mtime >= seconds:
        shutil.rmtree(folder, ignore_errors=True)
