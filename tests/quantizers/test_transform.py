import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quantizers.base import Budget
from quantizers.methods.lowrank import LowRank
from quantizers.methods.transform import (
    Transform,
    TransformConfig,
    allocate,
    gaussian_distortion,
    gaussian_levels,
    pack_widths,
    unpack_widths,
)
from quantizers.table import Table, TableStats


def gaussian_table(rows, spectrum, seed):
    generator = torch.Generator().manual_seed(seed)
    rotation, _ = torch.linalg.qr(torch.randn(len(spectrum), len(spectrum), generator=generator))
    return torch.randn(rows, len(spectrum), generator=generator) * spectrum.sqrt() @ rotation + 0.3


def test_levels_and_distortions_are_those_of_max_1960():
    published = {1: [0.7980], 2: [0.4528, 1.510], 3: [0.2451, 0.7560, 1.344, 2.152]}
    for bits, positive in published.items():
        levels = gaussian_levels(bits)
        assert levels[len(positive) :].tolist() == pytest.approx(positive, abs=5e-4)
        assert torch.equal(levels, -levels.flip(0))
    table_1 = {1: 0.3634, 2: 0.1175, 3: 0.03454, 4: 0.009497, 5: 0.002499}
    assert {bits: gaussian_distortion(bits) for bits in table_1} == pytest.approx(table_1, rel=3e-3)
    assert gaussian_distortion(0) == 1


def test_row_by_hand():
    # Codes of 2, 0 and 3 bits: 1 and 6 are 01 and 110, so that the byte is 110 01.
    state = {
        "codes": torch.tensor([[0b11001]], dtype=torch.uint8),
        "bits": torch.tensor([2, 0, 3], dtype=torch.uint8),
        "scale": torch.tensor([10.0, 7.0, 2.0]),
        "basis": torch.tensor([[1.0, 0.0], [5.0, 5.0], [0.0, 1.0]]),
        "mean": torch.tensor([100.0, 200.0]),
    }
    transform = Transform.from_state(TransformConfig(row_bits=5, rank=3), state, shape=(1, 2))
    # The second of four levels is -0.4528, the seventh of eight 1.3439.
    assert transform.coordinates(torch.tensor([0])).tolist()[0] == pytest.approx([-4.528, 0, 2.6879], abs=1e-3)
    assert transform.to_dense().tolist()[0] == pytest.approx([100 - 4.528, 200 + 2.6879], abs=1e-3)


@settings(max_examples=60, deadline=None)
@given(widths=st.lists(st.integers(0, 8), min_size=1, max_size=20), rows=st.integers(0, 5), seed=st.integers(0, 10**6))
def test_packing_against_a_string_of_bits(widths, rows, seed):
    rng = np.random.default_rng(seed)
    codes = np.stack([rng.integers(0, 1 << width, rows) for width in widths], axis=1)
    packed = pack_widths(torch.from_numpy(codes).to(torch.int32), torch.tensor(widths))
    assert packed.shape == (rows, (sum(widths) + 7) // 8)
    for row, found in zip(codes, packed.tolist(), strict=True):
        text = "".join(format(code, f"0{width}b")[::-1] if width else "" for code, width in zip(row, widths, strict=True))
        assert found == [int(text[at : at + 8][::-1], 2) for at in range(0, len(text), 8)]
    assert np.array_equal(unpack_widths(packed, torch.tensor(widths)).numpy(), codes)


@settings(max_examples=60, deadline=None)
@given(axes=st.integers(1, 4), most=st.integers(1, 4), data=st.data(), seed=st.integers(0, 10**6))
def test_no_other_allocation_is_better(axes, most, data, seed):
    total = data.draw(st.integers(0, axes * most))
    rng = np.random.default_rng(seed)
    gains = -np.sort(-rng.uniform(0, 1, (most, axes)), axis=0)  # falling: convex distortions
    distortion = gains.sum(axis=0) - np.concatenate([np.zeros((1, axes)), np.cumsum(gains, axis=0)])
    found = allocate(torch.from_numpy(distortion), total).tolist()
    assert sum(found) == total and max(found) <= most

    def cost(bits):
        return sum(distortion[b, axis] for axis, b in enumerate(bits))

    best = min(cost(bits) for bits in itertools.product(range(most + 1), repeat=axes) if sum(bits) == total)
    assert cost(found) == pytest.approx(best)


def test_bits_without_use_still_come_in_order():
    assert allocate(torch.zeros(9, 3), 5).tolist() == [2, 2, 1]


def test_error_on_a_gaussian_table_is_the_predicted_one():
    spectrum = 0.8 ** torch.arange(16)
    vectors = gaussian_table(20_000, spectrum, seed=0)
    fitted = Transform(TransformConfig(row_bits=40, rank=16)).fit(vectors)
    bits = fitted.state()["bits"].tolist()
    assert sum(bits) == 40 and bits == sorted(bits, reverse=True)
    predicted = sum(float(v) * gaussian_distortion(b) for v, b in zip(spectrum, bits, strict=True))
    assert float((fitted.to_dense() - vectors).square().sum(dim=1).mean()) == pytest.approx(predicted, rel=0.03)
    assert fitted.state()["scale"][:4].tolist() == pytest.approx(spectrum[:4].sqrt().tolist(), rel=0.11)


def test_weighted_rows_are_rebuilt_better():
    vectors = torch.cat([gaussian_table(500, 0.8 ** torch.arange(8), 1), 3 * gaussian_table(500, 0.8 ** torch.arange(8), 2)])
    weights = torch.ones(1000)
    weights[:500] = 50

    def error(weights):
        fitted = Transform(TransformConfig(row_bits=16, rank=8)).fit(vectors, weights=weights)
        return float((fitted.to_dense() - vectors)[:500].square().mean())

    assert error(weights) < 0.7 * error(None)


def test_the_proposal_is_the_best_of_all_ranks():
    vectors = gaussian_table(1000, 0.8 ** torch.arange(16), seed=3)
    table = Table(vectors)

    def error(config):
        return float((Transform(config).fit(table).to_dense() - vectors).square().mean())

    for ratio in (8, 16):
        budget = Budget.from_ratio(ratio, table.shape)
        proposed = Transform.configs_for(budget, TableStats.of(table))[0]
        others = []
        for rank in range(1, 17):
            side = Transform.storage(TransformConfig(row_bits=1, rank=rank, basis_dtype="float16"), table.shape)
            length = (budget.payload_bytes - side.payload_bytes) // 1000 + 1
            if length > 0:
                others.append(TransformConfig(row_bits=min(8 * length, 8 * rank), rank=rank, basis_dtype="float16"))
        assert error(proposed) <= 1.03 * min(error(config) for config in others)
        lowrank = LowRank(LowRank.configs_for(budget, TableStats.of(table))[0]).fit(table)
        assert error(proposed) < float((lowrank.to_dense() - vectors).square().mean())
