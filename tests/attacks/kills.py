"""Sweeps whose driver, workers, Ray or MLflow server are killed at moments of chance: nothing that was measured is lost.

An attack is one sweep with four kills, or two drivers on one run, or two sweeps on one ledger. Kills are counted by the name
of the attack. Ray's start takes most of the time: ten attacks an hour on two busy cores, a hundred on idle ones.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import psutil
import yaml

import quantizers
from analysis import store
from quantizers.files import PART_SUFFIX
from tests.attacks.guard import BrokenPromiseError, Outcome
from tests.sweeps.slow_method import SLOW_METHOD

KILLS = 4
COLUMNS, SEEDS = 8, 3  # trials: a method of as many columns, times as many seeds, and the uncompressed table
PATIENCE = 900.0
GONE_SECONDS = 60.0  # in which nothing of a killed sweep is left; 10 on an idle machine
ROOT = Path(__file__).parents[2]


class Place:
    """A folder with a table, a method that leaves notes, and the programs that an attack starts."""

    def __init__(self, folder: Path, dice: Random) -> None:
        self.folder, self.dice, self.server = folder, dice, None
        self.notes = folder / "notes"
        self.notes.mkdir()
        np.save(folder / "t.npy", np.random.default_rng(0).standard_normal((200, 12)).astype(np.float32))
        info = folder / "packages" / "slow_columns-1.0.dist-info"
        info.mkdir(parents=True)
        info.with_name("slow_columns.py").write_text(SLOW_METHOD)
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: slow_columns\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text("[embedding_frontier.quantizers]\nslow_columns = slow_columns\n")
        self.uri: str | None = None  # the database beside the run

    def sweep(self, name: str = "s", **changes: Any) -> Path:
        """A sweep file; its run goes to a folder of that name."""
        entry = {"method": "slow_columns", "columns": list(range(1, COLUMNS + 1)), "notes": str(self.notes)}
        sweep = {"name": name, "table": str(self.folder / "t.npy"), "quantizers": [entry], "seeds": list(range(SEEDS))}
        tracking = {} if self.uri is None else {"tracking": self.uri}
        file = self.folder / f"{name}.yaml"
        file.write_text(yaml.safe_dump({**sweep, "output": str(self.folder), **tracking, **changes}))
        return file

    def start(self, *words: object) -> subprocess.Popen[bytes]:
        """``frontier`` with some words, as a program; its output is added to one file."""
        paths = os.pathsep.join([str(self.folder / "packages"), str(ROOT)])
        about = {"PYTHONPATH": paths, "COLUMNS": "200", "ATTACK_MARK": str(self.folder), "MLFLOW_DISABLE_TELEMETRY": "true"}
        with (self.folder / "output.txt").open("ab") as out:
            return subprocess.Popen(
                [sys.executable, "-m", "sweeps", *map(str, words)],
                env={**os.environ, **about}, stdout=out, stderr=out, stdin=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip

    def serve(self) -> None:
        """Have an MLflow server, on the same port each time."""
        if self.uri is None:
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                self.uri = f"http://127.0.0.1:{free.getsockname()[1]}"
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", self.uri.rpartition(":")[2]]
        command += [
            "--backend-store-uri",
            f"sqlite:///{self.folder}/server.db",
            "--artifacts-destination",
            f"{self.folder}/files",
        ]
        command += ["--workers", "1"]
        environment = {**os.environ, "ATTACK_MARK": str(self.folder), "MLFLOW_DISABLE_TELEMETRY": "true"}
        environment["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"  # seven programs more, of which nothing here is tried
        with (self.folder / "server.txt").open("ab") as out:
            self.server = subprocess.Popen(command, env=environment, stdout=out, stderr=out, start_new_session=True)
        _until(lambda: _listens(int(str(self.uri).rpartition(":")[2])), "the MLflow server listens")

    def marked(self) -> list[int]:
        """Processes that this attack has started, and theirs."""
        found = []
        for environ in Path("/proc").glob("[0-9]*/environ"):
            with contextlib.suppress(OSError):
                if f"ATTACK_MARK={self.folder}".encode() in environ.read_bytes():
                    found.append(int(environ.parent.name))
        return found

    def end(self) -> None:
        """End whatever is left of this attack's own processes."""
        for process in self.marked():
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)

    def output(self) -> str:
        return (self.folder / "output.txt").read_text(errors="replace")


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _until(holds: Any, what: str, seconds: float = PATIENCE) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            raise BrokenPromiseError("hang", f"not within {seconds:.0f} s: {what}")
        time.sleep(0.05)


