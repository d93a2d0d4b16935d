"""What a ledger need not keep: entries by age, and entries that no run refers to."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from analysis import store
from quantizers.errors import InputError
from quantizers.files import PART_SUFFIX
from sweeps.storage import open_storage
from sweeps.storage.layout import BASELINES, FITS, RESULTS, SWEEP_FILE, result_key

_KINDS = (RESULTS, FITS, BASELINES)
_LEFT_OVER = (".claim", PART_SUFFIX, ".gone", ".stale")  # of processes that were killed
_LEFT_OVER_AGE_SECONDS = 86_400.0


def clean(
    ledger: str, *, older_than_seconds: float | None = None, runs: Sequence[Path] = (), dry_run: bool = False
) -> dict[str, tuple[int, int]]:
    """Delete what is old and not referred to.

    Args:
        ledger: folder or ``s3://`` address.
        older_than_seconds: only what was written longer ago.
        runs: only what none of these runs holds. Baselines, which no run names, are then kept unless an age is given.
        dry_run: count, and delete nothing.

    Returns:
        For each kind, how many entries were deleted, and their bytes.

    Raises:
        InputError: neither an age nor runs, no ledger there, or a run that has not ended.
    """
    if older_than_seconds is None and not runs:
        raise InputError("Say what to delete: --older-than 30d, --unless-in RUNS, or both.")
    storage = open_storage(ledger)
    files = [(kind, entry) for kind in _KINDS for entry in storage.entries(kind)]
    if not files:
        raise InputError(f"{ledger}: no ledger there (a folder with results/, fits/ or baselines/).")
    kept = referred_to(runs)
    now = time.time()
    deleted: dict[str, tuple[int, int]] = {}
    for kind, entry in files:
        name, age = PurePosixPath(entry.name), now - entry.mtime
        if name.suffix in _LEFT_OVER:
            gone = age > _LEFT_OVER_AGE_SECONDS
        else:
            old = older_than_seconds is None or age > older_than_seconds
            named = kind != BASELINES or older_than_seconds is not None
            gone = old and named and (result_key(entry.name) or name.stem) not in kept
        if gone:
            count, size = deleted.get(kind, (0, 0))
            deleted[kind] = count + 1, size + entry.size
            if not dry_run:
                storage.delete(f"{kind}/{entry.name}")
    return deleted


def referred_to(runs: Sequence[Path]) -> set[str]:
    """Trial and fit keys of the runs in these folders (a run, or a folder of runs).

    Raises:
        InputError: a folder has no run in it, or a run has not ended, so that nobody knows what it refers to.
    """
    keys: set[str] = set()
    for folder in runs:
        found = [path.parent for path in sorted([*folder.glob(SWEEP_FILE), *folder.glob("*/sweep.yaml")])]
        if not found:
            raise InputError(f"{folder}: neither a run nor a folder of runs.")
        for run_dir in found:
            if not store.has_ended(run_dir):
                raise InputError(f"{run_dir}: this run has not ended. First: frontier resume {run_dir}")
            table = store.read_trials(run_dir).select(["trial_key", "fit_key"])
            keys.update(key for column in table.columns for key in column.to_pylist() if key is not None)
    return keys
