import numpy as np
import pytest
import torch

from quantizers.base import Budget
from quantizers.coding.frequency_tables import FrequencyTables, count_symbols, share, table_bits
from quantizers.methods.transform import Transform
from quantizers.methods.transform_entropy import TransformEntropy, TransformEntropyConfig, gaussian_curve
from quantizers.table import Table, TableStats


def gaussian_table(rows, spectrum, seed):
    generator = torch.Generator().manual_seed(seed)
    rotation, _ = torch.linalg.qr(torch.randn(len(spectrum), len(spectrum), generator=generator))
    return torch.randn(rows, len(spectrum), generator=generator) * spectrum.sqrt() @ rotation + 0.3


def half_mse(quantizer, vectors):
    return 0.5 * float((quantizer.to_dense() - vectors).square().sum(dim=1).mean())


def test_row_by_hand():
    # One table for both axes, symbols -1, 0, 1 of 1/4, 1/2, 1/4. Symbols 1 and -1 are [3/4, 1) and of that the first
    # quarter: [12/16, 13/16), whose shortest byte is 0xC0. The second row, two zeros, is [6/16, 10/16): 0x80.
    state = {
        "stream": torch.tensor([0xC0, 0x80], dtype=torch.uint8),
        "lengths": torch.tensor([], dtype=torch.uint8),
        "length_bytes": torch.tensor([0], dtype=torch.int16),
        "length_frequency": torch.tensor([1 << 14], dtype=torch.int16),
        "shortest": torch.tensor(1, dtype=torch.int32),
        "basis": torch.eye(2),
        "mean": torch.tensor([10.0, 20.0]),
        "step": torch.tensor(4.0),
        "shrink": torch.tensor([0.125], dtype=torch.float16),
        "table_axes": torch.tensor([2], dtype=torch.int16),
        "table_sizes": torch.tensor([3], dtype=torch.int16),
        "frequency": torch.tensor([4096, 8192, 4096], dtype=torch.int16),
    }
    transform = TransformEntropy.from_state(TransformEntropyConfig(rank=2), state, shape=(2, 2))
    # 1 stands for 4 * (1 - 1/8) = 3.5.
    assert transform.to_dense().tolist() == [[13.5, 16.5], [10.0, 20.0]]


def test_curve_against_a_million_draws():
    draws = np.random.default_rng(0).normal(size=1_000_000)
    for log_ratio in (-2.0, -0.5, 1.0, 3.0, 5.0):
        step = 2.0**-log_ratio
        symbols = np.sign(draws) * np.floor(np.abs(draws) / step + 0.47)
        _, which, counts = np.unique(symbols, return_inverse=True, return_counts=True)
        share = counts / counts.sum()
        centres = np.bincount(which, weights=draws) / counts
        centres[np.unique(symbols) == 0] = 0
        bits, distortion = gaussian_curve(np.array([log_ratio]))
        assert bits[0] == pytest.approx(-(share * np.log2(share)).sum(), rel=0.01)
        assert distortion[0] == pytest.approx(((draws - centres[which]) ** 2).mean(), rel=0.01)


def test_a_fit_uses_its_bits_and_is_near_the_curve():
    spectrum = 0.85 ** torch.arange(24)
    vectors = gaussian_table(8000, spectrum, seed=0)
    config = TransformEntropyConfig(row_bits=80, rank=24)
    fitted = TransformEntropy(config).fit(vectors)
    bound = TransformEntropy.storage(config, (8000, 24)).payload_bytes
    assert 0.99 * bound <= fitted.payload_bytes <= bound
    bits, distortion = gaussian_curve(0.5 * np.log2(spectrum.numpy()) - float(fitted.state()["step"].log2()))
    assert half_mse(fitted, vectors) == pytest.approx(0.5 * float((spectrum * torch.from_numpy(distortion)).sum()), rel=0.03)
    # A row is rounded up to whole bytes.
    assert 8 * fitted.state()["stream"].numel() / 8000 == pytest.approx(bits.sum() + 3, abs=1.5)
    ids = torch.tensor([7999, 0, 4321, 0])
    torch.testing.assert_close(fitted.reconstruct(ids), fitted.to_dense()[ids])


