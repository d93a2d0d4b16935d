"""What has been measured stays measured: results, fits and baselines by content key, one file each.

``results/<key>.json`` holds a finished trial, written whole by the trial itself to the run's storage; a repeat of the trial
reads it instead of running. ``results/<key>.stopped.json`` holds one that a sweep stopped early: sweeps may share a ledger,
and what one stops, another may have finished.

``fits/`` and ``baselines/`` hold what several trials share, made once however many ask at the same time: the first claims
the key (:mod:`sweeps.storage.claims`), the others wait. Of sweeps that share a ledger, one claims each trial while it runs.

Each file holds a digest of itself. What does not match it, or cannot be read, is as good as not there: it is measured again,
and a warning says so.
"""

from __future__ import annotations

import contextlib
import enum
import itertools
import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from analysis.schema import check_row
from quantizers.errors import InputError
from quantizers.files import is_sealed_json, replacing, sealed_json, unsealed_json
from sweeps.storage import Folder, Storage, join
from sweeps.storage.claims import Claim
from sweeps.storage.layout import RESULTS, claim_name, result_key, result_name, shared_name
from trainables.trial import TrialResult

_LOG = logging.getLogger(__name__)
_LOOK_SECONDS = 0.2
_BATCH = 256  # results in memory at a time; with their curves some MB
_NEEDED = ("quantizer", "config_json", "payload_bytes", "dense_bytes", "fit_key", "table_digest")
_T = TypeVar("_T")


class Turn(enum.StrEnum):
    """Who is to run a trial, of the sweeps on one ledger."""

    OURS = "ours"
    THEIRS = "theirs"  # another sweep runs it now
    DONE = "done"  # another sweep has finished it


