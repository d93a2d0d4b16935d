import math
import pickle
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from quantizers import InputError, Table, TableStats
from quantizers.coding.words import Words, encode_words


@pytest.mark.parametrize(
    ("vectors", "message"),
    [
        (torch.zeros(3), r"must be \(N, D\)"),
        (torch.zeros(0, 3), "N, D >= 1"),
        (torch.zeros(3, 0), "N, D >= 1"),
        (torch.zeros(2, 2, 2), r"must be \(N, D\)"),
        (torch.zeros(2, 2, dtype=torch.int64), "floating-point"),
        (np.zeros((2, 2)), "torch tensor, not ndarray"),
    ],
)
def test_what_is_no_table(vectors, message):
    with pytest.raises(InputError, match=message):
        Table(vectors, name="mine")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_values_that_are_no_numbers_are_named_by_row_and_word(value):
    vectors = torch.zeros(4, 3)
    vectors[2, 1] = vectors[3, 0] = value
    with pytest.raises(InputError, match=r"mine: 2 of 4 rows hold NaN or infinity, the first is row 2 \('c'\)"):
        Table(vectors, ["a", "b", "c", "d"], name="mine")


def test_infinities_that_cancel_and_sums_that_overflow():
    with pytest.raises(InputError, match="1 of 2 rows"):
        Table(torch.tensor([[math.inf, -math.inf], [0.0, 0.0]]))
    largest = torch.finfo(torch.float32).max
    assert Table(torch.full((100, 7), largest)).shape == (100, 7)  # whose sum is no float32
    with pytest.raises(InputError, match="infinity"):
        Table(torch.tensor([[1e300]], dtype=torch.float64))  # more than float32 holds


def test_words_and_counts_must_fit():
    with pytest.raises(InputError, match="3 words for 2 rows"):
        Table(torch.zeros(2, 2), ["a", "b", "c"])
    with pytest.raises(InputError, match=r"counts must be \(2,\), not \(3,\)"):
        Table(torch.zeros(2, 2), counts=torch.ones(3))
    assert Table(torch.zeros(2, 2), counts=torch.tensor([1, 2])).counts.dtype == torch.float32


@pytest.mark.parametrize("words", [[""], ["", ""], ["a", "", "b"], ["é\u2028", "\udcff"], ["\r", "\t", " "]])
def test_words_come_back(words):
    assert Words.decode(encode_words(words)) == words


LETTERS = st.characters(exclude_characters="\n", exclude_categories=["Cs"])


@given(
    st.lists(st.text(LETTERS, max_size=5), min_size=1, max_size=40),
    st.integers(-45, 45),
    st.slices(40),
)
def test_words_are_the_sequence_that_they_were_made_of(words, row, rows):
    found = Words(words)
    assert found == words and found == tuple(words) and list(found) == words and len(found) == len(words)
    assert found != [*words, "more"] and found != [*words[:-1], words[-1] + "x"] and found != "".join(words)
    assert found[rows] == words[rows] and list(found[rows]) == words[rows]
    assert pickle.loads(pickle.dumps(found)) == words
    assert words[0] in found and found.index(words[-1]) == words.index(words[-1])
    if -len(words) <= row < len(words):
        assert found[row] == found[np.int64(row)] == words[row]
    else:
        with pytest.raises(IndexError, match=f"row {row} of {len(words)} words"):
            found[row]


def test_words_of_a_table_take_a_fraction_of_pythons_strings():
    words = [f"word{number}" for number in range(40_000)]
    table = Table(torch.zeros(40_000, 1), words)
    kept = len(pickle.dumps(table.words))
    assert kept < 0.35 * sum(map(sys.getsizeof, words))
    assert table.words == words and list(table.words) == words  # more than are decoded at once
    assert table.head(20_000).words == words[:20_000]


def test_any_float_type_and_layout_gives_the_same_table():
    vectors = torch.arange(6.0).reshape(2, 3)
    reference = Table(vectors).digest
    assert Table(vectors.double()).digest == Table(vectors.half()).digest == reference
    assert Table(vectors.T.contiguous().T).digest == reference
    assert Table(vectors.T.contiguous().T).vectors.is_contiguous()


def test_digest_tells_values_shapes_and_words_apart():
    vectors = torch.arange(6.0).reshape(2, 3)
    tables = [
        Table(vectors),
        Table(vectors.reshape(3, 2)),
        Table(vectors + torch.tensor([0, 0, 1e-6])),
        Table(vectors, ["a", "b"]),
        Table(vectors, ["b", "a"]),
    ]
    assert len({table.digest for table in tables}) == len(tables)
    assert Table(vectors, ["a", "b"], name="another").digest == tables[3].digest
    assert all(len(table.digest) == 32 for table in tables)
    assert pickle.loads(pickle.dumps(tables[3])).digest == tables[3].digest


def test_head_keeps_words_and_counts():
    table = Table(torch.arange(6.0).reshape(3, 2), ["a", "b", "c"], torch.tensor([3.0, 2.0, 1.0]))
    head = table.head(2)
    assert (head.shape, head.words, head.counts.tolist()) == ((2, 2), ["a", "b"], [3.0, 2.0])
    assert head.vectors.data_ptr() == table.vectors.data_ptr()
    assert table.head(3) is table


def test_spectrum_over_chunks():
    vectors = torch.randn(20_000, 4, generator=torch.Generator().manual_seed(0)) * torch.tensor([3.0, 1.0, 0.1, 0.0]) + 100
    expected = np.linalg.eigvalsh(np.cov(vectors.double().numpy(), rowvar=False, bias=True))[::-1]
    np.testing.assert_allclose(TableStats.of(Table(vectors)).eigenvalues, expected, rtol=1e-6, atol=1e-9)
