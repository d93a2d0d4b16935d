"""The ratio columns of the AdaComp paper's Table 2, from our methods' own byte counts.

    python benchmarks/ratios.py [--markdown docs/results/ratios.md]

For the vocabularies of the paper's Table 1 (300 columns, float32), every compressed size is what ``storage`` of our method
says: packed codes, codebooks, scales, biases, selectors, positions. Exits 1 where a ratio of QWE, NC or Bin is off the
paper's by more than 1.5 (x units). Pruning is shown both ways: the paper counts kept values only. AdaComp's size depends on
which code-book each word chose, which the paper does not give: shown are the ratios of all words in the longest and in the
shortest code-book, between which the paper's must lie, and the mean bits a word that it implies.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import quantizers
from quantizers import StorageCost

DIM = 300
TOLERANCE = 1.5
VOCABULARIES = {"SST-5": 17_080, "CoNLL-2000": 19_072, "SNLI": 34_045, "PTB": 9_809}
PUBLISHED = {
    "QWE 4 bit": (8, 8, 8, 8),
    "QWE 8 bit": (4, 4, 4, 4),
    "NC 16x16": (46, 50, 71, 30),
    "NC 32x16": (23, 25, 35, 15),
    "Bin 64": (95, 100, 116, 74),
    "Bin 128": (48, 49, 59, 37),
    "Pruning 90 %": (10, 10, 10, 10),
    "Pruning 80 %": (5, 5, 5, 5),
    "AdaComp 32": (171, 173, 232, 105),
    "AdaComp 64": (84, 89, 119, 52),
    "AdaComp 128": (45, 44, 60, 26),
}
CHECKED: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "QWE 4 bit": ("scalar", {"bits": 4}),
    "QWE 8 bit": ("scalar", {"bits": 8}),
    "NC 16x16": ("dccl", {"num_codebooks": 16, "codebook_size": 16}),
    "NC 32x16": ("dccl", {"num_codebooks": 32, "codebook_size": 16}),
    "Bin 64": ("bin", {"num_bits": 64}),
    "Bin 128": ("bin", {"num_bits": 128}),
}


@dataclasses.dataclass(frozen=True)
class Line:
    """One method on one vocabulary.

    Attributes:
        label: the paper's name of the method.
        data: whose vocabulary.
        published: the paper's ratio.
        ours: dense bytes over our payload; for AdaComp that of all words in the longest code-book.
        payload_bytes: our payload.
        note: what else is to be said.
        ok: whether ``ours`` is as it should be; None where nothing is checked.
    """

    label: str
    data: str
    published: int
    ours: float
    payload_bytes: int
    note: str = ""
    ok: bool | None = None


def storage(method: str, parameters: Mapping[str, Any], num_embeddings: int) -> StorageCost:
    """What our method says a table of ``num_embeddings`` x 300 takes."""
    return quantizers.get(method).storage(quantizers.make_config(method, parameters), (num_embeddings, DIM))


def lines() -> Iterator[Line]:
    """Every cell of the table."""
    for label, (method, parameters) in CHECKED.items():
        for data, published, num_embeddings in _cells(label):
            payload = storage(method, parameters, num_embeddings).payload_bytes
            ours = 4 * num_embeddings * DIM / payload
            yield Line(label, data, published, ours, payload, ok=abs(ours - published) <= TOLERANCE)
    for label, sparsity in (("Pruning 90 %", 0.9), ("Pruning 80 %", 0.8)):
        for data, published, num_embeddings in _cells(label):
            cost = storage("pruned", {"sparsity": sparsity}, num_embeddings)
            dense = 4 * num_embeddings * DIM
            counted = dense / cost.code_bytes
            note = f"x{counted:.1f} without the positions of the kept values, as the paper counts"
            yield Line(label, data, published, dense / cost.payload_bytes, cost.payload_bytes, note)
    for label, longest in (("AdaComp 32", 32), ("AdaComp 64", 64), ("AdaComp 128", 128)):
        for data, published, num_embeddings in _cells(label):
            yield _adacomp(label, longest, data, published, num_embeddings)


def _cells(label: str) -> Iterator[tuple[str, int, int]]:
    for (data, num_embeddings), published in zip(VOCABULARIES.items(), PUBLISHED[label], strict=True):
        yield data, published, num_embeddings


def _adacomp(label: str, longest: int, data: str, published: int, num_embeddings: int) -> Line:
    lengths = (longest, longest // 2, longest // 4, longest // 8)
    dense = 4 * num_embeddings * DIM
    most = storage("adacomp", {"code_lengths": lengths}, num_embeddings)
    fixed = most.payload_bytes - most.code_bytes
    shortest = dense / (fixed + num_embeddings * lengths[-1] / 8)
    bits = 8 * (dense / published - fixed) / num_embeddings
    ours = dense / most.payload_bytes
    ok = ours - 0.5 <= published <= shortest + 0.5  # the paper rounds
    note = f"x{shortest:.1f} with all words in the shortest; the paper's ratio means {bits:.1f} bits a word"
    return Line(label, data, published, ours, most.payload_bytes, note, ok)


def markdown(found: list[Line]) -> str:
    """The table for the documentation."""
    out = [
        "# Ratios of the AdaComp paper",
        "",
        "Made by `python benchmarks/ratios.py`. Our ratio is the dense bytes over everything that our file has to hold; for "
        'AdaComp, with all words in the longest code-book. "ok": the paper\'s ratio agrees with ours, or for AdaComp lies '
        "between the ratios with all words in the longest and in the shortest code-book.",
        "",
        "| method | vocabulary | paper | ours | payload bytes | |",
        "|---|---|---|---|---|---|",
    ]
    for line in found:
        verdict = {True: "ok", False: "OFF", None: ""}[line.ok]
        note = "; ".join(part for part in (verdict, line.note) if part)
        out.append(
            f"| {line.label} | {line.data} | x{line.published} | x{line.ours:.1f} | {line.payload_bytes:,} | {note} |"
        )
    return "\n".join(out) + "\n"


def main(arguments: list[str] | None = None) -> int:
    """Print the table and write it; 1 where a checked ratio is off."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = Path(__file__).resolve().parent.parent / "docs" / "results" / "ratios.md"
    parser.add_argument("--markdown", type=Path, default=default, help="where the table is written")
    options = parser.parse_args(arguments)
    found = list(lines())
    for line in found:
        verdict = {True: "ok", False: "OFF", None: ""}[line.ok]
        print(f"{line.label:14s}{line.data:12s}x{line.published:<5d}x{line.ours:<7.1f}{verdict:4s}{line.note}")
    options.markdown.parent.mkdir(parents=True, exist_ok=True)
    options.markdown.write_text(markdown(found), encoding="utf-8")
    off = [line for line in found if line.ok is False]
    print(f"{len(off)} of {sum(line.ok is not None for line in found)} checked ratios are off.")
    return 1 if off else 0


if __name__ == "__main__":
    sys.exit(main())
