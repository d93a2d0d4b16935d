"""What the report's panels are made of: importances, units, shares, and the words' neighbours."""

import numpy as np
import pyarrow as pa
import pytest
import torch

from analysis.report.importance import importances
from analysis.report.units import Unit, unit_of
from analysis.report.word_view import nearest


def grid(value):
    """27 configurations of three parameters, and ``value`` of each; none makes a table larger."""
    configs = [{"a": a, "b": b, "c": c} for a in (1, 2, 3) for b in ("x", "y", "z") for c in (None, 0.5, 2)]
    return configs, np.full(len(configs), 1000.0), np.array([value(**config) for config in configs])


def test_the_parameter_that_does_it_all_explains_it_all():
    found = importances(*grid(lambda a, b, c: float(a * a)))
    assert [one.name for one in found] == ["a", "b", "c"]
    assert (found[0].alone, found[0].at_size, found[0].values) == (pytest.approx(1.0), pytest.approx(1.0), 3)
    assert [one.at_size for one in found[1:]] == [0.0, 0.0]


def test_parameters_that_do_nothing_explain_nothing():
    random = np.random.default_rng(0)
    shares = [[one.at_size for one in importances(*grid(lambda **_: random.normal()))] for _ in range(40)]
    assert np.mean(shares) < 0.06  # that of chance is taken off: without that it would be 2 / 26


def test_what_only_makes_tables_larger_explains_nothing_at_equal_size():
    configs = [{"books": books, "beam": beam} for books in (1, 2, 4, 8, 16) for beam in (1, 2)]
    sizes = np.array([1000.0 * config["books"] for config in configs])
    values = -np.log(sizes) + np.array([0.01 * config["beam"] for config in configs])
    beam, books = importances(configs, sizes, values)
    assert (beam.name, books.name) == ("beam", "books")
    assert beam.at_size > 0.99 and beam.alone < 0.01
    assert books.alone > 0.99 and books.at_size < 0.01


def test_numbers_that_hardly_repeat_are_put_together():
    random = np.random.default_rng(0)
    rates = random.uniform(0, 1, 40).tolist()
    (found,) = importances([{"rate": rate} for rate in rates], np.full(40, 10.0), np.array(rates))
    assert found.at_size > 0.8


@pytest.mark.parametrize("count", [0, 1, 5])
def test_too_few_configurations_say_nothing(count):
    assert importances([{"a": number} for number in range(count)], np.full(count, 10.0), np.arange(float(count))) == []


def test_values_that_are_not_finite_are_left_out():
    configs, sizes, values = grid(lambda a, b, c: float(a))
    values[3], values[5] = np.nan, np.inf
    assert importances(configs, sizes, values)[0].alone == pytest.approx(1.0)


def test_every_size_has_the_same_unit():
    trials = pa.table({"payload_bytes": [60_000, None, 8_000_000], "dense_bytes": [8_000_000, None, 8_000_000]})
    size = unit_of(trials)
    assert size == Unit(1000, "KB")
    assert [size(60_600), size(8_000_000), size(8_000_000, short=True), size(999), size(None)] == [
        "60.6 KB",
        "8,000 KB",
        "8,000 KB",
        "0.999 KB",
        "",
    ]
    assert unit_of(trials.slice(1, 1)) == Unit(1, "B")
    assert unit_of(pa.table({"payload_bytes": [10**7], "dense_bytes": [10**9]})) == Unit(10**6, "MB")


def test_neighbours_leave_the_row_itself_out():
    rows = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [-1.0, -0.1]])
    assert nearest(rows, 2).tolist() == [[1, 2], [0, 2], [1, 0], [2, 0]]
    assert nearest(rows[:1]).shape == (1, 0)
