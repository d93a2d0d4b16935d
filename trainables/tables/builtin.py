"""Tables that need no file: a piece of GloVe that the package carries, and generated ones.

Shapes: N rows, D columns.
"""

from __future__ import annotations

import importlib.resources
import lzma
import re

import numpy as np
import torch

from quantizers.errors import unknown_name
from quantizers.table import Table
from trainables.tables.text import read_text

_GLOVE = "glove-10k-50d"
_SYNTHETIC = re.compile(r"synthetic-([1-9]\d*)x([1-9]\d*)")


def names() -> list[str]:
    """What can stand behind ``builtin:``; in ``synthetic-NxD``, N and D are numbers."""
    return [_GLOVE, "synthetic-NxD"]


def read(name: str, *, rows: int | None = None) -> Table:
    """The built-in table ``name``.

    ``glove-10k-50d`` holds the first 10,000 words of GloVe 6B 50d. ``synthetic-NxD`` is generated: see :func:`synthetic`.

    Raises:
        InputError: there is none; the message suggests the nearest name.
    """
    if name == _GLOVE:
        resource = importlib.resources.files("trainables").joinpath(f"data/{_GLOVE}.txt.xz")
        with resource.open("rb") as packed, lzma.open(packed) as stream:
            vectors, words = read_text(stream, f"builtin:{name}", rows)
        return Table(torch.from_numpy(vectors), words, name=name)
    match = _SYNTHETIC.fullmatch(name)
    if match:
        num_rows, dim = int(match[1]), int(match[2])
        return synthetic(num_rows if rows is None else min(rows, num_rows), dim, name=name)
    raise unknown_name("built-in table", name, names())


def synthetic(num_rows: int, dim: int, *, name: str = "synthetic") -> Table:
    """A generated table that is as easy and as hard as GloVe in the ways that speed and storage depend on.

    Rows are normal with eigenvalues j^-0.4 in a random basis, scaled by log-normal factors (kurtosis 3.2): what GloVe 6B
    100d shows. Words are ``w0``, ``w1``, ...; counts fall as 1 / rank. Up to rounding, a larger table begins with the rows
    of a smaller one; the same machine gives the same bits.
    """
    spread = np.arange(1, dim + 1) ** -0.2
    basis, _ = np.linalg.qr(np.random.default_rng([dim, 0]).standard_normal((dim, dim)))
    mixing = (spread[:, None] * basis.T).astype(np.float32)
    normal, scale = np.random.default_rng([dim, 1]), np.random.default_rng([dim, 2])
    vectors = np.empty((num_rows, dim), dtype=np.float32)
    step = max(1, (1 << 22) // dim)
    for start in range(0, num_rows, step):
        part = vectors[start : start + step]
        normal.standard_normal(dtype=np.float32, out=part)
        factors = scale.lognormal(sigma=0.136, size=len(part)).astype(np.float32)
        vectors[start : start + step] = (part @ mixing) * factors[:, None]
    counts = (1e6 / np.arange(1, num_rows + 1)).astype(np.float32)
    words = [f"w{row}" for row in range(num_rows)]
    return Table(torch.from_numpy(vectors), words, torch.from_numpy(counts), name)
