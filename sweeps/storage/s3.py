"""Files in an S3 bucket, through pyarrow.

S3 as pyarrow has it cannot create a file only if there is none. A claim is therefore written, and read again a moment
later: whose name it has then owns it. Two may both find their name in rare cases; then something is made twice, to the
same content, and the last one stays.
"""

from __future__ import annotations

import functools
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from quantizers.errors import InputError
from sweeps.storage.base import Copied, Entry, retried

_SETTLE_SECONDS = 0.3
_SIDE_BY_SIDE = 16  # requests: each waits for the server, not for this machine
_CHUNK_BYTES = 8 << 20
_T = TypeVar("_T")


class Bucket(Copied):
    """``s3://bucket/path``; credentials from the environment, a profile, or the machine's role, as Amazon's tools do."""

    def __init__(self, location: str) -> None:
        super().__init__(location)
        self._files, self._root = _connect(location)
        if not self._root.strip("/"):
            raise InputError(f"{location}: expected s3://BUCKET/PATH.")

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}" if name else self._root

    def _info(self, name: str) -> Any:
        """Pyarrow's FileInfo of a file, or None."""
        info = _retried(lambda: self._files.get_file_info(self._path(name)))
        return info if info.is_file else None

    def _upload(self, source: Path, name: str) -> None:
        def send() -> None:
            with source.open("rb") as stream, self._files.open_output_stream(self._path(name)) as target:
                shutil.copyfileobj(stream, target, _CHUNK_BYTES)

        _retried(send)

    def _download(self, name: str, target: Path) -> bool:
        def get() -> None:
            with self._files.open_input_stream(self._path(name)) as stream, target.open("wb") as file:
                shutil.copyfileobj(stream, file, _CHUNK_BYTES)

        if self._info(name) is None:
            return False
        _retried(get)
        return True

    def exists(self, name: str) -> bool:
        """See :class:`~sweeps.storage.base.Storage`."""
        return self._info(name) is not None

    def read(self, name: str) -> bytes | None:
        """See :class:`~sweeps.storage.base.Storage`."""

        def get() -> bytes | None:
            try:
                with self._files.open_input_stream(self._path(name)) as stream:
                    return bytes(stream.read())
            except FileNotFoundError:
                return None

        return _retried(get)

    def write(self, name: str, content: bytes) -> None:
        """See :class:`~sweeps.storage.base.Storage`."""

        def send() -> None:
            with self._files.open_output_stream(self._path(name)) as target:
                target.write(content)

        _retried(send)

    def delete(self, name: str) -> None:
        """See :class:`~sweeps.storage.base.Storage`."""
        if self._info(name) is not None:
            _retried(lambda: self._files.delete_file(self._path(name)))

    def claim(self, name: str, content: bytes) -> bool:
        """See :class:`~sweeps.storage.base.Storage`, and the module for what is rare."""
        if self._info(name) is not None:
            return False
        self.write(name, content)
        time.sleep(_SETTLE_SECONDS)
        return self.read(name) == content

    def version(self, name: str) -> Any:
        """See :class:`~sweeps.storage.base.Storage`."""
        info = self._info(name)
        return None if info is None else info.mtime_ns

    def touch(self, name: str) -> None:
        """See :class:`~sweeps.storage.base.Storage`."""
        content = self.read(name)
        if content is not None:
            self.write(name, content)

    def read_many(self, names: Sequence[str]) -> Mapping[str, bytes | None]:
        """See :class:`~sweeps.storage.base.Storage`."""
        with ThreadPoolExecutor(_SIDE_BY_SIDE) as pool:
            return dict(zip(names, pool.map(self.read, names), strict=True))

    def entries(self, folder: str) -> Sequence[Entry]:
        """See :class:`~sweeps.storage.base.Storage`."""
        from pyarrow.fs import FileSelector

        selector = FileSelector(self._path(folder), allow_not_found=True)
        found = _retried(lambda: self._files.get_file_info(selector))
        files = [Entry(info.base_name, info.size, info.mtime_ns / 1e9) for info in found if info.is_file]
        return sorted(files, key=lambda entry: entry.name)


@functools.cache
def _connect(location: str) -> tuple[Any, str]:
    from pyarrow import ArrowInvalid
    from pyarrow.fs import FileSystem

    try:
        files, root = FileSystem.from_uri(location)
    except (ArrowInvalid, ValueError) as error:
        raise InputError(f"{location}: not an s3:// address ({' '.join(str(error).split())[:200]}).") from None
    return files, root


def _retried(call: Callable[[], _T]) -> _T:
    """``call()``, again while the server cannot be reached; what it refuses stays refused."""

    def once() -> _T:
        try:
            return call()
        except FileNotFoundError:
            raise
        except OSError as error:
            if any(word in str(error) for word in ("ACCESS_DENIED", "NO_SUCH_BUCKET", "INVALID_ACCESS_KEY", "SIGNATURE")):
                raise InputError(f"s3: {' '.join(str(error).split())[:300]}") from error
            raise _Unreachable(str(error)) from error

    return retried(once, lambda error: isinstance(error, _Unreachable))


class _Unreachable(OSError):
    """The server did not answer, or failed."""
