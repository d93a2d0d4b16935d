"""What a run's files hold of its trials, and snapshots of them while the sweep is under way.

A snapshot is the same four files as at the end (``run.json``, ``scores.parquet``, ``trials.parquet``, ``frontier.parquet``),
of the trials that have ended; ``run.json`` then has no time at which the run ended. They are written in this order, and
readers take them in the other: so what one file names is in the next, also where they read between two writes, or where the
driver was killed there.
"""

from __future__ import annotations

import datetime
import logging
import os
import platform
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

from analysis import store
from analysis.pareto import build_frontier
from analysis.schema import SCHEMA_VERSION, SCORES, TRIALS, to_table
from quantizers.errors import InputError
from sweeps.record.intake import Observer
from sweeps.spec.plan import Plan
from sweeps.spec.prepare import Prepared
from sweeps.storage import mirror
from sweeps.storage.layout import FRONTIER_FILE, RUN_FILE, SCORES_FILE, STATUS_FILE, SWEEP_FILE, TRIALS_FILE
from trainables.provenance import versions
from trainables.trial import TrialResult, blank_row

FILES = (RUN_FILE, SCORES_FILE, TRIALS_FILE, FRONTIER_FILE)  # in the order in which they are written
_LOG = logging.getLogger(__name__)
_LEAST_SECONDS = 10.0  # between two snapshots
_SHARE = 0.01  # of the run's time that all its snapshots together take
_SHORT_SECONDS = 2.0  # who stops a sweep at once waits no longer for the last one

Rows = list[dict[str, Any]]


def gather(prepared: Prepared, plan: Plan, results: Mapping[str, TrialResult], not_run: str | None) -> tuple[Rows, Rows]:
    """The rows of ``trials.parquet`` and ``scores.parquet``.

    Args:
        prepared: the sweep.
        plan: its trials, and those that are not run.
        results: what came of trials, by key.
        not_run: the reason in the row of a trial that has no result; None: it gets no row.
    """
    shape = (prepared.table.name, *prepared.table.shape)
    rows: Rows = []
    scores: Rows = []
    for spec in plan.trials:
        key = spec.key
        result = results.get(key)
        if result is not None:
            rows.append(result.row)
            scores.extend(result.scores)
        elif not_run is not None:
            rows.append(blank_row(spec, shape, status="stopped", reason=not_run))
        else:
            continue
        rows[-1]["predicted_payload_bytes"] = plan.predicted_bytes[key]
        rows[-1].setdefault("dense_bytes", plan.space.dense_bytes)
    for row in plan.skipped:
        table: dict[str, Any] = {
            "table": shape[0],
            "table_digest": prepared.table.digest,
            "task_scope": plan.trials[0].task_scope,
        }
        table |= {"num_embeddings": shape[1], "embedding_dim": shape[2], "dense_bytes": plan.space.dense_bytes}
        rows.append({**row, **table})
    for row in rows:
        row["sweep"], row["schema_version"] = prepared.config.name, SCHEMA_VERSION
        if isinstance(row.get("started_at"), str):
            row["started_at"] = datetime.datetime.fromisoformat(row["started_at"])
    return rows, scores


def facts(prepared: Prepared, *, started: datetime.datetime, command: str | None) -> dict[str, Any]:
    """What ``run.json`` says from the beginning of a run to its end."""
    table = prepared.table
    return {
        "name": prepared.config.name,
        "command": command or f"frontier run {prepared.config.run_dir / SWEEP_FILE}",
        "started_at": started.isoformat(),
        "table": {
            "name": table.name,
            "digest": table.digest,
            "num_embeddings": table.shape[0],
            "embedding_dim": table.shape[1],
            "eigenvalues": prepared.stats.eigenvalues.tolist(),
        },
        "machine": machine(),
        "versions": versions(),
        "metrics": prepared.directions,
        "objectives": list(prepared.objectives),
    }


def trial_seconds(results: Mapping[str, TrialResult]) -> float:
    """What trials took, one after the other."""
    return sum(result.seconds or 0.0 for result in results.values())


