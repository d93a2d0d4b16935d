"""The MLflow runs of one sweep: one flat run for each trial that ran, and one summary run.

Ray's own MLflow callback makes a request for each metric and, after a restart, runs that double or never end. Here a run
is found again by its tags: ``sweep`` and ``trial_key`` say whose it is, ``record`` is a digest of what is sent, set before
anything is sent. A run that has ended and has the record's digest is complete; one that has not is filled again, which
changes nothing that is there already, since times come from the record and not from the clock. Where another attempt of
the trial has been recorded, its run is ended, tagged ``superseded`` and put among MLflow's deleted runs.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
# A request that MLflow repeats by itself may make a run twice; here what failed is sent again after a look at what is there.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException

from quantizers.errors import InputError
from sweeps.record.tracking.database import provide
from sweeps.record.tracking.mlflow_internals import has_view, page_address, view_tag
from sweeps.record.tracking.records import record_of
from trainables.records import TrialResult

_SUMMARY = "summary"
# Answers that concern one record. All others (no connection, no permission, a fault of the server) concern all of them.
_REFUSALS = {"INVALID_PARAMETER_VALUE", "BAD_REQUEST", "RESOURCE_DOES_NOT_EXIST", "RESOURCE_ALREADY_EXISTS", "INVALID_STATE"}


class UnreachableError(Exception):
    """MLflow does not answer, or cannot do its work: to be tried again later."""


@dataclasses.dataclass
class _Run:
    run_id: str
    start: int  # ms since 1970
    ended: bool
    record: str | None


class Runs:
    """A sweep's runs on an MLflow server or in a database; not for several threads at a time.

    Args:
        uri: of the tracking server or database.
        sweep: name of the sweep, and of the MLflow experiment.
        objectives: what the runs page shows beside the sizes.

    Attributes:
        refused: why MLflow did not take all of a record, by trial key.
        last_answer: when something was done last, by :func:`time.monotonic`.
    """

    def __init__(self, uri: str, sweep: str, objectives: Sequence[str]) -> None:
        self.uri = uri
        self.refused: dict[str, str] = {}
        self.last_answer = 0.0
        self._sweep = sweep
        self._objectives = tuple(objectives)
        self._client: Any = None
        self._experiment = ""
        self._runs: dict[str, _Run] = {}
        self._known = False

    @property
    def run_ids(self) -> dict[str, str]:
        """MLflow run of each trial key that has one."""
        return {key: run.run_id for key, run in dict(self._runs).items() if key != _SUMMARY}

    def connect(self) -> None:
        """Make sure of the experiment and read which runs there are, unless that is known.

        Raises:
            UnreachableError: see there.
        """
        if self._known:
            return
        logging.getLogger("mlflow").setLevel(logging.ERROR)
        logging.getLogger("alembic").setLevel(logging.ERROR)
        try:
            self._open()
            self._read()
        except Exception as error:
            raise UnreachableError(_one_line(error)) from error
        self._known = True

    def _open(self) -> None:
        location = None
        if self.uri.startswith("sqlite:///"):
            database = Path(self.uri.removeprefix("sqlite:///"))
            provide(database)
            location = (database.parent / "mlartifacts" / self._sweep).absolute().as_uri()
        self._client = MlflowClient(self.uri)
        experiment = self._client.get_experiment_by_name(self._sweep)
        if experiment is None:
            self._experiment = self._client.create_experiment(self._sweep, artifact_location=location)
        else:
            if experiment.lifecycle_stage == "deleted":
                self._client.restore_experiment(experiment.experiment_id)
            self._experiment = experiment.experiment_id
        self._client.set_experiment_tag(self._experiment, *view_tag(self._objectives))

    def _read(self) -> None:
        runs: dict[str, _Run] = {}
        twice: list[_Run] = []
        token = None
        while True:
            page = self._client.search_runs(
                [self._experiment], f"tags.sweep = '{self._sweep}'", max_results=5000, page_token=token
            )
            for found in page:
                key, tags = found.data.tags.get("trial_key", _SUMMARY), found.data.tags
                if "superseded" in tags:
                    continue  # a person has restored it
                run = _Run(found.info.run_id, found.info.start_time, found.info.status != "RUNNING", tags.get("record"))
                if key in runs:  # the answer to the request that made it was lost
                    if run.ended and not runs[key].ended:
                        run, runs[key] = runs[key], run
                    twice.append(run)
                else:
                    runs[key] = run
                if "refused" in tags:
                    self.refused[key] = tags["refused"]
            token = page.token
            if not token:
                break
        for run in twice:
            self._supersede(run)
        self._runs = runs

    def send(self, result: TrialResult) -> bool:
        """Record a trial; returns False where that has been done before.

        What MLflow will not take of this record is in :attr:`refused` afterwards.

        Raises:
            UnreachableError: see there.
        """
        key = str(result.row["trial_key"])
        self.connect()
        try:
            record = record_of(result)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            self.refused[key] = f"no record can be made of it: {_one_line(error)}"
            return False
        tags = {"role": "trial", "trial_key": key, **record.tags}

        def fill(run: _Run) -> None:
            metrics = [Metric(name, value, run.start + after, step) for name, value, after, step in record.metrics]
            params = [Param(name, value) for name, value in record.params.items()]
            # One request, where there are no more than 1000 entries.
            self._client.log_batch(run.run_id, metrics, params, [RunTag(*tag) for tag in record.tags.items()])
            self._end(run, record.status, record.end)

        return self._put(key, record.name, record.digest, tags, record.start, fill)

    def summarize(self, files: Sequence[Path], metrics: Mapping[str, float], *, finished_at: str, finished: bool) -> bool:
        """Record the sweep's tables, plot and report in one run; returns False where that has been done before.

        Args:
            files: what the run holds.
            metrics: trials by status.
            finished_at: when the sweep ended, in ISO format.
            finished: False where it was interrupted.

        Raises:
            UnreachableError: see there.
        """
        self.connect()
        time_ms = int(1000 * datetime.datetime.fromisoformat(finished_at).timestamp())

        def fill(run: _Run) -> None:
            self._client.log_batch(run.run_id, [Metric(name, value, time_ms, 0) for name, value in metrics.items()])
            for file in files:
                self._client.log_artifact(run.run_id, str(file))
                self.last_answer = time.monotonic()
            self._end(run, "FINISHED" if finished else "KILLED", None)

        return self._put(_SUMMARY, f"{self._sweep} summary", finished_at, {"role": _SUMMARY}, None, fill)

    def end_left(self) -> int:
        """End the runs that are still RUNNING, as KILLED: of drivers that were killed, or of requests whose answer was lost.

        Returns:
            How many there were.

        Raises:
            UnreachableError: see there.
        """
        self._known = False
        self.connect()
        left = [run for run in self._runs.values() if not run.ended]
        for run in left:
            with self._noting_failures(), _if_there():
                self._end(run, "KILLED", None)
        return len(left)

    def _put(
        self, key: str, name: str, digest: str, tags: Mapping[str, str], start: int | None, fill: Callable[[_Run], None]
    ) -> bool:
        """Have one complete run of ``key`` with this digest."""
        for attempt in range(2):
            try:
                with self._noting_failures():
                    run = self._runs.get(key)
                    if run is not None and run.record == digest and run.ended:
                        return False
                    if run is not None and (run.record != digest or attempt):
                        self._supersede(self._runs.pop(key))
                        run = None
                    fill(run or self._create(key, name, digest, tags, start))
                    self.refused.pop(key, None)
                    self.last_answer = time.monotonic()
                    return True
            except MlflowException as error:
                self.refused[key] = _one_line(error)
                # Somebody may have deleted the run or the experiment, or changed the run: a look, and a run of its own.
                self._known = False
                self.connect()
        run = self._runs.get(key)
        with self._noting_failures(), _if_there():
            if run is not None:
                self._client.set_tag(run.run_id, "refused", self.refused[key])
                self._end(run, "FAILED", None)
        return False

    def _create(self, key: str, name: str, digest: str, tags: Mapping[str, str], start: int | None) -> _Run:
        tags = {"sweep": self._sweep, "mlflow.source.name": "frontier", "record": digest, **tags}
        info = self._client.create_run(self._experiment, start or int(1000 * time.time()), tags, name).info
        self._runs[key] = _Run(info.run_id, info.start_time, False, digest)
        return self._runs[key]

    def _end(self, run: _Run, status: str, end: int | None) -> None:
        self._client.set_terminated(run.run_id, status, end)
        run.ended = True

    def _supersede(self, run: _Run) -> None:
        with _if_there():
            if not run.ended:
                self._end(run, "KILLED", None)
            self._client.set_tag(run.run_id, "superseded", "true")
            self._client.delete_run(run.run_id)

    @contextlib.contextmanager
    def _noting_failures(self) -> Iterator[None]:
        """Raises UnreachableError for what is not a refusal; what is there is then looked at anew."""
        try:
            yield
        except Exception as error:
            if _is_refusal(error):
                raise
            self._known = False  # the request may have been carried out all the same
            raise UnreachableError(_one_line(error)) from error


def page_addresses(uri: str, server: str) -> list[tuple[str, str]]:
    """Each sweep in a tracking database, with the address of its runs page on ``server``.

    Raises:
        InputError: nothing that MLflow knows answers at ``uri``.
    """
    try:
        experiments = MlflowClient(uri).search_experiments(order_by=["last_update_time DESC"], max_results=50)
    except MlflowException as error:
        raise InputError(f"{uri}: no MLflow records there ({' '.join(str(error).split())[:200]}).") from None
    return [(one.name, page_address(server, one.experiment_id)) for one in experiments if has_view(one.tags)]


@contextlib.contextmanager
def _if_there() -> Iterator[None]:
    """A refusal means that the run is no longer there, or as it should be: nothing is left to do."""
    try:
        yield
    except MlflowException as error:
        if not _is_refusal(error):
            raise


def _is_refusal(error: Exception) -> bool:
    return isinstance(error, MlflowException) and error.error_code in _REFUSALS


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
