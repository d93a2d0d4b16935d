"""What is missing of a sweep on MLflow, sent after its end: ``frontier sync``."""

from __future__ import annotations

import collections
import dataclasses
import os
from pathlib import Path
from typing import Any

from analysis import store
from analysis.text import counted
from quantizers.errors import InputError
from sweeps.record.ledger import Ledger
from sweeps.record.status import is_alive, read_status
from sweeps.record.tracking.answers import UnreachableError
from sweeps.record.tracking.files import attachments
from sweeps.record.tracking.runs import AT_ONCE, Runs
from sweeps.spec.config import load_run
from sweeps.storage import mirror, open_storage
from sweeps.storage.layout import FRONTIER_FILE, PLOT_FILE, REPORT_FILE, RUN_FILE, SCORES_FILE, SWEEP_FILE, TRIALS_FILE
from trainables.records import TrialResult

# What the summary run holds.
FILES = (SWEEP_FILE, TRIALS_FILE, SCORES_FILE, FRONTIER_FILE, PLOT_FILE, REPORT_FILE)


@dataclasses.dataclass(frozen=True)
class Sent:
    """What :func:`send_records` did.

    Attributes:
        records: trials and summaries that were sent.
        ended: runs that were left RUNNING, and are ended now.
        refused: why MLflow did not take a record, by trial key.
    """

    records: int
    ended: int
    refused: dict[str, str]


def send_records(run_dir: Path) -> Sent:
    """Send the MLflow records of a run that are missing; a second time sends nothing.

    Curves are taken from the ledger, so that those of a failed trial, or of a sweep without a ledger, are not sent.

    Raises:
        InputError: ``run_dir`` is not a run, is still at work, tracks nothing, or MLflow does not answer.
    """
    config = load_run(run_dir)
    if config.tracking_uri is None:
        raise InputError(f"{run_dir}: this sweep has tracking off.")
    state = read_status(run_dir)
    if state is not None and is_alive(state) and int(state["pid"]) != os.getpid():
        raise InputError(f"{run_dir}: the sweep is still at work, and sends its records itself.")
    rows, run = store.read_trials(run_dir).to_pylist(), store.read_run(run_dir)
    finished_at = run.get("finished_at")
    if finished_at is None:
        raise InputError(f"{run_dir / RUN_FILE}: the run has not ended; continue it with: frontier resume {run_dir}")
    scores: dict[str, list[dict[str, Any]]] = {}
    for score in store.read_scores(run_dir).to_pylist():
        scores.setdefault(score["trial_key"], []).append(score)
    ledger = None if config.ledger_location is None else Ledger(open_storage(config.ledger_location))
    runs = Runs(config.tracking_uri, config.name, run.get("objectives", []), {row["quantizer"] for row in rows})
    sent = 0
    try:
        for first in range(0, len(rows), AT_ONCE):
            results = [_result(row, scores.get(row["trial_key"], []), ledger) for row in rows[first : first + AT_ONCE]]
            sent += runs.send_all(results)
        if any(row["mlflow_run_id"] != runs.run_ids.get(row["trial_key"]) for row in rows):
            for row in rows:
                row["mlflow_run_id"] = runs.run_ids.get(row["trial_key"])
            store.write(run_dir, "trials", rows)
            mirror.push(config)
        files = [run_dir / name for name in FILES if (run_dir / name).is_file()]
        counts = collections.Counter(str(row["status"]) for row in rows)
        metrics = {f"trials.{status}": float(count) for status, count in counts.items()}
        front = attachments(config, rows, store.read_frontier(run_dir))
        sent += runs.summarize(files, metrics, finished_at=finished_at, finished=not run.get("interrupted"), frontier=front)
        ended = runs.end_left()
    except UnreachableError as error:
        raise InputError(f"MLflow at {config.tracking_uri}: {error} ({counted(sent, 'record')} sent before that).") from None
    return Sent(sent, ended, runs.refused)


def _result(row: dict[str, Any], scores: list[dict[str, Any]], ledger: Ledger | None) -> TrialResult:
    result = TrialResult(row, scores)
    known = None if ledger is None or row["status"] == "skipped" else ledger.get(row["trial_key"])
    if known is not None:
        result.curves, result.seconds = known.curves, known.seconds
    return result
