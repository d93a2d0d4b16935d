"""Large sweeps: trials that the ledger has, trials that run, and a frontier over many rows of trials.parquet.

    python benchmarks/scale.py [--trials 10000] [--rows 1000000] [--run 20000] [--records 1250]

With ``--run N``, N trials of a stand-in that only reports a made-up result run on two Ray workers: what is measured is the
driver's memory, and its time per trial in the last tenth of the sweep as a share of that in the first.
With ``--records N``, N stand-ins of 0.1 s run with MLflow's records on: what is measured is how long after the last trial's
end the database has a finished run of every trial.

Each part runs in a process of its own, whose peak of resident memory is told.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import os
import resource
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from analysis import store
from analysis.pareto import build_frontier
from analysis.schema import SCORES, TRIALS
from sweeps.driver import run
from sweeps.spec.config import SweepConfig, build
from sweeps.spec.prepare import prepare
from trainables.records import TrialResult, TrialSpec, blank_row

SHAPE = (2000, 32)


def sweep(folder: Path, trials: int) -> SweepConfig:
    """``trials`` trials: 20 configurations, the rest seeds."""
    grid = {"method": "pq", "num_codebooks": [2, 4, 8, 16], "codebook_size": [2, 4, 8, 16, 32]}
    return build(
        {
            "name": "large",
            "table": f"builtin:synthetic-{SHAPE[0]}x{SHAPE[1]}",
            "quantizers": [grid],
            "tasks": ["reconstruction"],
            "seeds": list(range(trials // 20)),
            "keep_artifacts": "none",
            "tracking": False,
            "output": str(folder),
        }
    )


def fill(folder: Path, trials: int) -> None:
    """A ledger with a made-up result of every trial, curves and all."""
    prepared = prepare(sweep(folder, trials), None)
    results = folder / "large" / "ledger" / "results"
    results.mkdir(parents=True)
    (folder / "large" / "sweep.yaml").write_text(prepared.config.to_yaml())
    dice = np.random.default_rng(0)
    reconstruction = next(task for task in prepared.tasks if task.name == "reconstruction")
    curves = [
        {"phase": "fit", "fraction": step / 20, "value": 1.0 / (1 + step), "seconds": 0.1 * step} for step in range(20)
    ]
    for spec in prepared.plan.trials:
        size = prepared.plan.predicted_bytes[spec.key]
        row = blank_row(spec, (prepared.table.name, *SHAPE), status="ok")
        row.update(payload_bytes=size, predicted_payload_bytes=size, compression_ratio=4 * SHAPE[0] * SHAPE[1] / size)
        row.update(started_at="2026-01-01T00:00:00+00:00", mse=float(dice.random()), sqnr_db=float(dice.random()))
        row.update(dense_bytes=4 * SHAPE[0] * SHAPE[1], fit_key=spec.fit_key)
        scores = [
            {"trial_key": spec.key, "role": "input", "task": "reconstruction", "task_version": 1, "metric": metric.name}
            | {"direction": metric.direction, "value": float(dice.random()), "baseline": 0.0, "num_examples": SHAPE[0]}
            for metric in reconstruction.metrics
        ]
        (results / f"{spec.key}.json").write_text(json.dumps(TrialResult(row, scores, curves, None, 1.0).to_json()))


def part(name: str, folder: Path, amount: int) -> None:
    """One part, in a process of its own."""
    if name == "fill":
        fill(folder, amount)
        return
    if name == "rows":
        write_rows(folder, amount)
        return
    if name == "run":
        run_stand_ins(folder, amount)
        return
    if name == "records":
        record_stand_ins(folder, amount)
        return
    began = time.perf_counter()
    if name == "ledger":
        ended = run(sweep(folder, amount))
        said = f"{ended.reused:,} trials from the ledger"
    else:
        frontier = build_frontier(store.read_trials(folder), store.read_scores(folder), bootstrap=0)
        said = f"frontier of {frontier.num_rows:,} configurations over {amount:,} rows"
    seconds = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    used, load = time.process_time(), os.getloadavg()[0]
    print(f"{said}: {seconds:.1f} s ({used:.1f} s of processor, imports too), peak {peak:.2f} GB, load {load:.1f}")


def stand_in(config: dict[str, Any], **shared: Any) -> None:
    """Takes the place of a trial: reports a step and a made-up result at once."""
    from ray import tune

    spec = TrialSpec.from_json(config["spec"])
    row = blank_row(spec, ("synthetic", *SHAPE), status="ok")
    row.update(payload_bytes=1000, predicted_payload_bytes=1000, compression_ratio=1.0, peak_memory_bytes=1, mse=1.0)
    row.update(started_at=datetime.datetime.now(datetime.UTC).isoformat(), file_bytes=1000)
    time.sleep(float(os.environ.get("STAND_IN_SECONDS", "0")))
    step = {"phase": "fit", "fraction": 0.5, "value": 1.0, "seconds": 0.0, "metrics": "{}", "result": None}
    tune.report(step)
    result = json.dumps(TrialResult(row, [], [step] * 20, None, 0.01).to_json())
    last = {"out_of_memory": False, "device_memory_bytes": None}
    tune.report({**step, "phase": "done", "fraction": 1.0, "result": result, **last})


def run_stand_ins(folder: Path, trials: int) -> None:
    """A sweep of trials that take no time, on Ray."""
    from sweeps.tune import engine

    engine.tune_trial = stand_in  # type: ignore[assignment, attr-defined]
    config = sweep(folder, trials).model_copy(update={"name": "running", "ledger": False})
    run(config)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    times = np.sort(
        [row["started_at"].timestamp() for row in store.read_trials(config.run_dir).to_pylist() if row["started_at"]]
    )
    tenth = max(2, len(times) // 10)
    first, last = (np.diff(part).mean() for part in (times[:tenth], times[-tenth:]))
    print(
        f"{len(times):,} trials that take no time: {(times[-1] - times[0]) / len(times) * 1000:.1f} ms each, "
        f"in the last tenth {last / first:.2f} times the first ({first * 1000:.1f} ms), driver's peak {peak:.2f} GB"
    )


def record_stand_ins(folder: Path, trials: int) -> None:
    """The same of 0.1 s each, with MLflow's records: when are all of them in the database?"""
    from sweeps.tune import engine

    engine.tune_trial = stand_in  # type: ignore[assignment, attr-defined]
    os.environ["STAND_IN_SECONDS"] = "0.1"
    database = folder / "mlflow.db"
    config = sweep(folder, trials).model_copy(
        update={"name": "recorded", "ledger": False, "tracking": f"sqlite:///{database}"}
    )
    complete: list[float] = []

    def watch() -> None:
        query = (
            "SELECT count(*) FROM runs r JOIN tags t USING (run_uuid) WHERE t.key = 'trial_key' AND r.status = 'FINISHED'"
        )
        while not complete:
            time.sleep(0.2)
            with (
                contextlib.suppress(sqlite3.Error),
                contextlib.closing(sqlite3.connect(database, timeout=0.1)) as connection,
            ):
                if connection.execute(query).fetchone()[0] >= trials + 1:
                    complete.append(time.time())

    threading.Thread(target=watch, daemon=True).start()
    run(config)
    time.sleep(1)
    rows = store.read_trials(config.run_dir).to_pylist()
    last = 0.1 + max(row["started_at"].timestamp() for row in rows)
    said = f"{complete[0] - last:.1f} s after the last trial's end" if complete else "not even at the end of the sweep"
    print(f"{len(rows):,} trials of 0.1 s: all records in MLflow {said}, load {os.getloadavg()[0]:.1f}")


