"""Frontiers and volumes worked out by hand."""

import time
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from analysis.pareto import (
    build_frontier,
    exclusive_contributions,
    front_rank,
    hypervolume,
    non_dominated,
    reference_point,
)
from analysis.schema import FRONTIER, SCORES, TRIALS, to_table
from analysis.store import metadata_of
from quantizers.errors import InputError

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


def trial(key: str, quantizer: str, payload: int | None, seed: int = 0, **more: Any) -> dict[str, Any]:
    row = {"trial_key": key, "quantizer": quantizer, "config_json": "{}", "seed": seed, "payload_bytes": payload}
    return row | {"status": "ok", "num_embeddings": 10, "embedding_dim": 10, "dense_bytes": 400, "table_digest": "d"} | more


def score(key: str, value: float | None, **more: Any) -> dict[str, Any]:
    return {"trial_key": key, "task": "t", "metric": "acc", "direction": "max", "value": value, "baseline": 1.0} | more


def frontier(trials: list[dict[str, Any]], scores: list[dict[str, Any]], **more: Any) -> dict[str, dict[str, Any]]:
    table = build_frontier(to_table(trials, TRIALS), to_table(scores, SCORES), **more)
    assert table.schema.names == FRONTIER.names
    return {row["quantizer"]: row for row in table.to_pylist()}


def test_seeds_are_aggregated() -> None:
    trials = [*(trial(key, "rq", size, seed) for seed, (key, size) in enumerate(zip("abc", (98, 100, 102), strict=True)))]
    trials += [trial("i", "identity", 400), trial("p", "pq", 50, 0), trial("q", "pq", 50, 1)]
    scores = [score("a", 0.8), score("b", 0.9), score("c", 0.7), score("i", 1.0), score("p", 0.1), score("q", 0.2)]
    rows = frontier(trials, scores)
    row = rows["rq"]
    assert (row["payload_bytes_mean"], row["value_mean"], row["num_seeds"]) == (100, pytest.approx(0.8), 3)
    assert row["compression_ratio"] == pytest.approx(4)
    # t(0.975, 2) = 4.30265; the standard errors are 0.1 / sqrt(3) and 2 / sqrt(3). "acc" is not known to have bounds.
    assert row["value_high"] - row["value_mean"] == pytest.approx(4.30265 * 0.1 / 3**0.5, rel=1e-5)
    assert row["value_mean"] - row["value_low"] == pytest.approx(4.30265 * 0.1 / 3**0.5, rel=1e-5)
    assert row["payload_bytes_high"] == pytest.approx(100 * np.exp(4.30265 * 0.02 / 3**0.5), rel=1e-5)
    assert (row["value_lowest"], row["value_highest"]) == (0.7, 0.9)
    two = rows["pq"]  # two seeds have no interval, but a range
    assert (two["value_low"], two["value_high"], two["value_lowest"], two["value_highest"]) == (None, None, 0.1, 0.2)
    assert rows["identity"]["value_low"] is None
    assert rows["identity"]["num_seeds"] == 1
    assert row["on_frontier"]
    assert rows["identity"]["on_frontier"]


def test_only_trials_that_are_ok_take_part() -> None:
    trials = [trial("a", "rq", 100), trial("b", "pq", 10, status="failed"), trial("c", "lsq", 10, status="skipped")]
    rows = frontier(trials, [score("a", 0.8), score("b", 0.9), score("c", 0.9), score("gone", 0.9)])
    assert set(rows) == {"rq"}


def test_lossless_baseline_stays_with_zero_error_and_goes_when_beaten() -> None:
    def mse(key: str, value: float) -> dict[str, Any]:
        return score(key, value, metric="mse", direction="min", baseline=0.0)

    trials = [trial("i", "identity", 400), trial("a", "rq", 100)]
    rows = frontier(trials, [mse("i", 0.0), mse("a", 0.5)])
    assert rows["identity"]["on_frontier"]
    assert rows["identity"]["front_rank"] == 1
    # The same error in fewer bytes dominates it; the row stays.
    rows = frontier([*trials, trial("h", "half", 200)], [mse("i", 0.0), mse("a", 0.5), mse("h", 0.0)])
    assert rows["half"]["on_frontier"]
    assert not rows["identity"]["on_frontier"]
    assert rows["identity"]["front_rank"] == 2


