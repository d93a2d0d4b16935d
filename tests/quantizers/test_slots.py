import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantizers.coding.slots import LOWEST, encode_rows, read_heads, slot_words, spread


def numbers_of(frequency):
    """Of one table: the numbers of each symbol, one symbol after another, and where each symbol's begin."""
    symbol = spread(frequency)
    return symbol, np.argsort(symbol, kind="stable"), np.cumsum(frequency) - frequency


def read(heads, tails, slots, rank, frequency, precision):
    """A plain reader, row by row, of symbols that all have one table."""
    symbol, numbers, begin = numbers_of(frequency)
    words = slot_words(slots)
    head_bytes = slots - 4 * words
    states = read_heads(np.concatenate([heads, np.zeros(8, np.uint8)]), np.cumsum(head_bytes) - head_bytes, head_bytes)
    rows, at = [], 0
    for state, count in zip(states.tolist(), words.tolist(), strict=True):
        left = tails[at : at + count].tolist()
        at += count
        while state < LOWEST and left:
            state = state << 32 | left.pop(0)
        row = []
        for column in range(rank):
            low = state % (1 << precision)
            found = int(symbol[low])
            index = int(np.flatnonzero(numbers[begin[found] : begin[found] + frequency[found]] == low)[0])
            state = int(frequency[found]) * (state >> precision) + index
            row.append(found)
            if column % 2 and state < LOWEST and left:
                state = state << 32 | left.pop(0)
        rows.append(row)
    return np.array(rows).reshape(len(slots), rank)


def coded(symbols, slots, frequency, precision):
    _, numbers, begin = numbers_of(frequency)
    return encode_rows(frequency[symbols.T], begin[symbols.T], numbers, precision, slots)


def test_numbers_lie_evenly_and_the_first_is_zeros():
    # Places: 0, 1/2, 1, 3/2 (times 1/2) of symbol 0, and 1/3 .. of the others.
    assert spread(np.array([4, 2, 2])).tolist() == [0, 0, 1, 2, 0, 0, 1, 2]
    symbol = spread(np.array([100, 900, 24]))
    assert symbol[0] == 0
    assert np.bincount(symbol).tolist() == [100, 900, 24]
    gaps = np.diff(np.flatnonzero(symbol == 2))
    assert gaps.min() >= 41 and gaps.max() <= 44


def test_row_by_hand():
    # Frequencies 2 and 2 of 4: symbol 0 has the numbers 0 and 2 (places 0 and 1), symbol 1 has 1 and 3.
    frequency = np.array([2, 2])
    assert spread(frequency).tolist() == [0, 1, 0, 1]
    # From the last: 1 makes 0 to 1, 0 makes it (0 * 4) + 2, 1 makes it 1 * 4 + 1.
    heads, tails, over = coded(np.array([[1, 0, 1]]), np.array([1]), frequency, 2)
    assert heads.tolist() == [5] and len(tails) == 0 and not over.any()


@pytest.mark.parametrize("precision", [6, 12, 15])
def test_rows_come_back_and_take_their_information(precision):
    random = np.random.default_rng(precision)
    share = np.array([0.5, 0.2, 0.2, 0.06, 0.04])
    frequency = np.maximum(1, (share * (1 << precision)).astype(np.int64))
    frequency[0] += (1 << precision) - frequency.sum()
    symbols = random.choice(5, size=(200, 61), p=share)
    last = symbols.shape[1] - (symbols[:, ::-1] > 0).argmax(axis=1)
    bits = (precision - np.log2(frequency))[symbols]
    asked = np.where(np.arange(61) < last[:, None], bits, 0).sum(axis=1)
    slots = np.ceil((asked + 1) / 8).astype(np.int64)
    heads, tails, over = coded(symbols, slots, frequency, precision)
    assert len(heads) + 4 * len(tails) == slots.sum()
    assert not over.any()  # within a bit of its information
    assert np.array_equal(read(heads, tails, slots, 61, frequency, precision), symbols)
    short = np.maximum(0, (asked // 8 - 1)).astype(np.int64)
    assert coded(symbols, short, frequency, precision)[2].all()
    longer = slots + random.integers(0, 20, len(slots))  # what is left over are zeros
    heads, tails, over = coded(symbols, longer, frequency, precision)
    assert not over.any()
    assert np.array_equal(read(heads, tails, longer, 61, frequency, precision), symbols)


@given(st.lists(st.integers(0, 3), min_size=1, max_size=30), st.integers(0, 24))
def test_what_fits_comes_back(row, slot):
    frequency = np.array([30, 20, 13, 1])
    symbols, slots = np.array([row]), np.array([slot])
    heads, tails, over = coded(symbols, slots, frequency, 6)
    back = read(heads, tails, slots, len(row), frequency, 6)
    assert over[0] or np.array_equal(back, symbols)


def test_zeros_need_no_bytes():
    heads, tails, over = coded(np.zeros((3, 50), np.int64), np.zeros(3, np.int64), np.array([1, 63]), 6)
    assert len(heads) == len(tails) == 0 and not over.any()
