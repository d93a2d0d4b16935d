"""Errors at equal payload: our methods, faiss and nanopq, and the curve of a Gaussian with the table's covariance.

    python benchmarks/distortion.py TABLE [--ratios 8 16 32 64] [--rows N] [--methods trellis pq ..] [--peers pq rq ..]
        [--threads 1] [-o DIR]

The payload counts everything that rebuilds a row: of peers codes and float32 codebooks (and rotation). A peer has, of its
usual configurations (4, 8 and 10 bits a code), the one with the least error within the budget; ours have what they propose
first. The curve is reverse water-filling of the covariance at 8 * payload_bytes / N bits a row, with nothing taken off.
DIR gets ``distortion.csv``, a row for each method and ratio as it ends, and ``distortion.png``.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import functools
import importlib.metadata
import importlib.util
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import faiss
import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.ticker import NullLocator

import quantizers
from quantizers import Budget, Skip, Table, TableStats
from quantizers.fitting.gaussian import gaussian_distortion
from trainables.tables.formats import read_table

RATIOS = [8.0, 16.0, 32.0, 64.0]
OURS = ["trellis", "transform_entropy", "pq", "opq", "rq", "lsq"]
PEERS = ["pq", "opq", "rq", "lsq", "prq", "nanopq"]
BITS = [4, 8, 10]
QUERIES, NEIGHBOURS = 500, 10


@dataclasses.dataclass
class Result:
    """A row of the CSV file; errors are normalized by the column-centred variance."""

    table: str
    rows: int
    columns: int
    ratio: float
    whose: str
    method: str
    version: str
    configuration: str
    payload_bytes: int
    nmse: float
    curve: float
    recall: float
    fit_seconds: float
    decode_seconds: float


def neighbours(x: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """The nearest rows by cosine, without the row itself: (Q, NEIGHBOURS)."""
    unit = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
    likeness = unit[rows] @ unit.T
    likeness[np.arange(len(rows)), rows] = -np.inf
    return np.argpartition(-likeness, NEIGHBOURS, axis=1)[:, :NEIGHBOURS]


class Bench:
    """A table, and what every result is compared with."""

    def __init__(self, table: Table) -> None:
        self.table, self.x = table, np.ascontiguousarray(table.vectors.numpy())
        self.stats = TableStats.of(table)
        self.variance = float(self.stats.eigenvalues.sum())
        self.rows = np.random.default_rng(0).choice(len(self.x), min(QUERIES, len(self.x)), replace=False)
        self.nearest = neighbours(self.x, self.rows) if len(self.x) > NEIGHBOURS + 1 else None

    def result(self, ratio: float, whose: str, method: str, version: str, found: Found) -> Result:
        """Measure what was rebuilt."""
        error = np.square(self.x - found.rebuilt, dtype=np.float64).sum() / len(self.x) / self.variance
        recall = float("nan")
        if self.nearest is not None:
            ours = neighbours(found.rebuilt, self.rows)
            pairs = zip(ours, self.nearest, strict=True)
            recall = float(np.mean([len(np.intersect1d(one, other)) / NEIGHBOURS for one, other in pairs]))
        bits = 8 * int(Budget.from_ratio(ratio, self.x.shape).payload_bytes) / len(self.x)
        return Result(
            table=self.table.name,
            rows=len(self.x),
            columns=self.x.shape[1],
            ratio=ratio,
            whose=whose,
            method=method,
            version=version,
            configuration=found.configuration,
            payload_bytes=found.payload_bytes,
            nmse=float(error),
            curve=gaussian_distortion(self.stats.eigenvalues, bits) / self.variance,
            recall=recall,
            fit_seconds=found.fit_seconds,
            decode_seconds=found.decode_seconds,
        )


@dataclasses.dataclass
class Found:
    """A table compressed and rebuilt; seconds of the processor."""

    configuration: str
    payload_bytes: int
    rebuilt: np.ndarray
    fit_seconds: float
    decode_seconds: float


def timed(function: Callable[[], Any]) -> tuple[float, Any]:
    begin = time.process_time()
    found = function()
    return time.process_time() - begin, found


def ours(bench: Bench, method: str, budget: Budget) -> Found | None:
    """The first of what a method of ours proposes."""
    cls = quantizers.get(method)
    proposed = cls.configs_for(budget, bench.stats)
    if isinstance(proposed, Skip):
        return None
    fit_seconds, fitted = timed(lambda: cls(proposed[0]).fit(bench.table, budget=budget))
    decode_seconds, rebuilt = timed(lambda: fitted.to_dense().numpy())
    configuration = proposed[0].model_dump_json().replace('"', "")
    return Found(configuration, fitted.payload_bytes, rebuilt, fit_seconds, decode_seconds)


class Nanopq:
    """nanopq with faiss's names."""

    def __init__(self, books: int, bits: int) -> None:
        self.quantizer: Any = importlib.import_module("nanopq").PQ(M=books, Ks=1 << bits, verbose=False)

    def train(self, x: np.ndarray) -> None:
        """Fit the codebooks."""
        self.quantizer.fit(x)

    def compute_codes(self, x: np.ndarray) -> Any:
        """Codes of rows."""
        return self.quantizer.encode(x)

    def decode(self, codes: Any) -> Any:
        """Rows of codes."""
        return self.quantizer.decode(codes)


