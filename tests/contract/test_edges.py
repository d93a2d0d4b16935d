"""Tables at the edge of what a table is: finite rows of the right shape come back, or a clear refusal."""

import math

import pytest
import torch

from quantizers import Budget, InputError, Skip, Table, TableStats


def fit_or_skip(case, table):
    """The fit. What ``check`` refuses may be refused by ``fit`` too, with an InputError; all else must work."""
    refused = case.check(table)
    try:
        return case.cls(case.config).fit(table)
    except InputError:
        assert isinstance(refused, Skip), "check() accepts what fit() refuses"
        assert refused.reason.strip()
        pytest.skip(f"refused: {refused.reason}")


def test_edge_tables(case, edge, fitted, tmp_path):
    table = case.table(edge)
    quantizer = fit_or_skip(case, table)
    rebuilt = quantizer.to_dense()
    assert tuple(rebuilt.shape) == table.shape
    assert rebuilt.dtype == torch.float32
    assert torch.isfinite(rebuilt).all(), "a float16 that overflowed?"
    for name, tensor in quantizer.state().items():
        assert not tensor.is_floating_point() or torch.isfinite(tensor).all(), name
    predicted = case.cls.storage(case.config, table.shape)
    if predicted.exact:
        assert quantizer.measured_storage() == predicted
    else:
        assert quantizer.payload_bytes <= predicted.payload_bytes
    quantizer.save(tmp_path / "table.safetensors")
    if edge == "zero":
        assert float(rebuilt.abs().max()) <= 1e-6


def test_proposals_for_edge_tables(method, edge):
    table = method.table(edge)
    stats = TableStats.of(table)
    refused = []
    for ratio in (1, 2, 8):
        budget = Budget.from_ratio(ratio, table.shape)
        proposed = method.cls.configs_for(budget, stats)
        if isinstance(proposed, Skip):
            assert proposed.reason.strip()
            refused.append(proposed.reason)
            continue
        for config in proposed:
            assert method.cls.check(config, table.shape) is None
            quantizer = method.cls(config).fit(table, budget=budget)
            assert quantizer.payload_bytes <= budget.payload_bytes
            assert torch.isfinite(quantizer.to_dense()).all(), "a float16 that overflowed?"
    if len(refused) == 3:
        pytest.skip(f"refused: {refused[0]}")


@pytest.mark.parametrize("name", ["constant", "same_rows"])
def test_equal_rows_are_rebuilt_well_by_methods_with_codebooks(code_method, name):
    table = code_method.table(name)
    quantizer = fit_or_skip(code_method.first, table)
    torch.testing.assert_close(quantizer.to_dense(), table.vectors, rtol=1e-2, atol=1e-2)


@pytest.mark.slow
@pytest.mark.parametrize("scale", [2.0**-10, 2.0**10])
def test_scale_does_not_matter(method, fitted, scale):
    """Tables come at any scale: word2vec's values are near 0.1, a language model's near 0.02, others' above 1."""
    usual = method.table("realistic")
    scaled = Table(usual.vectors * scale)
    for budget, case in method.proposals(scaled)[:1]:
        error = (case.cls(case.config).fit(scaled, budget=budget).to_dense() / scale - usual.vectors).square().mean()
        assert [config for _, config in method.proposals(usual)]
        reference = (fitted(method.proposals(usual)[0][1], budget=budget).to_dense() - usual.vectors).square().mean()
        assert float(error) <= 1.25 * float(reference) + 1e-9


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_none_are_refused(method, value):
    vectors = method.table("realistic").vectors.clone()
    vectors[3, 1] = value
    with pytest.raises(InputError, match="row 3"):
        method.cls(method.first.config).fit(vectors)
