"""MLflow records: nothing lost, nothing twice, no run left RUNNING, whatever the server does; and `frontier sync`."""

import collections
import contextlib
import datetime
import importlib.metadata
import json
import os
import random
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import mlflow
import pytest
from mlflow import MlflowClient
from mlflow.entities import ViewType
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE
from packaging.specifiers import SpecifierSet
from sqlalchemy import event
from typer.testing import CliRunner

import sweeps.commands.sweeps  # noqa: F401 - adds the command
from analysis import store
from analysis.schema import SCHEMA_VERSION
from quantizers.errors import InputError
from sweeps.commands import application
from sweeps.record.ledger import Ledger
from sweeps.record.tracking import database, mlflow_internals, runs
from sweeps.record.tracking.answers import UnreachableError
from sweeps.record.tracking.runs import Runs
from sweeps.record.tracking.sync import send_records
from sweeps.record.tracking.tracker import Tracker
from sweeps.spec.config import SweepConfig, build
from trainables.records import TrialResult

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload``")  # inside MLflow
OBJECTIVES = ("payload_bytes", "reconstruction.nmse")
ENDS = {"ok": "FINISHED", "infeasible": "FAILED", "stopped": "KILLED", "failed": "FAILED", "skipped": "KILLED"}

STARTED = datetime.datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=datetime.UTC)


def trial(key: str, status: str = "ok", *, curve: int = 3, **row: Any) -> TrialResult:
    """A trial as a sweep has it."""
    values = {
        "trial_key": key,
        "table": "t",
        "quantizer": "pq",
        "config_json": '{"num_codebooks": 4}',
        "regime": "pretrained",
        "weights": "none",
        "budget_bytes": 1000,
        "seed": 0,
        "status": status,
        "reason": None if status == "ok" else "because",
        "reused": False,
    }
    scores: list[dict[str, Any]] = []
    if status in ("ok", "infeasible"):
        values |= {"payload_bytes": 900, "compression_ratio": 8.0, "started_at": STARTED.isoformat()}
        score = {"role": "intrinsic", "task": "reconstruction", "task_version": 1, "metric": "nmse", "direction": "min"}
        scores = [{**score, "trial_key": key, "value": 0.25, "baseline": 0.0, "num_examples": 10}]
    if status == "stopped":
        values["fit_seconds"] = 1.5
    if status == "skipped":
        return TrialResult({**values, "seed": None, "config_json": None, **row})
    said = [
        {"phase": "fit", "fraction": step / curve, "value": 1.0 / (step + 1), "seconds": float(step)}
        for step in range(curve)
    ]
    return TrialResult({**values, **row}, scores, said, None, 2.5)


def history(client: MlflowClient, run_id: str) -> dict[str, int]:
    """How many values there are of each metric of a run."""
    names = client.get_run(run_id).data.metrics
    return {name: len(client.get_metric_history(run_id, name)) for name in names}


def runs_of(uri: str, sweep: str, deleted: bool = False) -> list[Any]:
    """The runs of a sweep."""
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name(sweep)
    if experiment is None:
        return []
    kind = ViewType.DELETED_ONLY if deleted else ViewType.ACTIVE_ONLY
    return list(client.search_runs([experiment.experiment_id], run_view_type=kind, max_results=1000))


def check_records(uri: str, sweep: str, expected: dict[str, str], *, curve: int = 3) -> None:
    """Each trial has one ended run, with each value once."""
    client = MlflowClient(uri)
    runs = [run for run in runs_of(uri, sweep) if run.data.tags["role"] == "trial"]
    assert collections.Counter(run.data.tags["trial_key"] for run in runs) == dict.fromkeys(expected, 1)
    assert {run.data.tags["trial_key"]: run.info.status for run in runs} == expected
    assert all(run.info.status != "RUNNING" for run in runs_of(uri, sweep, deleted=True))
    for run in runs:
        counts = history(client, run.info.run_id)
        assert counts.pop("fit.value", 0) == (0 if run.data.tags["status"] == "skipped" else curve)
        assert set(counts.values()) <= {1}


