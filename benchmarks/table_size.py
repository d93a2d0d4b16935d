"""Milliseconds of a training step: the whole table against hashed memory pools, value by value and in blocks.

    python benchmarks/table_size.py [--quick] [--batches 64 512] [--pools 262144] [--blocks 1 20] [--optimizers SGD]
                                    [--repeat 1] [--csv benchmark.csv] [--markdown docs/results/table_size.md]

A table of 1,000,000 x 100; a batch is so many pairs of rows, ids uniform, and the loss the mean squared error of their dot
products to targets of U(0, 1); 8 steps, of which the first 2 are dropped and the others averaged. "gradient computation" is
loss.backward(), "backward pass" the optimizer's step. The whole table is there twice, with dense and with sparse gradients:
the second is what a careful person would train, so that it is the fair peer. Without --quick it takes about half an hour on
2 cores and 3 GB of memory.
"""

from __future__ import annotations

import argparse
import csv
import gc
import os
import platform
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from quantizers import CompressedEmbedding
from quantizers.methods.hashed import Hashed, HashedConfig

ROWS, COLUMNS = 1_000_000, 100
BATCHES = [64, 512, 4096, 32768]
POOLS = [1, 8, 64, 512, *(32768 * 8**power for power in range(5)), 10**8]
BLOCKS = [1, 20, 50, 100]
RATES = {"Adagrad": 0.05, "SGD": 0.01, "Adam": 0.001}
STEPS, DROPPED = 8, 2
HEADER = [
    "Model",
    "Batch Size",
    "Memory pool size (nb values)",
    "Forward pass (ms)",
    "gradient computation (ms)",
    "backward pass (ms)",
    "total time (ms)",
    "model size",
    "optimizer",
]


def whole_table(*, sparse: bool) -> nn.Embedding:
    """The uncompressed table, N(0, 0.05)."""
    table = nn.Embedding(ROWS, COLUMNS, sparse=sparse)
    nn.init.normal_(table.weight, std=0.05)
    return table


def memory_pool(values: int, block_size: int) -> CompressedEmbedding:
    """A pool in place of the table, N(0, 0.05)."""
    config = HashedConfig(pool_size=values, block_size=block_size)
    return CompressedEmbedding(Hashed.untrained(config, (ROWS, COLUMNS), seed=0), trainable=True)


def optimizer_for(name: str, table: nn.Module, *, sparse: bool) -> torch.optim.Optimizer:
    """Adagrad, SGD or Adam; for sparse gradients Adam is torch's SparseAdam."""
    kind = torch.optim.SparseAdam if sparse and name == "Adam" else getattr(torch.optim, name)
    return kind(table.parameters(), lr=RATES[name])


def step_milliseconds(table: nn.Module, optimizer: torch.optim.Optimizer, batch: int) -> list[float]:
    """Mean milliseconds of forward pass, gradient and optimizer step."""
    random = torch.Generator().manual_seed(0)
    measured = []
    for _ in range(STEPS):
        left, right = torch.randint(ROWS, (2, batch), generator=random)
        targets = torch.rand(batch, generator=random)
        optimizer.zero_grad(set_to_none=True)
        times = [time.perf_counter()]
        loss: Tensor = nn.functional.mse_loss((table(left) * table(right)).sum(dim=1), targets)
        times.append(time.perf_counter())
        loss.backward()
        times.append(time.perf_counter())
        optimizer.step()
        times.append(time.perf_counter())
        measured.append([1000 * (end - begin) for begin, end in zip(times, times[1:], strict=False)])
    kept = measured[DROPPED:]
    return [sum(column) / len(kept) for column in zip(*kept, strict=True)]


def models(batch: int, pools: list[int], blocks: list[int]) -> Iterator[tuple[str, int | None, nn.Module, bool]]:
    """Name, pool size, module, and whether its gradients are sparse; one at a time, since each may take 400 MB."""
    yield "FullEmbTableModel", None, whole_table(sparse=False), False
    yield "FullEmbTableModel (sparse gradients)", None, whole_table(sparse=True), True
    for values in pools:
        for block_size in blocks:
            if block_size <= values:
                name = "CompressedEmbTableModel" + (f" (blocks of {block_size})" if block_size > 1 else "")
                yield name, values, memory_pool(values, block_size), False


