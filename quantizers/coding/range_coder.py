"""Entropy coding of rows that can be read alone: a range coder, all rows of a batch side by side.

Papers: Rissanen & Langdon, "Arithmetic Coding" (IBM J. Res. Dev. 1979); Martin, "Range encoding" (1979).
Equation: a row is a number within [low, low + range), at first [0, 2^32); a symbol of frequency f of M = 2^14, with c the
frequencies before it, narrows that to low + c * (range // M) and f * (range // M), and whenever range falls below 2^24 the
upper byte of low is written.

Chosen: a row ends with the shortest run of bytes that, followed by zeros, lies within its range, so that its length is its
information rounded up to whole bytes and hardly a bit more; how many bytes that is the caller keeps. The work goes column by
column over all rows at once.

Shapes: N rows, B batch, r symbols a row, C frequency tables, T entries of all tables together.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

PRECISION_BITS = 14
TOTAL = 1 << PRECISION_BITS
LIST_BLOCK = 256
_WIDTH_BITS = 32
_SHORTEST = 1 << (_WIDTH_BITS - 8)
_CHUNK_SYMBOLS = 1 << 20
_FEWEST_ROWS = 1 << 12  # each column is a step of the program: few rows at a time would make it slow


def integer_frequencies(counts: np.ndarray) -> np.ndarray:
    """Frequencies proportional to ``counts`` (not all 0), of sum ``TOTAL``, at least 1 where a count is above 0."""
    exact = counts * (TOTAL / counts.sum())
    found: np.ndarray = np.maximum(np.floor(exact), counts > 0).astype(np.int64)
    while (missing := TOTAL - int(found.sum())) != 0:
        # Where to add is where the most was cut off; where to take is where the most was given, and 1 must stay.
        gap = np.where(counts > 0, exact - found, -np.inf) if missing > 0 else np.where(found > 1, found - exact, -np.inf)
        chosen = np.argsort(-gap, kind="stable")[: min(abs(missing), int((gap > -np.inf).sum()))]
        found[chosen] += 1 if missing > 0 else -1
    return found


def encode(symbols: Tensor, offsets: Tensor, frequency: Tensor, before: Tensor) -> tuple[Tensor, Tensor]:
    """Code rows of symbols.

    Args:
        symbols: (N, r) integers.
        offsets: (r,) int64, what turns a column's symbols into their entries in the tables.
        frequency: (T,) int64, of each entry, above 0 where it is used.
        before: (T,) int64, sum of the frequencies of the entries before it in its table.

    Returns:
        The bytes of all rows one after another, uint8, and how many each row has, (N,) int64.
    """
    step = max(_FEWEST_ROWS, _CHUNK_SYMBOLS // symbols.shape[1])
    parts = []
    for part in torch.split(symbols, step):
        writer = _Writer(part)
        for column, offset in enumerate(offsets.tolist()):
            entries = part[:, column].to(torch.int64) + offset
            writer.narrow(frequency[entries], before[entries])
        parts.append(writer.finish())
    return torch.cat([stream for stream, _ in parts]), torch.cat([lengths for _, lengths in parts])


class _Writer:
    """The state of some rows on their way to bytes."""

    def __init__(self, rows: Tensor) -> None:
        count, symbols = rows.shape
        self.rows = torch.arange(count, device=rows.device)
        self.low = torch.zeros_like(self.rows)
        self.range = torch.full_like(self.rows, 1 << _WIDTH_BITS)
        self.length = torch.zeros_like(self.rows)
        # The last column takes what is written where there is nothing to write.
        self.bytes = torch.zeros((count, 2 * symbols + 5), dtype=torch.uint8, device=rows.device)

    def narrow(self, frequency: Tensor, before: Tensor) -> None:
        unit = self.range >> PRECISION_BITS
        self.low = self.low + unit * before
        self.range = unit * frequency
        self._carry()
        for _ in range(2):
            short = self.range < _SHORTEST
            self._write(short)
            self.range = torch.where(short, self.range << 8, self.range)

    def _write(self, where: Tensor) -> None:
        """Give the upper byte of ``low`` away in the rows ``where``."""
        nowhere = self.bytes.shape[1] - 1
        upper = (self.low >> (_WIDTH_BITS - 8)).to(torch.uint8)
        self.bytes[self.rows, torch.where(where, self.length, nowhere)] = upper
        self.length = self.length + where
        self.low = torch.where(where, (self.low & (_SHORTEST - 1)) << 8, self.low)

    def _carry(self) -> None:
        """Bring what ``low`` has beyond 32 bits into the bytes that are written already."""
        carried = self.low >> _WIDTH_BITS > 0
        self.low = self.low & ((1 << _WIDTH_BITS) - 1)
        rows, at = self.rows[carried], self.length[carried] - 1
        while len(rows):
            self.bytes[rows, at] += 1
            over = self.bytes[rows, at] == 0
            rows, at = rows[over], at[over] - 1

    def finish(self) -> tuple[Tensor, Tensor]:
        end = self.low + self.range
        kept = torch.full_like(self.low, 4)
        for count in (3, 2, 1, 0):
            kept = torch.where(_round_up(self.low, _WIDTH_BITS - 8 * count) < end, count, kept)
        self.low = _round_up(self.low, _WIDTH_BITS - 8 * kept)
        self._carry()
        for count in range(4):
            self._write(kept > count)
        # What follows a row is read as zeros: zeros at its end need not be there.
        while bool((zero := (self.length > 0) & (self.bytes[self.rows, (self.length - 1).clamp_min(0)] == 0)).any()):
            self.length = self.length - zero.to(torch.int64)
        owner = torch.repeat_interleave(self.rows, self.length)
        place = torch.arange(len(owner), device=owner.device) - (self.length.cumsum(0) - self.length)[owner]
        return self.bytes[owner, place], self.length


def encode_list(symbols: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Code a list of symbols that is read as a whole, with a frequency table of its own, in blocks of ``LIST_BLOCK``.

    Args:
        symbols: (N,) int64, below ``count``.
        count: how many symbols there are.

    Returns:
        The bytes (uint8), how many of them each block has (int64), and the frequencies (count,) int64.
    """
    counts = torch.bincount(symbols, minlength=count)
    filled = torch.nn.functional.pad(symbols, (0, -len(symbols) % LIST_BLOCK), value=int(counts.argmax()))
    frequency = torch.from_numpy(integer_frequencies(counts.to(torch.float64).cpu().numpy())).to(symbols.device)
    offsets = torch.zeros(LIST_BLOCK, dtype=torch.int64)
    stream, lengths = encode(filled.reshape(-1, LIST_BLOCK), offsets, frequency, frequency.cumsum(0) - frequency)
    return stream, lengths, frequency


