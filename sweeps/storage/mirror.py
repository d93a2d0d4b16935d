"""Runs on ``s3://``: the driver works on a copy of the run's folder and sends its files there.

The copy holds what a person looks at (tables, report, state); compressed files and the ledger go straight to the bucket.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from quantizers.errors import InputError
from quantizers.files import write_bytes
from sweeps.storage import is_remote, join, open_storage
from sweeps.storage.layout import (
    FRONTIER_FILE,
    PLOT_FILE,
    REPORT_FILE,
    RUN_FILE,
    SCORES_FILE,
    STATUS_FILE,
    SWEEP_FILE,
    TRIALS_FILE,
    artifact_name,
)

if TYPE_CHECKING:
    from sweeps.spec.config import SweepConfig

FILES = (  # in this order they are sent, and in the other fetched, so that what one names is in those before it
    SWEEP_FILE,
    RUN_FILE,
    SCORES_FILE,
    TRIALS_FILE,
    FRONTIER_FILE,
    REPORT_FILE,
    PLOT_FILE,
    STATUS_FILE,  # last: it says "finished" when the others are there
)


def copy_of(location: str) -> Path:
    """The folder on this machine that stands for the run at ``location`` (``s3://...``)."""
    path = location.partition("?")[0].rstrip("/")
    digest = hashlib.blake2b(location.encode(), digest_size=6).hexdigest()
    return Path.home() / ".cache" / "embedding-frontier" / "runs" / digest / path.rpartition("/")[2]


def pull(location: str, names: Sequence[str] = FILES) -> Path:
    """Bring this machine's copy of a run up to date, or those files of it; returns the copy."""
    storage, folder = open_storage(location), copy_of(location)
    folder.mkdir(parents=True, exist_ok=True)
    for name in reversed(names):
        content = storage.read(name)
        if content is None:
            (folder / name).unlink(missing_ok=True)
        else:
            write_bytes(folder / name, content)
    return folder


def push(config: SweepConfig, names: Sequence[str] = FILES) -> None:
    """Send the files of a run, or some of them, to where it is kept."""
    if is_remote(config.run_location):
        storage, contents = open_storage(config.run_location), {}
        for name in names:  # all are read first: sending takes long enough for the next snapshot
            with contextlib.suppress(FileNotFoundError):
                contents[name] = (config.run_dir / name).read_bytes()
        for name, content in contents.items():
            storage.write(name, content)


def run_folder(text: str) -> Path:
    """The folder of a run that a person named: a path, or a fresh copy of a run on ``s3://``.

    Raises:
        InputError: there is no run at that ``s3://`` address.
    """
    if not is_remote(text):
        return Path(text)
    folder = pull(text)
    if not (folder / SWEEP_FILE).is_file():
        raise InputError(f"{text}: not a run (it has no sweep.yaml).")
    return folder


def origin(run_dir: Path) -> str | None:
    """Where the run in ``run_dir`` is kept, if ``run_dir`` is a copy of one on ``s3://``."""
    try:
        sweep = yaml.safe_load((run_dir / SWEEP_FILE).read_text(encoding="utf-8"))
        location = join(str(sweep["output"]), str(sweep["name"]))
    except (OSError, ValueError, LookupError, TypeError, RecursionError, yaml.YAMLError):
        return None
    return location if is_remote(location) and copy_of(location) == run_dir.absolute() else None


def artifact(run_dir: Path, key: str, role: str | None = None) -> Path:
    """The compressed file of trial ``key`` (of a further role's table), fetched from ``s3://``. It need not be there."""
    name = artifact_name(key, role)
    location = origin(run_dir)
    return (open_storage(location).fetch(name) if location else None) or run_dir / name
