"""Sweeps that are killed, interrupted, resumed and extended: what was measured is never measured again."""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow.compute as pc
import pytest
import yaml
from typer.testing import Result

from analysis import store
from tests.sweeps.slow_method import SLOW_METHOD

pytestmark = [pytest.mark.xdist_group("resume"), pytest.mark.ray]

PATIENCE = float(os.environ.get("TEST_PATIENCE_SECONDS", "280"))  # on a machine that does other work: more


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, install: Callable[..., Path], warm_site: Path) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("resume")
    install(warm_site, slow_columns=SLOW_METHOD)
    np.save(folder / "table.npy", np.random.default_rng(0).standard_normal((200, 12)).astype(np.float32))
    install(folder / "packages", slow_columns=SLOW_METHOD)
    yield folder
    for pid in marked(folder):  # of a test that failed
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def sweep_file(place: Path, output: str, **changes: Any) -> Path:
    (place / "notes").mkdir(exist_ok=True)
    entry = {"method": "slow_columns", "columns": list(range(1, 9)), "notes": str(place / "notes")}
    sweep = {"name": "s", "table": str(place / "table.npy"), "quantizers": [entry], "seeds": [0, 1, 2], "output": output}
    file = place / f"{output}.yaml"
    file.write_text(yaml.safe_dump({**sweep, **changes, "output": str(place / output)}))
    return file


def start(place: Path, *words: object) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(place / "packages"), "COLUMNS": "200", "TEST_MARK": str(place)}
    return subprocess.Popen(
        [sys.executable, "-m", "sweeps", *map(str, words)],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip


def done(process: subprocess.Popen[str]) -> tuple[int, str]:
    output, _ = process.communicate(timeout=PATIENCE)
    return process.returncode, output


def results(run_dir: Path) -> dict[str, str]:
    """When the trials began whose results are kept, by key."""
    found = {}
    for file in (run_dir / "ledger" / "results").glob("[0-9a-f]*.json"):
        row = json.loads(file.read_text())["row"]
        found[row["trial_key"]] = row["started_at"]
    return found


def wait_for(process: subprocess.Popen[str], run_dir: Path, count: int) -> None:
    deadline = time.monotonic() + PATIENCE
    while process.poll() is None and len(list((run_dir / "ledger" / "results").glob("[0-9a-f]*.json"))) < count:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def marked(place: Path) -> list[int]:
    """Processes that a sweep of this test has started."""
    found = []
    for environ in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if f"TEST_MARK={place}".encode() in environ.read_bytes():
                found.append(int(environ.parent.name))
    return found


def rows_of(run_dir: Path) -> dict[str, dict[str, Any]]:
    return {row["trial_key"]: row for row in store.read_trials(run_dir).to_pylist()}


@pytest.mark.filterwarnings("ignore:The ``noload``")  # inside MLflow
@pytest.mark.slow  # on hosts, `make test-cluster` kills some
def test_killed_and_resumed(place: Path, frontier: Callable[..., Result]) -> None:
    moments = 5
    dice = random.Random(7)
    notes = place / "notes of killed"
    notes.mkdir()
    entry = {"method": "slow_columns", "columns": list(range(1, 9)), "notes": str(notes)}
    killed_file, whole_file = (sweep_file(place, name, quantizers=[entry]) for name in ("killed", "whole"))
    run_dir, known = place / "killed" / "s", {}
    for count in sorted(dice.sample(range(22), moments)):
        process = start(place, "resume", run_dir) if known else start(place, "run", killed_file)
        wait_for(process, run_dir, count)
        time.sleep(dice.uniform(0, 1))
        process.kill()
        process.communicate(timeout=PATIENCE)
        now = results(run_dir)
        assert known.items() <= now.items()  # what had finished was not measured again
        known = now
    code, output = done(start(place, "resume", run_dir))
    assert code == 0, output
    rows = rows_of(run_dir)
    assert len(rows) == store.read_trials(run_dir).num_rows == 25
    assert {row["status"] for row in rows.values()} == {"ok"}
    assert 5 <= len(known) < 25
    for key, began in known.items():
        assert rows[key]["reused"] and rows[key]["started_at"].isoformat() == began
    begun = sum(len(note.read_text()) for note in notes.iterdir())
    assert 24 <= begun <= 24 + moments * len(os.sched_getaffinity(0))  # at most those that ran at a kill began twice

    whole = frontier("run", whole_file, "--set", "tracking=false")
    assert whole.exit_code == 0, whole.output
    frontiers = [store.read_frontier(folder) for folder in (run_dir, place / "whole" / "s")]
    assert frontiers[0].equals(frontiers[1]) and pc.sum(frontiers[0]["on_frontier"]).as_py() >= 8

    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{run_dir.parent / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("s")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], max_results=1000)
    assert sorted(run.data.tags.get("trial_key", "summary") for run in runs) == sorted([*rows, "summary"])
    assert {run.info.status for run in runs} == {"FINISHED"}
    for run in runs:
        if run.data.tags["role"] == "trial":
            assert run.data.metrics["payload_bytes"] == rows[run.data.tags["trial_key"]]["payload_bytes"]

    deadline = time.monotonic() + PATIENCE
    while left := marked(place):
        assert time.monotonic() < deadline, left
        time.sleep(0.5)