def measured(run_dir: Path) -> dict[str, str]:
    """When the trials began whose results are kept, by key."""
    found = {}
    for file in (run_dir / "ledger" / "results").glob("[0-9a-f]*.json"):
        row = json.loads(file.read_text())["row"]
        if row["status"] == "ok":
            found[row["trial_key"]] = row["started_at"]
    return found


def attack(seed: int, number: int, place: Path) -> tuple[str, Outcome]:
    """Attack ``number`` of the seed."""
    dice = Random(f"kills {seed} {number}")
    kind = {3: _two_drivers, 7: _two_sweeps}.get(number % 8, _killed)
    began, name = time.monotonic(), [kind.__name__.strip("_").replace("_", " ")]
    with tempfile.TemporaryDirectory(dir=place, ignore_cleanup_errors=True) as folder:
        one = Place(Path(folder), dice)
        try:
            kind(one, name)
            _check_output(one)
            outcome = Outcome("result", "", time.monotonic() - began)
        except BrokenPromiseError as error:
            tail = one.output()[-1500:] if (one.folder / "output.txt").exists() else ""
            outcome = Outcome(error.kind, f"{error}; output ends: {tail!r}", time.monotonic() - began)
        except Exception as error:
            outcome = Outcome("traceback", f"{type(error).__name__}: {error}", time.monotonic() - began)
        finally:
            one.end()
    return ", ".join(name), outcome


def _killed(one: Place, name: list[str]) -> None:
    """Four kills at moments of chance, then the rest of the sweep."""
    dice, run_dir = one.dice, one.folder / "s"
    if dice.random() < 0.3:
        one.serve()
    kinds = ["driver", "driver", "worker", "worker", "stop", "ray"] + (["server"] * 3 if one.server else [])
    total = COLUMNS * SEEDS + 1
    known: dict[str, str] = {}
    process, again = one.start("run", one.sweep()), 0
    for count in sorted(dice.sample(range(total), KILLS)):
        _until(
            lambda run=process, count=count: run.poll() is not None or len(measured(run_dir)) >= count, f"{count} results"
        )
        time.sleep(dice.choice([0, dice.random(), 5 * dice.random()]))
        kind = dice.choice(kinds)
        name.append(kind)
        known |= measured(run_dir)
        if kind == "server":
            assert one.server is not None
            os.killpg(one.server.pid, signal.SIGKILL)
            one.server.wait()
            time.sleep(2 * dice.random())
            one.serve()
        elif kind == "worker":
            workers = [child for child in _children(process.pid) if _name(child).startswith("ray::")]
            if workers:
                with contextlib.suppress(psutil.NoSuchProcess):
                    dice.choice(workers).kill()
                again += 1
        elif _end_driver(process, kind, dice):
            again += 1
            process = one.start("resume", run_dir) if (run_dir / "sweep.yaml").exists() else one.start("run", one.sweep())
        now = measured(run_dir)
        if not known.items() <= now.items():
            raise BrokenPromiseError("lost", f"after {name[-1]}: results were lost, or measured again")
    for _ in range(3):
        code = process.wait(PATIENCE)
        if code == 0:
            break
        # Trials that were lost twice are failed; a resumed run measures them.
        process = one.start("resume", run_dir)
    if code != 0:
        raise BrokenPromiseError("wrong", f"exit code {code} of a run that was resumed and not disturbed")
    _check_run(run_dir, total, known)
    begun = sum(len(note.read_text()) for note in one.notes.iterdir())
    most = total - 1 + again * (len(os.sched_getaffinity(0)) + 1)
    if begun > most:
        raise BrokenPromiseError("wrong", f"{begun} fits began, of {total - 1} and {again} kills that can lose some")
    if one.server:
        _until(lambda: one.start("sync", run_dir).wait(PATIENCE) == 0, "sync reaches the server", 120)
    _check_mlflow(one.folder / ("server.db" if one.server else "mlflow.db"), total)
    if one.server:
        os.killpg(one.server.pid, signal.SIGKILL)
        one.server.wait()
    _until(lambda: not one.marked(), "nothing of the sweep is left", GONE_SECONDS)


def _end_driver(process: subprocess.Popen[bytes], kind: str, dice: Random) -> bool:
    """End a driver by a kill, by a signal, or by killing its Ray; False where that has not begun, and the driver goes on."""
    if kind == "ray":
        parts = [child for child in _children(process.pid) if _name(child) in ("raylet", "gcs_server")]
        if not parts:
            return False
        with contextlib.suppress(psutil.NoSuchProcess):
            dice.choice(parts).kill()
    else:
        process.send_signal(signal.SIGKILL if kind == "driver" else dice.choice([signal.SIGTERM, signal.SIGINT]))
    process.wait(PATIENCE)
    return True


