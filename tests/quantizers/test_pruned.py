import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quantizers.base import Budget, Skip
from quantizers.methods.pruned import Pruned, PrunedConfig, kept_values
from quantizers.table import Table, TableStats

FOUR = torch.tensor([[0.5, -3.0, 0.1], [2.0, 0.2, -0.4]])


def test_the_three_largest_of_six_stay():
    pruned = Pruned(PrunedConfig(sparsity=0.5)).fit(FOUR)
    assert torch.equal(pruned.to_dense(), torch.tensor([[0.5, -3.0, 0.0], [2.0, 0.0, 0.0]]))
    # 3 values of 4 bytes; a mask of 1 byte a row = 2, or 3 x 2 bits + 2 x 2 bits = 1 + 1 bytes: the mask wins a tie.
    assert set(pruned.state()) == {"values", "mask"}
    assert pruned.payload_bytes == 14
    assert pruned.state()["mask"].tolist() == [[0b011], [0b001]]
    assert pruned.published_ratio == 2


def test_index_layout_by_hand():
    vectors = torch.zeros(4, 10)
    vectors[1, 9], vectors[1, 2], vectors[3, 5] = -1.0, 2.0, 3.0
    pruned = Pruned(PrunedConfig(sparsity=0.925)).fit(vectors)  # 3 of 40
    # columns 2, 9, 5 in 4 bits each = 2 bytes; counts 0, 2, 0, 1 in 4 bits each = 2 bytes; the mask would take 8.
    assert pruned.state()["columns"].tolist() == [0x92, 0x05]
    assert pruned.state()["row_counts"].tolist() == [0x20, 0x10]
    assert pruned.state()["values"].tolist() == [2.0, -1.0, 3.0]
    assert pruned.payload_bytes == 3 * 4 + 2 + 2
    assert torch.equal(pruned.reconstruct(torch.tensor([3, 1, 0, 1])), vectors[[3, 1, 0, 1]])


def test_row_weights_scale_the_magnitudes():
    weights = torch.tensor([1.0, 10_000.0])
    pruned = Pruned(PrunedConfig(sparsity=0.5)).fit(FOUR, weights=weights)
    assert torch.equal(pruned.to_dense(), torch.tensor([[0.0, 0.0, 0.0], [2.0, 0.2, -0.4]]))


def test_of_equal_magnitudes_the_first_stay():
    pruned = Pruned(PrunedConfig(sparsity=0.5)).fit(torch.tensor([[1.0, -1.0], [1.0, 1.0]]))
    assert pruned.to_dense().tolist() == [[1.0, -1.0], [0.0, 0.0]]


def test_ends():
    assert torch.equal(Pruned(PrunedConfig(sparsity=0)).fit(FOUR).to_dense(), FOUR)
    nothing = Pruned(PrunedConfig(sparsity=1)).fit(FOUR)
    assert not nothing.to_dense().any()
    assert nothing.published_ratio == math.inf
    assert nothing.payload_bytes == 1  # two counts of 2 bits


@settings(max_examples=60, deadline=None)
@given(
    num_rows=st.integers(1, 40),
    dim=st.integers(1, 40),
    sparsity=st.floats(0, 1),
    levels=st.sampled_from([2, 5, 10**6]),
    weighted=st.booleans(),
    seed=st.integers(0, 10**6),
)
def test_against_a_stable_sort(num_rows, dim, sparsity, levels, weighted, seed):
    rng = np.random.default_rng(seed)
    values = (rng.integers(-levels, levels + 1, (num_rows, dim)) / levels).astype(np.float32)
    weights = torch.from_numpy(rng.uniform(0.1, 3, num_rows).astype(np.float32)) if weighted else None
    pruned = Pruned(PrunedConfig(sparsity=sparsity)).fit(torch.from_numpy(values), weights=weights)

    magnitude = torch.from_numpy(values).abs()
    if weights is not None:
        magnitude = magnitude * (weights * (num_rows / float(weights.sum(dtype=torch.float64)))).sqrt()[:, None]
    kept = kept_values(sparsity, (num_rows, dim))
    order = np.argsort(-magnitude.numpy().reshape(-1), kind="stable")[:kept]
    expected = np.zeros(num_rows * dim, np.float32)
    expected[order] = values.reshape(-1)[order]

    assert pruned.state()["values"].numel() == kept
    assert np.array_equal(pruned.to_dense().numpy().reshape(-1), expected)
    assert pruned.payload_bytes == Pruned.storage(pruned.config, (num_rows, dim)).payload_bytes
    ids = torch.from_numpy(rng.integers(0, num_rows, 7))
    assert np.array_equal(pruned.reconstruct(ids).numpy(), expected.reshape(num_rows, dim)[ids.numpy()])


def test_only_kept_values_get_gradients():
    module = Pruned(PrunedConfig(sparsity=0.5)).fit(FOUR).training_module(Table(FOUR))
    module(torch.tensor([1, 1])).sum().backward()
    assert next(module.parameters()).grad.tolist() == [0.0, 0.0, 2.0]


@settings(max_examples=80, deadline=None)
@given(num_rows=st.integers(1, 3000), dim=st.integers(1, 300), ratio=st.floats(1, 64))
def test_proposals_use_the_budget_up(num_rows, dim, ratio):
    stats = TableStats(num_rows, dim, np.ones(dim))
    budget = Budget.from_ratio(ratio, stats.shape)
    found = Pruned.configs_for(budget, stats)
    if isinstance(found, Skip):
        least = Pruned.storage(PrunedConfig(sparsity=1, value_dtype="float16"), stats.shape).payload_bytes
        assert budget.payload_bytes < least + 2 + 2 + 4e-6 * num_rows * dim
        return
    payload = Pruned.storage(found[0], stats.shape).payload_bytes
    assert payload <= budget.payload_bytes
    # What is left over is less than a few values, the step of the sparsity, or the table is complete.
    slack = 8 + 8e-6 * num_rows * dim
    assert payload > budget.payload_bytes - slack or kept_values(found[0].sparsity, stats.shape) == num_rows * dim


def test_values_too_large_for_float16_are_clamped():
    pruned = Pruned(PrunedConfig(sparsity=0.5, value_dtype="float16")).fit(torch.tensor([[1e6, 1.0], [-1e9, 0.0]]))
    assert pruned.to_dense().tolist() == [[65504.0, 0.0], [-65504.0, 0.0]]


@pytest.mark.parametrize("sparsity", [0.3, 0.97])
def test_state_round_trip(sparsity):
    table = torch.randn(100, 17, generator=torch.Generator().manual_seed(0))
    fitted = Pruned(PrunedConfig(sparsity=sparsity)).fit(table)
    again = Pruned.from_state(fitted.config, fitted.state(), shape=(100, 17))
    assert torch.equal(again.to_dense(), fitted.to_dense())