class Snapshots(Observer):
    """Writes a run's files while its trials run: after the first that ends, and then as often as it may.

    That is no more than every 10 s, and no more than 1 % of the time that the trials have run for: what a snapshot takes
    grows with the trials, and how often there is one falls with it. A file that cannot be written is told once; the run's
    end writes all of them again.

    Files of an earlier run of the same sweep stay until every trial that they hold has its result here again: without a
    ledger all trials run anew, and a kill must not take from what there was.

    As a context manager it writes a last one where a person ends the sweep at once, or an error does.

    Args:
        prepared: the sweep.
        results: gives what came of trials so far, by key.
        plan: gives the plan as it is now; a search adds to it.
        total: how many trials there will be.
        started, command: of the run.
        clock: in seconds.
    """

    def __init__(
        self,
        prepared: Prepared,
        results: Callable[[], Mapping[str, TrialResult]],
        plan: Callable[[], Plan],
        total: int,
        *,
        started: datetime.datetime,
        command: str | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._prepared, self._results, self._plan, self._clock = prepared, results, plan, clock
        self._facts = facts(prepared, started=started, command=command)
        self._facts |= {"finished_at": None, "interrupted": False, "stop_reason": None, "planned": total}
        self._began, self._next = clock(), -float("inf")
        self._new, self._spent, self._last = False, 0.0, 0.0
        self._earlier: frozenset[str] | None = None
        self._told = False
        self._number = self._sent = 0

    def __enter__(self) -> Snapshots:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is not None and not issubclass(kind, InputError) and self._new and self._last < _SHORT_SECONDS:
            self._write()

    def ended(self, result: TrialResult) -> None:
        """There is something to write."""
        self._new = True

    def tick(self) -> None:
        """Write a snapshot, if it is time for one."""
        if self._new and self._clock() >= self._next:
            self._write()

    def send(self) -> None:
        """Send ``status.json`` to where the run is kept, and a snapshot that is not there yet; from another thread."""
        number = self._number
        mirror.push(self._prepared.config, [*(FILES if number != self._sent else ()), STATUS_FILE])
        self._sent = number

    def _write(self) -> None:
        began = self._clock()
        results, plan = self._results(), self._plan()
        if self._earlier is None:
            self._earlier = _measured(self._prepared.config.run_dir) & {spec.key for spec in plan.trials}
        if self._earlier <= results.keys():
            try:
                self._write_files(plan, results)
                self._number += 1
            except InputError as error:
                if not self._told and self._prepared.config.run_dir.is_dir():
                    _LOG.warning("%s The sweep goes on; its end writes the file again.", error)
                    self._told = True
        self._new = False
        self._last = self._clock() - began
        self._spent += self._last
        self._next = max(began + self._last + _LEAST_SECONDS, self._began + self._spent / _SHARE)

    def _write_files(self, plan: Plan, results: Mapping[str, TrialResult]) -> None:
        run_dir = self._prepared.config.run_dir
        rows, scores = gather(self._prepared, plan, results, None)
        run = {**self._facts, "trial_seconds": trial_seconds(results)}
        trials, measured = to_table(rows, TRIALS), to_table(scores, SCORES)
        store.write_run(run_dir, run)
        store.write(run_dir, "scores", measured)
        store.write(run_dir, "trials", trials)
        store.write(run_dir, "frontier", build_frontier(trials, measured, run))


def _measured(run_dir: Path) -> frozenset[str]:
    """The trials that the files of an earlier run hold with sizes; none where there are no such files."""
    try:
        columns = store.read_trials(run_dir).select(["trial_key", "payload_bytes"]).to_pylist()
    except InputError:
        return frozenset()
    return frozenset(row["trial_key"] for row in columns if row["payload_bytes"] is not None)


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def machine() -> dict[str, Any]:
    """What the numbers were measured on."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        names = [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
        cpu = names[0] if names else cpu
    return {
        "cpu": cpu,
        "cores": cores(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "gpus": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())],
        "platform": platform.platform(),
    }
