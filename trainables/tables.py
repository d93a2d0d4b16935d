"""Reads, writes and shares embedding tables."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from quantizers.errors import InputError
from quantizers.table import Table
from trainables import builtin


def read_table(spec: str, *, data_dir: Path | None = None, rows: int | None = None) -> Table:
    """Read an embedding table.

    Args:
        spec: ``builtin:NAME``, or a path: absolute, below the working directory, or below ``data_dir``. ``X.npy`` takes its
            words from ``X.word``, ``X.words`` or ``X.words.txt`` and its counts from ``X.counts.npy`` where they are.
        data_dir: where tables are looked for too.
        rows: read the first rows only.

    Raises:
        InputError: no such table, or it is not what it says it is.
    """
    if spec.startswith("builtin:"):
        return builtin.read(spec.removeprefix("builtin:"), rows=rows)
    path = _find(spec, data_dir)
    vectors = np.array(np.load(path, mmap_mode="r")[:rows], dtype=np.float32)
    words = None
    for suffix in (".word", ".words", ".words.txt"):
        if path.with_suffix(suffix).is_file():
            text = path.with_suffix(suffix).read_text(encoding="utf-8", errors="surrogateescape")
            words = text.removesuffix("\n").split("\n")[:rows]
            break
    return Table(torch.from_numpy(vectors), words, name=path.stem)


def _find(spec: str, data_dir: Path | None) -> Path:
    places = [Path(spec).expanduser()]
    if data_dir is not None and not places[0].is_absolute():
        places.append(data_dir / spec)
    for path in places:
        if path.is_file():
            return path
    raise InputError(f"No table {spec!r}: looked for {' and '.join(str(path) for path in places)}.")
