import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import quantizers
from quantizers import Budget, InputError, Skip, StorageCost, TableStats

SHAPES = st.tuples(st.integers(1, 3000), st.integers(1, 300))
RATIOS = st.floats(0.5, 5000, allow_nan=False)


@given(RATIOS, SHAPES)
def test_a_ratio_is_a_ceiling(ratio, shape):
    dense = 4 * shape[0] * shape[1]
    budget = Budget.from_ratio(ratio, shape)
    assert budget.payload_bytes * ratio <= dense * (1 + 1e-12)
    assert (budget.payload_bytes + 1) * ratio > dense * (1 - 1e-12)
    if budget.payload_bytes:
        assert budget.ratio(shape) >= ratio * (1 - 1e-12)


@pytest.mark.parametrize("ratio", [0, -1, math.nan, -math.inf])
def test_ratios_that_are_none(ratio):
    with pytest.raises(InputError, match="above 0"):
        Budget.from_ratio(ratio, (10, 10))


def test_infinite_ratio_leaves_nothing():
    assert Budget.from_ratio(math.inf, (10, 10)).payload_bytes == 0


@given(st.integers(0, 10**9), st.integers(0, 10**9), st.integers(0, 10**9))
def test_payload_is_the_sum_of_all_roles(code, codebook, side):
    assert StorageCost(code, codebook, side).payload_bytes == code + codebook + side


def stats_of(shape, decay):
    spectrum = 0.1 * decay ** np.arange(shape[1])
    return TableStats(shape[0], shape[1], spectrum)


@pytest.mark.thorough
@pytest.mark.parametrize("method", [pytest.param(cls, id=name) for name, cls in quantizers.list_methods().items()])
@settings(max_examples=60)
@given(shape=SHAPES, ratio=RATIOS, decay=st.floats(0.3, 1.0))
def test_no_proposal_is_over_its_budget(method, shape, ratio, decay):
    """No fit, any shape: what is proposed is within the budget and makes sense for the table."""
    budget = Budget.from_ratio(ratio, shape)
    proposed = method.configs_for(budget, stats_of(shape, decay))
    if isinstance(proposed, Skip):
        assert proposed.reason
        return
    assert 1 <= len(proposed) <= 4
    for config in proposed:
        assert isinstance(config, method.Config)
        assert method.check(config, shape) is None
        assert method.storage(config, shape).payload_bytes <= budget.payload_bytes


@pytest.mark.parametrize("method", [pytest.param(cls, id=name) for name, cls in quantizers.list_methods().items()])
@settings(max_examples=40)
@given(shape=SHAPES)
def test_bytes_are_predicted_for_every_shape_that_is_accepted(method, shape):
    for config in method.examples():
        if method.check(config, shape) is None:
            cost = method.storage(config, shape)
            assert all(
                isinstance(part, int) and part >= 0 for part in (cost.code_bytes, cost.codebook_bytes, cost.side_bytes)
            )
            assert cost.payload_bytes > 0


def test_stats_measure_the_table():
    vectors = torch.tensor([[3.0, 0.0], [-3.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    stats = TableStats.of(quantizers.Table(vectors))
    np.testing.assert_allclose(stats.eigenvalues, [18 / 4, 2 / 4])
    assert stats.dense_bytes == 32
    assert not stats.has_counts
