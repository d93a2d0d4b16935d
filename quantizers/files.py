"""Whole files: a reader sees the old file or the new one, never a part, whoever writes at the same time.

A file is written under a name of its own beside its place (``.NAME.PROCESS-RANDOM.part``), flushed to the disk, and renamed.
What a killed process leaves behind can be told by its suffix, :data:`PART_SUFFIX`.

A sealed file carries a digest of all its other bytes, so that one changed byte is noticed. The digest is in the file and not
beside it: there is no moment at which a good file and its digest disagree, and a copy of the file can be checked alone.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from quantizers.errors import InputError

PART_SUFFIX = ".part"
ALTERED = "its content does not match its digest"
_JSON_SEAL = re.compile(rb'\A\{\s*"digest": "([0-9a-f]{32})"')
_TEXT_SEAL = re.compile(rb"\A# digest ([0-9a-f]{32})\n")


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


def digest_of(*parts: bytes | memoryview) -> str:
    """Digest of bytes that follow each other (32 hexadecimal digits)."""
    state = hashlib.blake2b(digest_size=16)
    for part in parts:
        state.update(part)
    return state.hexdigest()


def sealed_json(content: Mapping[str, Any], *, indent: int | None = None) -> bytes:
    """``content`` as a JSON object whose first key, ``digest``, is the digest of the file without those digits."""
    text = json.dumps({"digest": "", **content}, indent=indent).encode() + b"\n"
    place = text.index(b'""') + 1
    return text[:place] + digest_of(text).encode() + text[place:]


def is_sealed_json(content: bytes) -> bool:
    """Whether a JSON file begins with a digest, as files of older versions do not."""
    return _JSON_SEAL.match(content) is not None


def unsealed_json(content: bytes) -> dict[str, Any]:
    """Undo :func:`sealed_json`. An object without a digest, as older versions wrote it, is taken as it is.

    Raises:
        ValueError: not a JSON object, or altered since it was written; the message says which.
    """
    seal = _JSON_SEAL.match(content)
    if seal is not None and digest_of(content[: seal.start(1)], content[seal.end(1) :]) != seal[1].decode():
        raise ValueError(ALTERED)
    try:
        found = json.loads(content)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(found, dict):
        raise ValueError(f"expected a JSON object, found a {type(found).__name__}")
    if found.pop("digest", None) is not None and seal is None:
        raise ValueError(ALTERED)
    return found


def sealed_text(text: str) -> bytes:
    """``text`` below a comment line with its digest; for files in which ``#`` starts a comment."""
    content = text.encode()
    return f"# digest {digest_of(content)}\n".encode() + content


def is_altered(content: bytes) -> bool:
    """Whether a file of :func:`sealed_text` has another text by now; False where it has no digest."""
    seal = _TEXT_SEAL.match(content)
    return seal is not None and digest_of(content[seal.end() :]) != seal[1].decode()
