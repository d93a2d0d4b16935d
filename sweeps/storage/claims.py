"""Claims: a file that says whose turn it is, on a storage that several processes and machines see.

Who creates the file has the claim, and touches it now and then. A claim is taken over when its holder's process is gone
from this machine, or when nobody has touched it for a minute: whoever waits watches it by a clock of their own, since two
machines' clocks differ.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import platform
import threading
import time
import uuid
from collections.abc import Iterator
from typing import Any

from sweeps.storage import Storage
from sweeps.storage.processes import is_gone, is_here, note, number

_FRESH_SECONDS = 5.0
STALE_SECONDS = 60.0
_JOIN_SECONDS = 10.0  # a touch that takes longer waits for a storage that does not answer


@dataclasses.dataclass(frozen=True)
class Holder:
    """Who has a claim.

    Attributes:
        note: of its process; see :func:`sweeps.storage.processes.note`.
        host: name of its machine.
        since: when the claim was made, by that machine's clock.
    """

    note: str
    host: str
    since: str

    @property
    def known_alive(self) -> bool:
        """Whether it is a process of this machine that is there."""
        return is_here(self.note) and not is_gone(self.note)

    @property
    def gone(self) -> bool:
        """Whether it is a process of this machine that has ended."""
        return is_gone(self.note)

    def __str__(self) -> str:
        return f"process {number(self.note)} on {self.host}, since {self.since}"


class Claim:
    """The right to make one file, or to work on one run, as one of those who want it sees it.

    Args:
        storage: where the claim's file is.
        name: of that file.
    """

    def __init__(self, storage: Storage, name: str) -> None:
        self.name = name
        self._storage = storage
        since = datetime.datetime.now(datetime.UTC).isoformat(sep=" ", timespec="seconds")
        self._content = f"{note()}\n{uuid.uuid4().hex}\n{platform.node()}\n{since}".encode()
        self._seen: Any = None
        self._since = 0.0
        self._moved = False

    @property
    def moved(self) -> bool:
        """Whether the claim was touched between two of our attempts to take it: its holder is at work."""
        return self._moved

    def take(self) -> bool:
        """Whether the claim is ours now; one that nobody has touched for a minute is removed, for the next try."""
        if self._storage.claim(self.name, self._content):
            return True
        version = self._storage.version(self.name)
        if version is None:
            return False
        if version != self._seen:
            self._moved = self._seen is not None
            self._seen, self._since = version, time.monotonic()
            found = self._storage.read(self.name)
            if found is not None and is_gone(found.decode(errors="replace").partition("\n")[0]):
                self._remove(found)
        elif time.monotonic() - self._since > STALE_SECONDS:
            self._remove(self._storage.read(self.name))
        return False

    def holder(self) -> Holder | None:
        """Who has the claim; None where nobody has."""
        content = self._storage.read(self.name)
        if content is None:
            return None
        left, _, host, since = (content.decode(errors="replace").split("\n") + 4 * [""])[:4]
        return Holder(left, host or "an unknown host", since or "an unknown time")

    @property
    def ours(self) -> bool:
        """Whether the claim is (still) ours."""
        return self._storage.read(self.name) == self._content

    def release(self) -> None:
        """Give the claim back; one that another has taken over meanwhile stays theirs."""
        self._remove(self._content)

    @contextlib.contextmanager
    def kept_fresh(self) -> Iterator[None]:
        """Touch the claim now and then."""
        done = threading.Event()

        def touch() -> None:
            while not done.wait(_FRESH_SECONDS):
                with contextlib.suppress(Exception):  # the next time will do
                    self._storage.touch(self.name)

        thread = threading.Thread(target=touch, name=f"claim {self.name}", daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join(_JOIN_SECONDS)

    def _remove(self, content: bytes | None) -> None:
        """Delete the claim if it still says ``content``: another who waited may have taken it over since we looked."""
        if content is not None and self._storage.read(self.name) == content:
            self._storage.delete(self.name)
            self._seen, self._moved = None, False
