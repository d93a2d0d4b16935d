"""Seconds and peak memory of one fit of every method, each in a process of its own.

    python benchmarks/fit_cost.py [--table builtin:synthetic-50000x300] [--methods rq dccl] [--threads 2] [--ratio 32]

Without --ratio a method is fitted at its default parameters; with it, at what it proposes for that compression ratio.
Memory is the peak of the resident set less the resident set before the table was there, in multiples of the table: the
table itself is in it. Written to docs/results/fit_cost.md with -o.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import gc
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any


def measure(method: str, table_name: str, threads: int, ratio: float | None) -> dict[str, Any]:
    import torch

    import quantizers
    from quantizers import Budget, Skip, TableStats
    from trainables.memory import reset_peak, resident_bytes
    from trainables.reconstruction import measure as error_of
    from trainables.tables.formats import read_table

    torch.set_num_threads(threads)
    cls = quantizers.get(method)
    (torch.randn(64, 64) @ torch.randn(64, 64)).sum()  # the BLAS library's own buffers are not the method's
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", default="builtin:synthetic-50000x300")
    parser.add_argument("--methods", nargs="*")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--ratio", type=float)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("-o", "--output", type=Path)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.one, options.table, options.threads, options.ratio)))
        return
    import quantizers

    what = "defaults" if options.ratio is None else f"what each proposes for ratio {options.ratio:g}"
    lines = [
        f"# One fit of {options.table}: {what}",
        "",
        f"{platform.machine()}, {os.cpu_count()} cores; seed 0; `python benchmarks/fit_cost.py --threads {options.threads}"
        f"{'' if options.ratio is None else f' --ratio {options.ratio:g}'}`.",
        "Memory is the peak in multiples of the table's size, and includes the table.",
        "",
        "| method | seconds | memory | ratio | nmse | parameters |",
        "|---|---|---|---|---|---|",
    ]
    print("\n".join(lines), flush=True)
    for method in options.methods or quantizers.list_methods():
        command = [sys.executable, __file__, "--one", method, "--table", options.table, "--threads", str(options.threads)]
        command += [] if options.ratio is None else ["--ratio", str(options.ratio)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            row = f"| {method} | failed: {done.stderr.strip().splitlines()[-1]} | | | | |"
        else:
            found = json.loads(done.stdout.strip().splitlines()[-1])
            if "skipped" in found:
                row = f"| {method} | {found['skipped']} | | | | |"
            else:
                shown = ", ".join(f"{name}={value}" for name, value in found["config"].items())
                numbers = f"{found['seconds']:.1f} | {found['memory']:.1f} | x{found['ratio']:.1f} | {found['nmse']:.4f}"
                row = f"| {method} | {numbers} | {shown} |"
        print(row, flush=True)
        lines.append(row)
    if options.output:
        options.output.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
