"""What has been measured stays measured: results, fits and baselines by content key, one file each.

``results/<key>.json`` holds a finished trial, written atomically by the trial itself on the run's storage; a repeat of
the trial reads it instead of running. ``fits/`` and ``baselines/`` hold what several trials share, made once however many
ask at the same time: the first claims the key by creating a file that no two can create, the others wait; a claim
that its maker no longer keeps fresh is taken over.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from analysis.store import replace_bytes
from sweeps.processes import is_gone, note
from trainables.trial import TrialResult

_FRESH_SECONDS = 5.0
_STALE_SECONDS = 60.0


class Ledger:
    """Results by content key in a folder.

    Args:
        folder: where it is; made when first written to.
        remember_results: False keeps no results (the shared fits and baselines are still made once).
    """

    def __init__(self, folder: Path, *, remember_results: bool = True) -> None:
        self.folder = folder
        self.remember_results = remember_results

    def _result_path(self, key: str) -> Path:
        return self.folder / "results" / f"{key}.json"

    def get(self, key: str) -> TrialResult | None:
        """The finished trial of ``key``, if there is one that can be read."""
        if not self.remember_results:
            return None
        try:
            return TrialResult.from_json(json.loads(self._result_path(key).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None  # never written, or damaged: the trial runs again

    def put(self, key: str, result: TrialResult) -> None:
        """Keep ``result``; the last one wins."""
        if self.remember_results:
            path = self._result_path(key)
            path.parent.mkdir(parents=True, exist_ok=True)
            replace_bytes(path, json.dumps(result.to_json()).encode())

    def results(self) -> Iterator[TrialResult]:
        """Every finished trial that can be read."""
        for path in sorted(self.folder.glob("results/*.json")):
            result = self.get(path.stem)
            if result is not None:
                yield result

    def once(self, kind: str, key: str, make: Callable[[Path], None]) -> Path:
        """The path of ``kind/key``, made by ``make`` if nobody has; see :class:`trainables.trial.Once`.

        ``make`` writes to the path it is given; the file appears under its own name only when it is whole.
        """
        path = self.folder / kind / f"{key}.safetensors"
        claim = path.with_suffix(".claim")
        path.parent.mkdir(parents=True, exist_ok=True)
        while not path.exists():
            if not _claim(claim):
                time.sleep(0.2)
                continue
            try:
                if not path.exists():  # made between our look and our claim
                    with _kept_fresh(claim):
                        part = path.with_suffix(f".{os.getpid()}-{threading.get_ident()}.part")
                        try:
                            make(part)
                            part.replace(path)
                        finally:
                            part.unlink(missing_ok=True)
            finally:
                claim.unlink(missing_ok=True)
        return path


def _claim(path: Path) -> bool:
    try:
        with path.open("x", encoding="utf-8") as out:
            out.write(note())
        return True
    except FileExistsError:
        pass
    try:
        stale = time.time() - path.stat().st_mtime > _STALE_SECONDS or is_gone(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return False
    if stale:  # its maker died; renaming succeeds for one of those who wait
        aside = path.with_suffix(f".{os.getpid()}-{threading.get_ident()}.stale")
        with contextlib.suppress(FileNotFoundError):
            path.rename(aside)
            aside.unlink()
    return False


@contextlib.contextmanager
def _kept_fresh(path: Path) -> Iterator[None]:
    done = threading.Event()

    def touch() -> None:
        while not done.wait(_FRESH_SECONDS):
            with contextlib.suppress(OSError):
                os.utime(path)

    thread = threading.Thread(target=touch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
