"""Reading rows: all that are asked for side by side, column by column; a few by themselves, in whole numbers of Python.

Reading is done by the processor whatever the table's device is: it is a chain of small steps.

Shapes: N rows, B batch, r columns, G classes, T tables, P precision.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from quantizers.coding.slots import GROUP, LOWEST, WORD_BITS, read_heads, slot_words
from quantizers.methods.trellis.machine import flips
from quantizers.methods.trellis.model import Model

Array = np.ndarray[Any, np.dtype[Any]]
_FEW_ROWS = 10  # up to which rows are read one by one
_ROWS_AT_ONCE = 1 << 12
_FREQUENCY_SHIFT = 40


class Reader:
    """What reading needs besides the state and follows from it.

    An entry of ``entries`` is for a context (2 * table + q) and a number below 2^P: it has the symbol's frequency (from bit
    40), what the machine's state is combined with after it (from bit P), and which of the symbol's numbers it is.

    Args:
        model: the tables, on the CPU.
        classes: (N,) int64.
        heads: uint8.
        words: int32, the bits of unsigned words.
        states: of the machine.
    """

    def __init__(self, model: Model, classes: Tensor, heads: Tensor, words: Tensor, states: int) -> None:
        slots = model.slot_bytes.numpy()
        self.classes = classes.numpy().astype(np.uint8)
        self.head_bytes, self.num_words = slots - 4 * slot_words(slots), slot_words(slots)
        self.head_begin = _begins(self.head_bytes[self.classes])
        self.word_begin = _begins(self.num_words[self.classes])
        self.heads = np.concatenate([heads.numpy(), np.zeros(8, np.uint8)])
        self.words = words.numpy().view(np.uint32)
        self.precision, self.width = model.precision, model.frequency.shape[1]
        self.bases = (model.table_of.numpy().T << (model.precision + 1)).copy()  # (r, G)
        self._fill_entries(model, flips(states))
        self.flip_mask = (states - 1) << model.precision

    def _fill_entries(self, model: Model, flip: list[int]) -> None:
        numbers = model.numbers
        contexts = np.arange(len(numbers.symbol))[:, None]
        magnitude = (numbers.symbol + 1) // 2
        flipped = np.array(flip).reshape(2, 2)[contexts % 2, magnitude % 2]
        times = np.take_along_axis(numbers.frequency, numbers.symbol, axis=1)
        entries = (times << _FREQUENCY_SHIFT) + (flipped << self.precision) + numbers.index
        self.entries = entries.reshape(-1)
        # The number of a symbol among those of all contexts.
        self.symbol = (contexts * numbers.frequency.shape[1] + numbers.symbol).reshape(-1)

    def read(self, ids: Array, leaves: Array) -> Array:
        """What stands in ``leaves`` for the symbols of rows: (B,) -> (B, r) of the type of ``leaves``.

        Args:
            ids: int64.
            leaves: one for each of ``entries``.
        """
        out = np.empty((len(self.bases), len(ids)), leaves.dtype)
        if len(ids) <= _FEW_ROWS:
            for row, number in enumerate(ids.tolist()):
                out[:, row] = leaves[self._one(number)]
        else:
            for begin in range(0, len(ids), _ROWS_AT_ONCE):
                part = slice(begin, begin + _ROWS_AT_ONCE)
                self._many(ids[part], leaves, out[:, part])
        return out.T

    def _one(self, row: int) -> list[int]:
        """Numbers of the entries of one row."""
        kind = int(self.classes[row])
        begin, place = int(self.head_begin[row]), int(self.word_begin[row])
        state = int.from_bytes(self.heads[begin : begin + int(self.head_bytes[kind])].tobytes(), "little")
        words = self.words[place : place + int(self.num_words[kind])].tolist()[::-1]
        while state < LOWEST and words:
            state = state << WORD_BITS | words.pop()
        precision, entries, machine, found = self.precision, self.entries.data, 0, []
        mask, flip_mask, quantizer = (1 << precision) - 1, self.flip_mask, 1 << precision
        for column, base in enumerate(self.bases[:, kind].tolist()):
            at = base + (machine & quantizer) + (state & mask)
            found.append(at)
            entry = entries[at]
            state = (state >> precision) * (entry >> _FREQUENCY_SHIFT) + (entry & mask)
            machine = machine >> 1 & flip_mask ^ entry & flip_mask
            if state < LOWEST and words and column % GROUP == GROUP - 1:
                state = state << WORD_BITS | words.pop()
        return found

    def _many(self, ids: Array, leaves: Array, found: Array) -> None:
        """The leaves of rows (B,) go into ``found`` (r, B)."""
        classes = self.classes[ids]
        state = read_heads(self.heads, self.head_begin[ids], self.head_bytes[classes])
        place = self.word_begin[ids].astype(np.int64)
        end = place + self.num_words[classes]
        lowest = np.where(place < end, LOWEST, 0)
        words = self.words

        def take_words() -> None:
            rows = (state < lowest).nonzero()[0]
            if len(rows):
                at = place[rows]
                state[rows] = (state[rows] << WORD_BITS) | words[at]
                at += 1
                place[rows] = at
                lowest[rows[at == end[rows]]] = 0

        for _ in range(2 + int(self.num_words.max())):
            take_words()
        precision, entries = self.precision, self.entries
        mask, flip_mask, quantizer = (1 << precision) - 1, self.flip_mask, 1 << precision
        rank = len(self.bases)
        bases = self.bases.take(classes, axis=1)
        at, entry, machine = np.empty_like(state), np.empty_like(state), np.zeros_like(state)
        one = np.empty_like(state)
        for column in range(rank):
            np.bitwise_and(state, mask, out=at)
            np.bitwise_and(machine, quantizer, out=one)
            at += one
            at += bases[column]
            entries.take(at, out=entry, mode="clip")
            leaves.take(at, out=found[column], mode="clip")
            state >>= precision
            np.right_shift(entry, _FREQUENCY_SHIFT, out=one)
            state *= one
            np.bitwise_and(entry, mask, out=one)
            state += one
            machine >>= 1
            machine ^= entry
            machine &= flip_mask
            if column % GROUP == GROUP - 1:
                take_words()


def _begins(lengths: Array) -> Array:
    total = np.cumsum(lengths)
    return (total - lengths).astype(np.int32 if len(total) and total[-1] < 2**31 else np.int64)
