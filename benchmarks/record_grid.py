"""Records a full grid with its learning curves, for ``benchmarks/search.py`` to replay.

A real sweep (Ray Tune, one trial at a time, one thread) runs every configuration of the preset ``search``; what every fit
cost, what it came to, and every report of it with the second at which it came go into one Parquet file. Seconds are those of
the processor, so that other work on the machine is not charged to the trials:

    python benchmarks/record_grid.py -o benchmarks/grids/glove.parquet
    python benchmarks/record_grid.py -o benchmarks/grids/synthetic.parquet \
        --set table=builtin:synthetic-3000x40 --set rows=null --set 'seeds=[1]'
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import pyarrow as pa
import pyarrow.parquet as pq
import typer

import quantizers
import sweeps.driver  # sets Ray's environment before Ray is imported
from analysis import store
from sweeps.record.ledger import Ledger
from sweeps.spec.config import load
from sweeps.storage import open_storage

COLUMNS = ("quantizer", "config_json", "seed", "payload_bytes", "predicted_payload_bytes", "nmse", "half_mse")
# The preset as it is recorded: all of it, each trial to its end, of fewer words than it has.
WHOLE = ("rows=4000", "search.kind=grid", "scheduler.kind=none", "stop={}", "keep_artifacts=none", "tracking=false")
CURVE = ("phase", "fraction", "value", "seconds")


def processor_clock() -> None:
    """Runs first in every worker: what a trial measures are seconds of the processor, of this one-thread process alone."""
    time.perf_counter = time.process_time


def main(
    output: Annotated[Path, typer.Option("-o", help="Parquet file to write.")],
    change: Annotated[list[str], typer.Option("--set", help="key=value, as for frontier run.")] = [],  # noqa: B006
) -> None:
    """Run the sweep and write its trials with their curves."""
    import ray
    from rich.console import Console

    os.environ.setdefault("RAY_worker_niceness", "0")
    hook = {"worker_process_setup_hook": processor_clock}
    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, runtime_env=hook)  # one trial at a time
    with tempfile.TemporaryDirectory() as folder:
        config = load("search", [*WHOLE, *change], output=folder)
        run = sweeps.driver.run(config, console=Console())
        trials = store.read_trials(run.run_dir).to_pylist()
        facts = store.read_run(run.run_dir)
        assert config.ledger_location is not None
        ledger = Ledger(open_storage(config.ledger_location))
        rows = [recorded(row, ledger) for row in trials if row["status"] == "ok"]
    for row in trials:
        if row["status"] != "ok":
            print(f"left out: {row['quantizer']} {row['config_json']}: {row['status']}, {row['reason']}")
    table = pa.Table.from_pylist(rows)
    about = {name: facts[name] for name in ("table", "machine", "versions")}
    table = table.replace_schema_metadata({"recorded": json.dumps(about)})
    output.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, output, compression="zstd", compression_level=19)
    iterative, seconds = (sum(row[name] for row in rows) for name in ("iterative", "seconds"))
    print(f"{output}: {len(rows)} trials, {iterative} iterative, {seconds:.0f} s, {output.stat().st_size} bytes")


def recorded(row: dict[str, Any], ledger: Ledger) -> dict[str, Any]:
    """One trial: what it is, what it cost, what came of it, and its curve as one list a column."""
    result = ledger.get(row["trial_key"])
    assert result is not None
    one = {name: row[name] for name in COLUMNS}
    one |= {"iterative": quantizers.get(row["quantizer"]).iterative, "seconds": row["fit_seconds"]}
    return one | {f"curve_{name}": [step[name] for step in result.curves] for name in CURVE}


if __name__ == "__main__":
    typer.run(main)
