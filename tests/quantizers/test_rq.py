"""Residual quantization, its beam search and k-means: by hand, and against exhaustive search."""

import itertools

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

from quantizers import create, get, make_config
from quantizers.additive import AdditiveConfig, additive_configs, sum_codewords
from quantizers.base import Budget, Skip, generator
from quantizers.fitting import beam
from quantizers.fitting.beam import beam_encode, top_scores
from quantizers.fitting.kmeans import cluster_sums, kmeans, nearest
from quantizers.table import Table, TableStats


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def cheapest(x: Tensor, books: Tensor) -> Tensor:
    """Squared error of the best of all K**M sums, for every row."""
    sums = torch.stack([torch.stack(words).sum(dim=0) for words in itertools.product(*books)])
    return torch.cdist(x.double(), sums.double()).square().amin(dim=1).float()


# K-means ---------------------------------------------------------------------------------------------------------------


def test_nearest_by_hand() -> None:
    centroids = torch.tensor([[0.0, 0.0], [4.0, 0.0], [0.0, 3.0]])
    x = torch.tensor([[1.9, 0.0], [2.1, 0.0], [0.0, 1.6], [9.0, 9.0]])
    assert nearest(x, centroids).tolist() == [0, 1, 2, 1]


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 300), st.integers(1, 40), st.integers(1, 9), st.integers(0, 1000), st.sampled_from([1.0, 1e-20, 1e20]))
def test_nearest_is_the_nearest(rows: int, clusters: int, dim: int, seed: int, unit: float) -> None:
    x, centroids = normal(rows, dim, seed=seed), normal(clusters, dim, seed=seed + 1)
    distances = torch.cdist(x, centroids)
    chosen = distances.gather(1, nearest(x * unit + 3 * unit, centroids * unit + 3 * unit)[:, None]).flatten()
    torch.testing.assert_close(chosen, distances.amin(dim=1), rtol=1e-4, atol=1e-4)


def test_means_of_two_clear_clusters() -> None:
    x = torch.tensor([[0.0, 0], [0, 1], [10, 0], [10, 1], [10, 5]])
    assert sorted(kmeans(x, 2, generator=generator(0)).tolist()) == [[0, 0.5], [10, 2]]
    heavy = kmeans(x, 2, generator=generator(0), weights=torch.tensor([3.0, 1, 1, 1, 2]))
    torch.testing.assert_close(heavy[heavy[:, 0].argsort()], torch.tensor([[0, 0.25], [10, 2.75]]))


@pytest.mark.parametrize("dim", [1, 3])
@pytest.mark.parametrize("clusters", [1, 4, 7, 50, 300])
def test_as_many_clusters_as_distinct_rows_lose_nothing(dim: int, clusters: int) -> None:
    x = normal(min(clusters, 40), dim).repeat(5, 1)
    found = kmeans(x, clusters, generator=generator(1))
    assert found.shape == (clusters, dim)
    assert torch.equal(found[nearest(x, found)], x)


@pytest.mark.parametrize("dim", [1, 4])
def test_centroids_are_means_and_the_seed_decides(dim: int) -> None:
    x = normal(2000, dim, seed=2)
    found = kmeans(x, 8, generator=generator(5), iterations=300)
    codes = nearest(x, found)
    means = torch.stack([x[codes == code].mean(dim=0) for code in range(8)])
    torch.testing.assert_close(found, means, rtol=1e-3, atol=1e-3)
    assert torch.equal(found, kmeans(x, 8, generator=generator(5), iterations=300))
    if dim > 1:
        assert not torch.equal(found, kmeans(x, 8, generator=generator(6), iterations=300))


def test_two_levels_of_a_normal_distribution() -> None:
    """The best two levels of a standard normal variable are -+ sqrt(2 / pi)."""
    levels = kmeans(normal(200_000, 1), 2, generator=generator(0), max_rows=200_000).flatten()
    assert levels.tolist() == pytest.approx([-0.798, 0.798], abs=0.01)


@pytest.mark.parametrize("dim", [1, 8])
def test_more_steps_and_clusters_cost_less(dim: int) -> None:
    x = normal(3000, dim, seed=3) * 0.7 ** torch.arange(dim)

    def error(clusters: int, iterations: int) -> float:
        found = kmeans(x, clusters, generator=generator(0), iterations=iterations)
        return float((x - found[nearest(x, found)]).square().sum())

    errors = [error(clusters, 12) for clusters in (1, 2, 4, 16, 64, 256)]
    assert errors == sorted(errors, reverse=True)
    assert errors[0] == pytest.approx(float((x - x.mean(dim=0)).square().sum()), rel=1e-4)
    assert error(16, 12) < 1.01 * error(16, 1)
    assert error(16, 12) < 1.03 * min(error(16, 100), error(16, 30))


