"""How large a report is, and how long a browser takes to open it.

    python benchmarks/report.py [RUN_DIR...] [--trials 5000] [--repeats 5]

Without folders: of a made-up run of so many trials. Opening is timed in headless Chromium, at 1280 x 900 with the first plot
in view: until the page's ``load`` event, and until the first frontier is painted. Medians; the machine's load is told beside
them, since they are seconds of the clock. ``processor`` is what the page's thread worked until then, in seconds.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from playwright.sync_api import Browser, sync_playwright

from analysis import store
from analysis.pareto import build_frontier
from analysis.report.page import write_report

METHODS = ("cast", "scalar", "pq", "opq", "rq", "lsq", "dccl", "lowrank", "pruned", "binary")
METRICS = (("reconstruction", "nmse", "min"), ("neighbours", "recall_at_10", "max"), ("polarity", "accuracy", "max"))
SHAPE = (20_000, 100)
_SEEN = """
window.seen = {};
addEventListener("load", () => { seen.load = performance.now(); });
addEventListener("DOMContentLoaded", () => document.getElementById("plot-0").scrollIntoView());
(function look() {
  if (!document.querySelector("#plot-0 .scatterlayer .trace")) return setTimeout(look, 10);
  requestAnimationFrame(() => { seen.frontier = performance.now(); });
})();
"""


def made_up(run_dir: Path, trials: int) -> Path:
    """A run of ``trials`` trials, two seeds of each configuration."""
    run_dir.mkdir(parents=True)
    dice = np.random.default_rng(0)
    dense = 4 * SHAPE[0] * SHAPE[1]
    rows: list[dict[str, Any]] = []
    scores: list[dict[str, Any]] = []
    for number in range(trials // 2):
        method, ratio = METHODS[number % len(METHODS)], 2 + 0.5 * (number // len(METHODS))
        config = {"num_codebooks": number, "codebook_size": 256, "codebook_dtype": "float16", "iterations": 20}
        good = 1 / (1 + 0.02 * ratio * (1 + number % len(METHODS) / 10))
        for seed in (0, 1):
            key = f"{number:08x}{seed}" + "0" * 11
            row: dict[str, Any] = {"trial_key": key, "sweep": "large", "table": "glove", "table_digest": "ab" * 16}
            row |= {"task_scope": "whole table", "quantizer": method, "config_json": json.dumps(config), "seed": seed}
            row |= {"regime": "pretrained", "weights": "none", "status": "ok", "num_embeddings": SHAPE[0]}
            row |= {"embedding_dim": SHAPE[1], "payload_bytes": int(dense / ratio), "compression_ratio": ratio}
            row |= {"fit_seconds": 1 + number % 7, "decode_rows_per_second": 1e6 / (1 + number % 9), "shared_fit": False}
            rows.append(row)
            for task, metric, direction in METRICS:
                value = float(np.clip((1 - good if direction == "min" else good) + 0.005 * dice.standard_normal(), 0, 1))
                score = {"trial_key": key, "role": "input", "task": task, "task_version": 1, "metric": metric}
                scores.append(score | {"direction": direction, "value": value, "baseline": float(direction == "max")})
    metrics = {
        f"{task}.{metric}": {"direction": direction, "unit": "", "description": ""} for task, metric, direction in METRICS
    }
    store.write_run(run_dir, {"name": "large", "objectives": list(metrics), "metrics": metrics})
    store.write(run_dir, "trials", rows)
    store.write(run_dir, "scores", scores)
    store.write(run_dir, "frontier", build_frontier(store.read_trials(run_dir), store.read_scores(run_dir)))
    return run_dir


def opened(browser: Browser, page_file: Path) -> dict[str, float]:
    """Seconds from the start of one opening: ``load``, ``frontier``; ``processor``: of the page's thread until then."""
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    thread = page.context.new_cdp_session(page)
    thread.send("Performance.enable", {"timeDomain": "threadTicks"})
    page.add_init_script(_SEEN)
    page.goto(page_file.as_uri(), wait_until="load", timeout=120_000)
    page.wait_for_function("seen.frontier", timeout=120_000)
    metrics = {one["name"]: one["value"] for one in thread.send("Performance.getMetrics")["metrics"]}
    times = page.evaluate("seen")
    page.close()
    return {"load": times["load"] / 1000, "frontier": times["frontier"] / 1000, "processor": metrics["TaskDuration"]}


def main() -> None:
    """Print a line for each report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run_dirs", nargs="*", type=Path)
    parser.add_argument("--trials", type=int, default=5000)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        run_dirs = options.run_dirs or [made_up(Path(folder) / "large", options.trials)]
        arguments = ["--disable-dev-shm-usage"] + (["--no-sandbox"] if os.geteuid() == 0 else [])
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=arguments)
        for number, run_dir in enumerate(run_dirs):
            page_file = write_report([run_dir], Path(folder) / f"{number}.html")
            found = [opened(browser, page_file) for _ in range(options.repeats)]
            told = ", ".join(f"{name} {statistics.median(one[name] for one in found):.2f} s" for name in found[0])
            trials = store.read_trials(run_dir).num_rows
            size = page_file.stat().st_size / 1e6
            print(f"{run_dir.name}: {trials} trials, {size:.2f} MB, {told}; load {os.getloadavg()[0]:.1f}")
        browser.close()


if __name__ == "__main__":
    main()
