"""Writes ``data/``: a compressed file for each way in which a method stores a table, and the rows that PyTorch rebuilds.

Run with embedding-frontier itself installed: ``python make_data.py``. Files that are there stay: a reader of today must read
what was written yesterday.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

import quantizers
from quantizers import Table

DATA = Path(__file__).with_name("data")
ROWS, COLUMNS = 40, 10
WORDS = ["dog", "cat", "dog", "naïve", "don't", "New York", *(f"w{row}" for row in range(6, ROWS))]
EXAMPLES: dict[str, dict[str, Any]] = {
    "adacomp-01": {"code_lengths": (13, 6, 3), "epochs": 5},
    "adacomp-one": {"code_lengths": (9,), "codebook_dtype": "float16", "epochs": 5},
    "adacomp-pm1": {"code_lengths": (8, 8, 4), "code_values": "pm1", "epochs": 5},
    "adacomp-int8": {"code_lengths": (9, 4), "codebook_dtype": "int8", "epochs": 5},
    "bin-13": {"num_bits": 13, "codebook_dtype": "float16", "epochs": 5},
    "bin-int8": {"num_bits": 11, "codebook_dtype": "int8", "epochs": 5},
    "bin-32": {"num_bits": 32, "epochs": 5},
    "cast-bfloat16": {"dtype": "bfloat16"},
    "cast-e4m3": {"dtype": "float8_e4m3"},
    "cast-e5m2": {"dtype": "float8_e5m2"},
    "cast-float16": {"dtype": "float16"},
    "dccl-5": {"num_codebooks": 3, "codebook_size": 5, "epochs": 5},
    "dpq-3": {"num_codebooks": 3, "codebook_size": 11, "codebook_dtype": "float16", "epochs": 5},
    "dpq-5": {"num_codebooks": 5, "codebook_size": 8, "epochs": 5},
    "hashed-1": {"pool_size": 120},
    "hashed-4": {"pool_size": 130, "block_size": 4, "pool_dtype": "float16", "signs": True, "hash_seed": 4_000_000_000},
    "hashed-overlapping": {"pool_size": 101, "block_size": 8, "overlapping": True, "signs": True},
    "identity-plain": {},
    "lowrank-4": {"rank": 7, "factor_bits": 4, "basis_dtype": "float16"},
    "lowrank-8": {"rank": 7, "factor_bits": 8},
    "lowrank-16": {"rank": 4, "factor_bits": 16, "center": False},
    "lowrank-32": {"rank": 4},
    "lsq-8": {"num_codebooks": 2, "codebook_size": 8},
    "opq-3": {"num_codebooks": 3, "codebook_size": 12, "codebook_dtype": "float16"},
    "opq-5": {"num_codebooks": 5, "codebook_size": 16},
    "opq-int8": {"num_codebooks": 3, "codebook_size": 12, "codebook_dtype": "int8"},
    "pq-1": {"num_codebooks": 1, "codebook_size": 2, "basis": "random"},
    "pq-3": {"num_codebooks": 3, "codebook_size": 20, "codebook_dtype": "float16"},
    "pq-5": {"num_codebooks": 5, "codebook_size": 16},
    "pq-int8": {"num_codebooks": 3, "codebook_size": 20, "codebook_dtype": "int8"},
    "pruned-index": {"sparsity": 0.9, "value_dtype": "float16"},
    "pruned-mask": {"sparsity": 0.5},
    "pruned-nothing": {"sparsity": 0.0},
    "pruned-all": {"sparsity": 1.0},
    "rq-16": {"num_codebooks": 4, "codebook_size": 16},
    "rq-33": {"num_codebooks": 3, "codebook_size": 33, "codebook_dtype": "float16"},
    "rq-int8": {"num_codebooks": 3, "codebook_size": 12, "codebook_dtype": "int8"},
    "scalar-column": {"bits": 3, "levels": "kmeans", "scale_dtype": "float16"},
    "scalar-row": {"bits": 4, "scales": "row"},
    "scalar-table": {"bits": 8, "scales": "table", "clip": "none"},
    "transform-12": {"row_bits": 12, "rank": 5, "basis_dtype": "float16"},
    "transform-60": {"row_bits": 60, "rank": 10},
    "transform_entropy-24": {"row_bits": 24, "rank": 6, "basis_dtype": "float16"},
    "transform_entropy-60": {"row_bits": 60.5, "rank": 10},
    "trellis-24": {"row_bits": 24, "rank": 6},
    "trellis-60": {"row_bits": 60.5, "rank": 0, "states": 4},
    "trellis-100": {"row_bits": 100, "rank": 10, "states": 64},
    "tt-2": {"tt_rank": 6, "num_cores": 2, "core_dtype": "float16"},
    "tt-3": {"tt_rank": 4, "num_cores": 3},
    "tt-4": {"tt_rank": 3, "num_cores": 4},
}


def table() -> Table:
    """Clusters, a mean, a decaying spectrum."""
    random = torch.Generator().manual_seed(0)
    centres = torch.randn(8, COLUMNS, generator=random)
    which = torch.randint(8, (ROWS,), generator=random)
    noise = torch.randn(ROWS, COLUMNS, generator=random)
    return Table((centres[which] + 0.5 * noise) * 0.9 ** torch.arange(COLUMNS) + 0.1, WORDS)


def main() -> None:
    torch.set_num_threads(1)
    DATA.mkdir(exist_ok=True)
    rows = {}
    for name, parameters in EXAMPLES.items():
        file = DATA / f"{name}.safetensors"
        if not file.is_file():
            quantizers.create(name.rpartition("-")[0], **parameters).fit(table()).save(file)
        rows[name] = quantizers.read(file).quantizer.to_dense().numpy()
    without = quantizers.create("identity").fit(Table(table().vectors))
    without.save(DATA / "identity-without-words.safetensors")  # the same bytes every time
    rows["identity-without-words"] = without.to_dense().numpy()
    np.savez_compressed(DATA / "rows.npz", **rows)


if __name__ == "__main__":
    main()
