"""The MLflow database of an output folder: there whole, or not at all.

MLflow makes a new database by many migrations, each written by itself. A driver that is killed meanwhile, or two that begin
at once, leave one that no later sweep can use. Here it is made in a file beside it, under a lock, and renamed.
"""

from __future__ import annotations

import contextlib
import datetime
import logging
import os
import sqlite3
from pathlib import Path

from filelock import FileLock
from mlflow.tracking import MlflowClient

from sweeps.record.tracking.mlflow_internals import last_migration

ARTIFACTS = "mlartifacts"  # folder beside the database, with the files of its runs
_LOG = logging.getLogger(__name__)
_LOCK_SECONDS = 120.0
_NEEDED = frozenset({"alembic_version", "experiments", "runs"})  # what every database of MLflow's has
_LAST = "SELECT version_num FROM alembic_version"
_ANY_RUN = "SELECT 1 FROM runs LIMIT 1"


def provide(database: Path) -> None:
    """Have an MLflow database at ``database``. One that is none is set aside, with a warning.

    Raises:
        OSError: the folder cannot be written to.
        filelock.Timeout: another process has been making it for two minutes.
    """
    database.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(database.with_name(f".{database.name}.lock"), timeout=_LOCK_SECONDS):
        if database.exists():
            if _is_whole(database):
                return
            _set_aside(database)
        part = database.with_name(f".{database.name}.part")
        part.unlink(missing_ok=True)  # of a driver that was killed
        _make(part)
        os.replace(part, database)


def _make(part: Path) -> None:
    MlflowClient(f"sqlite:///{part}").search_experiments(max_results=1)


def _is_whole(database: Path) -> bool:
    """Whether SQLite can read it and it has MLflow's tables; one that is locked by its user is.

    It is opened for writing, so that SQLite takes back what a killed process had half written: to a reader alone such a
    database is an error.

    One whose migrations did not all run may be of an older MLflow, which its user upgrades: it is broken if it has no run.
    """
    try:
        with contextlib.closing(sqlite3.connect(f"{database.absolute().as_uri()}?mode=rw", uri=True)) as connection:
            names = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            if not names >= _NEEDED:
                return False
            complete = connection.execute(_LAST).fetchall() == [(last_migration(),)]
            return complete or connection.execute(_ANY_RUN).fetchone() is not None
    except sqlite3.OperationalError as error:
        return "locked" in str(error) or "busy" in str(error)
    except sqlite3.DatabaseError:
        return False


def _set_aside(database: Path) -> None:
    kept = database.with_name(f"{database.name}.broken-{datetime.datetime.now(datetime.UTC):%Y%m%dT%H%M%S}")
    os.replace(database, kept)
    _LOG.warning(
        "%s: not a whole MLflow database; it is kept as %s, and a new one is made. Send the records of earlier runs again "
        "with: frontier sync RUN_DIR",
        database,
        kept.name,
    )
