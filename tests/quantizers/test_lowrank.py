import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quantizers.base import Budget, Skip
from quantizers.fitting.principal_axes import Coordinates, principal_axes
from quantizers.methods.lowrank import LowRank, LowRankConfig, column_ranges
from quantizers.table import Table, TableStats


def as_they_are(values):
    return Coordinates(values[:, None], torch.zeros(1, dtype=torch.float64), torch.ones(1, 1, dtype=torch.float64))


def test_rank_one_by_hand():
    # Mean (1, 2); deviations +-(3, 4) and +-(-0.4, 0.3): axes (0.6, 0.8) and (-0.8, 0.6), coordinates +-5 and +-0.5.
    deviations = torch.tensor([[3.0, 4.0], [-3.0, -4.0], [-0.4, 0.3], [0.4, -0.3]])
    lowrank = LowRank(LowRankConfig(rank=1)).fit(torch.tensor([1.0, 2.0]) + deviations)
    state = lowrank.state()
    torch.testing.assert_close(state["basis"], torch.tensor([[0.6, 0.8]]))
    torch.testing.assert_close(state["factors"], torch.tensor([[5.0], [-5.0], [0.0], [0.0]]))
    torch.testing.assert_close(state["mean"], torch.tensor([1.0, 2.0]))
    torch.testing.assert_close(lowrank.to_dense(), torch.tensor([[4.0, 6.0], [-2.0, -2.0], [1.0, 2.0], [1.0, 2.0]]))
    assert lowrank.payload_bytes == 4 * (4 + 2 + 2)


def test_ranges_of_a_uniform_column():
    # The best 16 levels on [0, 1] are 1/32, 3/32, ..
    scale, zero = column_ranges(as_they_are(torch.linspace(0, 1, 1281)), 4, None)
    assert (scale.tolist(), zero.tolist()) == ([1 / 16], [1 / 32])


def test_four_bit_codes_by_hand():
    state = {
        "factors": torch.tensor([[0xF1, 0x02], [0x30, 0x00]], dtype=torch.uint8),  # codes 1, 15, 2 and 0, 3, 0
        "scale": torch.tensor([1.0, 0.5, 2.0]),
        "zero": torch.tensor([0.0, -1.0, 3.0]),
        "basis": torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]),
        "mean": torch.tensor([10.0, 20.0]),
    }
    lowrank = LowRank.from_state(LowRankConfig(rank=3, factor_bits=4), state, shape=(2, 2))
    assert lowrank.coordinates(torch.tensor([0, 1])).tolist() == [[1.0, 6.5, 7.0], [0.0, 0.5, 3.0]]
    assert lowrank.to_dense().tolist() == [[18.0, 33.5], [13.0, 23.5]]


def test_an_outlier_is_clipped_as_far_as_that_pays():
    values = torch.linspace(-1, 1, 2000)
    values[7] = 3
    # (3 - h)^2 + 2000 / 12 * ((h + 1) / 15)^2 is least at h = 1.3.
    scale, zero = column_ranges(as_they_are(values), 4, None)
    assert float(zero + 15 * scale) == pytest.approx(1.3, abs=0.1)
    weights = torch.ones(2000)
    weights[7] = 1e5
    scale, zero = column_ranges(as_they_are(values), 4, weights / weights.mean())
    assert float(zero + 15 * scale) == pytest.approx(3, abs=0.1)


@settings(max_examples=40, deadline=None)
@given(
    num_rows=st.integers(1, 30),
    dim=st.integers(1, 12),
    rank=st.integers(1, 14),
    weighted=st.booleans(),
    center=st.booleans(),
    seed=st.integers(0, 10**6),
)
def test_no_other_matrix_of_the_rank_is_nearer(num_rows, dim, rank, weighted, center, seed):
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(num_rows, dim)) + 1
    weights = rng.uniform(0.1, 3, num_rows) if weighted else np.ones(num_rows)
    fitted = LowRank(LowRankConfig(rank=rank, center=center)).fit(
        torch.from_numpy(vectors), weights=torch.from_numpy(weights) if weighted else None
    )
    mean = np.average(vectors, axis=0, weights=weights) if center else np.zeros(dim)
    singular = np.linalg.svd((vectors - mean) * np.sqrt(weights)[:, None], compute_uv=False)
    error = (weights[:, None] * (fitted.to_dense().numpy() - vectors) ** 2).sum()
    assert error == pytest.approx((singular[rank:] ** 2).sum(), rel=1e-4, abs=1e-8)


def test_signs_of_the_axes_are_fixed():
    vectors = torch.randn(50, 6, generator=torch.Generator().manual_seed(0))
    _, variances, axes = principal_axes(vectors, None)
    assert bool((axes.gather(1, axes.abs().argmax(dim=1, keepdim=True)) > 0).all())
    torch.testing.assert_close(axes @ axes.T, torch.eye(6, dtype=torch.float64))
    assert variances.tolist() == sorted(variances.tolist(), reverse=True)


@pytest.mark.parametrize("bits", [8, 4])
def test_the_error_is_the_predicted_one_on_gaussian_coordinates(bits):
    generator = torch.Generator().manual_seed(1)
    spectrum = 0.9 ** torch.arange(24)
    vectors = torch.randn(8000, 24, generator=generator) * spectrum
    fitted = LowRank(LowRankConfig(rank=12, factor_bits=bits)).fit(vectors)
    error = float((fitted.to_dense() - vectors).square().sum(dim=1).mean())
    variance = spectrum.square()
    distortion = {8: 8.77e-5, 4: 0.01154}[bits]
    assert error == pytest.approx(float(variance[12:].sum() + distortion * variance[:12].sum()), rel=0.05)


def test_the_proposal_is_the_best_of_all_that_fit():
    generator = torch.Generator().manual_seed(2)
    table = Table(torch.randn(800, 20, generator=generator) * 0.85 ** torch.arange(20))
    stats = TableStats.of(table)
    for ratio in (2, 6, 12):
        budget = Budget.from_ratio(ratio, table.shape)
        proposed = LowRank.configs_for(budget, stats)
        assert not isinstance(proposed, Skip)

        def error(config):
            return float((LowRank(config).fit(table).to_dense() - table.vectors).square().mean())

        others = [
            LowRankConfig(rank=rank, factor_bits=bits, basis_dtype="float16")
            for rank, bits in itertools.product(range(1, 21), (16, 8, 4))
        ]
        fitting = [c for c in others if LowRank.storage(c, table.shape).payload_bytes <= budget.payload_bytes]
        assert error(proposed[0]) <= 1.02 * min(error(config) for config in fitting)


def test_gradients_reach_every_number():
    table = Table(torch.randn(9, 4, generator=torch.Generator().manual_seed(3)))
    for bits, names in ((16, {"factors", "basis", "mean"}), (8, {"scale", "zero", "basis", "mean"})):
        module = LowRank(LowRankConfig(rank=2, factor_bits=bits)).fit(table).training_module(table)
        module(torch.tensor([1, 5])).square().sum().backward()
        assert {name for name, value in module.named_parameters() if value.grad is not None} == names
