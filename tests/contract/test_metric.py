"""Fits under a metric: the same codes as of the table times the metric, and smaller errors where they are felt."""

import dataclasses

import pytest
import torch

import quantizers
from quantizers import Budget, InputError, Skip, Table, TableStats
from quantizers.base import generator
from quantizers.fitting.distortion import UnderMetric, root, under, unfold

METHODS = [name for name, method in quantizers.list_methods().items() if method.linear_state]


def made(seed: int = 0) -> tuple[Table, torch.Tensor]:
    vectors = torch.randn(512, 16, generator=generator(seed)) + 0.5
    directions, _ = torch.linalg.qr(torch.randn(16, 16, generator=generator(seed, 1)))
    felt = torch.logspace(0, -3, 16)
    return Table(vectors), root((directions * felt) @ directions.T, 1e-3)


def test_the_methods_that_can() -> None:
    assert {"rq", "lsq", "dccl", "lowrank", "transform", "transform_entropy", "trellis", "adacomp"} <= set(METHODS)


@pytest.mark.thorough
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name == "trellis" else []) for name in METHODS]
)
def test_errors_are_small_where_they_are_felt(name: str) -> None:
    table, metric = made()
    budget = Budget(512 * 5)
    stats = dataclasses.replace(TableStats.of(table), under_metric=True)
    configs = quantizers.get(name).configs_for(budget, stats)
    assert not isinstance(configs, Skip)
    fitted = quantizers.get(name)(configs[0]).fit(under(table, metric), seed=3, budget=budget)
    plain = quantizers.get(name)(configs[0]).fit(table, seed=3, budget=budget)
    found = unfold(fitted, metric)
    assert found.payload_bytes == fitted.payload_bytes <= budget.payload_bytes
    felt = [float(((one.to_dense() - table.vectors) @ metric).square().sum()) for one in (found, plain)]
    assert felt[0] < 0.8 * felt[1]
    changed = {*found.linear_state, *(f"{part}_scale" for part in found.linear_state)}
    for part, tensor in fitted.state().items():
        assert torch.equal(tensor, found.state()[part]) == (part not in changed)
    difference = fitted.to_dense() - found.to_dense() @ metric
    assert float(difference.square().mean()) < 1e-4 * float((table.vectors @ metric).square().mean())


def test_learning_codes_under_a_metric() -> None:
    table, metric = made()
    seen = under(table, metric)
    fitted = quantizers.create("adacomp", code_lengths=(24, 12)).fit(seen, seed=1)
    module = UnderMetric(fitted.training_module(seen, seed=1), fitted, table, metric)
    start = unfold(fitted, metric).to_dense()
    torch.testing.assert_close(module.eval().to_dense(), start, rtol=1e-3, atol=1e-3)
    optimizer = torch.optim.Adam(module.parameters(), lr=3e-3)
    module.train()
    for step in range(150):
        module.set_progress(step / 150)
        loss = (module(torch.arange(512)) - table.vectors).square().mean() + module.regularizer()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    module.eval()
    assert set(module.curves()) == {"share_book_0", "share_book_1"}
    hard = module.harden()
    assert torch.equal(hard.to_dense(), module(torch.arange(512)))
    assert hard.payload_bytes == module.payload_bytes
    before, after = (float((rows - table.vectors).square().mean()) for rows in (start, hard.to_dense()))
    assert after < 0.95 * before


def test_what_cannot_be_a_metric() -> None:
    table, metric = made()
    with pytest.raises(InputError, match=r"must be \(16, 16\), not \(3, 3\)"):
        under(table, torch.eye(3))
    for wrong in (torch.zeros(16, 16), metric * float("nan")):
        with pytest.raises(InputError, match="have an inverse"):
            under(table, wrong)
    scalar = quantizers.create("scalar", bits=4).fit(under(table, metric))
    with pytest.raises(InputError, match="scalar cannot be fitted under a metric"):
        unfold(scalar, metric)
    without_axes = quantizers.create("trellis", rank=0, row_bits=40).fit(under(table, metric))
    with pytest.raises(InputError, match="trellis cannot be fitted under a metric"):
        unfold(without_axes, metric)


def test_a_metric_of_nothing_is_none() -> None:
    assert torch.equal(root(torch.zeros(3, 3), 1e-3), torch.eye(3))
    expected = torch.diag(torch.tensor([1.001, 0.251, 0.001]).sqrt())
    torch.testing.assert_close(root(torch.diag(torch.tensor([4.0, 1.0, 0.0])), 1e-3), expected)