@pytest.mark.parametrize("bad", [NAN, None])
def test_a_score_that_is_not_a_number_keeps_its_configuration_off_the_frontier(bad: float | None) -> None:
    trials = [trial("a", "rq", 1, 0), trial("b", "rq", 1, 1), trial("c", "pq", 100)]
    rows = frontier(trials, [score("a", 0.9), score("b", bad), score("c", 0.5)])
    assert rows["rq"]["value_mean"] is None
    assert rows["rq"]["front_rank"] is None
    assert not rows["rq"]["on_frontier"]
    assert rows["rq"]["frontier_probability"] is None
    assert rows["pq"]["on_frontier"]


def test_infinite_score_is_best() -> None:
    trials = [trial("i", "identity", 400), trial("a", "rq", 100), trial("w", "worse", 500)]
    rows = frontier(trials, [score("i", INF), score("a", 20.0), score("w", 30.0)])
    assert [rows[name]["on_frontier"] for name in ("identity", "rq", "worse")] == [True, True, False]
    assert rows["identity"]["value_mean"] == INF
    assert rows["identity"]["value_low"] is None
    assert 0 < rows["identity"]["hypervolume_contribution"] < INF


def test_probability_is_the_share_of_resamples() -> None:
    # rq draws three of {0.7, 0.8, 0.9}; its mean is below 0.8 in 10 of 27 draws, then 0.77 or less, and pq has 0.79 in the
    # same bytes.
    trials = [trial(f"{name}{seed}", name, 100, seed) for name in ("rq", "pq") for seed in range(3)]
    scores = [score(f"rq{seed}", value) for seed, value in enumerate((0.7, 0.8, 0.9))]
    scores += [score(f"pq{seed}", 0.79) for seed in range(3)]
    rows = frontier(trials, scores, bootstrap=4000)
    assert rows["rq"]["frontier_probability"] == pytest.approx(17 / 27, abs=0.03)
    assert rows["pq"]["frontier_probability"] == pytest.approx(10 / 27, abs=0.03)
    assert frontier(trials, scores, seed=5) == frontier(trials, scores, seed=5)


def test_probability_is_null_where_nothing_was_repeated() -> None:
    rows = frontier([trial("a", "rq", 100), trial("b", "pq", 50)], [score("a", 0.8), score("b", 0.7)])
    assert rows["rq"]["frontier_probability"] is None
    # Two seeds draw themselves half of the time, and seeds that agree always do.
    rows = frontier([trial("a", "rq", 100), trial("b", "rq", 100, 1)], [score("a", 0.8), score("b", 0.7)])
    assert rows["rq"]["frontier_probability"] is None
    agreed = [trial(str(seed), "rq", 100, seed) for seed in range(3)]
    assert frontier(agreed, [score(str(seed), 0.8) for seed in range(3)])["rq"]["frontier_probability"] is None
    some = [trial(str(seed), "rq", 100, seed) for seed in range(3)]
    rows = frontier(some, [score(str(seed), 0.8 + seed / 100) for seed in range(3)], bootstrap=0)
    assert rows["rq"]["frontier_probability"] is None


def test_ties_hold_for_any_number_of_seeds() -> None:
    # 0.1 + 0.1 + 0.1 is not 3 * 0.1 in floating point; the mean of three seeds that agree is 0.1 all the same.
    trials = [trial("i", "identity", 400), *(trial(f"c{seed}", "cast", 400, seed) for seed in range(3))]
    rows = frontier(trials, [score("i", 0.1), *(score(f"c{seed}", 0.1) for seed in range(3))])
    assert rows["cast"]["value_mean"] == rows["identity"]["value_mean"] == 0.1
    assert rows["cast"]["value_lowest"] == rows["cast"]["value_highest"] == 0.1
    assert rows["cast"]["value_low"] is None
    assert all(row["on_frontier"] for row in rows.values())


