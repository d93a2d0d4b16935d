"""A whole sweep through the command line, with a method from elsewhere and one that fails."""

import contextlib
import json
import math
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from typer.testing import Result

import quantizers
import sweeps
from analysis import store
from sweeps.tune.queue import Queue
from trainables import reconstruction
from trainables.tables.formats import read_table

pytestmark = [pytest.mark.xdist_group("warm ray"), pytest.mark.ray]

METHODS = '''
"""Two methods in one file: one that works, one that does not."""

import time
from typing import Any, ClassVar

import torch

from quantizers import Budget, FitStep, Quantizer, QuantizerConfig, Skip, StorageCost


class SignsConfig(QuantizerConfig):
    """No parameters."""


class Signs(Quantizer):
    """Signs, packed, and one magnitude a row."""

    name = "signs"
    Config = SignsConfig
    reference = "a test"
    state_roles: ClassVar[dict[str, Any]] = {"signs": "code", "scale": "side"}

    @classmethod
    def configs_for(cls, budget, stats):
        need = cls.storage(None, stats.shape).payload_bytes
        return [SignsConfig()] if need <= budget.payload_bytes else Skip(f"signs take {need} bytes")

    @classmethod
    def storage(cls, config, shape):
        return StorageCost(shape[0] * ((shape[1] + 7) // 8), 0, 4 * shape[0])

    def _fit_steps(self, table, *, seed, weights, budget):
        from quantizers.coding.bits import pack

        x = table.vectors
        self._set_state({"signs": pack((x >= 0).to(torch.int64), 1), "scale": x.abs().mean(dim=1)})
        yield FitStep("signs", 1.0)

    def reconstruct(self, ids):
        from quantizers.coding.bits import unpack

        signs = unpack(self._state["signs"][ids], self.embedding_dim, 1)
        return (2.0 * signs - 1.0) * self._state["scale"][ids, None]


class Broken(Signs):
    """Fails in its fit."""

    name = "broken"

    def _fit_steps(self, table, *, seed, weights, budget):
        yield FitStep("start", 0.1)
        raise RuntimeError("planted failure")


class SlowConfig(QuantizerConfig):
    """seconds: how long the fit takes; number: tells configurations apart."""

    seconds: float = 1.0
    number: int = 0


class Slow(Signs):
    """Takes its time."""

    name = "slow"
    Config = SlowConfig

    def _fit_steps(self, table, *, seed, weights, budget):
        time.sleep(self.config.seconds)
        yield from super()._fit_steps(table, seed=seed, weights=weights, budget=budget)
'''


Command = Callable[..., Result]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, install: Callable[..., Path], warm_site: Path) -> Path:
    """A folder with a table, and a package that brings methods by entry point, to this process too."""
    folder = tmp_path_factory.mktemp("sweep")
    generator = np.random.default_rng(0)
    vectors = generator.standard_normal((400, 12)) * np.linspace(2, 0.2, 12)
    np.save(folder / "table.npy", vectors.astype(np.float32))
    (folder / "table.words").write_text("".join(f"word{number}\n" for number in range(400)))
    install(folder / "packages", more_methods=METHODS)
    install(warm_site, more_methods=METHODS)
    return folder


def sweep_file(place: Path, name: str, **changes: Any) -> Path:
    sweep = {
        "name": name,
        "table": "table.npy",
        "quantizers": ["pq", "cast", "signs", "broken"],
        "budgets": {"compression_ratio": [4, 8]},
        "tasks": ["neighbours"],
        "seeds": [0, 1],
        **changes,
    }
    file = place / f"{name}.yaml"
    file.write_text(yaml.safe_dump(sweep))
    return file


def command(place: Path, *words: object) -> list[str]:
    return [sys.executable, "-m", "sweeps", *map(str, words)]


def environment(place: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(place / "packages"), "COLUMNS": "200"}


