"""What has been measured stays measured: results, fits and baselines by content key, one file each.

``results/<key>.json`` holds a finished trial, written whole by the trial itself to the run's storage; a repeat of the trial
reads it instead of running. ``fits/`` and ``baselines/`` hold what several trials share, made once however many ask at the
same time: the first claims the key by creating a file, the others wait. A claim is taken over when its maker's process is
gone from this machine, or no longer keeps it fresh: whoever waits watches it by a clock of their own, since two machines'
clocks differ.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from sweeps.record.processes import is_gone, note
from sweeps.storage import Folder, Storage
from trainables.trial import TrialResult

_FRESH_SECONDS = 5.0
_STALE_SECONDS = 60.0
_LOOK_SECONDS = 0.2


class Ledger:
    """Results by content key.

    Args:
        storage: where they are; a folder is made when first written to.
        remember_results: False keeps no results (the shared fits and baselines are still made once).
    """

    def __init__(self, storage: Storage | Path, *, remember_results: bool = True) -> None:
        self.storage = Folder(str(storage)) if isinstance(storage, Path) else storage
        self.remember_results = remember_results

    def get(self, key: str) -> TrialResult | None:
        """The finished trial of ``key``, if there is one that can be read."""
        content = self.storage.read(f"results/{key}.json") if self.remember_results else None
        if content is None:
            return None
        try:
            return TrialResult.from_json(json.loads(content))
        except (ValueError, TypeError):
            return None  # damaged: the trial runs again

    def put(self, key: str, result: TrialResult) -> None:
        """Keep ``result``; the last one wins."""
        if self.remember_results:
            self.storage.write(f"results/{key}.json", json.dumps(result.to_json()).encode())

    def results(self) -> Iterator[TrialResult]:
        """Every finished trial that can be read."""
        for name in self.storage.names("results"):
            result = self.get(Path(name).stem) if name.endswith(".json") else None
            if result is not None:
                yield result

    def once(self, kind: str, key: str, make: Callable[[Path], None]) -> Path:
        """The path of ``kind/key``, made by ``make`` if nobody has; see :class:`trainables.trial.Once`.

        ``make`` writes to the path it is given; the file appears under its own name only when it is whole.
        """
        name, claim = f"{kind}/{key}.safetensors", _Claim(self.storage, f"{kind}/{key}.claim")
        while (path := self.storage.fetch(name)) is None:
            if not claim.take():
                time.sleep(_LOOK_SECONDS)
                continue
            try:
                if not self.storage.exists(name):  # else made between our look and our claim
                    with claim.kept_fresh():
                        self._make(name, make)
            finally:
                self.storage.delete(claim.name)
        return path

    def _make(self, name: str, make: Callable[[Path], None]) -> None:
        path = self.storage.local(name)
        part = path.with_suffix(f".{os.getpid()}-{threading.get_ident()}.part")
        try:
            make(part)
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
        self.storage.keep(name)


class _Claim:
    """The right to make one file, as one of those who want it sees it."""

    def __init__(self, storage: Storage, name: str) -> None:
        self.name = name
        self._storage = storage
        self._seen: Any = None
        self._since = 0.0

    def take(self) -> bool:
        """Whether the claim is ours now; one that nobody has touched for a minute is removed, for the next try."""
        if self._storage.claim(self.name, f"{note()}\n{uuid.uuid4().hex}".encode()):
            return True
        version = self._storage.version(self.name)
        if version != self._seen:
            self._seen, self._since = version, time.monotonic()
            if is_gone((self._storage.read(self.name) or b"").decode().partition("\n")[0]):
                self._storage.delete(self.name)
        elif version is not None and time.monotonic() - self._since > _STALE_SECONDS:
            self._storage.delete(self.name)
        return False

    @contextlib.contextmanager
    def kept_fresh(self) -> Iterator[None]:
        """Touch the claim now and then."""
        done = threading.Event()

        def touch() -> None:
            while not done.wait(_FRESH_SECONDS):
                with contextlib.suppress(Exception):  # the next time will do
                    self._storage.touch(self.name)

        thread = threading.Thread(target=touch, daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()
