"""Reports, plots and recommendations of a made-up run whose numbers are known."""

import datetime
import hashlib
import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from analysis import store
from analysis.pareto import build_frontier
from analysis.report import write_report

N, D = 20_000, 100
DENSE = 4 * N * D
METHODS = ("cast", "scalar", "pq", "opq", "rq", "lsq", "dccl", "lowrank", "pruned", "binary")
RATIOS = (8, 16, 32, 64, 128)
METRICS = {
    "reconstruction.nmse": {"direction": "min", "unit": "", "description": "mse over the variance"},
    "reconstruction.sqnr_db": {"direction": "max", "unit": "dB", "description": "signal over error"},
    "neighbours.recall_at_10": {"direction": "max", "unit": "", "description": "share of neighbours kept"},
    "polarity.accuracy": {"direction": "max", "unit": "", "description": "share of words told right"},
}
BASELINE = {"nmse": 0.0, "sqnr_db": math.inf, "recall_at_10": 1.0, "accuracy": 0.85}
EIGENVALUES = [float(v) for v in np.geomspace(2.0, 0.05, D)]


def make_run(
    run_dir: Path,
    *,
    name: str = "synthetic",
    methods: tuple[str, ...] = METHODS,
    seeds: tuple[int, ...] = (0, 1),
    table: str = "glove",
) -> Path:
    """A run directory as a sweep leaves it: better methods err less, everything errs more when smaller."""
    run_dir.mkdir(parents=True)
    rng = np.random.default_rng(0)
    trials: list[dict[str, Any]] = []
    scores: list[dict[str, Any]] = []

    def add(method: str, config: dict[str, Any], size: int | None, seed: int | None, **more: Any) -> str:
        text = json.dumps(config)
        key = hashlib.blake2b(f"{method}{text}{seed}{more.get('budget_bytes')}".encode(), digest_size=10).hexdigest()
        row = {"trial_key": key, "sweep": name, "table": table, "table_digest": "ab" * 16, "task_scope": "whole table"}
        row |= {"quantizer": method, "config_json": text, "regime": "pretrained", "weights": "none", "seed": seed}
        row |= {"status": "ok", "num_embeddings": N, "embedding_dim": D, "payload_bytes": size}
        row |= {"compression_ratio": DENSE / size if size else None, "fit_seconds": 1.5, "decode_rows_per_second": 1e6}
        trials.append(row | {"started_at": datetime.datetime(2024, 5, 1, tzinfo=datetime.UTC)} | more)
        return key

    def score(key: str, values: dict[str, float]) -> None:
        for full, about in METRICS.items():
            task, metric = full.split(".")
            row = {"trial_key": key, "role": "input", "task": task, "task_version": 1, "metric": metric}
            scores.append(row | {"direction": about["direction"], "value": values[metric], "baseline": BASELINE[metric]})

    score(add("identity", {}, DENSE, seeds[0]), BASELINE)
    for number, method in enumerate(methods):
        for ratio in RATIOS:
            budget = DENSE // ratio
            if method == "scalar" and ratio == 128:
                add(method, {}, None, None, budget_bytes=budget, status="skipped", reason="1 bit a value is the least: x32")
                continue
            for seed in seeds:
                config = {"num_codebooks": 400 // ratio, "codebook_size": 256}
                if method == "dccl" and ratio == 8 and seed == seeds[0]:
                    reason = "RuntimeError: loss is not finite <script>alert(1)</script>"
                    add(method, config, None, seed, budget_bytes=budget, status="failed", reason=reason)
                    continue
                size = int(budget * (0.97 + 0.002 * number))
                nmse = min(1.0, 0.012 * ratio ** (0.75 + 0.03 * number)) * float(np.exp(0.02 * rng.standard_normal()))
                recall = max(0.0, 1 - 0.9 * nmse**0.6)
                values = {"nmse": nmse, "sqnr_db": -10 * math.log10(nmse), "recall_at_10": recall}
                accuracy = 0.5 + 0.35 * recall**0.3 + 0.004 * rng.standard_normal()
                score(add(method, config, size, seed, budget_bytes=budget), values | {"accuracy": float(accuracy)})
    run = {
        "name": name,
        "command": "frontier run synthetic.yaml",
        "started_at": "2024-05-01T12:00:00+00:00",
        "finished_at": "2024-05-01T12:07:30+00:00",
        "table": {"name": table, "digest": "ab" * 16, "num_embeddings": N, "embedding_dim": D, "eigenvalues": EIGENVALUES},
        "machine": {"cpu": "a CPU", "cores": 2, "memory_bytes": 8 * 10**9, "gpus": [], "platform": "Linux"},
        "versions": {"python": "3.11", "torch": "2.13"},
        "metrics": METRICS,
        "objectives": ["payload_bytes", *METRICS],
        "interrupted": False,
    }
    store.write_run(run_dir, run)
    (run_dir / "sweep.yaml").write_text(f"name: {name}\ntable: {table}\nseeds: {list(seeds)}\n")
    store.write(run_dir, "trials", trials)
    store.write(run_dir, "scores", scores)
    store.write(run_dir, "frontier", build_frontier(store.read_trials(run_dir), store.read_scores(run_dir), run))
    return run_dir


def test_report_holds_the_facts(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path / "run")
    page = write_report([run_dir], run_dir / "report.html").read_text()
    assert "20,000 rows × 100 columns, 8.00 MB" in page
    assert "frontier run synthetic.yaml" in page
    assert "<script>alert" not in page
