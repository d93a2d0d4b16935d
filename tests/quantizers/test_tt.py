import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quantizers.base import Budget, Skip
from quantizers.methods.tt import TT, TTConfig, core_shapes, factors_of
from quantizers.table import Table, TableStats


def test_rows_by_hand():
    # N = 4 = 2 * 2, D = 2 = 2 * 1, rank 2: x[(i1, i2), j1] = G1[i1, j1] . G2[i2].
    state = {
        "core_0": torch.tensor([[[[1.0, 0.0], [0.0, 1.0]]], [[[2.0, 1.0], [1.0, -1.0]]]]),  # (n, 1, d, r)
        "core_1": torch.tensor([[[[3.0]], [[4.0]]], [[[5.0]], [[-6.0]]]]),  # (n, r, 1, 1)
    }
    config = TTConfig(tt_rank=2, num_cores=2)
    assert core_shapes(config, (4, 2)) == [(2, 1, 2, 2), (2, 2, 1, 1)]
    table = TT.from_state(config, state, shape=(4, 2))
    assert table.to_dense().tolist() == [[3.0, 4.0], [5.0, -6.0], [10.0, -1.0], [4.0, 11.0]]
    assert table.payload_bytes == 4 * (8 + 4)


@pytest.mark.parametrize(
    ("number", "count", "expected"),
    [(50_000, 3, (50, 25, 40)), (300, 3, (10, 5, 6)), (300, 2, (20, 15)), (1, 4, (1, 1, 1, 1)), (101, 3, (7, 3, 5))],
)
def test_factors(number, count, expected):
    assert factors_of(number, count) == expected


@settings(max_examples=100, deadline=None)
@given(number=st.integers(1, 2_000_000), count=st.integers(2, 4))
def test_factors_cover_the_side(number, count):
    factors = factors_of(number, count)
    product = math.prod(factors)
    assert number <= product <= 1.5 * number + 3
    assert max(factors) <= 2 * math.ceil(number ** (1 / count) + 1e-9)
    assert factors[0] == max(factors)


def dense_by_loops(cores, shape):
    rows = [core.shape[0] for core in cores]
    columns = [core.shape[2] for core in cores]
    out = np.zeros((math.prod(rows), math.prod(columns)))
    for i, row in enumerate(np.ndindex(*rows)):
        for j, column in enumerate(np.ndindex(*columns)):
            product = np.eye(1)
            for core, n, d in zip(cores, row, column, strict=True):
                product = product @ core[n, :, d, :]
            out[i, j] = product[0, 0]
    return out[: shape[0], : shape[1]]


@settings(max_examples=25, deadline=None)
@given(
    num_rows=st.integers(1, 30),
    dim=st.integers(1, 12),
    rank=st.integers(1, 12),
    num_cores=st.integers(2, 4),
    seed=st.integers(0, 10**6),
)
def test_against_loops_and_the_bound_of_tt_svd(num_rows, dim, rank, num_cores, seed):
    vectors = np.random.default_rng(seed).normal(size=(num_rows, dim))
    config = TTConfig(tt_rank=rank, num_cores=num_cores)
    fitted = TT(config).fit(torch.from_numpy(vectors))
    rebuilt = fitted.to_dense().numpy()
    cores = [fitted.state()[f"core_{k}"].numpy().astype(np.float64) for k in range(num_cores)]
    shapes = core_shapes(config, vectors.shape)
    assert [core.shape for core in cores] == shapes
    np.testing.assert_allclose(rebuilt, dense_by_loops(cores, vectors.shape), rtol=1e-4, atol=1e-5)
    ids = np.random.default_rng(seed).integers(0, num_rows, 6)
    np.testing.assert_allclose(fitted.reconstruct(torch.from_numpy(ids)).numpy(), rebuilt[ids], rtol=1e-4, atol=1e-5)

    # Oseledets, theorem 2.2: the squared error is at most the sum over unfoldings of what the rank cuts off, and not
    # below any one of them. With two cores that is an equality (Eckart-Young).
    rows, columns = [core[0] for core in shapes], [core[2] for core in shapes]
    padded = np.zeros((math.prod(rows), math.prod(columns)))
    padded[:num_rows, :dim] = vectors
    tensor = padded.reshape(*rows, *columns).transpose([side for k in range(num_cores) for side in (k, num_cores + k)])
    cut = []
    for k in range(1, num_cores):
        unfolding = tensor.reshape(math.prod(rows[:k]) * math.prod(columns[:k]), -1)
        cut.append((np.linalg.svd(unfolding, compute_uv=False)[shapes[k][1] :] ** 2).sum())
    error = ((dense_by_loops(cores, padded.shape) - padded) ** 2).sum()
    assert max(cut) * 0.999 - 1e-6 <= error <= sum(cut) * 1.001 + 1e-6


def test_a_full_train_is_exact():
    vectors = torch.randn(24, 6, generator=torch.Generator().manual_seed(0))
    for num_cores in (2, 3, 4):
        fitted = TT(TTConfig(tt_rank=1000, num_cores=num_cores)).fit(vectors)
        torch.testing.assert_close(fitted.to_dense(), vectors, rtol=1e-4, atol=1e-5)


def test_large_unfoldings_are_sampled_nearly_as_well(monkeypatch):
    table = torch.randn(400, 16, generator=torch.Generator().manual_seed(1)) * 0.8 ** torch.arange(16)
    config = TTConfig(tt_rank=12, num_cores=2)
    exact = TT(config).fit(table)
    monkeypatch.setattr("quantizers.methods.tt._EXACT_SIDE", 20)
    sampled = TT(config).fit(table, seed=5)
    errors = [float((fitted.to_dense() - table).square().sum()) for fitted in (exact, sampled)]
    assert errors[0] <= errors[1] * (1 + 1e-6)
    assert errors[1] < 1.02 * errors[0]


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_scale_is_shared_by_the_cores(scale):
    table = torch.randn(60, 8, generator=torch.Generator().manual_seed(2)) * scale
    fitted = TT(TTConfig(tt_rank=5)).fit(table)
    largest = [float(core.abs().max()) for core in fitted.state().values()]
    assert max(largest) == pytest.approx(min(largest), rel=1e-5)
    reference = TT(TTConfig(tt_rank=5)).fit(table / scale).to_dense()
    torch.testing.assert_close(fitted.to_dense() / scale, reference, rtol=1e-3, atol=1e-4)


@settings(max_examples=40, deadline=None)
@given(num_rows=st.integers(2, 5000), dim=st.integers(1, 300), ratio=st.floats(1, 100))
def test_one_more_rank_would_not_fit(num_rows, dim, ratio):
    stats = TableStats(num_rows, dim, np.ones(dim))
    budget = Budget.from_ratio(ratio, stats.shape)
    found = TT.configs_for(budget, stats)
    for config in [] if isinstance(found, Skip) else found:
        payload = TT.storage(config, stats.shape).payload_bytes
        assert payload <= budget.payload_bytes
        more = TT.storage(config.model_copy(update={"tt_rank": config.tt_rank + 1}), stats.shape).payload_bytes
        assert more > budget.payload_bytes or more == payload  # the train is exact already


def test_gradients_reach_every_core():
    table = Table(torch.randn(20, 6, generator=torch.Generator().manual_seed(3)))
    module = TT(TTConfig(tt_rank=3, num_cores=3)).fit(table).training_module(table)
    module(torch.tensor([1, 5, 19])).square().sum().backward()
    assert all(bool(parameter.grad.any()) for parameter in module.parameters())