def test_one_fit_for_two_budgets_is_one_configuration() -> None:
    trials = [trial("a", "rq", 100, budget_bytes=200), trial("b", "rq", 100, budget_bytes=120)]
    table = build_frontier(to_table(trials, TRIALS), to_table([score("a", 0.8), score("b", 0.8)], SCORES))
    assert [(row["budget_bytes"], row["num_seeds"]) for row in table.to_pylist()] == [(120, 1)]
    # A budget that changed the size made another configuration.
    trials[0]["payload_bytes"] = 180
    table = build_frontier(to_table(trials, TRIALS), to_table([score("a", 0.9), score("b", 0.8)], SCORES))
    assert sorted(row["budget_bytes"] for row in table.to_pylist()) == [120, 200]


def test_other_tables_tasks_and_regimes_do_not_compete() -> None:
    trials = [trial("a", "rq", 1), trial("b", "pq", 100, regime="finetuned"), trial("c", "lsq", 100, table_digest="e")]
    rows = frontier(trials, [score("a", 0.9), score("b", 0.1), score("c", 0.1)])
    assert all(row["on_frontier"] for row in rows.values())


def test_metadata_tells_reference_points_and_directions() -> None:
    trials = [trial("a", "rq", 100), trial("b", "pq", 200)]
    table = build_frontier(to_table(trials, TRIALS), to_table([score("a", 0.5), score("b", 0.7)], SCORES))
    (scope,) = metadata_of(table)["scopes"]
    assert scope["objectives"] == ["payload_bytes", "t.acc"]
    assert scope["directions"] == ["min", "max"]
    assert scope["reference_point"] == pytest.approx([210, 0.48])
    # (210 - 200) * (0.7 - 0.48) + (200 - 100) * (0.5 - 0.48)
    assert scope["hypervolume"] == pytest.approx(4.2)
    contributions = {row["quantizer"]: row["hypervolume_contribution"] for row in table.to_pylist()}
    assert contributions == pytest.approx({"rq": 2.0, "pq": 10 * 0.2})


def test_directions_that_contradict_are_refused() -> None:
    trials = to_table([trial("a", "rq", 100)], TRIALS)
    with pytest.raises(InputError, match=r"t\.acc: direction 'max' in some scores, 'min' in others or in run\.json"):
        build_frontier(trials, to_table([score("a", 0.5)], SCORES), {"metrics": {"t.acc": {"direction": "min"}}})
    with pytest.raises(InputError, match=r"t\.acc: direction None"):
        build_frontier(trials, to_table([score("a", 0.5, direction=None)], SCORES))


def test_no_trials_make_an_empty_frontier() -> None:
    assert frontier([], []) == {}
    assert frontier([trial("a", "rq", None, status="failed")], []) == {}


def test_a_hundred_thousand_trials_take_moments() -> None:
    count = 100_000
    numbers = np.arange(count)
    rng = np.random.default_rng(0)
    sizes = rng.integers(1, 10**9, count // 2)[numbers // 2]
    columns: dict[str, Any] = {name: pa.nulls(count, TRIALS.field(name).type) for name in TRIALS.names}
    keys = pa.array([f"{n:020d}" for n in numbers])
    columns |= {"trial_key": keys, "quantizer": pa.array(["rq"] * count), "status": pa.array(["ok"] * count)}
    columns |= {"config_json": pa.array([f"{n // 2}" for n in numbers]), "seed": pa.array(numbers % 2)}
    columns["payload_bytes"] = pa.array(sizes)
    measured: dict[str, Any] = {name: pa.nulls(count, SCORES.field(name).type) for name in SCORES.names}
    text = {"task": "t", "metric": "mse", "direction": "min"}
    measured |= {name: pa.array([value] * count) for name, value in text.items()}
    measured |= {"trial_key": keys, "value": pa.array(rng.random(count))}
    start = time.perf_counter()
    table = build_frontier(pa.table(columns, schema=TRIALS), pa.table(measured, schema=SCORES), bootstrap=0)
    assert table.num_rows == count // 2
    assert time.perf_counter() - start < 10  # about 0.5 s on an idle machine; a loop over rows takes minutes
