"""What the rule for codebooks takes, beside the best M and K of every other number of bits a code.

    python benchmarks/books.py TABLE [--rows N] [--ratios 16 32 ..] [--method rq] [--threads 1]

For each ratio, what the method would be given with codes of each number of bits (quantizers/additive.py), what the rule
says it is worth over the most that it finds, and the error of a fit: squared error over the column-centred variance. The
first line of a ratio is what is proposed.
"""

from __future__ import annotations

import argparse
import functools

import torch
from timing import timed

import quantizers
from quantizers import Budget, Skip, Table, TableStats
from quantizers.additive import AdditiveConfig, additive_configs, worth
from quantizers.methods.lsq import LSQConfig
from quantizers.methods.rq import RQConfig
from trainables.reconstruction import measure
from trainables.tables.formats import read_table

METHODS: dict[str, type[AdditiveConfig]] = {"rq": RQConfig, "lsq": LSQConfig}  # DCCL has a rule of its own
MOST_BOOKS, MOST_WORDS = 128, 1 << 14


def tried(table: Table, ratio: float, method: str) -> list[AdditiveConfig]:
    """The best of each number of bits, the one that is worth most first."""
    budget = Budget.from_ratio(ratio, table.shape)
    found = additive_configs(
        budget,
        TableStats.of(table),
        METHODS[method],
        bits=range(3, 11),
        max_codebooks=MOST_BOOKS,
        max_codewords=min(MOST_WORDS, table.num_embeddings // 2),
        count=8,
    )
    return [] if isinstance(found, Skip) else found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table")
    parser.add_argument("--rows", type=int)
    parser.add_argument("--ratios", type=float, nargs="+", default=[16.0, 32.0, 64.0, 128.0])
    parser.add_argument("--method", choices=METHODS, default="rq")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    table = read_table(options.table, rows=options.rows)
    print(f"`{options.method}`, {table.name}, {table.num_embeddings:,} x {table.embedding_dim}\n")
    print("| times smaller | M x K | stored as | of the budget | worth | error | fit, s |\n|---|---|---|---|---|---|---|")
    for ratio in options.ratios:
        most = 0.0
        for config in tried(table, ratio, options.method):
            value = worth(config.num_codebooks, config.codebook_size)
            most = max(most, value)
            quantizer = quantizers.get(options.method)(config)
            seconds, _ = timed(functools.partial(quantizer.fit, table))
            share = quantizer.payload_bytes / Budget.from_ratio(ratio, table.shape).payload_bytes
            error = measure(table, quantizer.to_dense())["nmse"]
            print(
                f"| {ratio:g} | {config.num_codebooks} x {config.codebook_size} | {config.codebook_dtype} | {share:.1%} "
                f"| {value / most:.3f} | {error:.4f} | {seconds:.1f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
