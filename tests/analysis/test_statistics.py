"""Intervals and differences worked out by hand, text of numbers, the Gaussian reference curve."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from analysis import text
from analysis.report.plot_data import gaussian_rate, metric_axis, round_ticks, styles
from analysis.statistics import (
    UNBOUNDED,
    Bounds,
    bootstrap_indices,
    grouped,
    metric_bounds,
    paired_difference,
    rescaled,
    t_interval,
)
from trainables.registry import tasks


def test_t_interval_by_hand() -> None:
    # 1, 2, 3: mean 2, s = 1, standard error 1 / sqrt(3), t(0.975, 2) = 4.30265.
    mean, low, high = t_interval([1, 2, 3])
    assert mean == 2
    assert (low, high) == pytest.approx((2 - 4.30265 / np.sqrt(3), 2 + 4.30265 / np.sqrt(3)), rel=1e-5)
    mean, low, high = t_interval([5.0])
    assert mean == 5
    assert np.isnan([low, high]).all()
    assert np.isnan(t_interval([])).all()


def test_pairs_take_out_what_seeds_have_in_common() -> None:
    # The seeds differ by 10, the two methods by exactly 1 at each.
    mean, *ends = paired_difference([11, 21, 31], [10, 20, 30])
    assert mean == 1 and np.isnan(ends).all()  # no seed tells anything about the scatter of such a difference
    assert paired_difference([11, 22, 33], [10, 20, 30]) == t_interval([1, 2, 3])
    with pytest.raises(ValueError, match="one length"):
        paired_difference([1, 2], [1])


def test_groups_are_kept_apart() -> None:
    estimate = grouped([1, 10, 3, np.inf, np.nan, 7, 2], [0, 1, 0, 2, 3, 3, 0], 5)
    assert estimate.mean[:3].tolist() == [2, 10, np.inf]
    assert np.isnan(estimate.mean[3:]).all()
    assert estimate.count.tolist() == [3, 1, 1, 2, 0]
    assert estimate.high[0] == pytest.approx(2 + 4.30265 / np.sqrt(3), rel=1e-5)
    assert np.isnan(estimate.high[1:]).all()
    assert (estimate.lowest[:3].tolist(), estimate.highest[:3].tolist()) == ([1, 10, np.inf], [3, 10, np.inf])


SHARE, ERROR = (0.0, 1.0), (0.0, np.inf)


def test_bounded_intervals_by_hand() -> None:
    # 0.5, 0.6, 0.7: mean 0.6, s / sqrt(3) = 0.057735. Log odds 0.405465, slope 1 / (0.6 * 0.4), half 4.30265 * 0.240563
    # = 1.035057; 1 / (1 + exp(0.629592)) and 1 / (1 + exp(-1.440522)).
    assert t_interval([0.5, 0.6, 0.7], SHARE) == pytest.approx((0.6, 0.347603, 0.808535), abs=2e-6)
    # The same in per cent, as BLEU is.
    assert t_interval([50, 60, 70], (0, 100)) == pytest.approx((60, 34.7603, 80.8535), abs=2e-4)
    # 1, 2, 3: 2 * exp(+- 4.30265 / (2 * sqrt(3))).
    assert t_interval([1, 2, 3], ERROR) == pytest.approx((2, 0.577572, 6.925541), rel=1e-5)
    # A correlation: tanh(atanh(0.5) +- 4.30265 * (0.1 / sqrt(3)) / (1 - 0.25)), Fisher's z.
    z, half = np.arctanh(0.5), 4.30265 * 0.1 / np.sqrt(3) / 0.75
    assert t_interval([0.4, 0.5, 0.6], (-1, 1)) == pytest.approx((0.5, np.tanh(z - half), np.tanh(z + half)), rel=1e-5)


def test_a_difference_to_one_number_is_bounded_as_the_value_is() -> None:
    _, low, high = t_interval([0.5, 0.6, 0.7], SHARE)
    assert paired_difference([0.5, 0.6, 0.7], [0.9] * 3, SHARE) == pytest.approx((-0.3, low - 0.9, high - 0.9))
    # Where the baseline varies, a difference of shares is within -1 and 1, and one of errors without bounds.
    assert paired_difference([0.5, 0.6, 0.7], [0.1, 0.1, 0.2], SHARE) == t_interval([0.4, 0.5, 0.5], (-1, 1))
    assert paired_difference([1, 2, 4], [1, 1, 2], ERROR) == t_interval([0, 1, 2])


def test_two_seeds_and_seeds_that_agree_have_no_interval() -> None:
    assert np.isnan(t_interval([0.76, 0.77], SHARE)[1:]).all()
    assert np.isnan(t_interval([0.8] * 5, SHARE)[1:]).all()
    assert np.isnan(t_interval([1.0] * 3, SHARE)[1:]).all()


@given(
    st.lists(st.floats(0, 1), min_size=3, max_size=8),
    st.sampled_from([SHARE, (0.0, 100.0), (-1.0, 1.0), ERROR, (1.0, np.inf)]),
    st.sampled_from([0.95, 0.9999]),
)
def test_intervals_keep_to_their_bounds(shares: list[float], bounds: Bounds, level: float) -> None:
    least, most = bounds
    values = [least + share * (most - least if np.isfinite(most) else 50.0) for share in shares]
    assume(min(values) < max(values) and all(least <= value <= most for value in values))
    mean, low, high = t_interval(values, bounds, level=level)
    at_a_bound = min(mean - least, most - mean) < 1e-12  # but for rounding: then there may be no interval
    assert least <= low <= mean <= high <= most or (at_a_bound and np.isnan([low, high]).all())
    _, low, high = paired_difference(values, [values[0]] * len(values), bounds, level=level)
    assert least - values[0] <= low <= high <= most - values[0] or np.isnan([low, high]).all()


def test_bounds_that_a_value_breaks_are_not_believed() -> None:
    assert t_interval([81, 82, 84], SHARE) == t_interval([81, 82, 84])


@pytest.mark.parametrize("num_seeds", [3, 5, 10])
@pytest.mark.parametrize(
    ("kind", "least"),
    [("share near 1", 0.93), ("share", 0.94), ("share mostly 1", 0.84), ("error", 0.945), ("wild error", 0.925)],
)
def test_intervals_hold_the_mean_as_often_as_they_say(kind: str, least: float, num_seeds: int) -> None:
    dice, repeats = np.random.default_rng(num_seeds), 10_000
    shape = (repeats, num_seeds)
    values, true, bounds = {
        "share near 1": (dice.beta(0.95 * 52, 0.05 * 52, shape), 0.95, SHARE),  # scatters by 0.03
        "share": (dice.beta(0.8 * 399, 0.2 * 399, shape), 0.8, SHARE),  # by 0.02
        "share mostly 1": (dice.beta(0.95 * 3.75, 0.05 * 3.75, shape), 0.95, SHARE),  # by 0.1
        "error": (dice.lognormal(0, 0.1, shape), np.exp(0.005), ERROR),
        "wild error": (dice.lognormal(0, 0.5, shape), np.exp(0.125), ERROR),
    }[kind]
    found = grouped(values.ravel(), np.repeat(np.arange(repeats), num_seeds), repeats, bounds)
    covered = ((found.low <= true) & (true <= found.high)).mean()
    assert least <= covered <= 0.965


def test_every_metric_of_ours_has_its_bounds() -> None:
    known = {f"{name}.{metric.name}" for name, task in tasks().items() for metric in task.metrics}
    assert {name for name in known if metric_bounds(*name.split(".")) == UNBOUNDED} == {"reconstruction.sqnr_db"}
    assert metric_bounds("similarity", "men") == (-1, 1)
    assert metric_bounds("mine", "loss") == UNBOUNDED


def test_rescaled_resamples_spread_as_means_of_new_seeds() -> None:
    values = np.array([1.0, 2.0, 6.0])
    means = np.array([values[drawn].mean() for drawn in bootstrap_indices([0] * 3, 1, repeats=20_000, seed=1)])
    spread = [float(rescaled(np.array([[3.0]]), np.array([[mean]]), np.array([3]))[0, 0]) for mean in means]
    assert np.var(spread) == pytest.approx(values.var(ddof=1) / 3, rel=0.05)
    same = np.array([[np.inf, 2.0]])
    assert (rescaled(same, same, np.array([3])) == same).all()


def test_resamples_stay_within_their_group() -> None:
    groups = np.array([1, 0, 1, 1, 0])
    drawn = np.stack(list(bootstrap_indices(groups, 2, repeats=500, seed=3)))
    assert (groups[drawn] == [0, 0, 1, 1, 1]).all()
    shares = np.bincount(drawn[:, 2:].ravel(), minlength=5)[[0, 2, 3]] / 1500
    assert shares == pytest.approx(np.full(3, 1 / 3), abs=0.05)


def test_reference_curve_by_hand() -> None:
    # Eigenvalues 4 and 1. At water level 1: 1 bit for the first, 0 for the second, error 1 + 1.
    bits, error = gaussian_rate(np.array([4.0, 1.0, 0.0]), levels=100_001)
    assert np.interp(2.0, error, bits) == pytest.approx(1.0, abs=1e-3)
    # At level 1/4: 2 + 1 bits, error 1/2. At level 4: nothing is sent, and all of the variance is lost.
    assert np.interp(0.5, error, bits) == pytest.approx(3.0, abs=1e-3)
    assert (bits[-1], error[-1]) == pytest.approx((0, 5))
    assert all(len(part) == 0 for part in gaussian_rate(np.zeros(3)))


def test_numbers_as_people_read_them() -> None:
    assert [text.size(n) for n in (0, 999, 1000, 62_500, 999_900, 1_250_000, 3e9)] == [
        *("0 B", "999 B", "1.00 KB", "62.5 KB", "1.00 MB", "1.25 MB", "3.00 GB"),
    ]
    assert text.size(500_000, short=True) == "500 KB"
    assert text.ratio(8, short=True) == "×8"
    assert text.ratio(31.94) == "×31.9"
    assert [text.number(v) for v in (0.0, 0.85, 1234.5678, 1.5e-7, float("inf"), None)] == [
        *("0", "0.8500", "1,235", "1.5e-7", "∞", ""),
    ]
    assert text.duration(3.2) == "3.2 s"
    assert text.duration(600) == "10 min"


def test_short_text_says_what_varies() -> None:
    configs = [("rq", '{"m": 8, "k": 256}'), ("rq", '{"m": 16, "k": 256}'), ("rq", None), ("pq", '{"m": 4}')]
    assert list(text.short_configs(configs).values()) == ["m=8", "m=16", "", ""]


def test_ticks_are_round_and_few() -> None:
    assert round_ticks(60_000, 1_100_000) == [100_000, 200_000, 500_000, 1_000_000]
    assert round_ticks(0.04, 1.2) == pytest.approx([0.05, 0.1, 0.2, 0.5, 1])
    assert len(round_ticks(1, 1e8)) <= 9


def test_twenty_methods_look_different() -> None:
    looks = styles([f"m{n}" for n in range(20)] + ["identity"])
    assert len({(look.colour, look.plotly) for look in looks.values()}) == 21
    assert len({(look.colour, look.matplotlib) for look in looks.values()}) == 21


def test_nearly_exact_values_do_not_flatten_an_axis() -> None:
    values = np.array([1.0, 0.5, 0.1, 0.01, 1e-8, 0.0])
    axis = metric_axis(values, values, "min")
    assert axis.log
    assert axis.view[0] > 1e-3
    assert axis.edge is not None
    assert axis.view[0] < axis.edge < 0.01
    assert [axis.place(value) for value in (0.5, 1e-8, 0.0)] == [0.5, axis.edge, axis.edge]
    assert axis.edge_text == "0 to 1e-8 (off the scale)"
    assert min(axis.ticks) > axis.edge


def test_one_bad_value_does_not_push_the_frontier_off_an_axis() -> None:
    front = np.array([0.5, 0.1, 0.02])
    axis = metric_axis(front, np.append(front, 1e9), "min")
    assert axis.view[1] < 1000
    assert [axis.place(value) for value in front] == list(front)
    assert axis.edge is None


def test_axis_of_scores_is_linear_and_shows_infinity() -> None:
    values = np.array([10.0, 20.0, np.inf])
    axis = metric_axis(values, values, "max")
    assert not axis.log
    assert axis.edge is not None
    assert 20 < axis.edge < axis.view[1]
    assert axis.place(np.inf) == axis.edge
    assert axis.place(-np.inf) is None
    assert axis.place(float("nan")) is None
    assert axis.place(None) is None
    # All values alike still have an axis around them.
    low, high = metric_axis(np.array([3.0]), np.array([3.0, 3.0]), "max").view
    assert low < 3 < high