def rows(options: argparse.Namespace) -> Iterator[list[str]]:
    """One line of the file for each model, batch and optimizer."""
    for optimizer_name in options.optimizers:
        for batch in options.batches:
            for name, values, table, sparse in models(batch, options.pools, options.blocks):
                size = sum(parameter.numel() * parameter.element_size() for parameter in table.parameters()) / 2**20
                measured = []
                for _ in range(options.repeat):
                    optimizer = optimizer_for(optimizer_name, table, sparse=sparse)
                    measured.append(step_milliseconds(table, optimizer, batch))
                times = min(measured, key=sum)
                cells = [f"{value:.2f}" for value in (*times, sum(times))]
                yield [name, str(batch), str(values or ""), *cells, f"{size:.1f}MB", optimizer_name]
                del table, optimizer
                gc.collect()


def markdown(lines: list[list[str]], repeat: int) -> str:
    """The measurements as a page: the lines of the file, and for each optimizer how the models compare."""
    often = f"the fastest of {repeat} means" if repeat > 1 else "mean"
    text = [
        "# Training speed of hashed memory pools",
        "",
        f"`python benchmarks/table_size.py --quick --repeat {repeat}` on {os.cpu_count()} CPU cores (torch "
        f"{torch.__version__}, threads: {torch.get_num_threads()}, Python {platform.python_version()}). Milliseconds of a",
        f"training step over {ROWS:,} x {COLUMNS} values, {often} of {STEPS - DROPPED} steps. The machine did other work "
        "at the same time.",
        "",
    ]
    for optimizer in dict.fromkeys(line[-1] for line in lines):
        own = [line for line in lines if line[-1] == optimizer]
        fastest = min((line for line in own if line[2]), key=lambda line: float(line[6]))
        ratios = [f"{line[0]} {float(line[6]) / float(fastest[6]):.1f} times as long" for line in own if not line[2]]
        text.append(f"- {optimizer}: {fastest[0]} takes {fastest[6]} ms; {'; '.join(ratios)}.")
    text += [
        "",
        "| " + " | ".join(HEADER) + " |",
        "|" + "---|" * len(HEADER),
        *("| " + " | ".join(line) + " |" for line in lines),
        "",
    ]
    return "\n".join(text)


def main() -> None:
    """Measure, print each line as it comes, and write the files."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="batches of 32768 and pools of 262144 values only")
    parser.add_argument("--batches", type=int, nargs="+")
    parser.add_argument("--pools", type=int, nargs="+")
    parser.add_argument("--blocks", type=int, nargs="+", default=BLOCKS)
    parser.add_argument("--optimizers", nargs="+", choices=list(RATES), default=list(RATES))
    parser.add_argument("--repeat", type=int, default=1, help="keep the fastest of so many measurements (a busy machine)")
    parser.add_argument("--csv", type=Path, default=Path("benchmark.csv"))
    parser.add_argument("--markdown", type=Path, help="write a page with the same numbers")
    options = parser.parse_args()
    options.batches = options.batches or ([32768] if options.quick else BATCHES)
    options.pools = options.pools or ([262144] if options.quick else POOLS)
    torch.sparse.check_sparse_tensor_invariants.disable()  # torch warns where neither choice is made
    lines = []
    with options.csv.open("w", newline="") as out:
        writer = csv.writer(out)
        writer.writerow(HEADER)
        print(",".join(HEADER))
        for line in rows(options):
            writer.writerow(line)
            out.flush()
            print(",".join(line), flush=True)
            lines.append(line)
    if options.markdown:
        options.markdown.write_text(markdown(lines, options.repeat), encoding="utf-8")


if __name__ == "__main__":
    main()