def program(place: Path, *words: object) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own."""
    return subprocess.run(
        command(place, *words), env=environment(place), capture_output=True, text=True, cwd=place, timeout=250
    )


def rows_of(run_dir: Path) -> list[dict[str, Any]]:
    return store.read_trials(run_dir).to_pylist()


@pytest.fixture(scope="module")
def swept(place: Path) -> tuple[Path, subprocess.CompletedProcess[str]]:
    done = program(place, "run", sweep_file(place, "all"), "--data", place, "--out", place / "runs")
    return place / "runs" / "all", done


def test_every_trial_is_a_row_and_failures_have_reasons(swept: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    run_dir, done = swept
    assert done.returncode == 1, done.stdout + done.stderr
    rows = rows_of(run_dir)
    counts: dict[tuple[str, str], int] = {}
    for row in rows:
        counts[row["quantizer"], row["status"]] = counts.get((row["quantizer"], row["status"]), 0) + 1
    assert counts[("identity", "ok")] == 1
    assert counts[("signs", "ok")] == 2  # both budgets lead to the one configuration
    assert counts[("pq", "ok")] == 4
    assert counts[("broken", "failed")] == 2
    assert counts[("cast", "ok")] == 2 and counts[("cast", "skipped")] == 1
    assert all("planted failure" in row["reason"] for row in rows if row["quantizer"] == "broken")
    assert all(row["reason"] for row in rows if row["status"] != "ok")
    assert "planted failure" in done.stdout
    assert len({row["trial_key"] for row in rows}) == len(rows)


def test_sizes_and_metrics_are_those_of_the_file(place: Path, swept: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    run_dir, _ = swept
    table = read_table(str(place / "table.npy"))
    ok = [row for row in rows_of(run_dir) if row["status"] == "ok"]
    for row in ok:
        path = run_dir / "artifacts" / f"{row['trial_key']}.safetensors"
        assert path.stat().st_size == row["file_bytes"]
        if row["quantizer"] == "signs":  # not registered in this process
            continue
        artifact = quantizers.read(path)
        assert artifact.storage.payload_bytes == row["payload_bytes"] == row["predicted_payload_bytes"]
        assert row["budget_bytes"] is None or row["payload_bytes"] <= row["budget_bytes"]
        measured = reconstruction.measure(table, artifact.quantizer.to_dense())
        for name, value in measured.items():
            if value is not None:
                assert math.isclose(value, row[name], rel_tol=1e-6) or value == row[name], (row["quantizer"], name)
    assert len(ok) == 1 + 4 + 2 + 2


def test_a_new_method_is_listed_and_drawn(place: Path, swept: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    run_dir, _ = swept
    assert "signs" in program(place, "methods", "--names").stdout.split()
    assert "signs" in store.read_frontier(run_dir).column("quantizer").to_pylist()
    assert "signs" in (run_dir / "report.html").read_text(encoding="utf-8")
    assert (run_dir / "frontier.png").stat().st_size > 10_000


@pytest.mark.filterwarnings("ignore:The ``noload``")  # inside MLflow
def test_mlflow_has_one_ended_run_for_each_trial(swept: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    from mlflow import MlflowClient

    run_dir, _ = swept
    client = MlflowClient(f"sqlite:///{run_dir.parent / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("all")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], max_results=1000)
    trials = {run.data.tags["trial_key"]: run for run in runs if run.data.tags["role"] == "trial"}
    rows = {row["trial_key"]: row for row in rows_of(run_dir)}
    assert trials.keys() == rows.keys()
    assert len(runs) == len(trials) + 1
    ended = {"ok": "FINISHED", "skipped": "KILLED"}
    assert {key: run.info.status for key, run in trials.items()} == {
        key: ended.get(row["status"], "FAILED") for key, row in rows.items()
    }
    for key, row in rows.items():
        assert row["mlflow_run_id"] == trials[key].info.run_id
        if row["status"] == "ok":
            assert trials[key].data.metrics["payload_bytes"] == row["payload_bytes"]
            assert trials[key].data.metrics["reconstruction.mse"] == pytest.approx(row["mse"])
    summary = next(run for run in runs if run.data.tags["role"] == "summary")
    files = run_dir.parent / "mlartifacts" / "all" / summary.info.run_id / "artifacts"
    names = {path.name for path in files.iterdir()}
    assert {"trials.parquet", "frontier.parquet", "report.html", "frontier.png"} <= names


@pytest.mark.slow
def test_the_ui_says_where_a_run_s_page_is(
    place: Path, swept: tuple[Path, subprocess.CompletedProcess[str]], frontier: Command
) -> None:
    run_dir, _ = swept
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = f"http://127.0.0.1:{port}"
    words = command(place, "ui", run_dir, "--port", port)
    with subprocess.Popen(
        words,
        env=environment(place) | {"PYTHONUNBUFFERED": "1"},
        cwd=place,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            assert process.stdout is not None
            page = process.stdout.readline()
            assert page.startswith(f"all: {server}/") and "/experiments/" in page
            deadline = time.monotonic() + 120
            while time.monotonic() < deadline:
                with contextlib.suppress(OSError), urllib.request.urlopen(f"{server}/health", timeout=5):
                    break
                time.sleep(0.2)
            there = frontier("ui", "--tracking", server)
        finally:
            os.killpg(process.pid, signal.SIGTERM)
    assert there.exit_code == 0 and page in there.stdout.splitlines(keepends=True), there.output


def test_an_extension_runs_only_what_is_new_and_a_new_folder_gives_the_same_numbers(
    place: Path, swept: tuple[Path, subprocess.CompletedProcess[str]], frontier: Command
) -> None:
    run_dir, _ = swept
    before = {row["trial_key"]: row for row in rows_of(run_dir)}
    kept = (run_dir / "trials.parquet").read_bytes()
    words = ["run", place / "all.yaml", "--data", place, "--out", place / "runs", "--set"]
    other = frontier(*words, "rows=100")
    assert other.exit_code == 2 and "holds another sweep" in other.stderr and "rows" in other.stderr
    assert (run_dir / "trials.parquet").read_bytes() == kept
    more = frontier(*words, "budgets.compression_ratio=[4,8,10]", "--set", "tracking=false")
    assert more.exit_code == 1, more.output
    after = {row["trial_key"]: row for row in rows_of(run_dir)}
    assert before.keys() < after.keys()
    for key, row in before.items():
        if row["status"] == "ok":
            assert after[key]["reused"] and after[key]["started_at"] == row["started_at"]
        elif row["status"] == "failed":
            assert not after[key]["reused"]  # tried again
    assert json.loads((run_dir / "run.json").read_text())["interrupted"] is False
    words = ["run", place / "all.yaml", "--data", place, "--out", place / "fresh", "--set", "tracking=false"]
    fresh = frontier(*words, "--set", "ledger=false", "--set", "seeds=[0]")
    assert fresh.exit_code == 1, fresh.output
    measured = ("payload_bytes", "file_bytes", "artifact_digest", "mse", "cosine", "max_abs_error")
    made = rows_of(place / "fresh" / "all")
    for row in made:
        assert not row["reused"]
        assert {name: row[name] for name in measured} == {name: before[row["trial_key"]][name] for name in measured}
    keys = {row["trial_key"] for row in made}
    scores = [
        sorted((s["trial_key"], s["task"], s["metric"], s["value"]) for s in found if s["trial_key"] in keys)
        for found in (store.read_scores(path).to_pylist() for path in (run_dir, place / "fresh" / "all"))
    ]
    assert scores[0] == scores[1] and len(scores[0]) >= 8


@pytest.mark.slow  # test_resume.py interrupts all processes of a sweep at once, as a terminal does
def test_interrupted_then_resumed(place: Path) -> None:
    entry = {"method": "slow", "seconds": 1.5, "number": list(range(8))}
    file = sweep_file(place, "slow", quantizers=[entry], seeds=[0])
    words = command(place, "run", file, "--data", place, "--out", place / "runs")
    run_dir = place / "runs" / "slow"
    process = subprocess.Popen(words, env=environment(place), cwd=place, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    results = run_dir / "ledger" / "results"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and (not results.is_dir() or len(list(results.glob("*.json"))) < 3):
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=120)
    assert process.returncode == 130, (stdout, stderr)
    counts = [row["status"] for row in rows_of(run_dir)]
    assert 3 <= counts.count("ok") < 9 and counts.count("ok") + counts.count("stopped") == 9
    assert (run_dir / "report.html").is_file()
    finished = {row["trial_key"]: row["started_at"] for row in rows_of(run_dir) if row["status"] == "ok"}
    done = program(place, "resume", run_dir)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = {row["trial_key"]: row for row in rows_of(run_dir)}
    assert {row["status"] for row in rows.values()} == {"ok"} and len(rows) == 9
    assert all(rows[key]["started_at"] == started for key, started in finished.items())
    shown = program(place, "status", run_dir)
    assert shown.returncode == 0 and "9/9" in shown.stdout


def test_a_sweep_may_end_between_the_making_and_the_start_of_a_trial(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    suggest = Queue.suggest

    def last(queue: Queue, trial_id: str) -> dict[str, Any] | str | None:
        made = suggest(queue, trial_id)
        if isinstance(made, dict):
            queue._intake.stop("now")
        return made

    monkeypatch.setattr(Queue, "suggest", last)
    file = sweep_file(place, "between", quantizers=["signs"], seeds=[0], output=str(place / "runs"), tracking=False)
    assert sweeps.run(str(file), data_dir=place).stop_reason == "now"
    rows = rows_of(place / "runs" / "between")
    assert rows and {row["status"] for row in rows} == {"stopped"}
    assert (place / "runs" / "between" / "report.html").is_file()


def test_a_chosen_file_is_verified_and_loads(
    place: Path, swept: tuple[Path, subprocess.CompletedProcess[str]], frontier: Command
) -> None:
    run_dir, _ = swept
    row = next(row for row in rows_of(run_dir) if row["quantizer"] == "pq")
    done = frontier("export", run_dir, "--trial", row["trial_key"], "-o", place / "chosen.safetensors")
    assert done.exit_code == 0 and "digest and error as recorded" in done.stdout, done.output
    embedding = quantizers.load(place / "chosen.safetensors")
    assert embedding(torch.tensor([[0, 1]])).shape == (1, 2, 12)
    assert embedding.words is not None and embedding.words[3] == "word3"
    advice = frontier("recommend", run_dir, "--max-bytes", "3KB")
    assert advice.exit_code == 0 and "recall" in advice.stdout, advice.output
    damaged = run_dir / "artifacts" / f"{row['trial_key']}.safetensors"
    whole = damaged.read_bytes()
    try:
        damaged.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        refused = frontier("export", run_dir, "--trial", row["trial_key"], "-o", place / "bad.safetensors")
        assert refused.exit_code == 2 and not (place / "bad.safetensors").exists()
    finally:
        damaged.write_bytes(whole)
