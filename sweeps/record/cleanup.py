"""What a ledger need not keep: entries by age, and entries that no run refers to."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import pyarrow.parquet as pq
from pyarrow import fs

from quantizers.errors import InputError

_KINDS = ("results", "fits", "baselines")
_LEFT_OVER = (".claim", ".part", ".stale")  # of processes that were killed
_LEFT_OVER_AGE = datetime.timedelta(days=1)


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
    store, root = fs.FileSystem.from_uri(ledger) if "://" in ledger else (fs.LocalFileSystem(), str(Path(ledger).absolute()))
    files = [
        info for kind in _KINDS
        for info in store.get_file_info(fs.FileSelector(f"{root}/{kind}", allow_not_found=True)) if info.is_file
    ]  # fmt: skip
    if not files:
        raise InputError(f"{ledger}: no ledger there (a folder with results/, fits/ or baselines/).")
    kept = referred_to(runs)
    now = datetime.datetime.now(datetime.UTC)
    deleted: dict[str, tuple[int, int]] = {}
    for info in files:
        path = PurePosixPath(info.path)
        age = now - info.mtime
        if path.suffix in _LEFT_OVER:
            gone = age > _LEFT_OVER_AGE
        else:
            old = older_than_seconds is None or age.total_seconds() > older_than_seconds
            named = path.parent.name != "baselines" or older_than_seconds is not None
            gone = old and named and path.stem not in kept
        if gone:
            count, size = deleted.get(path.parent.name, (0, 0))
            deleted[path.parent.name] = count + 1, size + info.size
            if not dry_run:
                store.delete_file(info.path)
    return deleted


def referred_to(runs: Sequence[Path]) -> set[str]:
    """Trial and fit keys of the runs in these folders (a run, or a folder of runs).

    Raises:
        InputError: a folder has no run in it, or a run has not ended, so that nobody knows what it refers to.
    """
    keys: set[str] = set()
    for folder in runs:
        found = [path.parent for path in sorted([*folder.glob("sweep.yaml"), *folder.glob("*/sweep.yaml")])]
        if not found:
            raise InputError(f"{folder}: neither a run nor a folder of runs.")
        for run_dir in found:
            if not (run_dir / "trials.parquet").is_file():
                raise InputError(f"{run_dir}: this run has not ended. First: frontier resume {run_dir}")
            table = pq.read_table(run_dir / "trials.parquet", columns=["trial_key", "fit_key"])
            keys.update(key for column in table.columns for key in column.to_pylist() if key is not None)
    return keys
