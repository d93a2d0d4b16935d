"""Reconstruction metrics against values worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

import quantizers
from quantizers import InputError, Table
from trainables.reconstruction import METRICS, measure

X = torch.tensor([[3.0, 4.0], [0.0, 0.0], [1.0, 0.0]])
Y = torch.tensor([[4.0, 3.0], [0.0, 2.0], [1.0, 0.0]])


def test_by_hand():
    # Errors of the rows: 1 + 1, 4, 0. Cosines: 24/25, 0 (one of the rows is zero), 1.
    # Column means 4/3, 4/3: squared distances (25+64)/9 + (16+16)/9 + (1+16)/9 = 138/9.
    values = measure(Table(X), Y, weights=torch.tensor([3.0, 1.0, 0.0]))
    assert values["mse"] == 1.0
    assert values["half_mse"] == 1.0
    assert values["nmse"] == pytest.approx(6 / (138 / 9), rel=1e-15)
    assert values["weighted_mse"] == (3 * 2 + 1 * 4) / 4 / 2
    assert values["cosine"] == pytest.approx((24 / 25 + 0 + 1) / 3, rel=1e-15)
    assert values["sqnr_db"] == pytest.approx(10 * math.log10(26 / 6), rel=1e-15)
    assert values["max_abs_error"] == 2.0
    assert list(values) == [metric.name for metric in METRICS]


def test_exact_reconstruction():
    table = Table(torch.randn(500, 7, generator=torch.Generator().manual_seed(0)))
    values = measure(table, table.vectors.clone(), weights=torch.ones(500))
    exact = {"mse": 0, "half_mse": 0, "nmse": 0, "weighted_mse": 0, "cosine": 1, "sqnr_db": math.inf, "max_abs_error": 0}
    assert values == exact


def test_the_mean_row_has_nmse_1():
    table = Table(torch.randn(500, 7, generator=torch.Generator().manual_seed(0)))
    mean = table.vectors.mean(dim=0, dtype=torch.float64).to(torch.float32)
    assert measure(table, mean.expand(500, 7))["nmse"] == pytest.approx(1, rel=1e-6)


@pytest.mark.parametrize("value", [0.0, 0.1])
def test_constant_table(value):
    table = Table(torch.full((70, 3), value))
    assert measure(table, table.vectors)["nmse"] == 0
    wrong = measure(table, table.vectors + 1)
    assert wrong["nmse"] == math.inf
    assert not any(math.isnan(number) for number in wrong.values() if number is not None)


def test_zero_rows():
    zeros = Table(torch.zeros(2, 2))
    assert measure(zeros, torch.zeros(2, 2))["cosine"] == 1
    assert measure(zeros, torch.tensor([[0.0, 0.0], [1.0, 0.0]]))["cosine"] == 0.5
    assert measure(zeros, torch.ones(2, 2))["sqnr_db"] == -math.inf


def test_weights_are_optional_and_their_scale_does_not_matter():
    assert measure(Table(X), Y)["weighted_mse"] is None
    assert measure(Table(X), Y, torch.ones(3))["weighted_mse"] == measure(Table(X), Y)["mse"]
    assert measure(Table(X), Y, torch.full((3,), 7.0))["weighted_mse"] == measure(Table(X), Y)["mse"]


def test_rows_or_a_dense_table_and_any_number_of_threads_give_the_same_bits():
    table = Table(torch.randn(9000, 130, generator=torch.Generator().manual_seed(1)) + 5)
    quantizer = quantizers.create("cast", dtype="bfloat16").fit(table)
    weights = torch.rand(9000, generator=torch.Generator().manual_seed(2))
    expected = measure(table, quantizer.to_dense(), weights)
    assert measure(table, quantizer.reconstruct, weights) == expected
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1 if threads > 1 else 2)
        assert measure(table, quantizer.to_dense(), weights) == expected
    finally:
        torch.set_num_threads(threads)


def test_shapes_are_checked():
    with pytest.raises(InputError, match=r"\(2, 2\), the table \(3, 2\)"):
        measure(Table(X), Y[:2])
    with pytest.raises(InputError, match=r"weights must be \(3,\)"):
        measure(Table(X), Y, torch.ones(2))