def write_rows(folder: Path, amount: int) -> None:
    """``trials.parquet`` and ``scores.parquet`` of ``amount`` trials: five seeds of each configuration."""
    dice, number = np.random.default_rng(0), np.arange(amount)
    size = 1000 + 17 * (number // 5 % 50_000)
    text = pa.array(["x"]).take(pa.array(np.zeros(amount, dtype=np.int64)))
    known: dict[str, Any] = {
        "trial_key": pa.array([f"{key:020x}" for key in number]),
        "config_json": pa.array([f'{{"number": {key}}}' for key in number // 5]),
        "status": pa.array(["ok"]).take(pa.array(np.zeros(amount, dtype=np.int64))),
        "seed": number % 5,
        "payload_bytes": size,
        "num_embeddings": np.full(amount, 100_000),
        "embedding_dim": np.full(amount, 100),
        "value": 1e6 / size * dice.lognormal(sigma=0.2, size=amount),
        "direction": pa.array(["min"]).take(pa.array(np.zeros(amount, dtype=np.int64))),
    }
    schemas: dict[Literal["trials", "scores"], pa.Schema] = {"trials": TRIALS, "scores": SCORES}
    for name, schema in schemas.items():
        columns = [
            pa.array(known[field.name], type=field.type) if field.name in known
            else text if pa.types.is_string(field.type)
            else pa.nulls(amount, field.type)
            for field in schema
        ]  # fmt: skip
        store.write(folder, name, pa.Table.from_arrays(columns, schema=schema))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--run", type=int, default=0, help="stand-in trials to run on Ray; 20,000 take some 20 minutes")
    parser.add_argument("--records", type=int, default=0, help="stand-in trials of 0.1 s to run with MLflow's records on")
    parser.add_argument("--part", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part:
        part(options.part[0], Path(options.part[1]), int(options.part[2]))
        return
    with tempfile.TemporaryDirectory() as folder:
        for name, amount in (
            ("fill", options.trials),
            ("ledger", options.trials),
            ("rows", options.rows),
            ("frontier", options.rows),
            ("run", options.run),
            ("records", options.records),
        ):
            if not amount:
                continue
            subprocess.run([sys.executable, __file__, "--part", name, folder, str(amount)], check=True)


if __name__ == "__main__":
    main()