def test_no_cluster_stays_empty_far_from_the_origin() -> None:
    x = torch.cat([normal(500, 3), normal(3, 3) + 50]) + 1e3
    found = kmeans(x, 32, generator=generator(0), iterations=30)
    assert len(nearest(x, found).unique()) == 32


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 200), st.integers(1, 20), st.integers(1, 5), st.booleans(), st.integers(0, 1000))
def test_cluster_sums(rows: int, clusters: int, dim: int, weighted: bool, seed: int) -> None:
    x, random = normal(rows, dim, seed=seed), torch.Generator().manual_seed(seed)
    codes = torch.randint(clusters, (rows,), generator=random)
    weights = torch.rand(rows, generator=random) if weighted else None
    heavy = x if weights is None else x * weights[:, None]
    one = torch.ones(rows) if weights is None else weights
    sums, totals = cluster_sums(x, codes, clusters, weights)
    torch.testing.assert_close(sums, torch.zeros(clusters, dim).index_add_(0, codes, heavy), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(totals, torch.zeros(clusters).index_add_(0, codes, one), rtol=1e-4, atol=1e-5)


# Beam search -----------------------------------------------------------------------------------------------------------


def test_greedy_search_errs_where_a_beam_does_not() -> None:
    """4 is nearest to 5, which leaves -1 that the second book has not; 1 + 3 is exact."""
    books = torch.tensor([[[1.0], [5.0]], [[0.0], [3.0]]])
    x = torch.tensor([[4.0]])
    assert beam_encode(x, books, 1).tolist() == [[1, 0]]
    assert beam_encode(x, books, 2).tolist() == [[0, 1]]


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 40), st.integers(1, 5), st.integers(2, 4), st.integers(1, 6), st.integers(0, 1000), st.booleans())
def test_a_beam_as_wide_as_all_sums_is_exhaustive(
    rows: int, num_books: int, size: int, dim: int, seed: int, small_blocks: bool
) -> None:
    x, books = normal(rows, dim, seed=seed), normal(num_books, size, dim, seed=seed + 1) / num_books
    with pytest.MonkeyPatch.context() as patch:
        if small_blocks:
            patch.setattr(beam, "_MAX_BLOCK", 2)  # several blocks, with residuals made anew between them
        codes = beam_encode(x, books, size**num_books)
        greedy = beam_encode(x, books, 1)
    errors = (x - sum_codewords(codes, books)).square().sum(dim=1)
    torch.testing.assert_close(errors, cheapest(x, books), rtol=1e-3, atol=1e-4)
    assert bool(((x - sum_codewords(greedy, books)).square().sum(dim=1) >= errors - 1e-4).all())


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 30), st.integers(1, 6), st.integers(2, 20), st.integers(1, 40), st.integers(0, 1000))
def test_top_scores(rows: int, hypotheses: int, words: int, count: int, seed: int) -> None:
    scores = normal(rows, hypotheses, words, seed=seed)
    parent, code, best = top_scores(scores.clone(), count)
    expected = scores.reshape(rows, -1).sort(dim=1, descending=True).values[:, :count]
    assert torch.equal(best, expected)
    assert torch.equal(scores[torch.arange(rows)[:, None], parent, code], best)


def test_a_search_over_many_books_does_not_drift() -> None:
    """Inner products are added up over a block only: after 150 books the codes are still those of the residuals."""
    x = normal(20, 6)
    books = normal(150, 4, 6, seed=1) * 0.9 ** torch.arange(150.0)[:, None, None]
    left, greedy = x.clone(), []
    for book in books:
        greedy.append(nearest(left, book))
        left = left - book[greedy[-1]]
    found = (x - sum_codewords(beam_encode(x, books, 1), books)).square().sum(dim=1)
    torch.testing.assert_close(found, left.square().sum(dim=1), rtol=1e-2, atol=1e-9)


# The quantizer ---------------------------------------------------------------------------------------------------------


def test_two_books_by_hand() -> None:
    """Two far clusters, each with the same two points around its centre: the second book holds what is left over."""
    table = torch.tensor([[-10.0, 1], [-10, -1], [10, 1], [10, -1]]).repeat(8, 1)
    q = create("rq", num_codebooks=2, codebook_size=2).fit(table)
    assert torch.equal(q.to_dense(), table)
    assert sorted(q.codebooks[0].tolist()) == [[-10, 0], [10, 0]]
    assert sorted(q.codebooks[1].tolist()) == [[0, -1], [0, 1]]
    assert q.state()["codes"].shape == (32, 1) and len(q.state()["codes"].unique()) == 4


