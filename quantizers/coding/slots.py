"""Asymmetric numeral systems for rows in slots of whole bytes that are read alone and waste nothing at their ends.

Paper: Duda, "Asymmetric numeral systems" (arXiv:1311.2540); the range variant.
Equation: of the numbers below 2^P a symbol has f, its frequency, and they are its own p_0 < p_1 < .. < p_(f-1). A row is one
number X < 2^n, n the bits of its slot. With X = 0 at first, from the last symbol to the first, X <- (X // f) * 2^P +
p_(X mod f); reading finds the symbol that X mod 2^P belongs to, as its p_i, and X <- f * (X // 2^P) + i. What is left unused
of the slot are leading zeros, so that a row's length is known from its slot and need not be stored.

A symbol's numbers lie evenly among all (:func:`spread`): its first is near 2^P / f, so that X grows by no more than the
symbol's information even while it is small. Were they one after another, the symbol that is coded first would cost P bits.

X is kept as a state x below 2^63 and words of 32 bits. Symbols are coded in groups of two (the last may be alone): before a
group that would bring x to 2^63 the lower 32 bits of x are given away, and after a group that left x below 2^31 a reader
takes the next word, if its slot has one. A slot of n bits is a head of h bits and w words, w = max(0, (n - 32) // 32) and
h = n - 32 w, the upper digit of X first. Heads and words of all rows lie in two streams, both little-endian.

Shapes: N rows, r symbols a row, B batch.
"""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]

GROUP = 2
WORD_BITS = 32
LOWEST = 1 << 31  # below it a state takes a word
_STATE_BITS = 63
_WORD = (1 << WORD_BITS) - 1
LARGEST_PRECISION = 15


def slot_words(slot_bytes: Array) -> Array:
    """How many whole words slots of so many bytes have: w."""
    words: Array = np.maximum(0, slot_bytes // 4 - 1)
    return words


def spread(frequency: Array) -> Array:
    """Which symbol each number below 2^P belongs to: frequencies (S,) int64, of sum 2^P -> (2^P,) int64.

    The i-th of a symbol's f numbers has the place (2 i + 1) / f, and 2 i / f for symbol 0 (quotients in double precision);
    numbers follow from the order of places, and of symbols where those are equal. Number 0 is therefore symbol 0's, and
    symbols 0 at the end of a row, which are coded first, leave X = 0 as it is.
    """
    symbols = np.repeat(np.arange(len(frequency)), frequency)
    index = np.arange(len(symbols)) - np.repeat(np.cumsum(frequency) - frequency, frequency)
    found: Array = symbols[np.argsort((2.0 * index + (symbols > 0)) / frequency[symbols], kind="stable")]
    return found


def encode_rows(
    frequency: Array, first: Array, numbers: Array, precision: int, slot_bytes: Array
) -> tuple[Array, Array, Array]:
    """Code rows into their slots.

    Args:
        frequency: (r, N) int64, f of each symbol, 1 to 2^P.
        first: (r, N) int64, where each symbol's own numbers begin in ``numbers``.
        numbers: p_0, p_1, .. of all symbols, int64.
        precision: P, at most ``LARGEST_PRECISION``.
        slot_bytes: (N,) int64.

    Returns:
        The heads of all rows (uint8), their words (uint32), and which rows (N,) do not fit and are written wrong.
    """
    rank, count = frequency.shape
    words = slot_words(slot_bytes)
    most = int(words.max(initial=0))
    state = np.zeros(count, np.int64)
    given = np.zeros((count, most + 3), np.uint32)  # in the order in which they are given away
    used = np.zeros(count, np.int64)
    for begin in reversed(range(0, rank, GROUP)):
        group = range(begin, min(begin + GROUP, rank))
        product = np.prod(frequency[group.start : group.stop], axis=0)
        full = np.flatnonzero(state >> (_STATE_BITS - precision * len(group)) >= product)
        given[full, np.minimum(used[full], most)] = (state[full] & _WORD).astype(np.uint32)
        used[full] += 1
        state[full] >>= WORD_BITS
        for column in reversed(group):
            times, rest = np.divmod(state, frequency[column])
            state = (times << precision) + numbers[first[column] + rest]
    head_bytes = slot_bytes - 4 * words
    exact = used == words
    over = (used > words) | (exact & (state >> (8 * head_bytes) > 0))
    # A row that gave fewer words than its slot has: its state is two more of them, above which are zeros.
    short = np.flatnonzero(used < words)
    given[short, used[short]] = (state[short] & _WORD).astype(np.uint32)
    given[short, used[short] + 1] = (state[short] >> WORD_BITS).astype(np.uint32)
    head = np.where(exact, state, np.where(used == words - 1, state >> WORD_BITS, 0))
    owner, place = _places(words)
    heads_owner, byte = _places(head_bytes)
    heads = (head[heads_owner] >> (8 * byte) & 0xFF).astype(np.uint8)
    return heads, given[owner, words[owner] - 1 - place], over


def _places(lengths: Array) -> tuple[Array, Array]:
    """For everything that rows of these lengths have: whose it is, and which of the row's."""
    owner = np.repeat(np.arange(len(lengths)), lengths)
    return owner, np.arange(len(owner)) - np.repeat(np.cumsum(lengths) - lengths, lengths)


def read_heads(heads: Array, begin: Array, head_bytes: Array) -> Array:
    """The states that rows begin with, (B,) int64.

    Args:
        heads: uint8, of all rows, and 8 bytes more at its end.
        begin: (B,) where each row's head is.
        head_bytes: (B,) int64.
    """
    state = np.zeros(len(begin), np.int64)
    for byte in range(int(head_bytes.max(initial=0))):
        state |= np.where(byte < head_bytes, heads[begin + byte].astype(np.int64) << (8 * byte), 0)
    return state
