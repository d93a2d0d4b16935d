"""The one answer: the knee, what is close, what seeds cannot tell apart, in at most 8 lines of 80 columns."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from analysis.answer import answers, held, knee, lines, lucky, nothing_found
from analysis.recommend import Advice, Recommendation

RUN = Path("runs/mine")


def point(size: float, value: float, *, seeds: dict[int, float] | None = None, **more: Any) -> Recommendation:
    known = dict.fromkeys(("role", "sweep", "task_scope", "regime", "value_low", "value_high", "frontier_probability"))
    known |= {"metric": "task.score", "direction": "max", "quantizer": f"q{size:g}", "config": {}, "largest_bytes": size}
    known |= {"compression_ratio": 1e6 / size, "baseline": 1.0, "drop": 1.0 - value, "drop_low": None, "drop_high": None}
    by_seed = seeds or {0: value}
    known |= {"num_seeds": len(by_seed), "trial_keys": (f"key{size:g}",), "by_seed": by_seed}
    known |= {"drop_by_seed": {seed: round(1.0 - score, 9) for seed, score in by_seed.items()}, "compared": 34}
    return Recommendation(payload_bytes=size, value=value, **{**known, **more})


def test_the_knee_is_the_farthest_from_the_line_between_the_ends() -> None:
    curve = [point(1e3, 0.1), point(2e3, 0.7), point(1e4, 0.8), point(1e5, 0.9), point(1e6, 1.0, quantizer="identity")]
    assert knee(curve).payload_bytes == 2e3
    falling = [point(size, 1.0 - value, direction="min") for size, value in ((1e3, 0.1), (1e4, 0.8), (1e5, 0.9))]
    assert knee(falling).payload_bytes == 1e4


def test_what_is_within_no_limit_is_told_of_the_first_objective_and_the_others_are_counted() -> None:
    assert nothing_found([]) == ""
    assert nothing_found(["a: nothing fits."]) == "a: nothing fits."
    assert nothing_found(["a: nothing fits.", "b: nothing fits."]) == "a: nothing fits. The same for 1 other objective."
    assert nothing_found(["a: nothing fits.", "b", "c"]) == "a: nothing fits. The same for 2 other objectives."
    assert lines([], ["a: nothing fits.", "b", "c"], RUN) == ["a: nothing fits. The same for 2 other objectives."]


def test_a_limit_that_the_uncompressed_table_alone_keeps_is_said_to_be_so() -> None:
    whole = point(1e6, 1.0, quantizer="identity")
    text = told([point(1e3, 0.1), point(1e4, 0.8), whole], "within 1% of uncompressed", [whole])
    assert text[0] == "Pick: identity, 1.00 MB (×1.00), within 1% of uncompressed"
    assert text[2] == "No compressed table of the frontier keeps to it."


def test_a_limit_that_is_held_by_the_only_configuration_there_is() -> None:
    one = point(1e3, 0.9, allowed=0.2, certain=True, compared=1)
    assert held(one) == "The limit is held: 95 % sure."
    assert held(dataclasses.replace(one, compared=2)) == "The limit is held: 95 % sure, for all 2 configurations at once."


def test_a_frontier_of_one_point_is_its_knee() -> None:
    assert knee([point(1e3, 0.5)]).payload_bytes == 1e3
    assert knee([point(1e6, 1.0, quantizer="identity")]).quantizer == "identity"


def told(points: list[Recommendation], limit: str = "", found: list[Recommendation] | None = None) -> list[str]:
    advice = Advice(tuple(found or points), (), (tuple(points),))
    return lines(answers(advice, limit), (), RUN)


def test_what_it_costs_and_the_command_to_paste() -> None:
    seeds = {0: 0.79, 1: 0.81, 2: 0.8}
    points = [point(1e3, 0.1), point(1e4, 0.8, seeds=seeds, drop_low=0.15, drop_high=0.25)]
    text = told(points)
    assert text[0] == "Pick: q10000, 10.0 KB (×100), the knee of the frontier"
    assert text[1] == "task.score 0.8000, uncompressed 1.000: a change of −0.20"
    assert text[2] == "95 % interval of the change over 3 seeds: −0.25 to −0.15; picked from 34"
    assert text[-1] == "Next: frontier export runs/mine --trial key10000 -o small.safetensors"


def test_smaller_points_that_may_be_as_good_are_named() -> None:
    scatter = point(9e3, 0.79, seeds={0: 0.82, 1: 0.78, 2: 0.77})
    pick = point(1e4, 0.8, seeds={0: 0.79, 1: 0.81, 2: 0.8})
    clear = point(2e3, 0.5, seeds={0: 0.51, 1: 0.5, 2: 0.49})
    assert "The seeds cannot tell it from q9000, 9.00 KB (×111)." in told([clear, scatter, pick], "a limit", [pick])
    assert "Every smaller point of the frontier is worse, at the 95 % level." in told([clear, pick], "a limit", [pick])
    assert "No point of the frontier is smaller." in told([pick, point(2e4, 0.9)], "a limit", [pick])
    (found,) = answers(Advice((pick,), (), ((clear, scatter, pick),)), "a limit")
    assert [one.quantizer for one in found.close] == ["q9000"] and found.tested


def test_one_seed_or_two_tell_nothing_apart() -> None:
    assert "1 seed: small differences cannot be told from chance." in told([point(1e3, 0.1), point(1e4, 0.8)])
    text = told([point(1e3, 0.1, seeds={0: 0.1, 1: 0.1}), point(1e4, 0.8, seeds={0: 0.81, 1: 0.79})])
    assert "2 seeds: small differences cannot be told from chance." in text
    assert "2 seeds: −0.21 to −0.19, no interval; picked from 34" in text


def test_the_smaller_end_of_an_errors_change_comes_first_too() -> None:
    by_seed = {0: 0.2, 1: 0.3}
    error = point(1e4, 0.25, seeds=by_seed, direction="min", baseline=0.0, drop=0.25, drop_by_seed=by_seed)
    assert any(line.startswith("2 seeds: +0.20 to +0.30, no interval") for line in told([error], "a limit", [error]))


def test_ends_have_digits_enough_to_differ() -> None:
    pick = point(1e4, 0.8, seeds={0: 0.80001, 1: 0.80002})
    assert "2 seeds: −0.19999 to −0.19998, no interval; picked from 34" in told([pick], "a limit", [pick])


def test_an_exact_error_of_the_whole_table_is_no_luck() -> None:
    same = dict.fromkeys(range(3), 0.8)
    assert lucky(point(1e4, 0.8, seeds=same)) and lucky(point(1e4, 0.8, metric="reconstruction.nmse"))
    assert not lucky(point(1e4, 0.8, seeds=same, metric="reconstruction.nmse"))
    assert not lucky(point(1e4, 0.8, compared=1))


def test_what_does_not_vary_with_the_seed_is_not_shown_as_certain() -> None:
    same = [point(1e3, 0.1, seeds=dict.fromkeys(range(3), 0.1)), point(1e4, 0.8, seeds=dict.fromkeys(range(3), 0.8))]
    text = told(same, "a limit", same[1:])
    assert "The change does not vary with the seed (3 seeds); picked from 34" in text
    assert "Smaller points: 1 worse by the same amount at every seed." in text
    varying = point(9e3, 0.5, seeds={0: 0.5, 1: 0.52, 2: 0.48})
    text = told([*same[:1], varying, same[1]], "a limit", same[1:])
    assert "Smaller points: 1 worse (95 % level); 1 worse by the same amount at every seed." in text
    # Scores that are equal at every seed cannot be told apart either.
    equal = point(9e3, 0.8, seeds=dict.fromkeys(range(3), 0.8))
    assert "The seeds cannot tell it from q9000, 9.00 KB (×111)." in told([equal, same[1]], "a limit", same[1:])


@pytest.mark.parametrize(
    ("scores", "certain", "line"),
    [
        ((0.79, 0.81, 0.8), True, "The limit is held: 95 % sure, for all 34 configurations at once."),
        ((0.79, 0.81, 0.8), False, "The mean keeps the limit; 3 seeds cannot tell whether it is held."),
        ((0.79, 0.81), None, "The mean keeps the limit; 2 seeds cannot tell whether it is held."),
        ((0.8,), None, "The mean keeps the limit; 1 seed cannot tell whether it is held."),
        ((0.8, 0.8, 0.8), None, "Every seed keeps the limit equally; they cannot tell about other test rows."),
    ],
)
def test_a_limit_is_held_only_where_seeds_can_tell(scores: tuple[float, ...], certain: bool | None, line: str) -> None:
    pick = point(1e4, 0.8, seeds=dict(enumerate(scores)), allowed=0.25, certain=certain)
    assert line in told([pick], "within 25%", [pick])


@pytest.mark.parametrize("others", [0, 6])
def test_it_fits_8_lines_of_80_columns(others: int) -> None:
    name = "a_rather_long_quantizer_name_" + "x" * 40
    seeds = {0: 0.79, 1: 0.81}
    near = [point(1e4 + 500 * index, 0.8, seeds=seeds, quantizer=name) for index in range(5)]
    frontiers = [near] + [[point(1e3, 0.5, metric=f"{name}{index}.recall_at_10")] for index in range(others)]
    advice = Advice((), (), tuple(map(tuple, frontiers)))
    text = lines(answers(advice, ""), ("an objective that " + "has no point " * 20,) * 5, RUN)
    assert len(text) <= 8 and all(len(line) <= 80 for line in text[:-1])
    assert text[-1].startswith("Next: frontier export")


@pytest.mark.parametrize(
    ("metrics", "line"), [(["a"], "Other objectives: a: q1000, 1.00 KB"), (["b" * 90], "Other objectives: 1, see --all")]
)
def test_other_objectives_are_named_whole_or_counted(metrics: list[str], line: str) -> None:
    frontiers = [(point(1e4, 0.8),), *((point(1e3, 0.5, metric=name),) for name in metrics)]
    assert line in lines(answers(Advice((), (), tuple(frontiers)), ""), (), RUN)
    many = [(point(1e4, 0.8),), *((point(1e3, 0.5, metric=f"task{number}.recall_at_10"),) for number in range(5))]
    (told,) = [one for one in lines(answers(Advice((), (), tuple(many)), ""), (), RUN) if one.startswith("Other")]
    assert told.endswith("; and 4 more") and "task0.recall_at_10: q1000, 1.00 KB" in told


def test_without_a_pick_it_says_why() -> None:
    text = lines([], ("task.score: nothing fits in 1.00 KB; the smallest is pq at 60.6 KB with 0.5.",), RUN)
    assert text == ["task.score: nothing fits in 1.00 KB; the smallest is pq at 60.6 KB with 0.5."]
