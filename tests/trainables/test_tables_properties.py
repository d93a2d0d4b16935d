"""Whatever is written is read back: words and values, bit for bit, in every format."""

from __future__ import annotations

import io

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis.extra import numpy as hnp

from quantizers import InputError, Table
from trainables.tables.formats import from_shared, read_table, to_shared
from trainables.tables.text import read_text
from trainables.tables.writing import write_table

VALUES = st.floats(allow_nan=False, allow_infinity=False, width=32)
WORDS = st.text(st.characters(exclude_characters="\n", exclude_categories=()), max_size=6).map(
    lambda text: text.encode("utf-8", "replace").decode()
)


@st.composite
def tables(draw: st.DrawFn) -> Table:
    shape = draw(st.tuples(st.integers(1, 12), st.integers(1, 5)))
    vectors = draw(hnp.arrays(np.float32, shape, elements=VALUES))
    words = draw(st.lists(WORDS, min_size=shape[0], max_size=shape[0], unique=True))
    counts = draw(st.none() | hnp.arrays(np.float32, shape[0], elements=st.floats(0, 1e6, width=32)))
    return Table(torch.from_numpy(vectors), words, None if counts is None else torch.from_numpy(counts))


def same(read: Table, written: Table) -> None:
    assert read.vectors.numpy().tobytes() == written.vectors.numpy().tobytes()
    assert list(read.words or []) == list(written.words or [])
    assert read.digest == written.digest


@pytest.mark.parametrize("ending", [".txt", ".vec", ".bin", ".npy", ".safetensors"])
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(table=tables(), rows=st.none() | st.integers(1, 14))
def test_round_trip(table, rows, ending, tmp_path_factory):
    path = tmp_path_factory.mktemp("tables") / f"t{ending}"
    try:
        write_table(table, path)
    except InputError as error:  # a word that the format cannot hold
        assert "word" in str(error) and ending in (".txt", ".vec", ".bin", ".npy")
        assert not list(path.parent.iterdir())
        return
    same(read_table(str(path), rows=rows), table if rows is None else table.head(rows))
    if ending in (".npy", ".safetensors") and rows is None:
        read = read_table(str(path)).counts
        assert (read is None) == (table.counts is None)
        assert read is None or torch.equal(read, table.counts)


@settings(max_examples=30, deadline=None)
@given(table=tables())
def test_sharing_keeps_everything(table):
    shared = to_shared(table)
    for array in shared.values():
        if isinstance(array, np.ndarray):
            array.setflags(write=False)
    back = from_shared(shared)
    assert back.vectors.data_ptr() == shared["vectors"].ctypes.data
    same(back, table)


@settings(max_examples=50, deadline=None)
@given(
    vectors=hnp.arrays(np.float64, st.tuples(st.integers(1, 8), st.integers(2, 4)), elements=st.floats(-1e30, 1e30)),
    ends=st.sampled_from(["\n", "\r\n", " \n", "\n\n"]),
    style=st.sampled_from(["{!r}", "{:.5g}", "{:+.3e}", "{:f}"]),
    cut=st.booleans(),
)
def test_text_of_other_programs(vectors, ends, style, cut):
    """Any decimal style, line end and number of digits reads as NumPy reads it."""
    digits = [[style.format(value) for value in row] for row in vectors.tolist()]
    text = "".join(f"w{row} {' '.join(fields)}{ends}" for row, fields in enumerate(digits))
    stream = io.BytesIO((text.rstrip() if cut else text).encode())
    read, words = read_text(stream, "t")
    assert words == [f"w{row}" for row in range(len(vectors))]
    np.testing.assert_array_equal(read, np.array(digits, dtype=np.float64).astype(np.float32))
