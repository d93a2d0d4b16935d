"""The report in a browser: what it draws, what it answers, light and dark, wide and narrow."""

import datetime
import json
from pathlib import Path
from typing import Any

import quantizers
from analysis import store
from analysis.pareto import build_frontier
from analysis.report.word_view import nearest
from quantizers import Quantizer, Table
from trainables.tables import builtin

ROWS = 1200
CONFIGS = [
    ("identity", {}),
    *(
        ("rq", {"num_codebooks": m, "codebook_size": k, "beam_size": 1, "iterations": 4})
        for m in (2, 4, 8)
        for k in (16, 32)
    ),
    *(("pq", {"num_codebooks": m, "codebook_size": 16, "iterations": 4}) for m in (5, 10, 25)),
    *(("scalar", {"bits": bits}) for bits in (1, 2, 4)),
]
METRICS = {
    "reconstruction.nmse": {"direction": "min", "unit": "", "description": "squared error over the variance"},
    "neighbours.recall_at_10": {"direction": "max", "unit": "", "description": "share of neighbours kept"},
    "neighbours.first": {"direction": "max", "unit": "", "description": "share of nearest neighbours kept"},
}


def measure(table: Table, quantizer: Quantizer) -> dict[str, float]:
    rows = quantizer.to_dense()
    error = (rows - table.vectors).square().sum() / (table.vectors - table.vectors.mean(dim=0)).square().sum()
    before, after = nearest(table.vectors), nearest(rows)
    kept = [len(set(one) & set(other)) / 10 for one, other in zip(before.tolist(), after.tolist(), strict=True)]
    return {
        "reconstruction.nmse": float(error),
        "neighbours.recall_at_10": sum(kept) / len(kept),
        "neighbours.first": float((before[:, 0] == after[:, 0]).mean()),
    }


def make_run(run_dir: Path, rows: int = ROWS) -> Path:
    """A run of real fits to the first words of GloVe, with their compressed files, as a sweep leaves it."""
    (run_dir / "artifacts").mkdir(parents=True)
    table = builtin.read("glove-10k-50d", rows=rows)
    trials: list[dict[str, Any]] = []
    scores: list[dict[str, Any]] = []
    baseline: dict[str, float] = {}
    for number, (method, config) in enumerate(CONFIGS):
        for seed in (0, 1) if method != "identity" else (0,):
            quantizer = quantizers.create(method, **config).fit(table, seed=seed)
            key = f"{number:02d}{seed}" + "0" * 17
            quantizer.save(run_dir / f"artifacts/{key}.safetensors")
            size, dense = quantizer.payload_bytes, 4 * table.num_embeddings * table.embedding_dim
            row: dict[str, Any] = {"trial_key": key, "sweep": "words", "table": table.name, "table_digest": table.digest}
            row |= {
                "task_scope": "whole table",
                "quantizer": method,
                "config_json": json.dumps(config),
                "regime": "pretrained",
            }
            row |= {"weights": "none", "seed": seed, "status": "ok", "num_embeddings": rows, "embedding_dim": 50}
            row |= {"payload_bytes": size, "dense_bytes": dense, "compression_ratio": dense / size, "shared_fit": False}
            row |= {"fit_seconds": 0.1 * (number + 1), "decode_rows_per_second": 1e6 / (number + 1), "fit_key": key}
            trials.append(row | {"started_at": datetime.datetime(2024, 5, 1, tzinfo=datetime.UTC)})
            values = measure(table, quantizer)
            baseline = baseline or values
            for full, about in METRICS.items():
                task, metric = full.split(".")
                score = {"trial_key": key, "role": "input", "task": task, "task_version": 1, "metric": metric}
                score |= {"direction": about["direction"], "value": values[full], "baseline": baseline[full]}
                scores.append(score)
    failed = {**trials[-1], "trial_key": "f" * 20, "status": "failed", "reason": "RuntimeError: the loss is not finite"}
    trials.append({name: value for name, value in failed.items() if name not in ("payload_bytes", "compression_ratio")})
    run = {
        "name": "words",
        "command": "frontier run words.yaml",
        "started_at": "2024-05-01T12:00:00+00:00",
        "finished_at": "2024-05-01T12:07:30+00:00",
        "trial_seconds": 450.0,
        "table": {"name": table.name, "digest": table.digest, "num_embeddings": rows, "embedding_dim": 50},
        "machine": {"cpu": "a CPU", "cores": 2, "memory_bytes": 8 * 10**9, "gpus": [], "platform": "Linux"},
        "versions": {"python": "3.11", "torch": "2.13"},
        "metrics": METRICS,
        "objectives": ["payload_bytes", *METRICS],
        "interrupted": False,
    }
    store.write_run(run_dir, run)
    (run_dir / "sweep.yaml").write_text("name: words\n")
    store.write(run_dir, "trials", trials)
    store.write(run_dir, "scores", scores)
    store.write(run_dir, "frontier", build_frontier(store.read_trials(run_dir), store.read_scores(run_dir), run))
    return run_dir