def decode_list(stream: Tensor, lengths: Tensor, frequency: Tensor, count: int) -> Tensor:
    """Undo :func:`encode_list`: the first ``count`` symbols, (count,) int64."""
    frequency, lengths = frequency.to(torch.int64), lengths.to(torch.int64)
    begins, before = lengths.cumsum(0) - lengths, frequency.cumsum(0) - frequency
    tables = torch.zeros(LIST_BLOCK, dtype=torch.int64)
    found = decode(stream, begins, lengths, tables, symbol_lookup(frequency), frequency, before)
    return found.reshape(-1)[:count]


def _round_up(values: Tensor, zero_bits: int | Tensor) -> Tensor:
    return (values + (1 << zero_bits) - 1) >> zero_bits << zero_bits


def symbol_lookup(frequency: Tensor) -> Tensor:
    """For every table and every number below ``TOTAL`` the entry that it stands for: (T,) -> (C, TOTAL) int32."""
    entries = torch.arange(len(frequency), dtype=torch.int32, device=frequency.device)
    return torch.repeat_interleave(entries, frequency).reshape(-1, TOTAL)


def decode(
    stream: Tensor, begin: Tensor, length: Tensor, tables: Tensor, lookup: Tensor, frequency: Tensor, before: Tensor
) -> Tensor:
    """Undo :func:`encode` for some rows.

    Args:
        stream: uint8, all rows.
        begin: (B,) int64, the first byte of each row to read.
        length: (B,) int64, its number of bytes.
        tables: for each of the r symbols of a row the number of its table.
        lookup: of :func:`symbol_lookup`.
        frequency: (T,) int64.
        before: (T,) int64.

    Returns:
        (B, r) int64 entries.
    """
    position, end = begin, begin + length
    code = torch.zeros_like(begin)
    span = torch.full_like(begin, 1 << _WIDTH_BITS)
    padded = torch.nn.functional.pad(stream, (0, 1))
    last = len(stream)

    def shifted_in() -> Tensor:
        return (code << 8) | padded[torch.where(position < end, position, last)]

    for _ in range(_WIDTH_BITS // 8):
        code = shifted_in()
        position = position + 1
    out = torch.empty((len(begin), len(tables)), dtype=torch.int64, device=begin.device)
    for column, table in enumerate(tables.tolist()):
        unit = span >> PRECISION_BITS
        # The number is below TOTAL but for the sliver that range // M leaves over, where no row ever is.
        entry = lookup[table][torch.div(code, unit, rounding_mode="floor").clamp_max(TOTAL - 1)].to(torch.int64)
        out[:, column] = entry
        code = code - unit * before[entry]
        span = unit * frequency[entry]
        for _ in range(2):
            short = span < _SHORTEST
            code = torch.where(short, shifted_in(), code)
            position = position + short
            span = torch.where(short, span << 8, span)
    return out
