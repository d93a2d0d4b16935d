"""How fast the rows of compressed files are read, beside product quantization at an earlier commit.

    python benchmarks/lookups.py TABLE FILE.safetensors... [--rows N] [--commit e336919] [--batch 4096] [--repeats 25]
        [--threads 2] [-o DIR]

TABLE is what the files were made of (``distortion.py --files`` writes them). For each file, PQ of the commit is fitted to
the table within the file's payload. Then a program with this version's package has the file open, another with the commit's
has PQ's, and both look up the same random rows in turn: a batch, then single rows. Times are medians of the clock; the ratio
of the processor's is beside the clock's. ``to_dense`` is the least of three. The first look-up of each is not counted.
DIR gets ``lookups.csv``.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from distortion_rows import LOOKUPS
from own import ROOT, command, fit_at, sources_at

from quantizers import Budget, InputError, Table
from quantizers.files import replacing
from trainables.tables.formats import read_table

HEADER = [
    "file",
    "times smaller",
    "batch, ms",
    "PQ's, ms",
    "/ PQ",
    "/ PQ, processor",
    "one row, ms",
    "PQ's, ms",
    "to_dense, s",
]
_SINGLES = 101


class Server:
    """A program that has a compressed file open, with the packages in ``sources``."""

    def __init__(self, sources: Path, file: Path, threads: int) -> None:
        self._program = subprocess.Popen(
            **command(sources, "serve", str(file), str(threads)), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.rows, self.columns, self.payload_bytes, self.method = self._answer()

    def _answer(self) -> list[Any]:
        assert self._program.stdout is not None
        line = self._program.stdout.readline()
        if not line:
            raise InputError(
                f"the program that reads a file ended with exit code {self._program.wait()}; it says why above."
            )
        found: list[Any] = json.loads(line)
        return found

    def ask(self, line: str) -> list[float]:
        """Seconds of the clock and of the processor that a look-up takes; see ``own.py serve``."""
        assert self._program.stdin is not None
        print(line, file=self._program.stdin, flush=True)
        return self._answer()

    def end(self) -> None:
        """Close it."""
        self._program.communicate()


@contextlib.contextmanager
def served(sources: Path, file: Path, threads: int) -> Iterator[Server]:
    """A server that ends with the block."""
    server = Server(sources, file, threads)
    try:
        yield server
    finally:
        server.end()


def in_turn(servers: list[Server], count: int, repeats: int) -> list[list[float]]:
    """For each server the medians of the clock and of the processor, in milliseconds; all look up the same rows."""
    times: list[list[list[float]]] = [[] for _ in servers]
    for seed in range(repeats + 1):
        for server, mine in zip(servers, times, strict=True):
            mine.append(server.ask(f"{count} {seed}"))
    return [[1000 * statistics.median(kind) for kind in zip(*mine[1:], strict=True)] for mine in times]


def compare(ours: Server, other: Server, options: argparse.Namespace) -> list[str]:
    """The numbers of a line of the table."""
    (batch, batch_processor), (their_batch, theirs_processor) = in_turn([ours, other], options.batch, options.repeats)
    (row, _), (their_row, _) = in_turn([ours, other], 1, _SINGLES)
    dense = min(ours.ask("dense")[0] for _ in range(3))
    ratios = [f"{batch / their_batch:.2f}", f"{batch_processor / theirs_processor:.2f}"]
    return [f"{batch:.2f}", f"{their_batch:.2f}", *ratios, f"{row:.3f}", f"{their_row:.3f}", f"{dense:.2f}"]


def measure(options: argparse.Namespace, table: Table) -> list[list[str]]:
    """A line for each file."""
    lines = []
    with tempfile.TemporaryDirectory() as folder, sources_at(options.commit) as sources:
        vectors, other_file = Path(folder) / "x.npy", Path(folder) / "pq.safetensors"
        np.save(vectors, table.vectors.numpy())
        for file in options.files:
            with served(ROOT, file.resolve(), options.threads) as ours:
                if (ours.rows, ours.columns) != table.shape:
                    raise InputError(f"{file}: holds {ours.rows} x {ours.columns}; the table is {table.shape}.")
                budget = Budget(ours.payload_bytes)
                if fit_at(sources, vectors, "pq", budget, seed=0, threads=options.threads, keep=other_file) is None:
                    raise InputError(f"{file}: {budget.payload_bytes} bytes are too few for PQ at {options.commit}.")
                with served(sources, other_file, options.threads) as other:
                    numbers = compare(ours, other, options)
            lines.append([file.name, f"{budget.ratio(table.shape):.2f}", *numbers])
            print(", ".join(f"{name} {value}" for name, value in zip(HEADER, lines[-1], strict=True)), flush=True)
    return lines


def main(arguments: list[str] | None = None) -> int:
    """The program; 2 where the input is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", help="a table, as frontier compress takes it")
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE", help="compressed files of it")
    parser.add_argument("--rows", type=int, help="the table's first rows only")
    parser.add_argument("--commit", default="e336919")
    parser.add_argument("--batch", type=int, default=4096, help="random rows of a look-up (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=25)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("-o", "--output", type=Path, default=Path("runs/distortion"), help="folder (default: %(default)s)")
    options = parser.parse_args(arguments)
    try:
        for file in options.files:
            if not file.is_file():
                raise InputError(f"{file}: no such file; distortion.py --files writes some.")
        lines = measure(options, read_table(options.table, rows=options.rows))
        options.output.mkdir(parents=True, exist_ok=True)
        with replacing(options.output / LOOKUPS) as part, part.open("w", newline="", encoding="utf-8") as out:
            csv.writer(out).writerows([HEADER, *lines])
    except (InputError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