class Ledger:
    """Results by content key.

    Args:
        storage: where they are; a folder is made when first written to.
        remember_results: False keeps no results (the shared fits and baselines are still made once).
    """

    def __init__(self, storage: Storage | Path, *, remember_results: bool = True) -> None:
        self.storage = Folder(str(storage)) if isinstance(storage, Path) else storage
        self.remember_results = remember_results
        self._listed: frozenset[str] | None = None
        self._listed_at = 0.0
        self._ahead: dict[str, None] = {}  # asked for by prefetch and not read yet, in order
        self._read: dict[str, TrialResult | None] = {}

    def get(self, key: str) -> TrialResult | None:
        """The trial of ``key``, if there is one that can be read; a finished one before one that was stopped early.

        Once for each key that :meth:`prefetch` was given, this is the answer of that time.
        """
        if not self.remember_results:
            return None
        if key in self._ahead:
            batch = [key, *itertools.islice((other for other in self._ahead if other != key), _BATCH - 1)]
            self._read.update(self._get_many(batch))
            for taken in batch:
                del self._ahead[taken]
        if key in self._read:
            return self._read.pop(key)
        for stopped in (False, True):
            name = result_name(key, stopped=stopped)
            found = self._result(key, name, self.storage.read(name))
            if found is not None:
                return found
        return None

    def _get_many(self, keys: Sequence[str], *, history: bool = False) -> dict[str, TrialResult | None]:
        listed = self.known_keys()
        found: dict[str, TrialResult | None] = dict.fromkeys(keys)
        for stopped in (False, True):
            names = {key: result_name(key, stopped=stopped) for key in keys if key in listed and found[key] is None}
            contents = self.storage.read_many(list(names.values()))
            found.update({key: self._result(key, name, contents[name], history=history) for key, name in names.items()})
        return found

    def _result(self, key: str, name: str, content: bytes | None, *, history: bool = False) -> TrialResult | None:
        if content is None:
            return None
        try:
            data = unsealed_json(content)
            _check(key, data, complete=not history and not is_sealed_json(content))
            return TrialResult.from_json(data)
        except (ValueError, TypeError) as error:
            if not history:
                where = join(self.storage.location, name)
                _LOG.warning("%s: damaged (%s); the trial is measured again.", where, error)
            return None

    def known_keys(self, max_age_seconds: float = 300.0) -> frozenset[str]:
        """The trials that have a result, by one listing; what came within the last ``max_age_seconds`` may be missing."""
        if not self.remember_results:
            return frozenset()
        if self._listed is None or time.monotonic() - self._listed_at > max_age_seconds:
            keys = (result_key(name) for name in self.storage.names(RESULTS))
            self._listed, self._listed_at = frozenset(key for key in keys if key is not None), time.monotonic()
        return self._listed

    def prefetch(self, keys: Iterable[str]) -> None:
        """Have :meth:`get` read the results of ``keys`` side by side, some hundred at a time.

        A trial without a result costs no request. Memory holds one batch, and lets go of each result that is taken. What
        another sweep adds meanwhile may be missed: that trial then runs here too, and still finds the other's fits.
        """
        if self.remember_results:
            self.known_keys()
            self._ahead.update(dict.fromkeys(keys))

    def put(self, key: str, result: TrialResult) -> None:
        """Keep ``result``; the last one wins, but one that was stopped early never takes the place of a finished one."""
        if self.remember_results:
            name = result_name(key, stopped=result.row.get("status") == "stopped")
            self.storage.write(name, sealed_json(result.to_json()))
            self._ahead.pop(key, None)
            self._read.pop(key, None)

    @contextlib.contextmanager
    def turn(self, key: str, wait_seconds: float) -> Iterator[Turn]:
        """Whose turn it is to run trial ``key``; where it is ours it stays so within this context.

        Args:
            key: of the trial.
            wait_seconds: to wait for another sweep that runs it.
        """
        claim, deadline = Claim(self.storage, claim_name(RESULTS, key)), time.monotonic() + wait_seconds
        while not claim.take():
            if time.monotonic() > deadline:
                yield Turn.THEIRS
                return
            time.sleep(_LOOK_SECONDS)
        try:
            if self.storage.exists(result_name(key)):  # else it ended between our look and our claim
                yield Turn.DONE
            else:
                with claim.kept_fresh():
                    yield Turn.OURS
        finally:
            claim.release()

    def forget(self, key: str) -> None:
        """Delete the result of ``key``: the trial runs again when it is wanted."""
        if self.remember_results:
            self.storage.delete(result_name(key))

    def results(self) -> Iterator[TrialResult]:
        """Every result that can be read, one for each trial."""
        keys = sorted(self.known_keys(0.0))
        for batch in (keys[start : start + _BATCH] for start in range(0, len(keys), _BATCH)):
            for result in self._get_many(batch, history=True).values():
                if result is not None:
                    yield result

    def once(self, kind: str, key: str, make: Callable[[Path], None], read: Callable[[Path], _T]) -> _T:
        """What ``read`` makes of the file ``kind/key``, made by ``make`` if nobody has; see :class:`trainables.trial.Once`.

        ``make`` writes to the path it is given; the file appears under its own name only when it is whole.
        """
        name, claim = shared_name(kind, key), Claim(self.storage, claim_name(kind, key))
        made, failures = False, 0
        while True:
            path = self.storage.fetch(name)
            if path is not None:
                try:
                    return read(path)
                except InputError as error:
                    if made:
                        raise
                    _LOG.warning("%s; it is made again.", str(error).rstrip("."))
                # First this node's copy, which may be damaged alone, then what it is a copy of.
                path.unlink(missing_ok=True)
                failures += 1
                if failures > 1:
                    self.storage.delete(name)
            elif claim.take():
                try:
                    if not self.storage.exists(name):  # else made between our look and our claim
                        with claim.kept_fresh():
                            self._make(name, make)
                        made = True
                finally:
                    claim.release()
            else:
                time.sleep(_LOOK_SECONDS)

    def _make(self, name: str, make: Callable[[Path], None]) -> None:
        path = self.storage.local(name)
        with replacing(path) as part:
            make(part)
        self.storage.keep(name)


def _check(key: str, data: Mapping[str, Any], *, complete: bool) -> None:
    """Raises ValueError or TypeError where ``data`` is not the result of trial ``key`` as plain data.

    ``complete`` asks for all that a sweep needs of it: of an entry with a digest that is known.
    """
    row, scores, curves = data["row"] if "row" in data else None, data.get("scores", []), data.get("curves", [])
    check_row(row, "trials")
    for score in scores:
        check_row(score, "scores")
    if not isinstance(row, dict) or row.get("trial_key") != key or not isinstance(row.get("status"), str):
        raise ValueError("it is of another trial")
    if complete and row["status"] == "ok":
        needed = [row.get(name) for name in _NEEDED]
        needed += [score.get(name) for score in scores for name in ("trial_key", "task", "metric", "direction", "value")]
        if (
            None in needed
            or not row.keys() >= {"budget_bytes", "seed", "reason"}
            or min(row["payload_bytes"], row["dense_bytes"]) < 1
        ):
            raise ValueError("it is not complete")
    plain = all(isinstance(curve, dict) for curve in curves) and all(
        value is None or isinstance(value, str | int | float) for curve in curves for value in curve.values()
    )
    seconds = data.get("seconds")
    timed = seconds is None or (isinstance(seconds, int | float) and math.isfinite(seconds))
    if not plain or not timed or not isinstance(data.get("artifact"), str | None):
        raise ValueError("its values are of other types")