def test_payload_by_hand() -> None:
    config = make_config("rq", {"num_codebooks": 5, "codebook_size": 100, "codebook_dtype": "float16"})
    cost = get("rq").storage(config, (1000, 30))  # 35 bits in 5 bytes
    assert (cost.code_bytes, cost.codebook_bytes, cost.side_bytes) == (5000, 5 * 100 * 30 * 2, 0)


def test_wider_beams_and_more_books_cost_less() -> None:
    table = Table(normal(2000, 12) * 0.8 ** torch.arange(12))

    def error(**parameters: int) -> float:
        q = create("rq", codebook_size=8, **parameters).fit(table)
        return float((q.to_dense() - table.vectors).square().sum(dim=1).mean())

    assert error(num_codebooks=8, beam_size=16) < error(num_codebooks=8, beam_size=4) < error(num_codebooks=8, beam_size=1)
    errors = [error(num_codebooks=count) for count in (1, 2, 4, 8, 16)]
    assert errors == sorted(errors, reverse=True) and errors[-1] < 0.05 * errors[0]


def test_reports_are_the_error_on_the_rows_that_train() -> None:
    table = Table(normal(500, 6))
    q = create("rq", num_codebooks=3, codebook_size=16)
    steps = list(q.fit_steps(table))
    assert [step.phase for step in steps] == ["books"] * 3 + ["encode"]
    error = 0.5 * float((q.to_dense() - table.vectors).square().sum(dim=1).mean())
    assert steps[2].value == pytest.approx(error, rel=1e-4)


def test_a_smaller_fit_is_cut_out_of_a_larger_one() -> None:
    table = Table(normal(800, 8), [f"w{row}" for row in range(800)])
    large = create("rq", num_codebooks=9, codebook_size=16).fit(table, seed=3)
    small = create("rq", num_codebooks=4, codebook_size=16).fit(table, seed=3)
    cut = large.restrict(small.config, table)
    assert all(torch.equal(cut.state()[name], small.state()[name]) for name in ("codes", "codebooks"))
    assert not torch.equal(large.codes()[:, :4], small.codes())  # the beam would choose other codes for fewer books
    keys = {get("rq").family_key(make_config("rq", {"num_codebooks": count})) for count in (1, 2, 3)}
    assert len(keys) == 1 != len(keys | {get("rq").family_key(make_config("rq", {"beam_size": 2}))})


def test_sample_of_rows_trains() -> None:
    table = Table(normal(3000, 6))
    q = create("rq", num_codebooks=2, codebook_size=8, train_rows=500).fit(table)
    whole = create("rq", num_codebooks=2, codebook_size=8).fit(table)
    errors = [float((one.to_dense() - table.vectors).square().mean()) for one in (q, whole)]
    assert errors[1] < errors[0] < 1.1 * errors[1]


# What a budget is spent on ---------------------------------------------------------------------------------------------


@settings(max_examples=60)
@given(st.integers(1, 100_000), st.integers(1, 400), st.floats(1.5, 300), st.floats(1e-6, 1e5))
def test_proposals_fit_and_use_what_they_are_given(rows: int, dim: int, ratio: float, deviation: float) -> None:
    stats = TableStats(rows, dim, torch.full((dim,), deviation**2).numpy())
    budget = Budget.from_ratio(ratio, stats.shape)
    proposed = additive_configs(budget, stats, AdditiveConfig, count=3)
    if isinstance(proposed, Skip):
        smallest = AdditiveConfig(num_codebooks=1, codebook_size=2, codebook_dtype="float16")
        assert rows == 1 or deviation < 1e-4 or deviation > 1e3 or cost(smallest, stats) > budget.payload_bytes
        return
    for config in proposed:
        assert cost(config, stats) <= budget.payload_bytes and config.codebook_size <= rows
        larger = config.model_copy(update={"num_codebooks": config.num_codebooks + 1})
        assert config.num_codebooks == 256 or cost(larger, stats) > budget.payload_bytes
        assert (config.codebook_dtype == "float32") == (not 1e-4 <= deviation <= 1e3)
        if config.codebook_dtype == "int8":  # for nothing that float16 has room for too
            assert cost(config.model_copy(update={"codebook_dtype": "float16"}), stats) > budget.payload_bytes


def cost(config: AdditiveConfig, stats: TableStats) -> int:
    return get("rq").storage(config, stats.shape).payload_bytes
