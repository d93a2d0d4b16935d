"""Fits under a metric: the same codes as of the table times the metric, and smaller errors where they are felt."""

import pytest
import torch

import quantizers
from quantizers import Budget, InputError, Skip, Table, TableStats
from quantizers.base import generator
from quantizers.metric import root

METHODS = [name for name, method in quantizers.methods().items() if method.linear_state]


def made(seed: int = 0) -> tuple[Table, torch.Tensor]:
    vectors = torch.randn(512, 16, generator=generator(seed)) + 0.5
    directions, _ = torch.linalg.qr(torch.randn(16, 16, generator=generator(seed, 1)))
    felt = torch.logspace(0, -3, 16)
    return Table(vectors), root((directions * felt) @ directions.T, 1e-3)


def test_the_methods_that_can() -> None:
    assert {"rq", "lsq", "dccl", "lowrank", "transform", "transform_entropy", "adacomp"} <= set(METHODS)


@pytest.mark.parametrize("name", METHODS)
def test_errors_are_small_where_they_are_felt(name: str) -> None:
    table, metric = made()
    budget = Budget(512 * 5)
    configs = quantizers.get(name).configs_for(budget, TableStats.of(table))
    assert not isinstance(configs, Skip)
    felt = {}
    for kind, options in {"plain": {}, "metric": {"metric": metric}}.items():
        quantizer = quantizers.get(name)(configs[0]).fit(table, seed=3, budget=budget, **options)
        assert quantizer.payload_bytes <= budget.payload_bytes
        felt[kind] = float(((quantizer.to_dense() - table.vectors) @ metric).square().sum())
    assert felt["metric"] < 0.8 * felt["plain"]
    again = quantizers.get(name)(configs[0]).fit(Table(table.vectors @ metric), seed=3, budget=budget)
    for part, tensor in again.state().items():
        if part not in quantizer.linear_state:
            assert torch.equal(tensor, quantizer.state()[part])
    difference = again.to_dense() - quantizer.to_dense() @ metric
    assert float(difference.square().mean()) < 1e-4 * float((table.vectors @ metric).square().mean())


def test_what_cannot_be_a_metric() -> None:
    table, metric = made()
    rq = quantizers.create("rq", num_codebooks=2, codebook_size=4)
    with pytest.raises(InputError, match=r"must be \(16, 16\), not \(3, 3\)"):
        rq.fit(table, metric=torch.eye(3))
    with pytest.raises(InputError, match="have an inverse"):
        rq.fit(table, metric=torch.zeros(16, 16))
    with pytest.raises(InputError, match="have an inverse"):
        rq.fit(table, metric=metric * float("nan"))
    with pytest.raises(InputError, match="scalar cannot be fitted under a metric"):
        quantizers.create("scalar", bits=4).fit(table, metric=metric)


def test_a_metric_of_nothing_is_none() -> None:
    assert torch.equal(root(torch.zeros(3, 3), 1e-3), torch.eye(3))
    expected = torch.diag(torch.tensor([1.001, 0.251, 0.001]).sqrt())
    torch.testing.assert_close(root(torch.diag(torch.tensor([4.0, 1.0, 0.0])), 1e-3), expected)
