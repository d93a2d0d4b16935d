"""MLflow records: one flat run for each trial, one summary run for each sweep.

Ray's own MLflow callback makes a request for each metric and, after a restart, runs that double or never end. Here a run
is found again by its tags (``sweep``, ``trial_key``), a trial is one ``log_batch``, and a thread does the talking so that
no trial waits for the server.
"""

from __future__ import annotations

import datetime
import json
import logging
import math
import os
import queue
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")  # a dead server must not hold up a sweep for minutes
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException

from quantizers.errors import InputError
from sweeps.record.intake import Observer
from trainables.trial import TrialResult

_MEASURES = (
    "payload_bytes",
    "predicted_payload_bytes",
    "file_bytes",
    "code_bytes",
    "codebook_bytes",
    "side_bytes",
    "compression_ratio",
    "bits_per_value",
    "fit_seconds",
    "encode_seconds",
    "decode_rows_per_second",
    "peak_memory_bytes",
)
_MAX_PARAM = 6000

_ENDS = {"ok": "FINISHED", "infeasible": "FINISHED", "stopped": "KILLED"}  # MLflow's words for how a run ended


class Tracker(Observer):
    """Sends a sweep's records to MLflow from a thread of its own.

    Args:
        uri: of the tracking server or database.
        sweep: name of the sweep, and of the MLflow experiment.
        objectives: what the runs page shows beside the sizes.

    Attributes:
        run_ids: MLflow run of each trial key that is recorded.
        problem: why records could not be sent, or None.
    """

    def __init__(self, uri: str, sweep: str, objectives: Sequence[str]) -> None:
        self.uri = uri
        self.sweep = sweep
        self._objectives = tuple(objectives)
        self.run_ids: dict[str, str] = {}
        self.problem: str | None = None
        self._unfinished: set[str] = set()  # recorded in part by a driver that was killed
        self._queue: queue.Queue[TrialResult | None] = queue.Queue()
        self._thread = threading.Thread(target=self._work, daemon=True, name="mlflow")
        self._thread.start()

    def ended(self, result: TrialResult) -> None:
        """See :class:`~sweeps.record.intake.Observer`."""
        self.log(result)

    def log(self, result: TrialResult) -> None:
        """Record a finished trial, some time soon."""
        self._queue.put(result)

    def close(self) -> None:
        """Wait until everything is sent, or until sending has failed."""
        self._queue.put(None)
        self._thread.join()

    def _work(self) -> None:
        try:
            self._connect()
        except Exception as error:
            self.problem = " ".join(str(error).split())[:300]
        while (result := self._queue.get()) is not None:
            if self.problem is None:
                try:
                    self._send(result)
                except Exception as error:
                    self.problem = " ".join(str(error).split())[:300]

    def _connect(self) -> None:
        logging.getLogger("mlflow").setLevel(logging.ERROR)
        logging.getLogger("alembic").setLevel(logging.ERROR)
        location = None
        if self.uri.startswith("sqlite:///"):
            database = Path(self.uri.removeprefix("sqlite:///"))
            database.parent.mkdir(parents=True, exist_ok=True)
            location = (database.parent / "mlartifacts" / self.sweep).absolute().as_uri()
        self._client = MlflowClient(self.uri)
        experiment = self._client.get_experiment_by_name(self.sweep)
        if experiment is None:
            self._experiment = self._client.create_experiment(self.sweep, artifact_location=location)
        else:
            if experiment.lifecycle_stage == "deleted":
                self._client.restore_experiment(experiment.experiment_id)
            self._experiment = experiment.experiment_id
        self._client.set_experiment_tag(self._experiment, f"mlflow.sharedViewState.{VIEW}", _view(self._objectives))
        token = None
        while True:
            page = self._client.search_runs(
                [self._experiment], f"tags.sweep = '{self.sweep}'", max_results=5000, page_token=token
            )
            for run in page:
                key = run.data.tags.get("trial_key", "summary")
                self.run_ids[key] = run.info.run_id
                if run.info.status == "RUNNING":
                    self._unfinished.add(key)
            token = page.token
            if not token:
                return

    def _send(self, result: TrialResult) -> None:
        row = result.row
        key = str(row["trial_key"])
        if key in self.run_ids and row.get("reused") and key not in self._unfinished:
            return  # recorded when it ran
        name = f"{row['quantizer']}-{_size(row)}-s{row['seed']}"
        run_id = self._run(key, name, {"role": "trial", "trial_key": key}, int(1000 * _timestamp(row)))
        now = int(time.time() * 1000)
        metrics = [Metric(name, float(row[name]), now, 0) for name in _MEASURES if _finite(row.get(name))]
        for score in result.scores:
            if _finite(score["value"]):
                metrics.append(Metric(f"{score['task']}.{score['metric']}", float(score["value"]), now, 0))
        for step, report in enumerate(result.curves):
            for name, value in report.items():
                if name not in ("phase", "fraction") and _finite(value):
                    metrics.append(Metric(f"fit.{name}", float(value), now, step))

        config: Mapping[str, Any] = json.loads(row["config_json"] or "{}")
        values = {name: row.get(name) for name in ("quantizer", "seed", "regime", "weights", "budget_bytes", "table")}
        values.update({f"config.{name}": value for name, value in config.items()})
        params = [Param(name, str(value)[:_MAX_PARAM]) for name, value in values.items() if value is not None]
        tags = [RunTag("status", str(row["status"])), RunTag("reason", str(row.get("reason") or ""))]
        self._client.log_batch(run_id, metrics[:1000], params[:100], tags)
        for start in range(1000, len(metrics), 1000):
            self._client.log_batch(run_id, metrics[start : start + 1000])
        end = None if result.seconds is None else int(1000 * (_timestamp(row) + result.seconds))
        self._client.set_terminated(run_id, _ENDS.get(row["status"], "FAILED"), end)

    def _run(self, key: str, name: str, tags: Mapping[str, str], start_time: int | None = None) -> str:
        if key not in self.run_ids:
            tags = {"sweep": self.sweep, "mlflow.source.name": "frontier", **tags}
            run = self._client.create_run(self._experiment, start_time, tags, name)
            self.run_ids[key] = run.info.run_id
        return self.run_ids[key]

    def summarize(self, files: list[Path], metrics: Mapping[str, float], *, finished: bool) -> None:
        """After :meth:`close`: one run that holds the sweep's tables, plot and report."""
        if self.problem is not None:
            return
        try:
            run_id = self._run("summary", f"{self.sweep} summary", {"role": "summary"})
            now = int(time.time() * 1000)
            self._client.log_batch(run_id, [Metric(name, value, now, 0) for name, value in metrics.items()])
            for file in files:
                self._client.log_artifact(run_id, str(file))
            self._client.set_terminated(run_id, "FINISHED" if finished else "KILLED")
        except Exception as error:
            self.problem = " ".join(str(error).split())[:300]