def _children(process: int) -> list[psutil.Process]:
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(process).children(recursive=True)
    return []


def _name(process: psutil.Process) -> str:
    with contextlib.suppress(psutil.NoSuchProcess):  # it has ended since it was listed
        return process.name()
    return ""


def _two_drivers(one: Place, name: list[str]) -> None:
    """Two drivers on one run, the second a moment of chance after the first."""
    file, run_dir = one.sweep(tracking=False), one.folder / "s"
    first = one.start("run", file)
    time.sleep(one.dice.choice([0, 1, 10]) * one.dice.random())
    second = one.start("run", file)
    codes = sorted([first.wait(PATIENCE), second.wait(PATIENCE)])
    if codes not in ([0, 0], [0, 2]) or (codes[1] == 2 and "still at work" not in one.output()):
        raise BrokenPromiseError("wrong", f"exit codes {codes}")
    name.append("one refused" if codes[1] else "one after the other")
    _check_run(run_dir, COLUMNS * SEEDS + 1, {})
    _once(one)


def _two_sweeps(one: Place, name: list[str]) -> None:
    """Two sweeps with the same trials on one ledger, at the same time."""
    ledger = str(one.folder / "ledger")
    processes = [one.start("run", one.sweep(run, tracking=False, ledger=ledger)) for run in ("a", "b")]
    codes = [process.wait(PATIENCE) for process in processes]
    if codes != [0, 0]:
        raise BrokenPromiseError("wrong", f"exit codes {codes}")
    for run in ("a", "b"):
        _check_run(one.folder / run, COLUMNS * SEEDS + 1, {})
    name.append("each fit made by one of them")
    _once(one)


def _once(one: Place) -> None:
    """Each fit has begun once."""
    twice = [note.name for note in one.notes.iterdir() if len(note.read_text()) > 1]
    if twice:
        raise BrokenPromiseError("twice", f"{len(twice)} of {COLUMNS * SEEDS} fits were made more than once")


def _check_run(run_dir: Path, total: int, known: dict[str, str]) -> None:
    """All trials are there, those that were known as they were, and every compressed file is whole."""
    rows = {row["trial_key"]: row for row in store.read_trials(run_dir).to_pylist()}
    if len(rows) != total or {row["status"] for row in rows.values()} != {"ok"}:
        raise BrokenPromiseError("lost", f"{len(rows)} of {total} rows, {sorted({row['status'] for row in rows.values()})}")
    again = [key for key, started in known.items() if rows[key]["started_at"].isoformat() != started]
    if again:
        raise BrokenPromiseError("lost", f"{len(again)} results that were kept were measured again")
    for key in rows:
        try:
            quantizers.read(run_dir / "artifacts" / f"{key}.safetensors")
        except quantizers.ArtifactError as error:
            if "which is not installed here" not in str(error):  # said of a file whose digest fits
                raise BrokenPromiseError("lost", str(error)) from None
    # In a ledger, which others may be writing to, `frontier ledger clean` deletes what a killed process was writing.
    parts = [path.relative_to(run_dir) for path in run_dir.rglob(f"*{PART_SUFFIX}")]
    left = [str(path) for path in parts if path.parts[0] != "ledger"]
    if left or (run_dir / "ray").exists():
        raise BrokenPromiseError("leftovers", f"{left[:5]} {'ray/' if (run_dir / 'ray').exists() else ''}")


def _check_mlflow(database: Path, total: int) -> None:
    """Each trial, and the sweep, has one run, and it has ended."""
    query = (
        "SELECT r.status, t.value FROM runs r LEFT JOIN tags t ON t.run_uuid = r.run_uuid AND t.key = 'trial_key' "
        "WHERE r.lifecycle_stage = 'active' AND NOT EXISTS "
        "(SELECT 1 FROM tags s WHERE s.run_uuid = r.run_uuid AND s.key = 'superseded')"
    )
    with contextlib.closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        runs = connection.execute(query).fetchall()
    keys = [key for _, key in runs if key is not None]
    if len(keys) != len(set(keys)) or len(keys) != total or {status for status, _ in runs} != {"FINISHED"}:
        raise BrokenPromiseError("mlflow", f"{len(keys)} runs of {len(set(keys))} trials, {sorted({s for s, _ in runs})}")


def _check_output(one: Place) -> None:
    """No stack was printed, by us or by Ray."""
    output = one.output()
    for sign in ("Traceback (most recent", "*** SIG", "Fatal Python"):
        if sign in output:
            where = output.index(sign)
            raise BrokenPromiseError("traceback", output[max(0, where - 200) : where + 800])
