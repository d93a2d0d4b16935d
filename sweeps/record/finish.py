"""The end of a sweep: every trial a row, the frontier, the plot, the report, the summary run."""

from __future__ import annotations

import collections
import contextlib
import datetime
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from analysis import store
from analysis.pareto import build_frontier
from analysis.report.page import write_report
from analysis.schema import UNFINISHED
from sweeps.record import checkpoints
from sweeps.record.artifacts import fetch_copy
from sweeps.record.snapshot import facts, gather, trial_seconds
from sweeps.spec.prepare import Prepared
from sweeps.storage import Storage, open_storage
from sweeps.storage.layout import ARTIFACTS, PLOT_FILE, REPORT_FILE, SWEEP_FILE, artifact_names
from trainables.trial import TrialResult

if TYPE_CHECKING:
    from sweeps.record.tracking.tracker import Tracker


def finish(
    prepared: Prepared,
    results: Mapping[str, TrialResult],
    tracker: Tracker | None,
    *,
    started: datetime.datetime,
    command: str | None,
    stop_reason: str | None,
    planned: int,
) -> tuple[dict[str, int], tuple[str, ...]]:
    """Write the run directory's files from what there is.

    ``stop_reason`` says why not all trials ran, if so; ``planned`` is how many there would have been.

    Returns:
        Trials by status, and the keys of those whose compressed file is gone although the sweep keeps it.
    """
    from analysis.report.plots import frontier_png  # Matplotlib is slow to import, and trials need not wait for it

    pa.set_memory_pool(pa.system_memory_pool())  # Arrow's own keeps what it has freed, some 8 kB a trial
    config, run_dir = prepared.config, prepared.config.run_dir
    interrupted = stop_reason in UNFINISHED
    not_run = stop_reason or "the sweep ended before it ran"
    rows, scores = gather(prepared, prepared.plan, results, not_run)
    if tracker is not None:
        for row in rows:
            # Where a person has stopped the sweep, what did not run is still to come; `frontier sync` sends it as it stands.
            if row["trial_key"] not in results and not (interrupted and row["status"] == "stopped"):
                tracker.log(TrialResult(row))
        tracker.close()
        run_ids = tracker.run_ids
        for row in rows:
            row["mlflow_run_id"] = run_ids.get(row["trial_key"])
    finished = datetime.datetime.now(datetime.UTC).isoformat()
    run = {
        **facts(prepared, started=started, command=command),
        "trial_seconds": trial_seconds(results),
        "finished_at": finished,
        "interrupted": interrupted,
        "stop_reason": stop_reason,
        "planned": planned,
    }
    store.write_run(run_dir, run)
    trials_path = store.write(run_dir, "trials", rows)
    scores_path = store.write(run_dir, "scores", scores)
    frontier = build_frontier(store.read_trials(run_dir), store.read_scores(run_dir), run)
    frontier_path = store.write(run_dir, "frontier", frontier)
    lost = _settle_artifacts(prepared, rows, frontier, results)
    plot = frontier_png(run_dir, run_dir / PLOT_FILE)
    report = write_report([run_dir], run_dir / REPORT_FILE)
    if not interrupted:  # else a lost trial still has its second chance
        checkpoints.delete_all(open_storage(config.run_location))
        with contextlib.suppress(OSError):
            (run_dir / checkpoints.FOLDER).rmdir()
    counts = collections.Counter(str(row["status"]) for row in rows)
    if tracker is not None:
        files = [run_dir / SWEEP_FILE, trials_path, scores_path, frontier_path, plot, report]
        metrics = {f"trials.{status}": count for status, count in counts.items()}
        from sweeps.record.tracking.files import attachments  # MLflow is slow to import

        front = attachments(config, rows, frontier)
        tracker.summarize(files, metrics, finished_at=finished, finished=not interrupted, frontier=front)
    return dict(counts), lost


def _settle_artifacts(
    prepared: Prepared, rows: list[dict[str, Any]], frontier: Any, results: Mapping[str, TrialResult]
) -> tuple[str, ...]:
    """Delete the compressed files that the sweep does not keep; copy those of the frontier that another sweep made.

    Returns:
        The keys of trials whose file should be there, and is not.
    """
    keep = prepared.config.keep_artifacts
    storage = open_storage(prepared.config.run_location)
    # What a limit on the size rules out is infeasible without having run.
    measured = [row for row in rows if row["status"] in ("ok", "infeasible") and row.get("payload_bytes") is not None]
    if keep == "all":
        return _lost(storage, measured)
    on_front: set[tuple[str, str]] = set()
    if keep == "frontier":
        columns = frontier.select(["quantizer", "config_json", "on_frontier"]).to_pylist()
        on_front = {(row["quantizer"], row["config_json"]) for row in columns if row["on_frontier"]}
    for row in rows:
        if (row["quantizer"], row["config_json"]) not in on_front:
            for name in artifact_names(row):
                storage.delete(name)
        elif (known := results.get(row["trial_key"])) is not None and row["reused"]:
            fetch_copy(known, row["trial_key"], prepared.config)
    # A file of an earlier run may have been deleted because its trial was not on the frontier then.
    kept = [row for row in measured if (row["quantizer"], row["config_json"]) in on_front and not row["reused"]]
    return _lost(storage, kept)


def _lost(storage: Storage, rows: list[dict[str, Any]]) -> tuple[str, ...]:
    """The keys of rows whose compressed files are not all in the run's folder."""
    there = {f"{ARTIFACTS}/{name}" for name in (storage.names(ARTIFACTS) if rows else ())}
    return tuple(row["trial_key"] for row in rows if not there.issuperset(artifact_names(row)))
