"""The range coder: the symbols of a row or of a block, coded by themselves, all that are asked for side by side.

A row is a number within [low, low + range), at first [0, 2^32). A symbol of frequency f of 2^14, with c the frequencies
before it, narrows that to low + c * (range // 2^14) and f * (range // 2^14); whenever the range falls below 2^24, a byte is
read.

Shapes: B batch, r symbols a row, T entries of all frequency tables together.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from embedding_frontier_reader.bits import Bytes, Ints

_PRECISION, _TOTAL = 14, 1 << 14
_SHORTEST = 1 << 24
_BLOCK = 256  # symbols of a list that are coded together


def symbol_lookup(frequency: Ints) -> NDArray[np.int32]:
    """For every table and every number below 2^14 the entry that it stands for: (T,) -> (tables, 2^14)."""
    return np.repeat(np.arange(len(frequency), dtype=np.int32), frequency).reshape(-1, _TOTAL)


def decode(
    stream: Bytes, begin: Ints, length: Ints, tables: Ints, lookup: NDArray[np.int32], frequency: Ints, before: Ints
) -> Ints:
    """The entries of some rows.

    Args:
        stream: the bytes of all rows.
        begin: (B,) the first byte of each row to read.
        length: (B,) its number of bytes; what follows reads as zeros.
        tables: (r,) for each symbol of a row the number of its table.
        lookup: of :func:`symbol_lookup`.
        frequency: (T,).
        before: (T,) sum of the frequencies of the entries before, in the same table.

    Returns:
        (B, r).
    """
    padded = np.append(stream, np.uint8(0))
    position, end, last = begin.copy(), begin + length, len(stream)
    code, span = np.zeros_like(begin), np.full_like(begin, 1 << 32)

    def shifted_in() -> Ints:
        return code << 8 | padded[np.where(position < end, position, last)]

    for _ in range(4):
        code = shifted_in()
        position += 1
    out = np.empty((len(begin), len(tables)), dtype=np.int64)
    for column, table in enumerate(tables.tolist()):
        unit = span >> _PRECISION
        entry = lookup[table][np.minimum(code // unit, _TOTAL - 1)].astype(np.int64)
        out[:, column] = entry
        code = code - unit * before[entry]
        span = unit * frequency[entry]
        for _ in range(2):
            short = span < _SHORTEST
            code = np.where(short, shifted_in(), code)
            position += short
            span = np.where(short, span << 8, span)
    return out


def decode_list(stream: Bytes, block_bytes: NDArray[np.int16], frequencies: NDArray[np.int16], count: int) -> Ints:
    """One symbol for each row of a table, coded in blocks: (count,).

    Raises:
        ValueError: the blocks are not those of the stream, or the frequencies are damaged.
    """
    sizes, frequency = block_bytes.astype(np.int64), frequencies.astype(np.int64)
    if len(sizes) != -(-count // _BLOCK) or sizes.min() < 0 or sizes.sum() != len(stream):
        raise ValueError(f"a list's {len(sizes)} blocks have {sizes.sum()} bytes, and {len(stream)} are stored")
    if frequency.min() < 0 or frequency.sum() != _TOTAL:
        raise ValueError(f"a list's frequencies add up to {frequency.sum()}")
    begins, before = np.cumsum(sizes) - sizes, np.cumsum(frequency) - frequency
    tables = np.zeros(_BLOCK, dtype=np.int64)
    return decode(stream, begins, sizes, tables, symbol_lookup(frequency), frequency, before).reshape(-1)[:count]
