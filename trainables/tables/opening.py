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
_FLOOR = 1 << 26
_SHOWN = 10
_ENCRYPTED = 0x1  # bit of a ZIP member's flags


@contextlib.contextmanager
def opened(path: Path, member: str | None, max_unpacked: int | None = None) -> Iterator[tuple[IO[bytes], str]]:
    """The bytes of a file, unpacked, and its name without the compression's ending.

    Args:
        path: a file; ``.gz``, ``.xz`` and ``.zip`` are unpacked.
        member: of a ``.zip`` with several files, the one that is meant.
        max_unpacked: the most bytes that a compressed file may unpack to. By default 30 times its size, or 64 MiB where
            that is more.

    Raises:
        InputError: the file cannot be read or unpacked, or unpacks to more; while it is read too.
    """
    try:
        packed = path.stat().st_size
        if path.suffix == ".zip":
            with _archive(path) as archive:
                info = _member(archive, path, member)
                with _inside(archive, info, path) as stream:
                    yield _limited(stream, path, min(packed, info.compress_size), max_unpacked), info.filename
        elif path.suffix in (".gz", ".xz"):
            unpack: Any = gzip.open if path.suffix == ".gz" else lzma.open
            with unpack(path, "rb") as stream:
                yield _limited(stream, path, packed, max_unpacked), path.stem
        else:
            with path.open("rb") as stream:
                yield stream, path.name
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}.") from None


def _archive(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except OSError:
        raise
    except Exception as error:  # a damaged directory trips zipfile in many ways: struct, text encodings, negative places
        raise _damaged(path, error) from None


def _member(archive: zipfile.ZipFile, path: Path, member: str | None) -> zipfile.ZipInfo:
    members = {info.filename: info for info in archive.infolist() if not info.is_dir()}
    if member is None and len(members) != 1:
        names = ", ".join(list(members)[:_SHOWN]) + (", ..." if len(members) > _SHOWN else "")
        raise InputError(f"{path}: {len(members)} files in it: {names or 'none'}; name one: {path}#MEMBER.")
    if member is not None and member not in members:
        raise unknown_name(f"member of {path}", member, members)
    return next(iter(members.values())) if member is None else members[member]


def _inside(archive: zipfile.ZipFile, info: zipfile.ZipInfo, path: Path) -> IO[bytes]:
    if info.flag_bits & _ENCRYPTED:
        raise InputError(f"{path}: {info.filename} is encrypted: unpack it with its password first.")
    try:
        return archive.open(info)
    except NotImplementedError as error:
        raise InputError(
            f"{path}: {info.filename} cannot be unpacked here ({error}): unpack it with another program."
        ) from None
    except OSError:
        raise
    except Exception as error:
        raise _damaged(path, error) from None


def _limited(stream: IO[bytes], path: Path, packed: int, max_unpacked: int | None) -> IO[bytes]:
    limit = max(_FLOOR, _RATIO * packed) if max_unpacked is None else max_unpacked
    return io.BufferedReader(_Limited(stream, path, limit), buffer_size=1 << 16)


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
            raise _damaged(self._path, error) from None
        self._left -= len(data)
        if self._left < 0:
            raise InputError(
                f"{self._path}: unpacks to more than {self._limit:,} bytes, the limit for a file of this size. If that is "
                "right, raise the limit: --max-unpacked SIZE, or limits: {unpacked: SIZE} in a sweep."
            )
        buffer[: len(data)] = data
        return len(data)


def _damaged(path: Path, error: Exception) -> InputError:
    return InputError(f"{path}: damaged, or cut off ({' '.join(str(error).split()) or type(error).__name__}).")