def run_folder(folder: Path, results: list[TrialResult], **more: Any) -> SweepConfig:
    """A run directory as the end of a sweep leaves it, and its ledger; nothing of it is on MLflow."""
    config = build({"name": "s", "table": "t", "quantizers": ["pq"], "output": str(folder), **more})
    config.run_dir.mkdir(parents=True)
    (config.run_dir / "sweep.yaml").write_text(config.to_yaml())
    rows = [{**one.row, "sweep": "s", "schema_version": SCHEMA_VERSION} for one in results]
    for row in rows:
        row["started_at"] = datetime.datetime.fromisoformat(row["started_at"]) if row.get("started_at") else None
    store.write(config.run_dir, "trials", rows)
    store.write(config.run_dir, "scores", [score for one in results for score in one.scores])
    write_frontier(config, [])
    run = {"objectives": ["payload_bytes", "reconstruction.nmse"], "finished_at": STARTED.isoformat(), "interrupted": False}
    store.write_run(config.run_dir, run)
    ledger = Ledger(config.run_dir / "ledger")
    for one in results:
        ledger.put(one.row["trial_key"], one)
    return config


class Faults:
    """An MLflow client whose calls fail where ``fails(call, number, key)`` says "before" or "after" the deed."""

    fails: Callable[[str, int, Any], str | None] = staticmethod(lambda *call: None)
    calls: collections.Counter[str] = collections.Counter()

    def __init__(self, uri: str) -> None:
        self._client = MlflowClient(uri)

    def __getattr__(self, name: str) -> Any:
        act = getattr(self._client, name)
        if not callable(act):
            return act

        def call(*given: Any, **options: Any) -> Any:
            Faults.calls[name] += 1
            when = Faults.fails(name, Faults.calls[name], given[0] if given else None)
            if when == "refuse":
                raise MlflowException("not like this", error_code=INVALID_PARAMETER_VALUE)
            if when == "before":
                raise MlflowException("connection refused")
            done = act(*given, **options)
            if when == "after":
                raise MlflowException("the answer was lost")
            return done

        return call


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database without runs: MLflow takes seconds to make one."""
    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def uri(empty: Path, tmp_path: Path) -> str:
    """A database of the test's own, where a sweep in ``tmp_path`` has it."""
    shutil.copyfile(empty, tmp_path / "mlflow.db")
    return f"sqlite:///{tmp_path / 'mlflow.db'}"


def break_off(path: Path) -> None:
    """As a driver leaves it that was killed while MLflow migrated."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '90e64c465722'")
        connection.commit()


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize(
    "damage", [break_off, cut, lambda path: path.write_text("no database")], ids=["migration", "cut", "text"]
)
def test_a_broken_database_is_set_aside_and_made_anew(
    uri: str, empty: Path, damage: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = Path(uri.removeprefix("sqlite:///"))
    damage(path)
    broken = path.read_bytes()
    monkeypatch.setattr(database, "_make", lambda part: shutil.copyfile(empty, part))
    database.provide(path)
    assert path.read_bytes() == empty.read_bytes()
    (kept,) = path.parent.glob("mlflow.db.broken-*")
    assert kept.read_bytes() == broken and "frontier sync RUN_DIR" in caplog.text


KILLED_WRITER = """
import os, sqlite3, sys
connection = sqlite3.connect(sys.argv[1])
connection.execute("PRAGMA cache_size = 1")  # pages go to the file before the end of the transaction
connection.execute("BEGIN")
for number in range(500):
    connection.execute("INSERT INTO experiments (name, lifecycle_stage) VALUES (?, 'active')", (str(number) + "x" * 200,))
