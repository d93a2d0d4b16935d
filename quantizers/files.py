"""Whole files: a reader sees the old file or the new one, never a part, whoever writes at the same time.

A file is written under a name of its own beside its place (``.NAME.PROCESS-RANDOM.part``), flushed to the disk, and renamed.
What a killed process leaves behind can be told by its suffix, :data:`PART_SUFFIX`.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from quantizers.errors import InputError

PART_SUFFIX = ".part"


def part_path(path: Path) -> Path:
    """A name in the same folder for what will be ``path``; no two calls, on any machine, return the same."""
    # Not the process id alone: another machine's process, and another thread, may have the same.
    return path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(6)}{PART_SUFFIX}")


def put_in_place(part: Path, path: Path) -> None:
    """Rename ``part`` to ``path``; its content is on the disk before its name is.

    Raises:
        OSError: as the file system says.
    """
    with part.open("rb") as stream:
        os.fsync(stream.fileno())
    part.replace(path)


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Where to write what becomes ``path`` at the end of the block; removed where the block fails.

    Args:
        path: the file's place; its folder is there.

    Raises:
        OSError: as the file system says.
    """
    path = Path(path)
    part = part_path(path)
    try:
        yield part
        put_in_place(part, path)
    finally:
        with contextlib.suppress(OSError):  # it is gone by now, unless writing failed
            part.unlink()


@contextlib.contextmanager
def writing(path: str | Path, what: str = "it") -> Iterator[BinaryIO]:
    """A stream whose content becomes ``path`` at the end of the block; errors call it ``what``.

    Raises:
        InputError: the folder is missing, or there is no space or permission; the old file is as it was.
    """
    try:
        with replacing(path) as part, part.open("wb") as stream:
            yield stream
    except OSError as error:
        raise InputError(f"{path}: cannot write {what}: {error.strerror or error}.") from error


def write_bytes(path: str | Path, content: bytes, what: str = "it") -> None:
    """Write ``content`` to ``path``. Raises InputError as :func:`writing` does."""
    with writing(path, what) as stream:
        stream.write(content)
