"""A run's folder: which sweep it holds, and who works on it.

One driver works on a run at a time. It holds a claim (``driver.claim``) on the run's storage from before it reads or writes
anything there until it ends.
"""

from __future__ import annotations

import contextlib
import shlex
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml

from analysis.store import read_run
from quantizers.errors import InputError
from quantizers.files import PART_SUFFIX
from sweeps.record.intake import Observer
from sweeps.record.status import is_alive, read_status
from sweeps.spec.config import SweepConfig
from sweeps.spec.sweep_file import as_run
from sweeps.storage import claims, is_remote, mirror, open_storage
from sweeps.storage.claims import Claim, Holder
from sweeps.storage.layout import ARTIFACTS, BASELINES, DRIVER_CLAIM, FITS, RAY, SHARED, STATUS_FILE, SWEEP_FILE, TUNE
from trainables.records import TrialResult

VANISHED = "the run's folder vanished while the sweep was at work"
_FIXED = ("name", "table", "rows", "weights", "metric", "regime", "retrain", "vocabulary")
_GROWING = ("quantizers", "seeds", "tasks")
_LOOK_SECONDS = 0.2
_SETTLE_SECONDS = 0.5


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def check_run_dir(config: SweepConfig) -> None:
    """Refuse a run directory that holds another sweep.

    The same sweep resumes; so does one that only adds quantizers, budgets, seeds or tasks.

    Raises:
        InputError: the folder is a file, holds another sweep, or holds something else.
    """
    folder = config.run_dir
    file = folder / SWEEP_FILE
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: a file is where the run's folder should be.")
    was = as_run(folder)  # the file itself may have been edited since, or be gone
    if not file.is_file() and was is None:
        if folder.is_dir() and any(path.name != DRIVER_CLAIM for path in folder.iterdir()):
            raise InputError(f"{folder}: not empty, and not a run of this program. Choose another --out or name.")
        return
    try:
        was = was if was is not None else yaml.safe_load(file.read_text(encoding="utf-8"))
        old = SweepConfig.model_validate(was).model_dump(mode="json")
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        raise InputError(f"{file}: damaged, or of another version. Choose another --out or name.") from None
    new = config.model_dump(mode="json")
    differs = [key for key in _FIXED if old[key] != new[key]]
    differs += [key for key in _GROWING if new[key] != "all" and not all(item in new[key] for item in _list(old[key]))]
    for kind, values in (old["budgets"] or {}).items():
        kept = (new["budgets"] or {}).get(kind, [])
        differs += [f"budgets.{kind}"] if not all(value in kept for value in values) else []
    if differs:
        raise InputError(
            f"{folder}: holds another sweep (different: {', '.join(differs)}). Choose another --out or name, or delete it."
        )


def check_table(run_dir: Path, digest: str, *, accept: bool = False) -> None:
    """Refuse a table that is not the one that the run in ``run_dir`` began with, unless that is accepted.

    Args:
        run_dir: the run's folder.
        digest: of the table as it is now.
        accept: a changed table is what is wanted: all trials then run again.

    Raises:
        InputError: the table has changed.
    """
    began = (read_status(run_dir) or {}).get("table_digest")
    if began is None:
        with contextlib.suppress(InputError):  # no run yet, or a damaged file: then nobody knows
            began = (read_run(run_dir).get("table") or {}).get("digest")
    if began not in (None, digest) and not accept:
        raise InputError(
            f"{run_dir}: the table has changed since the run began (digest {began} then, {digest} now). "
            "Choose another --out or name; or run all trials again under this name with --accept-changed-table."
        )


class FolderWatch(Observer):
    """Ends a sweep whose run's folder has vanished; what runs goes on to its end, so that its records are kept.

    Args:
        run_dir: the run's folder.
        stop: ends the sweep, with a reason.
    """

    def __init__(self, run_dir: Path, stop: Callable[[str], None]) -> None:
        self._file, self._stop = run_dir / SWEEP_FILE, stop

    def ended(self, result: TrialResult) -> None:
        """A trial has ended."""
        if not self._file.is_file():
            self._stop(VANISHED)


