"""Rows of ``trellis``: each is one large number, out of which its symbols come one after another.

In every context the numbers below 2^P are shared out among the symbols. The symbol of a column is the one that has the
number X mod 2^P, as its i-th of f, and X goes on as f * (X // 2^P) + i. The parities of the symbols lead a state machine,
whose lowest bit is the quantizer of the next column; a column's context is its table and its quantizer.

Shapes: N rows, B batch, r columns, G classes of rows, T tables, 2T contexts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedding_frontier_reader.bits import Bytes, Floats, Ints

# Number of states -> what the state is combined with after a column of quantizer 1, and after an odd symbol.
_MACHINES = {4: (2, 1), 8: (5, 2), 16: (9, 2), 32: (18, 4), 64: (33, 10)}
# As NumPy knows the types.
_TYPES = {
    **dict.fromkeys(("heads", "classes", "table_row", "table_of", "precision"), "uint8"),
    **dict.fromkeys(("class_bytes", "class_frequency", "slot_bytes", "largest", "frequency"), "int16"),
    **dict.fromkeys(("step", "basis_scale", "mean"), "float32"),
    "tails": "int32",
    "shrink": "float16",
    "basis": "int8",
}
_LOWEST = 1 << 31  # a number below it takes a word, where its row has one left


class Slots:
    """The rows of a file in their slots.

    Args:
        state: the file's tensors.
        classes: (N,) of each row, below G.
        columns: r.
        states: of the state machine.

    Raises:
        ValueError: the tensors do not belong together.
    """

    def __init__(self, state: Mapping[str, NDArray[Any]], classes: Ints, columns: int, states: int) -> None:
        for name, array in state.items():
            _require(array.dtype == _TYPES[name], f"{name} is {array.dtype}, not {_TYPES[name]}")
        slot_bytes, table_row = state["slot_bytes"].astype(np.int64), state["table_row"].astype(np.int64)
        table_of, contexts = state["table_of"].astype(np.int64), len(state["largest"])
        _require(len(slot_bytes) > int(classes.max()) and slot_bytes.min() >= 0, "the classes' slots are damaged")
        _require(len(table_row) == len(slot_bytes) and table_row.max() < len(table_of), "a class has no row of tables")
        _require(table_of.shape[1:] == (columns,), f"table_of has the shape {table_of.shape} for {columns} columns")
        _require(2 * table_of.max() < contexts, f"there are {contexts} contexts, and table {table_of.max()} is used")
        self._classes, self._table_of = classes, table_of[table_row].T.copy()  # (r, G)
        words = np.maximum(0, slot_bytes // 4 - 1)
        self._words, self._head_bytes = words, slot_bytes - 4 * words
        self._tails = state["tails"].view(np.uint32)
        self._heads: Bytes = np.append(state["heads"], np.zeros(8, np.uint8))
        self._word_begin = _begins(words[classes], len(self._tails), "tails")
        self._head_begin = _begins(self._head_bytes[classes], len(state["heads"]), "heads")
        self._precision = int(state["precision"])
        self._share_numbers(state, states)

    def _share_numbers(self, state: Mapping[str, NDArray[Any]], states: int) -> None:
        """For each context and each number below 2^P: f and i, what the state is combined with, and the value."""
        largest, stored = state["largest"].astype(np.int64), state["frequency"].astype(np.int64)
        shrink, total = state["shrink"].astype(np.float32), 1 << self._precision
        _require(1 <= self._precision <= 15, f"a precision of {self._precision} bits")
        _require(largest.min() >= 0 and largest.sum() == len(stored), "frequencies are missing, or too many")
        _require(shrink.shape == (len(largest), 3), f"shrink has the shape {shrink.shape} for {len(largest)} contexts")
        _require(np.isfinite(shrink).all() and np.isfinite(state["step"]).all(), "step or shrink is not finite")
        after_one, after_odd = _MACHINES[states]
        shape = len(largest), total
        self._times, self._index = np.empty(shape, np.int64), np.empty(shape, np.int64)
        self._flip, self._value = np.empty(shape, np.int64), np.empty(shape, np.float32)
        begins = np.cumsum(largest) - largest
        for context, (begin, most) in enumerate(zip(begins.tolist(), largest.tolist(), strict=True)):
            one_sign = stored[begin : begin + most]
            zero = total - 2 * int(one_sign.sum())
            _require(zero > 0 and (most == 0 or one_sign.min() > 0), f"the frequencies of context {context} are damaged")
            symbol, index, times = _numbers(np.concatenate([[zero], np.repeat(one_sign, 2)]))
            magnitude, quantizer = (symbol + 1) // 2, context % 2
            size = (2 * magnitude - quantizer).astype(np.float32) - shrink[context, np.clip(magnitude, 1, 3) - 1]
            signed = np.where(symbol % 2, size, -size) * state["step"]
            self._value[context] = np.where(magnitude > 0, signed, 0)
            self._times[context], self._index[context] = times, index
            self._flip[context] = after_one * quantizer ^ after_odd * (magnitude % 2)

    def values(self, ids: Ints) -> Floats:
        """What the symbols of rows stand for: (B,) -> (B, r)."""
        out = np.empty((len(self._table_of), len(ids)), np.float32)
        classes, precision = self._classes[ids], self._precision
        number, place = self._heads_of(ids, classes), self._word_begin[ids]
        end = place + self._words[classes]

        def short() -> NDArray[np.intp]:
            return np.flatnonzero((number < _LOWEST) & (place < end))

        def take_words(rows: NDArray[np.intp]) -> None:
            number[rows] = number[rows] << 32 | self._tails[place[rows]]
            place[rows] += 1

        while len(rows := short()):
            take_words(rows)
        machine = np.zeros_like(number)
        times, index, flip, value = (part.reshape(-1) for part in (self._times, self._index, self._flip, self._value))
        for column, tables in enumerate(self._table_of):
            context = 2 * tables[classes] + (machine & 1)
            at = (context << precision) + (number & (1 << precision) - 1)
            number[:] = (number >> precision) * times[at] + index[at]
            machine = machine >> 1 ^ flip[at]
            out[column] = value[at]
            if column % 2:
                take_words(short())
        return out.T

    def _heads_of(self, ids: Ints, classes: Ints) -> Ints:
        """The numbers that rows begin with, (B,)."""
        number, count = np.zeros(len(ids), np.int64), self._head_bytes[classes]
        for byte in range(int(self._head_bytes.max())):
            number |= np.where(byte < count, self._heads[self._head_begin[ids] + byte].astype(np.int64) << 8 * byte, 0)
        return number


def _numbers(frequency: Ints) -> tuple[Ints, Ints, Ints]:
    """Which symbol has each number below 2^P, as which of its numbers, and how many it has: (S,) -> three of (2^P,)."""
    symbol = np.repeat(np.arange(len(frequency)), frequency)
    index = np.arange(len(symbol)) - np.repeat(np.cumsum(frequency) - frequency, frequency)
    times = frequency[symbol]
    # Symbols are in order already, which a stable sort keeps where fractions are equal.
    order = np.argsort((2 * index + (symbol > 0)) / times, kind="stable")
    return symbol[order], index[order], times[order]


def _begins(lengths: Ints, stored: int, name: str) -> Ints:
    """Where each row's part begins in a stream that has them one after another."""
    total = np.cumsum(lengths)
    _require(total[-1] == stored, f"the rows take {total[-1]} of {name}, and {stored} are stored")
    return total - lengths


def _require(condition: bool | np.bool_, message: str) -> None:
    if not condition:
        raise ValueError(message)