@pytest.mark.slow  # on hosts, `make test-cluster` interrupts a sweep
def test_interrupted_once_ends_what_runs_and_twice_stops_at_once(place: Path, frontier: Callable[..., Result]) -> None:
    """A terminal sends Ctrl-C to all processes of the foreground, so this does too."""
    notes = place / "notes of interrupted"
    notes.mkdir()
    entry = {"method": "slow_columns", "seconds": 2, "columns": [1, 2, 3, 4], "notes": str(notes)}
    file = sweep_file(place, "interrupted", tracking=False, quantizers=[entry])
    run_dir = place / "interrupted" / "s"
    process = start(place, "run", file)
    wait_for(process, run_dir, 3)
    time.sleep(0.5)
    begun = len(list(notes.iterdir()))
    os.killpg(process.pid, signal.SIGINT)
    code, output = done(process)
    assert code == 130 and "Ctrl-C again" in output and "frontier resume" in output, output
    rows = rows_of(run_dir)
    ok = [row for row in rows.values() if row["status"] == "ok"]
    assert begun <= len(list(notes.iterdir())) <= begun + 1, "no others began"
    assert len(ok) == 1 + len(list(notes.iterdir())), "those that ran went on to their end"
    stopped = [row for row in rows.values() if row["status"] == "stopped"]
    assert len(ok) + len(stopped) == len(rows) == 13 and {row["reason"] for row in stopped} == {"interrupted"}
    report = (run_dir / "report.html").read_bytes()

    process = start(place, "resume", run_dir)
    wait_for(process, run_dir, len(ok) + 1)
    begun = sum(len(note.read_text()) for note in notes.iterdir())
    deadline = time.monotonic() + PATIENCE
    while sum(len(note.read_text()) for note in notes.iterdir()) == begun:  # one that begins now is still at work below
        assert time.monotonic() < deadline, "no trial began"
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)
    time.sleep(0.5)
    os.killpg(process.pid, signal.SIGINT)
    began = time.monotonic()
    code, output = done(process)
    assert code == 130 and "Stopped. Finished trials are kept" in output and time.monotonic() - began < PATIENCE / 4, output
    assert (run_dir / "report.html").read_bytes() == report

    # The file in the run's folder is edited: what takes away is refused, what adds is run.
    known = results(run_dir)
    sweep = yaml.safe_load((run_dir / "sweep.yaml").read_text())
    (run_dir / "sweep.yaml").write_text(yaml.safe_dump({**sweep, "seeds": [0]}))
    refused = frontier("resume", run_dir)
    assert refused.exit_code == 2 and "seeds" in refused.stderr, refused.output
    more = {"method": "slow_columns", "seconds": 0.1, "columns": [5, 6], "notes": str(notes)}
    (run_dir / "sweep.yaml").write_text(yaml.safe_dump({**sweep, "quantizers": [*sweep["quantizers"], more]}))
    extended = frontier("resume", run_dir)
    assert extended.exit_code == 0, extended.output
    rows = rows_of(run_dir)
    assert len(rows) == 13 + 6 and {row["status"] for row in rows.values()} == {"ok"}
    assert all(rows[key]["started_at"].isoformat() == began_at for key, began_at in known.items())