def delete_working_files(config: SweepConfig, *, keep_shared: bool) -> None:
    """Delete what is only for a sweep that runs, or was left by killed workers.

    That is Tune's folder, the shared fits of a sweep without a ledger, and files that were not finished.

    Args:
        config: the sweep.
        keep_shared: keep the fits, for a resumed run.
    """
    storage = open_storage(config.run_location)
    shared = f"{RAY}/{SHARED}"
    if not keep_shared:
        for kind in (FITS, BASELINES):
            for name in storage.names(f"{shared}/{kind}"):
                storage.delete(f"{shared}/{kind}/{name}")
    for parts in (config.run_dir, config.run_dir / ARTIFACTS):
        for part in parts.glob(f".*{PART_SUFFIX}"):
            part.unlink(missing_ok=True)
    folder = config.run_dir / RAY
    shutil.rmtree(folder / TUNE, ignore_errors=True)
    for left in (*(folder / SHARED / kind for kind in (FITS, BASELINES)), folder / SHARED, folder):
        with contextlib.suppress(OSError):  # not empty, or not there
            left.rmdir()


@contextlib.contextmanager
def owned(config: SweepConfig, say: Callable[[str], None]) -> Iterator[None]:
    """Within this, the run is this driver's alone.

    A claim whose holder is gone is taken over. Where the holder is on another machine, and nobody knows whether it is
    there, the claim is watched for a minute: a driver that is at work touches it.

    Args:
        config: the sweep whose run it is.
        say: tells a person that this waits.

    Raises:
        InputError: another driver works on the run, or its folder cannot be made; nothing was written.
    """
    location = config.run_location
    made: list[Path] = []
    if not is_remote(location):  # the run's own folder even where it is there: another driver may have made it just now
        made = [config.run_dir, *(path for path in config.run_dir.parents if not path.exists())]
    claim = Claim(open_storage(location), DRIVER_CLAIM)
    try:
        _take(claim, location, say)
        with claim.kept_fresh():
            yield
    finally:
        with contextlib.suppress(Exception):  # it goes stale by itself
            claim.release()
        with contextlib.suppress(OSError):  # the first that is not empty
            for folder in made:
                folder.rmdir()


def _take(claim: Claim, location: str, say: Callable[[str], None]) -> None:
    """Take the claim on a run, or refuse."""
    waits = False
    while True:
        try:
            taken = claim.take()
        except OSError as error:
            raise InputError(f"{location}: cannot be made: {error.strerror or error}.") from error
        if taken:
            if waits:  # others may have waited as long
                time.sleep(_SETTLE_SECONDS)
            if not waits or claim.ours:
                return
            continue
        holder = claim.holder()
        if holder is not None and (holder.known_alive or claim.moved):
            raise _refusal(location, holder)
        if holder is not None and not waits and not holder.gone:
            waits = True
            say(
                f"{location}: a driver ({holder}) may still be at work; waiting up to "
                f"{claims.STALE_SECONDS:.0f} s to see whether it is."
            )
        time.sleep(_LOOK_SECONDS)


def _refusal(location: str, holder: Holder) -> InputError:
    return InputError(f"{location}: the sweep is still at work ({holder}); see: frontier status {shlex.quote(location)}")


def open_run(text: str) -> Path:
    """The folder of a run that a person named: a path, or a copy of a run on ``s3://``.

    The copy is brought up to date, except where a driver of this machine works on it: then nothing is newer.

    Raises:
        InputError: there is no run at that ``s3://`` address.
    """
    if is_remote(text) and _driven_here(text):
        return mirror.copy_of(text)
    return mirror.run_folder(text)


def latest_status(run_dir: Path) -> dict[str, Any] | None:
    """The state that the sweep in ``run_dir`` last wrote, or sent to where the run is kept; None where there is none."""
    location = mirror.origin(run_dir)
    if location is not None and not _driven_here(location):
        mirror.pull(location, [STATUS_FILE])
    return read_status(run_dir)


def course_of(run_dir: Path) -> str | None:
    """How the run in ``run_dir`` goes: "running", "stopped" or "killed"; None: it has ended, or nobody knows."""
    state = read_status(run_dir)
    if state is None or state["phase"] == "finished":
        return None
    if state["phase"] == "interrupted":
        return "stopped"
    return "running" if is_alive(state) else "killed"


def _driven_here(location: str) -> bool:
    """Whether a driver of this machine works on its copy of the run at ``location`` (``s3://...``)."""
    if not (mirror.copy_of(location) / SWEEP_FILE).is_file():
        return False
    holder = Claim(open_storage(location), DRIVER_CLAIM).holder()
    return holder is not None and holder.known_alive
