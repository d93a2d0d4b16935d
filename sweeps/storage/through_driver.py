"""A folder of the driver's node for workers on nodes that do not see it: an actor there takes and gives files.

Files travel in pieces through Ray's object store, so that a table of gigabytes does not have to fit into it. The actor
lives as long as the driver's connection to Ray.
"""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import ray
from ray.exceptions import ActorUnavailableError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from quantizers.files import part_path, put_in_place
from sweeps.storage import Folder, Storage, is_remote, open_storage
from sweeps.storage.base import Copied, Entry, retried
from sweeps.storage.processes import is_gone, note

_CHUNK_BYTES = 16 << 20
_MARK = ".driver-"
_T = TypeVar("_T")


class _Keeper:
    """The actor: folders of its node, by location."""

    def call(self, location: str, method: str, *arguments: Any) -> Any:
        return getattr(Folder(location), method)(*arguments)

    def append(self, location: str, part: str, offset: int, content: bytes) -> None:
        with Folder(location).local(part).open("r+b" if offset else "wb") as stream:
            stream.seek(offset)  # a piece that is sent again goes to the same place
            stream.write(content)

    def finish(self, location: str, part: str, name: str) -> None:
        folder = Folder(location)
        if folder.exists(part):  # not so when this was asked for again
            put_in_place(folder.local(part), folder.local(name))

    def piece(self, location: str, name: str, offset: int) -> bytes | None:
        path = Folder(location).fetch(name)
        if path is None:
            return None
        with path.open("rb") as stream:
            stream.seek(offset)
            return stream.read(_CHUNK_BYTES)


@dataclasses.dataclass(frozen=True)
class Place:
    """A storage as a worker is told of it; :meth:`open` finds out how this node reaches it.

    Attributes:
        location: of the storage.
        mark: name of the file that the driver has put there; None where workers are on the driver's node.
        keeper: the actor that reaches it from anywhere.
    """

    location: str
    mark: str | None = None
    keeper: Any = None

    def open(self) -> Storage:
        """The storage, seen from here."""
        if self.mark is None or is_remote(self.location) or Path(self.location, self.mark).is_file():
            return open_storage(self.location)
        return ThroughDriver(self.location, self.keeper)


class Places:
    """What the driver does so that all nodes reach its storages; a context manager.

    Args:
        run: where the run is, which is this driver's alone.
        ledger: where the ledger is, which other drivers may use.
        elsewhere: whether there may be workers on other nodes.
    """

    def __init__(self, run: str, ledger: str, *, elsewhere: bool) -> None:
        self.elsewhere = elsewhere
        self._run = run
        self._folders = {location: Folder(location) for location in (run, ledger) if not is_remote(location)}
        self._marked = self._folders if elsewhere else {}
        self._mark = f"{_MARK}{uuid.uuid4().hex}"
        self._keeper: Any = None

    def __enter__(self) -> Places:
        self._delete_left()
        for folder in self._marked.values():
            folder.write(self._mark, note().encode())
        return self

    def _delete_left(self) -> None:
        """Delete the marks that killed drivers have left: all in the run, and those of the same names in the ledger."""
        left = set(self._folders[self._run].names("")) if self._run in self._folders else set()
        for folder in self._folders.values():
            for name in folder.names(""):
                if name.startswith(_MARK) and (name in left or is_gone((folder.read(name) or b"").decode(errors="replace"))):
                    folder.delete(name)

    def __exit__(self, *_: object) -> None:
        for folder in self._marked.values():
            folder.delete(self._mark)

    def place(self, location: str) -> Place:
        """What workers are told of the storage at ``location``; this process is connected to Ray by now."""
        if location not in self._marked:
            return Place(location)
        if self._keeper is None:
            here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
            actor = ray.remote(_Keeper).options(num_cpus=0, scheduling_strategy=here, max_concurrency=8, max_restarts=-1)
            self._keeper = actor.remote()
        return Place(location, self._mark, self._keeper)


class ThroughDriver(Copied):
    """A folder of the driver's node."""

    def __init__(self, location: str, keeper: Any) -> None:
        super().__init__(location)
        self._keeper = keeper

    def _call(self, method: str, *arguments: Any) -> Any:
        return _asked(lambda: self._keeper.call.remote(self.location, method, *arguments))

    def _upload(self, source: Path, name: str) -> None:
        part = str(part_path(Path(name)))
        offset, last = 0, False
        with source.open("rb") as stream:
            while not last:
                content = stream.read(_CHUNK_BYTES)
                last = len(content) < _CHUNK_BYTES
                self._append(part, offset, content)
                offset += len(content)
        _asked(lambda: self._keeper.finish.remote(self.location, part, name))

    def _append(self, part: str, offset: int, content: bytes) -> None:
        _asked(lambda: self._keeper.append.remote(self.location, part, offset, content))

    def _download(self, name: str, target: Path) -> bool:
        with target.open("wb") as stream:
            while True:
                offset = stream.tell()
                content = self._piece(name, offset)
                if content is None:
                    return False
                stream.write(content)
                if len(content) < _CHUNK_BYTES:
                    return True

    def _piece(self, name: str, offset: int) -> bytes | None:
        piece: bytes | None = _asked(lambda: self._keeper.piece.remote(self.location, name, offset))
        return piece

    def exists(self, name: str) -> bool:
        """See :class:`~sweeps.storage.base.Storage`."""
        return bool(self._call("exists", name))

    def read(self, name: str) -> bytes | None:
        """See :class:`~sweeps.storage.base.Storage`."""
        content: bytes | None = self._call("read", name)
        return content

    def write(self, name: str, content: bytes) -> None:
        """See :class:`~sweeps.storage.base.Storage`."""
        self._call("write", name, content)

    def delete(self, name: str) -> None:
        """See :class:`~sweeps.storage.base.Storage`."""
        self._call("delete", name)

    def entries(self, folder: str) -> Sequence[Entry]:
        """See :class:`~sweeps.storage.base.Storage`."""
        entries: list[Entry] = self._call("entries", folder)
        return entries

    def claim(self, name: str, content: bytes) -> bool:
        """See :class:`~sweeps.storage.base.Storage`."""
        return bool(self._call("claim", name, content))

    def version(self, name: str) -> Any:
        """See :class:`~sweeps.storage.base.Storage`."""
        return self._call("version", name)

    def touch(self, name: str) -> None:
        """See :class:`~sweeps.storage.base.Storage`."""
        self._call("touch", name)


def _asked(ask: Callable[[], Any]) -> Any:
    return retried(lambda: ray.get(ask()), lambda error: isinstance(error, ActorUnavailableError))
