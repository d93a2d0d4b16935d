"""Codebook methods against faiss: error, seconds to fit and to encode, as ratios.

    python benchmarks/codebooks.py [--table builtin:synthetic-50000x100] [--rows N] [--threads 1] [--repeats 3] [-o FILE]

Same M, K and number of threads, in one process, one after the other in turns; each time is the least of the repeats. A
faiss fit is ``train``, ours is all of ``fit`` less its last encoding of the table; encoding is of the whole table.
Seconds are the processor's, of all threads together. Below 1.00 ours is better.
"""

from __future__ import annotations

import argparse
import functools
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import torch
from timing import timed

import quantizers
from trainables.tables.formats import read_table

# method, codebooks, codewords, further parameters of ours
CASES: list[tuple[str, int, int, dict[str, Any]]] = [
    ("pq", 25, 16, {}),
    ("pq", 25, 32, {}),
    ("pq", 25, 256, {}),
    ("pq", 10, 256, {}),
    ("opq", 25, 16, {}),
    ("opq", 10, 256, {}),
    ("rq", 32, 16, {}),
    ("rq", 8, 256, {}),
    ("rq", 16, 256, {}),
    ("rq", 8, 256, {"iterations": 6, "beam_size": 2}),
    ("lsq", 32, 16, {}),
    ("lsq", 8, 256, {}),
]
# Beside faiss's local search; minutes each, so only where --cases names them.
LONG: list[tuple[str, int, int, dict[str, Any]]] = [
    ("dccl", 32, 16, {}),
    ("dccl", 32, 16, {"iterations": 10_000, "refine_rounds": 120}),
]


def peer(method: str, dim: int, num_codebooks: int, bits: int) -> Any:
    """The quantizer of faiss, with faiss's defaults."""
    if method == "pq":
        return faiss.ProductQuantizer(dim, num_codebooks, bits)
    if method == "opq":
        return Opq(dim, num_codebooks, bits)
    search = faiss.ResidualQuantizer if method == "rq" else faiss.LocalSearchQuantizer
    return search(dim, num_codebooks, bits)


class Opq:
    """faiss's OPQ rotation and the product quantizer behind it."""

    def __init__(self, dim: int, num_codebooks: int, bits: int) -> None:
        self.rotation: Any = faiss.OPQMatrix(dim, num_codebooks)
        self.quantizer: Any = faiss.ProductQuantizer(dim, num_codebooks, bits)

    def train(self, x: np.ndarray) -> None:
        """As faiss's own quantizers."""
        self.rotation.train(x)
        self.quantizer.train(self.rotation.apply(x))

    def compute_codes(self, x: np.ndarray) -> np.ndarray:
        """As faiss's own quantizers."""
        return self.quantizer.compute_codes(self.rotation.apply(x))

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """As faiss's own quantizers."""
        return self.rotation.reverse_transform(self.quantizer.decode(codes))


def half_mse(x: np.ndarray, rebuilt: np.ndarray) -> float:
    return 0.5 * float(np.square(x - rebuilt).sum(axis=1, dtype=np.float64).mean())


def compare(
    method: str, num_codebooks: int, codebook_size: int, parameters: dict[str, Any], x: np.ndarray, repeats: int
) -> str:
    """One row of the table."""
    table = torch.from_numpy(x)
    bits = (codebook_size - 1).bit_length()
    fits: list[list[float]] = [[], []]  # ours, faiss's
    encodes: list[list[float]] = [[], []]
    errors = [0.0, 0.0]
    for _ in range(repeats):
        other = peer(method, x.shape[1], num_codebooks, bits)
        fits[1].append(timed(functools.partial(other.train, x))[0])
        seconds, codes = timed(functools.partial(other.compute_codes, x))
        encodes[1].append(seconds)
        errors[1] = half_mse(x, other.decode(codes))

        ours: Any = quantizers.create(method, num_codebooks=num_codebooks, codebook_size=codebook_size, **parameters)
        whole, _ = timed(functools.partial(ours.fit, table))
        fits[0].append(whole - (ours.encode_seconds or 0.0))
        encodes[0].append(timed(functools.partial(ours.encode, table))[0])
        errors[0] = half_mse(x, ours.to_dense().numpy())
    fastest = [[min(times) for times in kind] for kind in (fits, encodes)]
    cells = [
        f"{method} {num_codebooks}x{codebook_size}" + "".join(f", {k}={v}" for k, v in parameters.items()),
        *(f"{mine:.3f} / {theirs:.3f} | {mine / theirs:.2f}" for mine, theirs in (errors, *fastest)),
    ]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", default="builtin:synthetic-50000x100")
    parser.add_argument("--rows", type=int)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--cases", nargs="*", help="rows that begin so, like rq or 'pq 25x256'")
    parser.add_argument("-o", "--output", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    faiss.omp_set_num_threads(options.threads)
    table = read_table(options.table)
    x = np.ascontiguousarray(table.vectors[: options.rows].numpy())
    lines = [
        f"# Codebook methods and faiss {faiss.__version__}: {options.table}, {len(x)} x {x.shape[1]}",
        "",
        f"{options.threads} thread(s); ours / faiss | ratio.",
        "",
        "| method | half MSE | | seconds to fit | | seconds to encode | |",
        "|---|---|---|---|---|---|---|",
    ]
    print("\n".join(lines), flush=True)
    for method, num_codebooks, codebook_size, parameters in CASES + (LONG if options.cases else []):
        label = f"{method} {num_codebooks}x{codebook_size}"
        if method in quantizers.list_methods() and (
            not options.cases or any(label.startswith(one) for one in options.cases)
        ):
            lines.append(compare(method, num_codebooks, codebook_size, parameters, x, options.repeats))
            print(lines[-1], flush=True)
    if options.output:
        options.output.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
