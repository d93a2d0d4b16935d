"""The MLflow runs of one sweep: one flat run for each trial, and one summary run.

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
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
# A request that MLflow repeats by itself may make a run twice; here what failed is sent again after a look at what is there.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
# Else MLflow asks for each run that has ended once more, and prints its address.
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")

from mlflow import MlflowClient
from mlflow.entities import DatasetInput, Metric, Param
from mlflow.exceptions import MlflowException

from analysis.report.plot_data import styles
from sweeps.record.tracking.answers import UnreachableError, if_there, is_refusal, one_line
from sweeps.record.tracking.database import ARTIFACTS, provide
from sweeps.record.tracking.experiment import open_experiment, show
from sweeps.record.tracking.files import Attachment, curve_file, log_file
from sweeps.record.tracking.mlflow_internals import COLOUR, in_one_transaction
from sweeps.record.tracking.records import Record, Varying, dataset_input, record_of
from trainables.records import TrialResult

AT_ONCE = 50  # trials in a transaction: a second's work, for which another sweep's records wait
_SUMMARY = "summary"


@dataclasses.dataclass
class _Run:
    run_id: str
    start: int  # ms since 1970
    ended: bool
    record: str | None
    artifacts: str  # where MLflow says that the run's files are
    frontier: str | None  # digest of the files of a trial on the frontier; "" where it is no longer there


class Runs:
    """A sweep's runs on an MLflow server or in a database; not for several threads at a time.

    Args:
        uri: of the tracking server or database.
        sweep: name of the sweep, and of the MLflow experiment.
        objectives: what the runs page shows beside the sizes.
        methods: of the whole sweep, so that each has the colour that it has in the report.

    Attributes:
        refused: why MLflow did not take all of a record, by trial key.
        last_answer: when something was done last, by :func:`time.monotonic`.
    """

    def __init__(self, uri: str, sweep: str, objectives: Sequence[str], methods: Iterable[str] = ()) -> None:
        self.uri = uri
        self.refused: dict[str, str] = {}
        self.last_answer = 0.0
        self._sweep = sweep
        self._objectives = tuple(objectives)
        self._methods = frozenset(methods)
        self._database = Path(uri.removeprefix("sqlite:///")) if uri.startswith("sqlite:///") else None
        self._client: Any = None
        self._experiment = ""
        self._dataset: DatasetInput | None = None
        self._params = Varying()
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
            raise UnreachableError(one_line(error)) from error
        self._known = True

    def _open(self) -> None:
        if self._database is not None:
            provide(self._database)
        self._client = MlflowClient(self.uri)
        self._experiment = open_experiment(self._client, self._sweep, self._objectives, local=self._database is not None)

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
                run = _Run(
                    found.info.run_id,
                    found.info.start_time,
                    found.info.status != "RUNNING",
                    tags.get("record"),
                    found.info.artifact_uri,
                    tags.get("files"),
                )
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
        self.connect()
        record = self._record(result)
        return record is not None and self._put_record(record)

    def send_all(self, results: Sequence[TrialResult]) -> int:
        """Record some trials, in one transaction where MLflow is a database; returns how many were not recorded before.

        Raises:
            UnreachableError: see there.
        """
        self.connect()
        records = {record.key: record for record in map(self._record, results) if record is not None}
        new = [record for key, record in records.items() if key not in self._runs]
        together = 0
        if len(new) > 1 and not self.uri.startswith(("http://", "https://")):
            try:
                with in_one_transaction(self._client):
                    for record in new:
                        self._fill(
                            self._create(record.key, record.name, record.digest, self._tags(record), record.start), record
                        )
                together = len(new)
            except Exception:  # nothing was written: one by one, so that one record's fault is its own
                self._known = False
                self.connect()
        return together + sum(self._put_record(record) for record in records.values())

    def _record(self, result: TrialResult) -> Record | None:
        try:
            record = record_of(result)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            self.refused[str(result.row["trial_key"])] = f"no record can be made of it: {one_line(error)}"
            return None
        if record.status == "FINISHED" and record.params["quantizer"] != "identity":
            self._params.note(record.params)
        if record.dataset is not None and self._dataset is None:
            self._dataset = dataset_input(*record.dataset)
        return record

    def _tags(self, record: Record) -> dict[str, str]:
        method = record.params["quantizer"]
        colour = styles(self._methods | {method})[method].colour
        return {"role": "trial", "trial_key": record.key, COLOUR: colour, **record.tags}

    def _put_record(self, record: Record) -> bool:
        return self._put(
            record.key, record.name, record.digest, self._tags(record), record.start, lambda run: self._fill(run, record)
        )

    def _fill(self, run: _Run, record: Record) -> None:
        metrics = [Metric(name, value, run.start + after, step) for name, value, after, step in record.metrics]
        params = [Param(name, value) for name, value in record.params.items()]
        self._client.log_batch(run.run_id, metrics, params)  # one request, where there are no more than 1000 entries
        if record.dataset is not None:
            self._client.log_inputs(run.run_id, [dataset_input(*record.dataset)])
        self._end(run, record.status, record.end)

    def summarize(
        self,
        files: Sequence[Path],
        metrics: Mapping[str, float],
        *,
        finished_at: str,
        finished: bool,
        frontier: Sequence[Attachment] = (),
    ) -> bool:
        """Record the sweep's tables, plot and report in one run; returns False where that has been done before.

        Args:
            files: what the run holds.
            metrics: trials by status.
            finished_at: when the sweep ended, in ISO format.
            finished: False where it was interrupted.
            frontier: what the runs of the trials on the frontier hold.

        Raises:
            UnreachableError: see there.
        """
        self.connect()
        time_ms = int(1000 * datetime.datetime.fromisoformat(finished_at).timestamp())

        def fill(run: _Run) -> None:
            self._client.log_batch(run.run_id, [Metric(name, value, time_ms, 0) for name, value in metrics.items()])
            if self._dataset is not None:
                self._client.log_inputs(run.run_id, [self._dataset])
            self._log_files(run, files)
            self._end(run, "FINISHED" if finished else "KILLED", None)

        note = "The sweep's tables, plot and report, under Artifacts."
        tags = {"role": _SUMMARY, "mlflow.note.content": note}
        new = self._put(_SUMMARY, f"{self._sweep} summary", finished_at, tags, None, fill)
        with self._noting_failures(), if_there():
            self._mark_frontier(frontier)
            show(self._client, self._experiment, self._objectives, self._params.varying())
        return new

    def _mark_frontier(self, attached: Sequence[Attachment]) -> None:
        """Give the runs on the frontier their files and a tag, and take the tag from those that are no longer there."""
        wanted = {one.key: one for one in attached}
        for key, run in self._runs.items():
            one = wanted.get(key)
            if one is None and run.frontier:
                self._client.set_tag(run.run_id, "frontier", "false")
                self._client.set_tag(run.run_id, "files", "")
                run.frontier = ""
            elif one is not None and run.frontier != one.digest:
                with curve_file(one.curve) as curve:
                    self._log_files(run, [*one.files, *curve])
                self._client.set_tag(run.run_id, "frontier", "true")
                self._client.set_tag(run.run_id, "files", one.digest)
                run.frontier = one.digest

    def _log_files(self, run: _Run, files: Sequence[Path]) -> None:
        beside = None if self._database is None else self._database.parent / ARTIFACTS
        for file in files:
            log_file(self._client, run.run_id, run.artifacts, file, beside)
            self.last_answer = time.monotonic()

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
            with self._noting_failures(), if_there():
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
                self.refused[key] = one_line(error)
                # Somebody may have deleted the run or the experiment, or changed the run: a look, and a run of its own.
                self._known = False
                self.connect()
        run = self._runs.get(key)
        with self._noting_failures(), if_there():
            if run is not None:
                self._client.set_tag(run.run_id, "refused", self.refused[key])
                self._end(run, "FAILED", None)
        return False

    def _create(self, key: str, name: str, digest: str, tags: Mapping[str, str], start: int | None) -> _Run:
        tags = {"sweep": self._sweep, "mlflow.source.name": "frontier", "record": digest, **tags}
        info = self._client.create_run(self._experiment, start or int(1000 * time.time()), tags, name).info
        self._runs[key] = _Run(info.run_id, info.start_time, False, digest, info.artifact_uri, None)
        return self._runs[key]

    def _end(self, run: _Run, status: str, end: int | None) -> None:
        self._client.set_terminated(run.run_id, status, end)
        run.ended = True

    def _supersede(self, run: _Run) -> None:
        with if_there():
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
            if is_refusal(error):
                raise
            self._known = False  # the request may have been carried out all the same
            raise UnreachableError(one_line(error)) from error
