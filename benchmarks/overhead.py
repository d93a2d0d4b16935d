"""What a sweep costs beside its trials: 200 real trials of about a second, and the same again from a full ledger.

    python benchmarks/overhead.py [--trials 200]

The trials are rotated product quantization of a small generated table, one seed each, on one core each, MLflow on. Start-up
is the time of a sweep of the uncompressed baseline alone: the imports, Ray, the first trial of a worker, MLflow's database,
the report.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

from analysis import store

ROWS, COLUMNS = 20_000, 64


def sweep(folder: Path, name: str, trials: int) -> Path:
    quantizers = [{"method": "opq", "num_codebooks": 8, "codebook_size": 16}] if trials else ["identity"]
    file = folder / f"{name}.yaml"
    text = {"name": name, "table": f"builtin:synthetic-{ROWS}x{COLUMNS}", "quantizers": quantizers, "output": str(folder)}
    file.write_text(yaml.safe_dump({**text, "seeds": list(range(trials or 1)), "keep_artifacts": "frontier"}))
    return file


def run(file: Path) -> float:
    began = time.perf_counter()
    done = subprocess.run([sys.executable, "-m", "sweeps", "run", file], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stdout + done.stderr)
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=200)
    options = parser.parse_args()
    cores = len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        start_up = run(sweep(folder, "one", 0))
        file = sweep(folder, "many", options.trials)
        first = run(file)
        run_info = store.read_run(folder / "many")
        again = run(file)
        assert all(row["reused"] for row in store.read_trials(folder / "many").to_pylist())
    ideal = run_info["trial_seconds"] / cores
    mean = run_info["trial_seconds"] / (options.trials + 1)
    print(f"{options.trials} trials of {mean:.2f} s, {cores} cores, load {os.getloadavg()[0]:.1f}")
    print(
        f"start-up {start_up:.1f} s; all {first:.1f} s: {(first - start_up) / ideal:.3f} x (seconds of the trials / {cores})"
    )
    print(f"again, from the ledger: {again:.1f} s: {again - start_up:+.1f} s beyond start-up")


if __name__ == "__main__":
    main()