def begun(notes: Path, count: int) -> None:
    """Wait until so many trials have begun."""
    deadline = time.monotonic() + PATIENCE
    while len(list(notes.iterdir())) < count:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def check_terminated(run_dir: Path, output: str) -> None:
    assert "Ending: " in output and "then the report is written" in output and "frontier resume" in output, output
    assert "Traceback" not in output and "***" not in output and "SIGTERM" not in output, output
    stopped = [row for row in rows_of(run_dir).values() if row["status"] == "stopped"]
    assert stopped and {row["reason"] for row in stopped} == {"terminated"}
    assert not [row for row in rows_of(run_dir).values() if row["status"] == "failed"]
    assert (run_dir / "report.html").is_file() and (run_dir / "frontier.parquet").is_file()
    assert (run_dir / "checkpoints" / "abc.train").is_file(), "a resumed trial goes on from there"
    assert not (run_dir / "ray").exists()
    assert json.loads((run_dir / "status.json").read_text())["phase"] == "interrupted"


@pytest.mark.thorough
def test_sigterm_ends_trials_after_their_grace(place: Path, frontier: Callable[..., Result]) -> None:
    notes, run_dir = place / "notes of terminated", place / "terminated" / "s"
    notes.mkdir()
    (run_dir / "checkpoints").mkdir(parents=True)
    entry = {"method": "slow_columns", "seconds": 60, "columns": [1, 2], "notes": str(notes)}
    file = sweep_file(place, "terminated", tracking=False, quantizers=[entry], seeds=[0])
    (run_dir / "sweep.yaml").write_text(file.read_text())
    (run_dir / "checkpoints" / "abc.train").touch()

    def send() -> None:
        begun(notes, 1)
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=send)
    thread.start()
    done = frontier("run", file, "--grace", "0.2s")
    thread.join()
    assert done.exit_code == 143, done.output
    check_terminated(run_dir, done.output)


@pytest.mark.slow
def test_sigterm_to_all_processes(place: Path) -> None:
    """As a service manager sends it. Ray's processes stay for as long as trials have their grace."""
    notes, run_dir = place / "notes of a service", place / "service" / "s"
    notes.mkdir()
    entry = {"method": "slow_columns", "seconds": 8, "columns": [1, 2, 3, 4, 5, 6], "notes": str(notes)}
    file = sweep_file(place, "service", tracking=False, quantizers=[entry], seeds=[0])
    process = start(place, "run", file, "--grace", "60s")
    begun(notes, 1)
    (run_dir / "checkpoints").mkdir(exist_ok=True)
    (run_dir / "checkpoints" / "abc.train").touch()
    os.killpg(process.pid, signal.SIGTERM)
    code, output = done(process)
    assert code == 143, output
    check_terminated(run_dir, output)
    ended = [row for row in rows_of(run_dir).values() if row["status"] == "ok" and row["quantizer"] == "slow_columns"]
    assert len(ended) == len(list(notes.iterdir())), "what ran came to its end"


@pytest.mark.slow
def test_a_killed_sweep_leaves_nothing_of_ray(place: Path) -> None:
    notes = place / "notes of killed at once"
    notes.mkdir()
    entry = {"method": "slow_columns", "seconds": 60, "columns": [1, 2], "notes": str(notes)}
    process = start(place, "run", sweep_file(place, "at-once", tracking=False, quantizers=[entry], seeds=[0]))
    begun(notes, 1)
    family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    heard = {end.laddr.ip for one in family for end in one.net_connections("inet") if end.status == psutil.CONN_LISTEN}
    assert heard and heard <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}, heard
    folder = Path(tempfile.gettempdir(), f"frontier-{os.getuid()}", f"ray-{process.pid}")
    assert folder.is_dir()
    process.kill()
    process.communicate(timeout=PATIENCE)
    deadline = time.monotonic() + 40  # Ray's agents would take a minute
    while left := [one for one in family if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]:
        assert time.monotonic() < deadline, left
        time.sleep(0.1)
    while folder.exists():
        assert time.monotonic() < deadline
        time.sleep(0.1)
