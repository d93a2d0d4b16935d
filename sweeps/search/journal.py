"""What a search chose, a line each, in ``search.jsonl`` of the run: a run that is resumed begins with it."""

from __future__ import annotations

import time

from sweeps.storage import Storage
from sweeps.storage.layout import JOURNAL_FILE

_WRITE_SECONDS = 10.0


class Journal:
    """Lines that are added as a search goes on.

    The file is written whole, so that it is never half there: at most every ten seconds, and less often the longer a write
    takes, since storage such as s3 cannot append. What a killed driver had not written is chosen anew; its results are in
    the ledger.

    Args:
        storage: the run's.
        seconds: between two writes, at the least.
    """

    def __init__(self, storage: Storage, seconds: float = _WRITE_SECONDS) -> None:
        self._storage, self._seconds = storage, seconds
        self._lines = (storage.read(JOURNAL_FILE) or b"").decode().splitlines()
        self._next_write = 0.0
        self._written = len(self._lines)

    def lines(self) -> list[str]:
        """All of them, those of earlier runs first."""
        return list(self._lines)

    def add(self, line: str) -> None:
        """Add a line, and write the file if it is time to."""
        self._lines.append(line)
        if time.monotonic() >= self._next_write:
            self.flush()

    def flush(self) -> None:
        """Write the file, if there is something new."""
        if self._written == len(self._lines):
            return
        begin = time.monotonic()
        self._storage.write(JOURNAL_FILE, ("\n".join(self._lines) + "\n").encode())
        self._written = len(self._lines)
        now = time.monotonic()
        self._next_write = now + max(self._seconds, 20 * (now - begin))