class Opq:
    """faiss's rotation and the product quantizer behind it."""

    def __init__(self, dim: int, books: int, bits: int) -> None:
        self.rotation: Any = faiss.OPQMatrix(dim, books)
        self.quantizer: Any = faiss.ProductQuantizer(dim, books, bits)

    def train(self, x: np.ndarray) -> None:
        """Fit both."""
        self.rotation.train(x)
        self.quantizer.train(self.rotation.apply(x))

    def compute_codes(self, x: np.ndarray) -> Any:
        """Codes of rows."""
        return self.quantizer.compute_codes(self.rotation.apply(x))

    def decode(self, codes: Any) -> Any:
        """Rows of codes."""
        return self.rotation.reverse_transform(self.quantizer.decode(codes))


def configurations(method: str, shape: tuple[int, int], budget: int) -> Iterator[tuple[int, int, int, Any]]:
    """Codebooks, bits, payload bytes and quantizer of each usual configuration of a peer within the budget."""
    rows, dim = shape
    blocks = method in ("pq", "opq", "nanopq")
    for bits in BITS:
        if 1 << bits > rows or (method == "nanopq" and bits > 8):
            continue
        book = 4 * dim * (1 << bits)
        side = 4 * dim * dim if method == "opq" else 0
        per_book = rows * bits / 8 + (0 if blocks else book)
        most = int((budget - side - (book if blocks else 0)) / per_book)
        books = max((m for m in range(1, min(most, dim) + 1) if dim % m == 0), default=0) if blocks else min(most, 64)
        books -= books % 2 if method == "prq" else 0
        if books < 1:
            continue
        payload = rows * ((books * bits + 7) // 8) + side + (book if blocks else books * book)
        if payload > budget:
            continue
        make: dict[str, Callable[[int, int], Any]] = {
            "pq": lambda m, b: faiss.ProductQuantizer(dim, m, b),
            "opq": lambda m, b: Opq(dim, m, b),
            "rq": lambda m, b: faiss.ResidualQuantizer(dim, m, b),
            "lsq": lambda m, b: faiss.LocalSearchQuantizer(dim, m, b),
            "prq": lambda m, b: faiss.ProductResidualQuantizer(dim, 2, m // 2, b),
            "nanopq": Nanopq,
        }
        yield books, bits, payload, make[method](books, bits)


def peer(bench: Bench, method: str, budget: Budget) -> Found | None:
    """The best of a peer's usual configurations."""
    best: tuple[float, Found] | None = None
    for books, bits, payload, quantizer in configurations(method, bench.x.shape, budget.payload_bytes):
        fit_seconds, _ = timed(functools.partial(quantizer.train, bench.x))
        codes = quantizer.compute_codes(bench.x)
        decode_seconds, rebuilt = timed(functools.partial(quantizer.decode, codes))
        error = float(np.square(bench.x - rebuilt, dtype=np.float64).sum())
        if best is None or error < best[0]:
            best = (error, Found(f"{books} x {1 << bits}", payload, rebuilt, fit_seconds, decode_seconds))
    return None if best is None else best[1]


def draw(results: list[Result], path: Path) -> None:
    """Error over the curve by ratio, a line for each method."""
    figure, axes = plt.subplots(figsize=(8, 5), constrained_layout=True)
    names = sorted({(result.whose, result.method) for result in results})
    for whose, method in names:
        mine = sorted((one for one in results if (one.whose, one.method) == (whose, method)), key=lambda one: one.ratio)
        style = "-o" if whose == "ours" else "--s"
        axes.plot([one.ratio for one in mine], [one.nmse for one in mine], style, label=f"{whose}: {method}", markersize=4)
    curve = sorted({(one.ratio, one.curve) for one in results})
    axes.plot([ratio for ratio, _ in curve], [error for _, error in curve], "k:", label="Gaussian curve")
    axes.set(xscale="log", yscale="log", xlabel="times smaller", ylabel="normalized mean squared error")
    axes.set_xticks([ratio for ratio, _ in curve], [f"{ratio:g}" for ratio, _ in curve])
    axes.set_title(f"{results[0].table}, {results[0].rows} x {results[0].columns}")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table")
    parser.add_argument("--ratios", type=float, nargs="+", default=RATIOS)
    parser.add_argument("--rows", type=int)
    parser.add_argument("--methods", nargs="*", default=OURS, choices=sorted(quantizers.list_methods()))
    parser.add_argument("--peers", nargs="*", default=PEERS, choices=PEERS)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("-o", "--output", type=Path, default=Path("."))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    faiss.omp_set_num_threads(options.threads)
    table = read_table(options.table)
    bench = Bench(table.head(options.rows) if options.rows else table)
    tries = [("ours", name, "here", ours) for name in options.methods]
    for name in options.peers:
        if name != "nanopq":
            tries.append(("faiss", name, faiss.__version__, peer))
        elif importlib.util.find_spec("nanopq"):
            tries.append(("nanopq", name, importlib.metadata.version("nanopq"), peer))
        else:
            print("nanopq is not installed: left out")
    options.output.mkdir(parents=True, exist_ok=True)
    results: list[Result] = []
    with (options.output / "distortion.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, [field.name for field in dataclasses.fields(Result)])
        writer.writeheader()
        for ratio in options.ratios:
            budget = Budget.from_ratio(ratio, bench.x.shape)
            for whose, method, version, fit in tries:
                found = fit(bench, method, budget)
                if found is None:
                    print(f"{ratio:g}x {whose} {method}: nothing within the budget", flush=True)
                    continue
                result = bench.result(ratio, whose, method, version, found)
                results.append(result)
                writer.writerow(dataclasses.asdict(result))
                file.flush()
                print(
                    f"{ratio:g}x {whose} {method}: {result.nmse:.4f}, {result.nmse / result.curve:.2f} of the curve",
                    flush=True,
                )
    if results:
        draw(results, options.output / "distortion.png")


if __name__ == "__main__":
    main()
