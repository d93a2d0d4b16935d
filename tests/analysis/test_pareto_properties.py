"""Frontiers against a definition that is slow and plain."""

import itertools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.pareto import Direction, exclusive_contributions, front_rank, hypervolume, non_dominated, reference_point

# Few distinct values, so that ties happen in every combination.
VALUES = st.one_of(st.integers(-2, 3).map(float), st.sampled_from([float("nan"), float("inf"), float("-inf"), 0.5, -0.0]))
DIRECTIONS = st.sampled_from(["min", "max"])


@st.composite
def clouds(draw: st.DrawFn, *, dims: int | None = None, finite: bool = False) -> tuple[np.ndarray, list[Direction]]:
    width = dims or draw(st.integers(1, 4))
    values = st.integers(-3, 4).map(float) if finite else VALUES
    rows = draw(st.lists(st.tuples(*[values] * width), max_size=25))
    return np.array(rows, dtype=float).reshape(len(rows), width), draw(st.lists(DIRECTIONS, min_size=width, max_size=width))


def dominates(a: np.ndarray, b: np.ndarray, directions: list[Direction]) -> bool:
    better_or_equal = [x <= y if d == "min" else x >= y for x, y, d in zip(a, b, directions, strict=True)]
    better = [x < y if d == "min" else x > y for x, y, d in zip(a, b, directions, strict=True)]
    return all(better_or_equal) and any(better)  # a comparison with NaN is False


def slow_front(points: np.ndarray, directions: list[Direction]) -> list[bool]:
    return [not np.isnan(p).any() and not any(dominates(q, p, directions) for q in points) for p in points]


@given(clouds())
def test_frontier_is_what_nothing_dominates(cloud: tuple[np.ndarray, list[Direction]]) -> None:
    points, directions = cloud
    assert non_dominated(points, directions).tolist() == slow_front(points, directions)


@given(clouds())
def test_ranks_peel_one_frontier_after_another(cloud: tuple[np.ndarray, list[Direction]]) -> None:
    points, directions = cloud
    expected = np.zeros(len(points), dtype=int)
    left = np.flatnonzero(~np.isnan(points).any(axis=1))
    for rank in itertools.count(1):
        if not len(left):
            break
        front = np.array(slow_front(points[left], directions))
        expected[left[front]] = rank
        left = left[~front]
    assert front_rank(points, directions).tolist() == expected.tolist()


@given(clouds())
def test_order_of_points_does_not_matter(cloud: tuple[np.ndarray, list[Direction]]) -> None:
    points, directions = cloud
    order = np.random.default_rng(len(points)).permutation(len(points))
    assert non_dominated(points[order], directions).tolist() == non_dominated(points, directions)[order].tolist()


@settings(deadline=None)
@given(clouds(dims=2, finite=True))
def test_volume_against_counted_unit_squares(cloud: tuple[np.ndarray, list[Direction]]) -> None:
    points, directions = cloud
    sign = np.array([1 if d == "min" else -1 for d in directions])
    reference = sign * 5.0

    def counted(chosen: np.ndarray) -> int:
        costs = chosen * sign
        corners = itertools.product(range(-4, 5), repeat=2)
        return sum(any((cost <= corner).all() for cost in costs) for corner in map(np.array, corners))

    assert hypervolume(points, directions, reference) == counted(points)
    front = points[non_dominated(points, directions)]
    alone = [counted(front) - counted(np.delete(front, i, axis=0)) for i in range(len(front))]
    assert exclusive_contributions(points, directions, reference)[non_dominated(points, directions)].tolist() == alone


@given(clouds(dims=2))
def test_volumes_are_finite_and_reference_is_worse_than_the_frontier(cloud: tuple[np.ndarray, list[Direction]]) -> None:
    points, directions = cloud
    reference = reference_point(points, directions)
    contributions = exclusive_contributions(points, directions, reference)
    assert np.isfinite(reference).all()
    assert np.isfinite(contributions).all()
    assert (contributions >= 0).all()
    assert (contributions[~non_dominated(points, directions)] == 0).all()
    assert contributions.sum() <= hypervolume(points, directions, reference) * (1 + 1e-12)
    front = points[non_dominated(points, directions)]
    for value, limit, direction in zip(front.T, reference, directions, strict=True):
        inside = np.isinf(value) | (value < limit if direction == "min" else value > limit)
        assert inside.all()
