"""Seconds and peak memory of one fit of every method, each in a process of its own.

    python benchmarks/fit_cost.py [--table builtin:synthetic-50000x300] [--methods rq dccl] [--threads 2] [--ratio 32]
    python benchmarks/fit_cost.py --sweep 4 8 16 32 64 128 256 512 [--methods rq lsq dccl] ..

With --sweep, the seconds of a sweep over several compression ratios: of each ratio what a method proposes first, fits that
share a codebook family made once, as a sweep makes them; and all of them beside the longest.

Without --ratio a method is fitted at its default parameters; with it, at what it proposes for that compression ratio.
Memory is the peak of the resident set less the resident set before the table was there, in multiples of the table: the
table itself is in it. Written to docs/results/fit_cost.md with -o.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import functools
import gc
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ADDITIVE = ["rq", "lsq", "dccl"]


def measure(method: str, table_name: str, threads: int, ratio: float | None) -> dict[str, Any]:
    import torch

    import quantizers
    from quantizers import Budget, Skip, TableStats
    from trainables.memory import reset_peak, resident_bytes
    from trainables.reconstruction import measure as error_of
    from trainables.tables.formats import read_table

    torch.set_num_threads(threads)
    cls = quantizers.get(method)
    for dtype in (torch.float32, torch.float64):  # the linear algebra library's own code and buffers are not the method's
        square = torch.eye(256, dtype=dtype) + 0.01
        torch.linalg.cholesky(square @ square.T)
        torch.linalg.eigh(square @ square.T)
    before = resident_bytes()
    table = read_table(table_name)
    budget = None
    if ratio is None:
        config = cls.Config()
    else:
        budget = Budget.from_ratio(ratio, table.shape)
        proposed = cls.configs_for(budget, TableStats.of(table))
        if isinstance(proposed, Skip):
            return {"method": method, "skipped": proposed.reason}
        config = proposed[0]
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)  # reading the table is not the method's: what it freed goes back to the system
    reset_peak()
    begin = time.perf_counter()
    quantizer = cls(config).fit(table, budget=budget)
    seconds = time.perf_counter() - begin
    peak = resident_bytes(peak=True) - before
    dense = 4 * table.num_embeddings * table.embedding_dim
    return {
        "method": method,
        "config": {name: value for name, value in config.model_dump(mode="json").items() if value is not None},
        "seconds": seconds,
        "memory": peak / dense,
        "ratio": dense / quantizer.payload_bytes,
        "nmse": error_of(table, quantizer.to_dense())["nmse"],
    }


def measure_sweep(method: str, table_name: str, threads: int, ratios: list[float]) -> dict[str, Any]:
    """Seconds of the processor for each ratio, in the order in which a sweep fits: the largest of a family first."""
    import torch
    from timing import timed

    import quantizers
    from quantizers import Budget, Skip, TableStats
    from trainables.tables.formats import read_table

    torch.set_num_threads(threads)
    cls, table = quantizers.get(method), read_table(table_name)
    stats = TableStats.of(table)
    made: dict[str, Any] = {}
    seconds, configurations = [], []
    for ratio in sorted(ratios):
        budget = Budget.from_ratio(ratio, table.shape)
        proposed = cls.configs_for(budget, stats)
        if isinstance(proposed, Skip):
            continue
        config: Any = proposed[0]
        family = cls.family_key(config)
        if family is not None and family in made:
            largest = made[family]
            spent, _ = timed(functools.partial(largest.restrict, config, table))
        else:
            spent, fitted = timed(functools.partial(cls(config).fit, table, budget=budget))
            if family is not None:
                made[family] = fitted
        seconds.append(spent)
        configurations.append(f"{config.num_codebooks} x {config.codebook_size}")
    return {"method": method, "seconds": seconds, "configurations": configurations}


def _one_fit(found: dict[str, Any]) -> str:
    if "skipped" in found:
        return f"{found['skipped']} | | | | |"
    shown = ", ".join(f"{name}={value}" for name, value in found["config"].items())
    return f"{found['seconds']:.1f} | {found['memory']:.2f} | x{found['ratio']:.1f} | {found['nmse']:.4f} | {shown} |"


def _sweep(found: dict[str, Any]) -> str:
    each = ", ".join(f"{one} {took:.1f}" for one, took in zip(found["configurations"], found["seconds"], strict=True))
    total = sum(found["seconds"])
    return f"{total:.1f} | {max(found['seconds']):.1f} | {total / max(found['seconds']):.2f} | {each} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", default="builtin:synthetic-50000x300")
    parser.add_argument("--methods", nargs="*")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--ratio", type=float)
    parser.add_argument("--sweep", type=float, nargs="+", metavar="RATIO", help="the seconds of a sweep over these")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("-o", "--output", type=Path)
    options = parser.parse_args()
    if options.one:
        here = options.one, options.table, options.threads
        print(json.dumps(measure_sweep(*here, options.sweep) if options.sweep else measure(*here, options.ratio)))
        return
    import quantizers

    asked = ["--table", options.table, "--threads", str(options.threads)]
    if options.sweep:
        asked += ["--sweep", *(f"{ratio:g}" for ratio in options.sweep)]
        what = f"A sweep of {options.table} over {len(options.sweep)} compression ratios"
        about = (
            "Seconds of the processor, each fit with its encoding; codebooks x codewords of each budget, and its seconds."
        )
        head, show = "all seconds | longest | all / longest | each |", _sweep
    else:
        asked += [] if options.ratio is None else ["--ratio", f"{options.ratio:g}"]
        proposed = "defaults" if options.ratio is None else f"what each proposes for ratio {options.ratio:g}"
        what = f"One fit of {options.table}: {proposed}"
        about = "Memory is the peak in multiples of the table's size, and includes the table and its words."
        head, show = "seconds | memory | ratio | nmse | parameters |", _one_fit
    lines = [
        f"# {what}",
        "",
        f"{platform.machine()}, {os.cpu_count()} cores; seed 0; `python benchmarks/fit_cost.py {' '.join(asked)}`.",
        about,
        "",
        f"| method | {head}",
        "|---" * (head.count("|") + 1) + "|",
    ]
    print("\n".join(lines), flush=True)
    for method in options.methods or (ADDITIVE if options.sweep else quantizers.list_methods()):
        command = [sys.executable, __file__, "--one", method, *asked]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            why = (done.stderr.strip().splitlines() or [f"ended with {done.returncode}"])[-1]
            row = f"| {method} | failed: {why}" + " |" * head.count("|")
        else:
            row = f"| {method} | {show(json.loads(done.stdout.strip().splitlines()[-1]))}"
        print(row, flush=True)
        lines.append(row)
    if options.output:
        options.output.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
