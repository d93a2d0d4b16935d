"""Frontiers and volumes worked out by hand."""

import numpy as np
import pytest

from analysis.pareto import exclusive_contributions, front_rank, hypervolume, non_dominated, reference_point

INF, NAN = float("inf"), float("nan")


def test_frontier_of_five_points() -> None:
    # (bytes, error): (4, 1) (2, 2) (1, 5) are the frontier; (3, 3) loses to (2, 2); (4, 2) to both (4, 1) and (2, 2).
    points = [(4, 1), (2, 2), (1, 5), (3, 3), (4, 2)]
    assert non_dominated(points, ["min", "min"]).tolist() == [True, True, True, False, False]
    assert front_rank(points, ["min", "min"]).tolist() == [1, 1, 1, 2, 2]


def test_directions_are_heeded() -> None:
    points = [(4, 0.9), (2, 0.8), (3, 0.8), (1, 0.5)]
    assert non_dominated(points, ["min", "max"]).tolist() == [True, True, False, True]
    assert non_dominated(points, ["min", "min"]).tolist() == [False, False, False, True]
    assert non_dominated(points, ["max", "max"]).tolist() == [True, False, False, False]


def test_nan_is_never_on_the_frontier_and_never_dominates() -> None:
    points = [(NAN, 0), (1, NAN), (NAN, NAN), (5, 5)]
    assert non_dominated(points, ["min", "min"]).tolist() == [False, False, False, True]
    assert front_rank(points, ["min", "min"]).tolist() == [0, 0, 0, 1]
    assert not non_dominated([(NAN, NAN)], ["min", "max"]).any()


def test_exact_ties_are_all_kept() -> None:
    points = [(2, 2), (2, 2), (1, 3), (2, 3), (2, 2)]
    assert non_dominated(points, ["min", "min"]).tolist() == [True, True, True, False, True]
    assert front_rank(points, ["min", "min"]).tolist() == [1, 1, 1, 2, 1]


def test_a_tie_in_one_objective_is_domination() -> None:
    # A smaller table that is just as good beats the lossless baseline.
    assert non_dominated([(400, 0.0), (200, 0.0)], ["min", "min"]).tolist() == [False, True]


def test_zero_objectives_stay() -> None:
    points = [(400, 0.0), (100, 0.5), (0, 0.7), (400, -0.0)]
    assert non_dominated(points, ["min", "min"]).tolist() == [True, True, True, True]


def test_infinity_is_the_end_of_the_scale() -> None:
    points = [(400, INF), (100, 20.0), (50, 30.0), (60, -INF)]
    assert non_dominated(points, ["min", "max"]).tolist() == [True, False, True, False]


def test_no_points_and_one_point() -> None:
    assert non_dominated(np.zeros((0, 2)), ["min", "max"]).tolist() == []
    assert front_rank(np.zeros((0, 2)), ["min", "max"]).tolist() == []
    assert non_dominated([(1, 1)], ["min", "max"]).tolist() == [True]


def test_wrong_directions_are_refused() -> None:
    with pytest.raises(ValueError, match="one column per direction"):
        non_dominated([(1, 2)], ["min"])
    with pytest.raises(ValueError, match="lower"):
        non_dominated([(1, 2)], ["min", "lower"])  # type: ignore[list-item]


def test_hypervolume_by_hand() -> None:
    # Steps (1, 3) (2, 2) (3, 1) under (4, 4): 3 x 1 + 2 x 1 + 1 x 1 = 6; each alone adds a unit square.
    points = [(1, 3), (2, 2), (3, 1), (3, 3)]
    assert hypervolume(points, ["min", "min"], (4, 4)) == 6
    assert exclusive_contributions(points, ["min", "min"], (4, 4)).tolist() == [1, 1, 1, 0]
    # The same staircase with the second objective turned round.
    turned = [(1, -3), (2, -2), (3, -1)]
    assert hypervolume(turned, ["min", "max"], (4, -4)) == 6


def test_reference_is_a_tenth_of_the_range_beyond_the_frontier() -> None:
    # Frontier (1, 3) (3, 1): ranges 2 and 2. The dominated outlier does not count.
    assert reference_point([(1, 3), (3, 1), (900, 900)], ["min", "min"]) == pytest.approx([3.2, 3.2])
    assert reference_point([(1, 0.5), (3, 1.0)], ["min", "max"]) == pytest.approx([3.2, 0.45])
    # One point: no range, so a tenth of its value; and of 1 where the value is 0.
    assert reference_point([(50, 0.0)], ["min", "min"]) == pytest.approx([55, 0.1])


def test_volumes_with_infinity_and_nan_are_finite() -> None:
    points = [(4, INF), (2, 20.0), (1, 10.0), (NAN, 5.0), (3, NAN)]
    reference = reference_point(points, ["min", "max"])
    assert reference == pytest.approx([4.3, 9.0])
    # Infinity counts as 10 % of the finite range (10) above 20, which is 21: (4.3 - 4) * (21 - 20) = 0.3.
    assert exclusive_contributions(points, ["min", "max"], reference) == pytest.approx([0.3, 20.0, 1.0, 0, 0])
    assert hypervolume(points, ["min", "max"], reference) == pytest.approx(3.3 * 1 + 2.3 * 10 + 0.3 * 1)
