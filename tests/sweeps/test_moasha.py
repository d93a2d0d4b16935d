"""Multi-objective ASHA: ranks against a plain count, rungs by hand."""

import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantizers import FitStep
from sweeps.search.moasha import Rungs, crowding, places


def dominates(a: np.ndarray, b: np.ndarray) -> bool:
    return bool((a <= b).all() and (a < b).any())


def brute_ranks(costs: np.ndarray) -> list[float]:
    """Fronts peeled off one after the other; NaN rows come after all."""
    ranks = [math.inf] * len(costs)
    left = {row for row in range(len(costs)) if not np.isnan(costs[row]).any()}
    rank = 1
    while left:
        front = {a for a in left if not any(dominates(costs[b], costs[a]) for b in left)}
        for row in front:
            ranks[row] = rank
        left -= front
        rank += 1
    return ranks


def brute_crowding(points: np.ndarray, mine: list[int], row: int) -> float:
    total = 0.0
    for column in points.T:
        order = sorted(mine, key=lambda other: column[other])
        place, span = order.index(row), column[order[-1]] - column[order[0]]
        if place in (0, len(order) - 1):
            return math.inf
        total += (column[order[place + 1]] - column[order[place - 1]]) / span if span else 0.0
    return total


values = st.integers(0, 6).map(float) | st.just(math.nan)


@given(
    st.lists(st.tuples(values, values, values), min_size=1, max_size=12), st.tuples(*[st.sampled_from(["min", "max"])] * 3)
)
def test_places_are_by_front_with_nan_last(rows: list[tuple[float, ...]], directions: tuple[Any, ...]) -> None:
    points = np.array(rows)
    costs = points * np.array([1 if direction == "min" else -1 for direction in directions])
    ranks = brute_ranks(costs)
    found = places(points, directions).tolist()
    for one, other in itertools.product(range(len(rows)), repeat=2):
        if ranks[one] < ranks[other]:
            assert found[one] < found[other]
    assert all(place == 1 + sum(other < place for other in found) for place in found)


@pytest.mark.parametrize("seed", range(20))
def test_within_a_front_the_less_crowded_come_first(seed: int) -> None:
    generator = np.random.default_rng(seed)
    points = generator.normal(size=(generator.integers(1, 30), generator.integers(2, 4)))
    ranks = brute_ranks(points)
    found = places(points, ["min"] * points.shape[1]).tolist()
    fronts = {rank: [row for row in range(len(points)) if ranks[row] == rank] for rank in set(ranks)}
    crowded = [brute_crowding(points, fronts[rank], row) for row, rank in enumerate(ranks)]
    for one, other in itertools.product(range(len(points)), repeat=2):
        if ranks[one] == ranks[other] and crowded[one] > crowded[other] + 1e-12:
            assert found[one] < found[other]
        if ranks[one] == ranks[other] and crowded[one] == crowded[other] == math.inf:
            assert found[one] == found[other]


def test_crowding_by_hand() -> None:
    points = [[0.0, 8.0], [1.0, 5.0], [2.0, 4.0], [4.0, 0.0], [9.0, 9.0]]
    found = crowding(points, [1, 1, 1, 1, 2])
    assert found.tolist() == [math.inf, 2 / 4 + 4 / 8, 3 / 4 + 5 / 8, math.inf, math.inf]


SIZES = {"small": 10, "middle": 20, "large": 30, "worse": 25, "worst": 40}


def rungs(**options: Any) -> Rungs:
    return Rungs(lambda key: SIZES[key], **options)


def test_levels_are_shares_of_the_fit() -> None:
    assert rungs(reduction_factor=3, grace=0.1).levels == pytest.approx([1 / 3, 1 / 9])
    assert rungs(reduction_factor=2, grace=0.125).levels == pytest.approx([1 / 2, 1 / 4, 1 / 8])


def test_the_best_third_of_a_rung_goes_on() -> None:
    asha = rungs()
    half = [
        ("middle", 5.0, None),
        ("small", 9.0, "go"),
        ("worse", 6.0, "stop"),
        ("large", 1.0, "go"),
        ("worst", 9.5, "stop"),
    ]
    assert asha.step("middle", FitStep("train", 0.4, 5.0), 1.0) is None  # the first there
    for key, value, expected in half[1:]:
        reason = asha.step(key, FitStep("train", 0.35, value), 1.0)
        assert (reason is None) == (expected == "go"), key
        assert reason is None or "33% of 'train'" in reason
    # small and large are ends of the first front: as good as any that came before
    assert asha.step("small", FitStep("train", 0.5, 0.0), 2.0) is None  # counted once


def test_phases_are_not_compared_and_early_or_silent_reports_do_not_count() -> None:
    asha = rungs()
    assert asha.step("small", FitStep("train", 0.4, 1.0), 1.0) is None
    assert asha.step("worst", FitStep("refine", 0.4, 99.0), 1.0) is None
    assert asha.step("worse", FitStep("train", 0.05, 99.0), 1.0) is None
    assert asha.step("worse", FitStep("train", 0.4, None), 1.0) is None
    assert asha.step("worse", FitStep("train", 1.0, 99.0), 1.0) is None
    assert asha.step("worse", FitStep("train", 0.4, 99.0), 1.0) is not None


def test_nan_is_worse_than_any_error() -> None:
    asha = rungs()
    for key, value in (("worst", 99.0), ("small", math.nan), ("middle", math.nan)):
        reason = asha.step(key, FitStep("train", 0.2, value), 1.0)
        assert (reason is None) == (key == "worst")


def test_other_curves_have_directions() -> None:
    asha = rungs(curves={"accuracy": "max"})
    step = {key: FitStep("train", 0.4, None, {"accuracy": value}) for key, value in (("small", 0.9), ("large", 0.8))}
    assert asha.step("small", step["small"], 1.0) is None
    assert asha.step("large", step["large"], 1.0) is not None


def test_a_rung_of_a_hundred_thousand_takes_memory_in_proportion() -> None:
    points = np.random.default_rng(0).random((100_000, 2))
    found = places(points, ["min", "min"])
    assert found.min() == 1 and found.max() <= len(points)