os.kill(os.getpid(), 9)
"""


@pytest.mark.process
def test_what_a_killed_process_had_half_written_is_taken_back(tmp_path: Path, empty: Path) -> None:
    path = tmp_path / "mlflow.db"
    shutil.copyfile(empty, path)
    subprocess.run([sys.executable, "-c", KILLED_WRITER, path], check=False)
    journal = tmp_path / "mlflow.db-journal"
    assert journal.stat().st_size  # to a reader alone the database is an error now
    database.provide(path)
    with contextlib.closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT count(*) FROM experiments").fetchone() == (1,)
    assert not list(tmp_path.glob("*broken*")) and not journal.exists()


@pytest.mark.thorough
def test_a_database_that_is_whole_is_left_alone(uri: str) -> None:
    path = Path(uri.removeprefix("sqlite:///"))
    with contextlib.closing(sqlite3.connect(path)) as user:
        user.execute("BEGIN EXCLUSIVE")
        database.provide(path)  # somebody writes to it
    made = MlflowClient(uri).create_experiment("mine")
    MlflowClient(uri).create_run(made)
    break_off(path)  # an older MLflow's, with a run in it: its user upgrades it
    before = path.read_bytes()
    database.provide(path)
    assert path.read_bytes() == before


def test_a_database_is_made_once_and_a_killed_driver_leaves_none(
    tmp_path: Path, empty: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, makers = tmp_path / "new" / "mlflow.db", []

    def make(part: Path) -> None:
        makers.append(part)
        part.write_bytes(b"half")
        if len(makers) == 1:
            raise KeyboardInterrupt
        time.sleep(0.2)
        shutil.copyfile(empty, part)

    monkeypatch.setattr(database, "_make", make)
    with pytest.raises(KeyboardInterrupt):
        database.provide(path)
    assert not path.exists()
    with ThreadPoolExecutor() as pool:
        list(pool.map(database.provide, [path] * 4))
    assert len(makers) == 2 and path.read_bytes() == empty.read_bytes()


@pytest.fixture
def faults(monkeypatch: pytest.MonkeyPatch) -> type[Faults]:
    monkeypatch.setattr(runs, "MlflowClient", Faults)
    monkeypatch.setattr(Faults, "fails", staticmethod(lambda *call: None))
    monkeypatch.setattr(Faults, "calls", collections.Counter())
    return Faults


def tracker(uri: str, *, patience: float = 120.0) -> Tracker:
    return Tracker(uri, "s", OBJECTIVES, pause=0.01, patience=patience)


def wait_for(reached: Callable[[], bool]) -> None:
    while not reached():
        time.sleep(0.01)


def summarize(sender: Tracker, folder: Path) -> None:
    (folder / "report.html").write_text("report")
    sender.summarize([folder / "report.html"], {"trials.ok": 1.0}, finished_at=STARTED.isoformat(), finished=True)


@pytest.mark.thorough
@pytest.mark.parametrize("seed", range(3))
def test_a_server_that_fails_now_and_then_loses_nothing_and_doubles_nothing(
    tmp_path: Path, uri: str, faults: type[Faults], monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    dice = random.Random(seed)
    monkeypatch.setattr(
        faults, "fails", staticmethod(lambda *call: dice.choices([None, "before", "after"], [0.8, 0.1, 0.1])[0])
    )
    statuses = {f"k{number}": list(ENDS)[number % 5] for number in range(15)}
    sender = tracker(uri)
    for key, status in statuses.items():
        sender.log(trial(key, status))
    sender.close()
    summarize(sender, tmp_path)
    assert sender.problem is None
    assert sender.run_ids.keys() == statuses.keys()
    check_records(uri, "s", {key: ENDS[status] for key, status in statuses.items()})
    assert [run.info.status for run in runs_of(uri, "s") if run.data.tags["role"] == "summary"] == ["FINISHED"]


@pytest.mark.thorough
def test_a_server_that_comes_back_gets_what_waited(
    tmp_path: Path, uri: str, faults: type[Faults], monkeypatch: pytest.MonkeyPatch
) -> None:
    down = threading.Event()
    down.set()
    monkeypatch.setattr(faults, "fails", staticmethod(lambda *call: "before" if down.is_set() else None))
    sender = tracker(uri)
    sender.log(trial("a"))
    wait_for(lambda: bool(faults.calls))
    down.clear()
    wait_for(lambda: "a" in sender.run_ids)
    down.set()
    sender.log(trial("b"))
    failed = faults.calls.total()
    wait_for(lambda: faults.calls.total() >= failed + 2)
    down.clear()
    sender.close()
    assert sender.problem is None
    check_records(uri, "s", {"a": "FINISHED", "b": "FINISHED"})


def test_what_is_left_is_said_and_sync_sends_it_once(
    tmp_path: Path, uri: str, faults: type[Faults], monkeypatch: pytest.MonkeyPatch
) -> None:
    results = [trial("a"), trial("b", "stopped"), trial("c", "infeasible"), trial("d", "failed")]
    never = [trial("e", "stopped", fit_seconds=None), trial("f", "skipped")]
    config = run_folder(tmp_path, [*results, *never])
    # It breaks in the middle of the second record, and for good.
    down = [False]

    def fails(name: str, number: int, key: Any) -> str | None:
        down[0] |= name == "log_batch" and number >= 2
        return "before" if down[0] else None

    monkeypatch.setattr(faults, "fails", staticmethod(fails))
    assert config.tracking_uri == uri
    sender = tracker(uri, patience=0.2)
    sender.log(results[0])
    wait_for(lambda: faults.calls["set_terminated"] == 1)
    sender.log(results[1])
    wait_for(lambda: down[0])
    for one in results[2:]:
        sender.log(one)
    sender.close()
    summarize(sender, tmp_path)
    assert sender.problem == "4 records wait (connection refused)"
    assert sorted(run.info.status for run in runs_of(uri, "s")) == ["FINISHED", "RUNNING"]

    with pytest.raises(InputError, match="connection refused"):
        send_records(config.run_dir)
    monkeypatch.setattr(faults, "fails", staticmethod(lambda *call: None))
    # A run that a driver left when it was killed, of a trial that is no longer part of the sweep.
    experiment = runs_of(uri, "s")[0].info.experiment_id
    MlflowClient(uri).create_run(experiment, tags={"sweep": "s", "role": "trial", "trial_key": "old"})
    first = send_records(config.run_dir)
    assert (first.records, first.ended, first.refused) == (6, 1, {})
    expected = {"a": "FINISHED", "b": "KILLED", "c": "FAILED", "d": "FAILED", "e": "KILLED", "f": "KILLED"}
    MlflowClient(uri).delete_run(
        next(run.info.run_id for run in runs_of(uri, "s") if run.data.tags.get("trial_key") == "old")
    )
    check_records(uri, "s", expected)
    rows = {row["trial_key"]: row["mlflow_run_id"] for row in store.read_trials(config.run_dir).to_pylist()}
    there = {run.data.tags.get("trial_key"): run.info.run_id for run in runs_of(uri, "s")}
    assert {key: run_id for key, run_id in rows.items() if run_id} == {key: there[key] for key in expected}

    before = faults.calls.copy()
    said = CliRunner().invoke(application(), ["sync", str(config.run_dir)])
    assert (said.exit_code, said.output) == (0, "0 records sent.\n")
    changes = {"create_run", "log_batch", "set_terminated", "log_artifact", "set_tag"}
    assert {name for name in faults.calls if faults.calls[name] > before[name]}.isdisjoint(changes)


def test_what_mlflow_refuses_is_a_matter_of_one_record(
    tmp_path: Path, uri: str, faults: type[Faults], monkeypatch: pytest.MonkeyPatch
) -> None:
    bad: set[str] = set()

    class Refusing(Faults):
        def __getattr__(self, name: str) -> Any:
            act = super().__getattr__(name)

            def call(*given: Any, **options: Any) -> Any:
                done = act(*given, **options)
                if name == "create_run" and given[2].get("trial_key") == "b":
                    bad.add(done.info.run_id)
                return done

            return call

    monkeypatch.setattr(runs, "MlflowClient", Refusing)
    monkeypatch.setattr(
        faults, "fails", staticmethod(lambda name, number, key: "refuse" if name == "log_batch" and key in bad else None)
    )
    sender = tracker(uri)
    for key in "abc":
        sender.log(trial(key))
    sender.log(trial("d", config_json="{"))
    sender.log(trial("e"))
    sender.close()
    summarize(sender, tmp_path)
    assert sender.problem is not None and sender.problem.startswith("2 refused (the first, ")
    ended = {run.data.tags.get("trial_key", "summary"): run.info.status for run in runs_of(uri, "s")}
    assert ended == {"a": "FINISHED", "b": "FAILED", "c": "FINISHED", "e": "FINISHED", "summary": "FINISHED"}
    assert all(run.info.status == "KILLED" for run in runs_of(uri, "s", deleted=True))


def test_a_trial_that_ran_again_has_the_record_of_its_last_attempt(uri: str) -> None:
    for attempt in (trial("a", "failed", budget_bytes=1000), trial("a", budget_bytes=500)):
        sender = tracker(uri)
        sender.log(attempt)
        sender.log(trial("b"))
        sender.close()
        assert sender.problem is None
    check_records(uri, "s", {"a": "FINISHED", "b": "FINISHED"})
    kept = next(run for run in runs_of(uri, "s") if run.data.tags["trial_key"] == "a")
    assert kept.data.params["budget_bytes"] == "500"
    (gone,) = runs_of(uri, "s", deleted=True)
    assert (gone.info.status, gone.data.tags["superseded"], gone.data.params["budget_bytes"]) == ("FAILED", "true", "1000")


def test_a_record_that_a_killed_driver_began_is_ended_by_the_next(
    tmp_path: Path, uri: str, faults: type[Faults], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(faults, "fails", staticmethod(lambda name, *call: "before" if name == "set_terminated" else None))
    sender = tracker(uri, patience=0.2)
    sender.log(trial("a"))
    sender.close()
    assert [run.info.status for run in runs_of(uri, "s")] == ["RUNNING"]
    monkeypatch.setattr(faults, "fails", staticmethod(lambda *call: None))
    sender = tracker(uri)
    sender.log(trial("a", reused=True))
    sender.close()
    check_records(uri, "s", {"a": "FINISHED"})
    assert not runs_of(uri, "s", deleted=True)


def test_long_curves_and_odd_names_are_recorded(uri: str) -> None:
    odd = trial("a", curve=1500, config_json=json.dumps({f"p{number}": number for number in range(120)}))
    odd.scores[0]["task"] = "sst(rows=4)"
    sender = tracker(uri)
    sender.log(odd)
    sender.close()
    assert sender.problem is None
    check_records(uri, "s", {"a": "FINISHED"}, curve=1500)
    (run,) = runs_of(uri, "s")
    assert run.data.metrics["sst_rows_4_.nmse"] == 0.25
    assert sum(name.startswith("config.p") for name in run.data.params) == 120


def test_a_server_that_says_nothing_does_not_hold_up_the_end() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        sender = tracker(f"http://127.0.0.1:{silent.getsockname()[1]}", patience=0.1)
        sender.log(trial("a"))
        sender.close()
        assert sender.problem == "1 record waits (MLflow does not answer)"


def test_a_process_that_will_be_killed_waits_for_no_server() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        sender = tracker(f"http://127.0.0.1:{silent.getsockname()[1]}", patience=1000.0)
        sender.log(trial("a"))
        sender.hurry()
        sender.close()
        assert sender.problem == "1 record waits (MLflow does not answer)"


class Proxy:
    """A way to a server that can be cut and mended."""

    def __init__(self, port: int) -> None:
        self._server = port
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self._listener: socket.socket | None = None
        self._ends: list[socket.socket] = []

    def mend(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def cut(self) -> None:
        if self._listener is not None:
            with contextlib.suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
        for end in self._ends:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
        self._ends.clear()

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = listener.accept()
                far = socket.create_connection(("127.0.0.1", self._server))
                self._ends += [near, far]
                for pair in ((near, far), (far, near)):
                    threading.Thread(target=self._pump, args=pair, daemon=True).start()

    @staticmethod
    def _pump(source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)


@pytest.fixture
def server(tmp_path: Path, uri: str) -> Iterator[int]:
    """Port of an MLflow server."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", uri]
    words += ["--artifacts-destination", str(tmp_path / "artifacts"), "--port", str(port), "--workers", "1"]
    with subprocess.Popen(
        words,
        env=os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as process:
        try:
            while process.poll() is None:
                with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=60):
                    break
                time.sleep(0.2)
            yield port
        finally:
            os.killpg(process.pid, signal.SIGKILL)  # it would wait for connections that are kept open