VIEW = "frontier"  # name of the saved view, as it stands in the page's address


def _view(objectives: Sequence[str]) -> str:
    """State of MLflow's runs page: trials by size, their sizes and metrics as columns, and a chart for each metric.

    Without it the page shows names and times only, and the reader has to pick columns and charts by hand.
    """
    metrics = [name for name in objectives if name != "payload_bytes"]
    columns = ["params.`quantizer`", "params.`seed`", "metrics.`payload_bytes`", "metrics.`compression_ratio`"]
    charts = [
        {
            "uuid": f"frontier-{number}",
            "type": "SCATTER",
            "metricSectionId": "frontier",
            "deleted": False,
            "isGenerated": False,
            "runsCountToCompare": 1000,
            "xaxis": {"key": "payload_bytes", "type": "METRIC"},
            "yaxis": {"key": name, "type": "METRIC"},
        }
        for number, name in enumerate(metrics)
    ]
    state = {
        "searchFilter": "tags.role = 'trial'",
        "orderByKey": "metrics.`payload_bytes`",
        "orderByAsc": True,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
        "selectedColumns": columns + [f"metrics.`{name}`" for name in metrics],
        "runsHidden": [],
        "runsHiddenMode": "SHOWALL",
        "runsPinned": [],
        "runsExpanded": {},
        "viewMaximized": False,
        "runListHidden": False,
        "isAccordionReordered": False,
        "useGroupedValuesInCharts": True,
        "hideEmptyCharts": True,
        "groupBy": None,
        "groupsExpanded": {},
        "autoRefreshEnabled": True,
        "globalLineChartConfig": {},
        "compareRunSections": [
            {"uuid": "frontier", "name": "Size against quality", "display": True, "isReordered": True, "columns": 2}
        ],
        "compareRunCharts": charts,
    }
    return json.dumps(state)


def page_addresses(uri: str, server: str) -> list[tuple[str, str]]:
    """Each sweep in a tracking database, with the address of its runs page on ``server``.

    Raises:
        InputError: nothing that MLflow knows answers at ``uri``.
    """
    try:
        experiments = MlflowClient(uri).search_experiments(order_by=["last_update_time DESC"], max_results=50)
    except MlflowException as error:
        raise InputError(f"{uri}: no MLflow records there ({' '.join(str(error).split())[:200]}).") from None
    return [
        (one.name, f"{server}/?workflowType=machine_learning#/experiments/{one.experiment_id}/runs?viewStateShareKey={VIEW}")
        for one in experiments
        if f"mlflow.sharedViewState.{VIEW}" in one.tags
    ]


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _timestamp(row: Mapping[str, Any]) -> float:
    started = row.get("started_at")
    if isinstance(started, str):
        started = datetime.datetime.fromisoformat(started)
    return started.timestamp() if isinstance(started, datetime.datetime) else time.time()


def _size(row: Mapping[str, Any]) -> str:
    ratio = row.get("compression_ratio")
    return f"x{ratio:.0f}" if ratio else str(row["status"])
