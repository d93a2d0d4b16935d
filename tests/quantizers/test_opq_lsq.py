"""Optimized product quantization and local search quantization: by hand, and against what they improve on."""

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor

from quantizers import create, get, make_config
from quantizers.methods.opq import deal_out
from quantizers.methods.pq import block_errors, block_widths
from quantizers.table import Table


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def half_mse(quantizer, table: Table) -> float:
    return 0.5 * float((quantizer.to_dense() - table.vectors).square().sum(dim=1).mean())


def correlated(rows: int, dim: int) -> Table:
    mixing, _ = torch.linalg.qr(normal(dim, dim, seed=1))
    return Table((normal(rows, dim) * 0.7 ** torch.arange(dim)) @ mixing)


def test_axes_are_dealt_out_to_equal_products() -> None:
    """8 goes to the first block; 4, 2, 1 to the emptier one each time: 8 * 1 = 4 * 2."""
    assert deal_out(np.array([1.0, 2, 4, 8]), 2).tolist() == [3, 0, 2, 1]
    assert deal_out(np.array([5.0, 0, 0, 5]), 2).tolist() in ([0, 1, 3, 2], [0, 2, 3, 1])
    assert sorted(deal_out(np.array([3.0, 1, 1, 2, 7]), 2).tolist()) == list(range(5))


def test_a_rotated_grid_is_found() -> None:
    """Four points on the axes of a turned coordinate system: one bit a rotated axis rebuilds them."""
    angle = torch.tensor(0.6)
    rotation = torch.stack([torch.stack([angle.cos(), angle.sin()]), torch.stack([-angle.sin(), angle.cos()])])
    table = Table(torch.tensor([[2.0, 1], [2, -1], [-2, 1], [-2, -1]]).repeat(8, 1) @ rotation)
    config = {"num_codebooks": 2, "codebook_size": 2}
    assert half_mse(create("opq", **config).fit(table), table) < 1e-9
    assert half_mse(create("pq", **config).fit(table), table) > 0.1


def test_rotation_pays_and_is_counted() -> None:
    table = correlated(2000, 12)
    q = create("opq", num_codebooks=4, codebook_size=16).fit(table)
    assert half_mse(q, table) < 0.8 * half_mse(create("pq", num_codebooks=4, codebook_size=16).fit(table), table)
    torch.testing.assert_close(q.rotation @ q.rotation.T, torch.eye(12), rtol=0, atol=1e-5)
    cost = get("opq").storage(make_config("opq", {"num_codebooks": 4, "codebook_size": 16}), (2000, 12))
    assert (cost.code_bytes, cost.codebook_bytes, cost.side_bytes) == (2000 * 2, 16 * 12 * 4, 12 * 12 * 4)
    half = make_config("opq", {"num_codebooks": 4, "codebook_size": 16, "codebook_dtype": "float16"})
    assert get("opq").storage(half, (2000, 12)).side_bytes == 12 * 12 * 2


def test_rounds_never_cost_more() -> None:
    table = correlated(1000, 8)
    steps = list(create("opq", num_codebooks=4, codebook_size=8, rounds=6).fit_steps(table))
    values = [step.value for step in steps if step.phase == "rotation"]
    assert len(values) == 6 and all(later <= 1.001 * earlier for earlier, later in itertools.pairwise(values))


def test_local_search_beats_what_it_starts_from() -> None:
    table = correlated(1500, 12)
    config = {"num_codebooks": 6, "codebook_size": 8}
    start = half_mse(create("rq", **config).fit(table), table)
    searched = create("lsq", **config)
    steps = list(searched.fit_steps(table))
    values = [step.value for step in steps if step.phase == "refine"]
    assert values == sorted(values, reverse=True) and values[0] <= start * (1 + 1e-4)
    assert half_mse(searched, table) == pytest.approx(values[-1], rel=1e-2)
    assert half_mse(searched, table) < 0.95 * start


def test_local_search_against_all_codes() -> None:
    """With codebooks as they are, the codes found for new rows are nearly always the best of all 4**4."""
    table = Table(normal(600, 5))
    q = create("lsq", num_codebooks=4, codebook_size=4).fit(table)
    x = normal(100, 5, seed=7)
    sums = torch.stack([torch.stack(words).sum(dim=0) for words in itertools.product(*q.codebooks)])
    best = torch.cdist(x, sums).square().amin(dim=1)
    found = (q.decode(q.encode(x)) - x).square().sum(dim=1)
    assert bool((found >= best - 1e-4).all())
    assert float(found.sum()) < 1.03 * float(best.sum())


def test_error_of_a_block_by_hand() -> None:
    """One column, b bits: 4**-b of the variance, times 1 + 1.72 (1 - 4**-b)**2; no bits lose all."""
    assert block_errors(np.array([[3.0]]), 2) == pytest.approx(3 / 16 * (1 + 1.72 * (15 / 16) ** 2))
    assert block_errors(np.zeros((1, 4)), 3) == 0
    # Two columns of variances 4 and 1 at 1 bit: all of it goes to the first, whose 4 / 4 = 1 and the second's 1 are left.
    assert block_errors(np.array([[4.0, 1.0]]), 1) == pytest.approx(2 * (1 + 1.72 * 2**-0.75 * 0.6**2))
    assert block_widths(11, 4) == [3, 3, 3, 2]