@pytest.mark.slow
def test_a_server_that_is_cut_off_three_times(tmp_path: Path, server: int) -> None:
    way = Proxy(server)
    near, there = f"http://127.0.0.1:{way.port}", f"http://127.0.0.1:{server}"
    statuses = {f"k{number}": list(ENDS)[number % 5] for number in range(15)}
    config = run_folder(tmp_path, [trial(key, status) for key, status in statuses.items()], tracking=near)
    sender = Tracker(near, "s", OBJECTIVES, pause=0.05, patience=120.0)  # nothing is there yet
    for number, (key, status) in enumerate(statuses.items()):
        if number % 5 == 4:
            way.mend()
            wait_for(lambda: len(sender.run_ids) >= number - 3)  # noqa: B023 - while it sends
            way.cut()
        sender.log(trial(key, status))
    way.mend()
    sender.close()
    summarize(sender, tmp_path)
    assert sender.problem is None
    expected = {key: ENDS[status] for key, status in statuses.items()}
    check_records(there, "s", expected)
    assert send_records(config.run_dir).records == 0
    way.cut()
    with pytest.raises(InputError, match="0 records sent before that"):
        send_records(config.run_dir)
    way.mend()
    for run in runs_of(there, "s")[:5]:
        MlflowClient(there).delete_run(run.info.run_id)
    assert send_records(config.run_dir).records == 5
    check_records(there, "s", expected)
    way.cut()


