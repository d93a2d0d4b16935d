"""Finishing of additive codes: least squares and local search against brute force."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from quantizers.additive import sum_codewords
from quantizers.fitting import local_search as refine


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def uniform_codes(rows, books, size, seed=0):
    return torch.randint(size, (rows, books), generator=torch.Generator().manual_seed(seed), dtype=torch.int32)


def weights_of(rows, seed=0):
    weights = torch.rand(rows, generator=torch.Generator().manual_seed(seed)) + 0.01
    return weights / weights.mean()


def exhaustive(x, codebooks):
    """The best codes of every row, by trying all."""
    books, size, _ = codebooks.shape
    every = torch.tensor(list(itertools.product(range(size), repeat=books)))
    sums = sum_codewords(every, codebooks)
    return every[(x[:, None] - sums[None]).square().sum(dim=2).argmin(dim=1)]


problems = st.builds(
    lambda rows, dim, books, size, seed: (
        normal(rows, dim, seed=seed),
        uniform_codes(rows, books, size, seed),
        normal(books, size, dim, seed=seed + 1),
    ),
    st.integers(1, 40),
    st.integers(1, 5),
    st.integers(1, 5),
    st.integers(2, 6),
    st.integers(0, 1000),
)


def test_errors_by_hand():
    codebooks = torch.tensor([[[1.0, 0.0], [0.0, 1.0]], [[2.0, 2.0], [0.0, 0.0]]])
    codes = torch.tensor([[0, 0], [1, 1]])
    x = torch.tensor([[3.0, 4.0], [0.0, 0.0]])  # rebuilt as (3, 2) and (0, 1)
    assert refine.squared_errors(x, codes, codebooks).tolist() == [4.0, 1.0]
    assert refine.half_mse(x, codes, codebooks) == 1.25
    assert refine.half_mse(x, codes, codebooks, torch.tensor([0.5, 1.5])) == 0.875


def test_cooccurrences_by_hand():
    codes = torch.tensor([[0, 1], [0, 1], [1, 1]])
    # Words in order: book 0's 0 and 1, book 1's 0 and 1. Two rows have (0, 1), one has (1, 1).
    assert refine.cooccurrences(codes, 2).tolist() == [[2, 0, 0, 2], [0, 1, 0, 1], [0, 0, 0, 0], [0, 0, 0, 3]]
    weighted = refine.cooccurrences(codes, 2, torch.tensor([1.0, 0.5, 1.5]))
    assert weighted.tolist() == [[1.5, 0, 0, 1.5], [0, 1.5, 0, 1.5], [0, 0, 0, 0], [0, 0, 0, 3]]


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("dense_words", [0, 6144])
def test_least_squares_is_the_minimum(monkeypatch, weighted, dense_words):
    monkeypatch.setattr(refine, "_DENSE_WORDS", dense_words)
    x, codes = normal(300, 4), uniform_codes(300, 3, 5)
    weights = weights_of(300) if weighted else None
    books = refine.least_squares_codebooks(x, codes, 5, weights=weights, ridge=1e-7)
    # The same by a dense solver: one row of 0 and 1 for every row of the table.
    design = torch.nn.functional.one_hot(codes.to(torch.int64), 5).reshape(300, 15).to(torch.float64)
    root = (weights if weighted else torch.ones(300)).to(torch.float64).sqrt()[:, None]
    expected = design @ torch.linalg.lstsq(root * design, root * x.to(torch.float64), driver="gelsd").solution
    torch.testing.assert_close(sum_codewords(codes, books).to(torch.float64), expected, rtol=1e-3, atol=1e-4)
    left = design.T @ (root.square() * (x - sum_codewords(codes, books)))
    assert float(left.abs().max()) < 1e-2  # what is left over is orthogonal to every codeword's rows
    best = refine.half_mse(x, codes, books, weights)
    for seed in range(20):
        moved = books + 0.01 * normal(*books.shape, seed=seed)
        assert refine.half_mse(x, codes, moved, weights) > best


def test_least_squares_with_words_that_no_row_has():
    x, codes = normal(6, 3), torch.zeros((6, 2), dtype=torch.int64)
    books = refine.least_squares_codebooks(x, codes, 4)
    assert torch.equal(books[:, 1:], torch.zeros(2, 3, 3))
    torch.testing.assert_close(books[:, 0].sum(dim=0), x.mean(dim=0), rtol=1e-3, atol=1e-4)


@given(problems, st.integers(1, 3))
def test_local_search_never_makes_a_row_worse(problem, sweeps):
    x, codes, books = problem
    before = refine.squared_errors(x, codes, books)
    found = refine.icm_encode(x, codes, books, sweeps=sweeps)
    assert found.dtype == codes.dtype
    assert (refine.squared_errors(x, found, books) <= before + 1e-4).all()
    trial = refine.perturbed_encode(x, found, books, generator=torch.Generator().manual_seed(0))
    assert (refine.squared_errors(x, trial, books) <= refine.squared_errors(x, found, books)).all()


@given(problems)
def test_local_search_ends_where_no_single_code_can_be_better(problem):
    x, codes, books = problem
    found = refine.icm_encode(x, codes, books, sweeps=60)
    error = refine.squared_errors(x, found, books)
    for book, word in itertools.product(range(books.shape[0]), range(books.shape[1])):
        other = found.clone()
        other[:, book] = word
        assert (refine.squared_errors(x, other, books) >= error - 1e-4).all()


def test_search_with_one_book_is_exhaustive():
    x, books = normal(200, 5), normal(1, 7, 5, seed=1)
    best = exhaustive(x, books)
    assert torch.equal(refine.icm_encode(x, torch.zeros_like(best), books), best)
    assert torch.equal(refine.search_encode(x, books).to(torch.int64), best)


def test_search_with_two_books_is_nearly_exhaustive():
    x, books = normal(400, 3), normal(2, 5, 3, seed=1)
    best = refine.squared_errors(x, exhaustive(x, books), books)
    found = refine.squared_errors(x, refine.search_encode(x, books), books)
    assert (found >= best - 1e-4).all()
    assert float((found <= best + 1e-4).float().mean()) > 0.99


def test_large_books_are_searched_like_small_ones(monkeypatch):
    x, codes, books = normal(300, 6), uniform_codes(300, 4, 80), normal(4, 80, 6, seed=1)
    tables = refine.icm_encode(x, codes, books, sweeps=2)
    monkeypatch.setattr(refine, "_TABLE_SIZE", 0)
    torch.testing.assert_close(
        refine.squared_errors(x, refine.icm_encode(x, codes, books, sweeps=2), books),
        refine.squared_errors(x, tables, books),
        rtol=1e-3,
        atol=1e-4,
    )


def test_codes_do_not_depend_on_the_rows_they_come_with():
    x, books = normal(500, 8), normal(6, 8, 8, seed=1)
    found = refine.search_encode(x, books)
    assert torch.equal(refine.search_encode(x[100:110], books), found[100:110])


def test_refinement_never_grows_and_beats_where_it_started():
    x = normal(800, 8)
    rounds = list(refine.refine(x, uniform_codes(800, 6, 8), 8, rounds=6, generator=torch.Generator().manual_seed(0)))
    errors = [round_.half_mse for round_ in rounds]
    assert len(errors) == 7
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.3 * errors[0]
    last = rounds[-1]
    assert last.half_mse == pytest.approx(refine.half_mse(x, last.codes, last.codebooks))


def test_weighted_refinement_rebuilds_heavy_rows_better():
    x = normal(600, 8)
    weights = torch.ones(600)
    weights[:30] = 100.0
    weights /= weights.mean()

    def error(weights):
        rounds = refine.refine(
            x, uniform_codes(600, 3, 8), 8, rounds=5, generator=torch.Generator().manual_seed(0), weights=weights
        )
        *_, last = rounds
        return float(refine.squared_errors(x[:30], last.codes[:30], last.codebooks).mean())

    assert error(weights) < 0.5 * error(None)