@pytest.mark.parametrize("ratio", [8, 16, 32])
def test_better_than_rows_of_equal_length(ratio):
    table = Table(gaussian_table(6000, 0.9 ** torch.arange(40), seed=1))
    budget, stats = Budget.from_ratio(ratio, table.shape), TableStats.of(table)
    errors = []
    for method in (TransformEntropy, Transform):
        fitted = method(method.configs_for(budget, stats)[0]).fit(table)
        assert fitted.payload_bytes <= budget.payload_bytes
        errors.append(half_mse(fitted, table.vectors))
    assert errors[0] < 0.95 * errors[1]


def test_the_proposed_rank_is_about_the_best():
    table = Table(gaussian_table(3000, 0.85 ** torch.arange(24), seed=2))
    proposed = TransformEntropy.configs_for(Budget.from_ratio(16, table.shape), TableStats.of(table))[0]
    bound = TransformEntropy.storage(proposed, table.shape).payload_bytes
    errors = {}
    for rank in {6, 10, 14, 18, 24, proposed.rank}:
        smallest = TransformEntropyConfig(row_bits=1, rank=rank, basis_dtype="float16")
        spare = bound - TransformEntropy.storage(smallest, table.shape).payload_bytes
        config = smallest.model_copy(update={"row_bits": 8 * spare / 3000 + 1})
        errors[rank] = half_mse(TransformEntropy(config).fit(table), table.vectors)
    assert errors[proposed.rank] <= 1.03 * min(errors.values())


def test_the_step_never_makes_symbols_too_large():
    vectors = torch.randn(200, 4, generator=torch.Generator().manual_seed(3))
    vectors[7, 2] = 1e5
    fitted = TransformEntropy(TransformEntropyConfig(row_bits=200, rank=4)).fit(vectors)
    assert float((fitted.to_dense() - vectors).abs().max()) < 1e5 / 2000


def test_shared_tables_and_their_entries():
    few = np.array([[0.0, 4, 9, 5, 0], [1, 3, 10, 3, 1], [0, 5, 8, 5, 0]])
    assert [axes for axes, _ in share(few)] == [3]  # a table costs more than the difference
    many = np.array([[0, 100, 900, 100, 0], [0, 110, 890, 100, 0], [300, 200, 100, 200, 300]]) * 1000.0
    shared = share(many)
    assert [axes for axes, _ in shared] == [1, 1, 1] or [axes for axes, _ in shared] == [2, 1]
    assert sum(table_bits(count) for _, count in shared) <= sum(table_bits(count) for count in many)
    assert [len(count) for _, count in shared][-1] == 5
    assert len(shared[0][1]) == 3  # what does not occur at the ends is left out

    symbols = torch.tensor([[0, 1, -2], [0, -1, 2], [1, 0, 0]]).repeat(5000, 1)
    tables = FrequencyTables.of(count_symbols(symbols), symbols.device)
    entries = symbols + tables.offsets
    assert torch.equal(tables.symbol_of_entry[entries], symbols)
    assert torch.equal(tables.table_of_entry[entries], tables.table_of_axis.expand_as(entries))
    assert bool((tables.frequency[entries] > 0).all())
    for begin, size in zip(tables.starts.tolist(), tables.sizes.tolist(), strict=True):
        frequency = tables.frequency[begin : begin + size]
        assert int(frequency.sum()) == 1 << 14
        assert torch.equal(tables.before[begin : begin + size], frequency.cumsum(0) - frequency)


def test_gradients_reach_step_shrink_axes_and_mean():
    table = Table(gaussian_table(200, 0.8 ** torch.arange(6), seed=4))
    module = TransformEntropy(TransformEntropyConfig(row_bits=30, rank=6)).fit(table).training_module(table)
    module(torch.tensor([1, 5, 9])).square().sum().backward()
    assert {name for name, value in module.named_parameters() if bool(value.grad.any())} == {
        "basis",
        "mean",
        "step",
        "shrink",
    }