def test_the_saved_view_is_one_that_the_installed_mlflow_reads() -> None:
    version = importlib.metadata.version("mlflow")
    assert version in SpecifierSet(mlflow_internals.VERSIONS), (
        "look at the runs page with the saved view, then raise VERSIONS"
    )
    folder = Path(str(mlflow.__file__)).parent / "server" / "js" / "build"
    pages = "".join(path.read_text(encoding="utf-8", errors="replace") for path in folder.rglob("*.js"))
    (envelope, _) = map(json.loads, mlflow_internals.view_tags(OBJECTIVES).values())
    state = json.loads(envelope["state"])
    words = {mlflow_internals.TAG_PREFIX, mlflow_internals.PARAMETER, "SCATTER", "PARALLEL", "SHOWALL", "All Runs"}
    words |= {*mlflow_internals.KIND, mlflow_internals.COLOUR, "workflowType", "machine_learning", "compareRunsMode"}
    words |= envelope.keys() | state.keys() | state["compareRunSections"][0].keys() | state["groupBy"].keys()
    words |= state["compareRunCharts"][0].keys() | state["compareRunCharts"][-1].keys()
    assert not {word for word in words if word not in pages}
    tags = mlflow_internals.view_tags(OBJECTIVES)
    assert mlflow_internals.has_view(tags)
    assert all(len(value) < 5_000 for value in tags.values())  # what MLflow takes of an experiment's tag


