"""Uniform scalar quantization on tables worked out by hand."""

import hypothesis.extra.numpy as npst
import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings

from quantizers import Budget, Skip, TableStats, create, get, make_config
from quantizers.table import Table


def test_two_bits_over_the_whole_range() -> None:
    table = torch.tensor([[0.0, 3.0], [1.0, 2.2], [1.6, 0.4]])
    q = create("scalar", bits=2, scales="table", clip="none").fit(table)
    assert q.state()["scale"].tolist() == [1.0] and q.state()["zero_point"].tolist() == [0.0]
    assert q.codes().tolist() == [[0, 3], [1, 2], [2, 0]]
    assert q.state()["codes"].tolist() == [[0b1100], [0b1001], [0b0010]]
    assert q.to_dense().tolist() == [[0, 3], [1, 2], [2, 0]]


def test_each_column_and_each_row_has_its_own_range() -> None:
    table = torch.tensor([[0.0, 10.0, 20.0], [1.0, 10.0, 40.0]])
    by_column = create("scalar", bits=1, scales="column", clip="none").fit(table)
    assert by_column.state()["scale"].tolist() == [1, 0, 20] and by_column.state()["zero_point"].tolist() == [0, 10, 20]
    assert torch.equal(by_column.to_dense(), table)
    by_row = create("scalar", bits=2, scales="row", clip="none").fit(torch.tensor([[0.0, 1.0, 3.0], [-30.0, 0.0, -10.0]]))
    assert by_row.state()["scale"].tolist() == [1, 10]
    assert by_row.codes().tolist() == [[0, 1, 3], [0, 3, 2]]


def test_one_bit_finds_the_two_means() -> None:
    """With one bit the best two levels are the means of the two halves: here -1 and 1, an outlier or not."""
    values = torch.tensor([-1.1, -1.0, -0.9, 0.9, 1.0, 1.1]).repeat(50)[:, None]
    q = create("scalar", bits=1, scales="column").fit(values)
    low, high = float(q.state()["zero_point"]), float(q.state()["zero_point"] + q.state()["scale"])
    assert (low, high) == pytest.approx((-1, 1), abs=1e-4)


def test_clipping_gives_up_an_outlier() -> None:
    values = torch.cat([torch.linspace(-1, 1, 2000), torch.tensor([100.0])])[:, None]
    spans = create("scalar", bits=4, scales="column", clip="none").fit(values).to_dense()[:2000]
    clipped = create("scalar", bits=4, scales="column").fit(values)
    whole = float((clipped.to_dense() - values).square().sum())
    assert whole < float((create("scalar", bits=4, clip="none").fit(values).to_dense() - values).square().sum())
    assert float((clipped.to_dense()[:2000] - values[:2000]).square().mean()) < float(
        (spans - values[:2000]).square().mean()
    )


@settings(max_examples=40)
@given(npst.arrays(np.float32, (7, 3), elements=st.floats(-8, 8, width=16)), st.integers(1, 4))
def test_clipped_is_never_worse_and_codes_are_the_nearest_levels(values: np.ndarray, bits: int) -> None:
    table = Table(torch.from_numpy(values))
    error = {}
    for clip in ("mse", "none"):
        q = create("scalar", bits=bits, clip=clip).fit(table)
        error[clip] = float((q.to_dense() - table.vectors).square().sum())
        levels = torch.arange(1 << bits)[:, None, None] * q.state()["scale"] + q.state()["zero_point"]
        best = (levels - table.vectors).abs().amin(dim=0)
        torch.testing.assert_close((q.to_dense() - table.vectors).abs(), best, rtol=1e-4, atol=1e-5)
    assert error["mse"] <= error["none"] * (1 + 1e-5) + 1e-9


@pytest.mark.parametrize(
    ("config", "payload"),
    [
        ({"bits": 4, "scales": "table"}, 1000 * 25 + 8),
        ({"bits": 3, "scales": "column"}, 1000 * 19 + 400),
        ({"bits": 8, "scales": "row", "scale_dtype": "float16"}, 1000 * 50 + 4000),
    ],
)
def test_payload_by_hand(config: dict[str, object], payload: int) -> None:
    assert get("scalar").storage(make_config("scalar", config), (1000, 50)).payload_bytes == payload


def test_weights_move_the_range() -> None:
    values = torch.tensor([0.0, 1.0, 9.0, 10.0])[:, None]
    plain = create("scalar", bits=1).fit(values).to_dense().flatten()
    heavy = create("scalar", bits=1).fit(values, weights=torch.tensor([1.0, 100.0, 1.0, 1.0])).to_dense().flatten()
    assert plain.tolist() == pytest.approx([0.5, 0.5, 9.5, 9.5], abs=1e-3)
    assert abs(float(heavy[1]) - 1) < 0.05


def test_a_scale_takes_bytes_so_that_eight_bits_are_not_a_quarter() -> None:
    stats = TableStats(1000, 50, np.ones(50))
    proposed = get("scalar").configs_for(Budget.from_ratio(4, (1000, 50)), stats)
    assert not isinstance(proposed, Skip) and proposed[0].bits == 7
    assert isinstance(get("scalar").configs_for(Budget.from_ratio(33, (1000, 50)), stats), Skip)
