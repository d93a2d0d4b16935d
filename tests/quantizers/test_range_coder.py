import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quantizers.coding.range_coder import TOTAL, decode, encode, integer_frequencies, symbol_lookup


def tables_of(counts):
    """Frequency and sum before of all entries, and where each table begins, of tables one after another."""
    frequencies = [integer_frequencies(np.asarray(table, dtype=np.float64)) for table in counts]
    before = [np.cumsum(table) - table for table in frequencies]
    starts = np.cumsum([0] + [len(table) for table in frequencies[:-1]])
    return torch.from_numpy(np.concatenate(frequencies)), torch.from_numpy(np.concatenate(before)), starts


def test_bytes_by_hand():
    frequency, before, _ = tables_of([[1, 3]])
    assert (frequency.tolist(), before.tolist()) == ([4096, 12288], [0, 4096])
    places = torch.tensor([[0, 0], [0, 1], [1, 0], [1, 1], [1, 1]])
    # In units of the whole: [0, 1/16), [1/16, 4/16), [4/16, 7/16), [7/16, 1). The shortest bytes within are nothing, 0x10,
    # 0x40 and 0x70.
    stream, lengths = encode(places, torch.zeros(places.shape[1], dtype=torch.int64), frequency, before)
    assert (stream.tolist(), lengths.tolist()) == ([0x10, 0x40, 0x70, 0x70], [0, 1, 1, 1, 1])


def test_a_certain_symbol_takes_no_byte():
    frequency, before, _ = tables_of([[5]])
    stream, lengths = encode(torch.zeros((3, 4), dtype=torch.int16), torch.zeros(4, dtype=torch.int64), frequency, before)
    assert (len(stream), lengths.tolist()) == (0, [0, 0, 0])
    tables = torch.zeros(4, dtype=torch.int64)
    read = decode(stream, torch.zeros_like(lengths), lengths, tables, symbol_lookup(frequency), frequency, before)
    assert read.tolist() == [[0, 0, 0, 0]] * 3


@settings(max_examples=100, deadline=None)
@given(counts=st.lists(st.integers(0, 10**6), min_size=1, max_size=600).filter(any))
def test_frequencies(counts):
    counts = np.array(counts, dtype=np.float64)
    found = integer_frequencies(counts)
    assert found.sum() == TOTAL
    assert ((found > 0) == (counts > 0)).all()
    # What rounding costs, in bits a symbol: little, unless hundreds of rare symbols share 16,384 places.
    share = counts / counts.sum()
    used = share > 0
    assert (share[used] * np.log2(share[used] * TOTAL / found[used])).sum() < 0.02 + len(counts) / TOTAL * 2


@settings(max_examples=100, deadline=None)
@given(
    num_rows=st.integers(1, 20),
    columns=st.integers(1, 30),
    num_tables=st.integers(1, 3),
    skew=st.floats(0.05, 12),
    seed=st.integers(0, 10**6),
)
def test_rows_come_back_alone_and_in_any_order(num_rows, columns, num_tables, skew, seed):
    rng = np.random.default_rng(seed)
    counts = [rng.uniform(0, 1, rng.integers(1, 300)) ** skew * 1000 + 1e-3 for _ in range(num_tables)]
    frequency, before, starts = tables_of(counts)
    tables = rng.integers(0, num_tables, columns)
    symbols = [rng.choice(len(counts[t]), num_rows, p=counts[t] / counts[t].sum()) + starts[t] for t in tables]
    places = torch.from_numpy(np.stack(symbols, axis=1))
    stream, lengths = encode(places, torch.zeros(places.shape[1], dtype=torch.int64), frequency, before)
    begins = lengths.cumsum(0) - lengths
    ids = torch.from_numpy(rng.integers(0, num_rows, 7))
    read = decode(stream, begins[ids], lengths[ids], torch.from_numpy(tables), symbol_lookup(frequency), frequency, before)
    assert torch.equal(read, places[ids])
    # A row takes what its symbols say, rounded up to bytes: where a multiple of 256^-k lies in the interval, k bytes do.
    information = -(frequency[places].to(torch.float64) / TOTAL).log2().sum(dim=1)
    assert bool((lengths <= torch.ceil((information + 0.01 * columns) / 8)).all())


def test_carries_run_through_many_bytes():
    # A third, and nearly a third: 0.333.. narrowed to its upper end again and again rolls bytes of 255 over.
    frequency, before, _ = tables_of([[1, 254, 1]])
    places = torch.from_numpy(np.random.default_rng(1).choice(3, (500, 200), p=[0.05, 0.9, 0.05]))
    stream, lengths = encode(places, torch.zeros(places.shape[1], dtype=torch.int64), frequency, before)
    begins = lengths.cumsum(0) - lengths
    tables = torch.zeros(200, dtype=torch.int64)
    assert torch.equal(decode(stream, begins, lengths, tables, symbol_lookup(frequency), frequency, before), places)


def test_the_rate_is_the_entropy():
    rng = np.random.default_rng(0)
    share = np.array([0.6, 0.2, 0.1, 0.06, 0.04])
    frequency, before, _ = tables_of([share])
    places = torch.from_numpy(rng.choice(5, (2000, 200), p=share))
    stream, _ = encode(places, torch.zeros(places.shape[1], dtype=torch.int64), frequency, before)
    entropy = -(share * np.log2(share)).sum() * 200
    assert len(stream) * 8 / 2000 == pytest.approx(entropy + 4, abs=2)  # half a byte of rounding a row