def test_what_a_run_says_of_its_trial(tmp_path: Path, uri: str) -> None:
    sized = {"table_digest": "d" * 32, "num_embeddings": 100, "embedding_dim": 5}
    some = [trial("a", peak_memory_bytes=7, **sized), trial("b", "skipped", **sized), trial("c", config_json="{}", seed=1)]
    other = trial("d", quantizer="rq", **sized)
    sender = Tracker(uri, "s", OBJECTIVES, ("pq", "rq"))
    for one in (*some, other):
        sender.log(one)
    sender.close()
    summarize(sender, tmp_path)
    client = MlflowClient(uri)
    found = {run.data.tags.get("trial_key", "summary"): run for run in runs_of(uri, "s")}
    first = found["a"].data
    assert (
        first.metrics["log10_payload_bytes"] == pytest.approx(2.9542, abs=1e-4) and first.metrics["peak_memory_bytes"] == 7
    )
    assert {key for key, run in found.items() if "reason" in run.data.tags} == {"b"}
    assert found["b"].data.tags["status"] == "skipped" and found["b"].info.run_name == "pq-skipped-1000"
    assert "frontier export" in first.tags["mlflow.note.content"]
    assert "because" in found["b"].data.tags["mlflow.note.content"]
    colours = {key: run.data.tags.get("mlflow.runColor") for key, run in found.items()}
    assert colours == {"a": "#0072B2", "b": "#0072B2", "c": "#0072B2", "d": "#D55E00", "summary": None}
    data = {key: [one.dataset for one in run.inputs.dataset_inputs] for key, run in found.items()}
    assert data["c"] == [] and {(one.name, one.digest) for key in ("a", "b", "summary") for one in data[key]} == {
        ("t", "d" * 32)
    }
    tags = client.get_experiment_by_name("s").tags
    assert tags["mlflow.experimentKind"] == "custom_model_development"
    (state, _) = (json.loads(json.loads(tags[name])["state"]) for name in mlflow_internals.view_tags(OBJECTIVES))
    assert state["compareRunCharts"][0]["xaxis"]["key"] == "log10_payload_bytes"
    assert state["compareRunCharts"][-1]["selectedParams"] == ["quantizer", "seed"]  # all else is the same, or not in all


