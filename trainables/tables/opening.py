"""Files as streams of bytes: what is compressed is unpacked on the way, and no further than a limit."""

from __future__ import annotations

import contextlib
import gzip
import io
import lzma
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from quantizers.errors import InputError, unknown_name

# Text tables shrink by 2 to 5, tables of one repeated row by some hundred: those are small, and below the floor.
_RATIO = 30
_FLOOR = 1 << 24
_SHOWN = 10
_ENCRYPTED = 0x1  # bit of a ZIP member's flags


@contextlib.contextmanager
def opened(path: Path, member: str | None, max_unpacked: int | None = None) -> Iterator[tuple[IO[bytes], str]]:
    """The bytes of a file, unpacked, and its name without the compression's ending.

    Args:
        path: a file; ``.gz``, ``.xz`` and ``.zip`` are unpacked.
        member: of a ``.zip`` with several files, the one that is meant.
        max_unpacked: the most bytes that a compressed file may unpack to. By default 30 times its size, or 16 MiB where
            that is more.

    Raises:
        InputError: the file cannot be read or unpacked, or unpacks to more; while it is read too.
    """
    try:
        packed = path.stat().st_size
        if path.suffix == ".zip":
            with archive(path) as files:
                info = _member(files, path, member)
                with inside(files, info, path) as stream:
                    yield limited(stream, path, min(packed, info.compress_size), max_unpacked), info.filename
        elif path.suffix in (".gz", ".xz"):
            unpack: Any = gzip.open if path.suffix == ".gz" else lzma.open
            with unpack(path, "rb") as stream:
                yield limited(stream, path, packed, max_unpacked), path.stem
        else:
            with path.open("rb") as stream:
                yield stream, path.name
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}.") from None


def archive(path: Path) -> zipfile.ZipFile:
    """The ZIP file at ``path``.

    Raises:
        InputError: it is none, or damaged.
    """
    try:
        found = zipfile.ZipFile(path)
        if not all(info.filename for info in found.infolist()):  # which zipfile itself stumbles over later
            raise zipfile.BadZipFile("a file without a name")
        return found
    except OSError:
        raise
    except Exception as error:  # a damaged directory trips zipfile in many ways: struct, text encodings, negative places
        raise damaged(path, error) from None


def _member(files: zipfile.ZipFile, path: Path, member: str | None) -> zipfile.ZipInfo:
    members = {info.filename: info for info in files.infolist() if not info.is_dir()}
    if member is None and len(members) != 1:
        names = ", ".join(list(members)[:_SHOWN]) + (", ..." if len(members) > _SHOWN else "")
        raise InputError(f"{path}: {len(members)} files in it: {names or 'none'}; name one: {path}#MEMBER.")
    if member is not None and member not in members:
        raise unknown_name(f"member of {path}", member, members)
    return next(iter(members.values())) if member is None else members[member]


def inside(files: zipfile.ZipFile, info: zipfile.ZipInfo, path: Path) -> IO[bytes]:
    """The bytes of one member of the ZIP file at ``path``.

    Raises:
        InputError: they cannot be unpacked.
    """
    if info.flag_bits & _ENCRYPTED:
        raise InputError(f"{path}: {info.filename} is encrypted: unpack it with its password first.")
    try:
        return files.open(info)
    except NotImplementedError as error:
        raise InputError(
            f"{path}: {info.filename} cannot be unpacked here ({error}): unpack it with another program."
        ) from None
    except OSError:
        raise
    except Exception as error:
        raise damaged(path, error) from None


def limit_of(packed: int, max_unpacked: int | None) -> int:
    """The most bytes that ``packed`` ones may unpack to."""
    return max(_FLOOR, _RATIO * packed) if max_unpacked is None else max_unpacked


def limited(stream: IO[bytes], path: Path, packed: int, max_unpacked: int | None) -> IO[bytes]:
    """What ``stream`` unpacks, up to the limit."""
    return io.BufferedReader(_Limited(stream, path, limit_of(packed, max_unpacked)), buffer_size=1 << 16)


class _Limited(io.RawIOBase):
    """What a decoder gives, up to a number of bytes; whatever the decoder trips over is damage of the file."""

    def __init__(self, stream: IO[bytes], path: Path, limit: int) -> None:
        self._stream, self._path, self._limit, self._left = stream, path, limit, limit

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            data = self._stream.read(len(buffer))
        except Exception as error:  # besides their own kinds, decoders raise OSError, EOFError, struct.error, MemoryError
            raise damaged(self._path, error) from None
        self._left -= len(data)
        if self._left < 0:
            raise too_much(self._path, self._limit)
        buffer[: len(data)] = data
        return len(data)


def too_much(path: Path, limit: int) -> InputError:
    """The error of a file that unpacks to more than ``limit`` bytes."""
    return InputError(
        f"{path}: unpacks to more than {limit:,} bytes, the limit for a file of this size. If that is right, raise it: "
        "--max-unpacked SIZE, or limits: {unpacked: SIZE} in a sweep."
    )


def damaged(path: Path, error: Exception) -> InputError:
    """The error of a file whose decoder stumbled."""
    return InputError(f"{path}: damaged, or cut off ({' '.join(str(error).split())[:200] or type(error).__name__}).")