def test_a_transaction_has_many_records_and_is_there_whole_or_not_at_all(
    uri: str, faults: type[Faults], monkeypatch: pytest.MonkeyPatch
) -> None:
    commits = []
    sender = Runs(uri, "s", OBJECTIVES)
    sender.connect()
    engine = sender._client._tracking_client.store.engine
    event.listen(engine, "commit", commits.append)
    results = [trial(f"k{number}", list(ENDS)[number % 5]) for number in range(10)]
    assert sender.send_all(results) == 10 and len(commits) < 10
    check_records(uri, "s", {f"k{number}": ENDS[list(ENDS)[number % 5]] for number in range(10)})
    assert sender.send_all(results) == 0
    monkeypatch.setattr(faults, "fails", staticmethod(lambda name, *call: "before" if name == "set_terminated" else None))
    with pytest.raises(UnreachableError):
        sender.send_all([trial("x"), trial("y")])
    monkeypatch.setattr(faults, "fails", staticmethod(lambda *call: None))
    left = {run.data.tags["trial_key"]: run.info.status for run in runs_of(uri, "s")}
    assert left.pop("x") == "RUNNING" and len(left) == 10  # x was tried by itself after both were undone
    assert sender.send_all([trial("x"), trial("y")]) == 2
    assert not runs_of(uri, "s", deleted=True)


def test_what_is_on_the_frontier_has_its_files_and_a_moved_folder_has_them_too(tmp_path: Path, uri: str) -> None:
    results = [trial("a", artifact_digest="1"), trial("b", config_json="{}", artifact_digest="2")]
    config = run_folder(tmp_path, results)
    write_frontier(config, ["a"])
    for key in "ab":
        path = config.run_dir / "artifacts" / f"{key}.safetensors"
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"table {key}")
    assert send_records(config.run_dir).records == 3

    def files(uri: str) -> dict[str, list[str]]:
        folder = Path(uri.removeprefix("sqlite:///")).parent / "mlartifacts" / "s"
        ids = {run.info.run_id: run.data.tags.get("trial_key", "summary") for run in runs_of(uri, "s")}
        assert {run.info.artifact_uri for run in runs_of(uri, "s")} == {
            f"mlflow-artifacts:/s/{one}/artifacts" for one in ids
        }
        return {key: sorted(path.name for path in (folder / one / "artifacts").glob("*")) for one, key in ids.items()}

    assert files(uri) == {"a": ["a.safetensors", "curve.csv"], "b": [], "summary": sorted(store_files(config))}
    write_frontier(config, ["b"])
    before = {run.info.run_id for run in runs_of(uri, "s")}
    assert send_records(config.run_dir).records == 0 and {run.info.run_id for run in runs_of(uri, "s")} == before
    marks = {run.data.tags.get("trial_key"): run.data.tags.get("frontier") for run in runs_of(uri, "s")}
    assert marks == {"a": "false", "b": "true", None: None}
    moved = tmp_path.with_name("moved")
    tmp_path.rename(moved)
    assert files(f"sqlite:///{moved / 'mlflow.db'}")["b"] == ["b.safetensors", "curve.csv"]


def write_frontier(config: SweepConfig, keys: list[str]) -> None:
    rows = store.read_trials(config.run_dir).to_pylist()
    about = {"task": "reconstruction", "metric": "nmse", "direction": "min", "payload_bytes_mean": 100.0, "num_seeds": 1}
    points = [
        {**about, "quantizer": row["quantizer"], "config_json": row["config_json"] or "{}"}
        | {"on_frontier": row["trial_key"] in keys, "value_mean": 0.5}
        for row in rows
    ]
    store.write(config.run_dir, "frontier", points)


def store_files(config: SweepConfig) -> list[str]:
    return [path.name for path in config.run_dir.iterdir() if path.is_file() and path.suffix in (".yaml", ".parquet")]
