"""Searches: spaces, constraints, Optuna and our own, on a made-up sweep whose results are formulas."""

import json
import math
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from analysis.pareto import hypervolume
from quantizers import FitStep
from quantizers.errors import InputError
from sweeps.record.intake import Intake
from sweeps.record.ledger import Ledger
from sweeps.search.adaptive import AdaptiveSearch, make_search
from sweeps.search.base import Outcome, Strategy
from sweeps.search.journal import Journal
from sweeps.spec.config import SweepConfig, build
from sweeps.spec.constraints import mark, parse_constraints, size_violations, too_large
from sweeps.spec.prepare import Prepared, prepare
from sweeps.spec.space import Planned
from sweeps.storage import Folder, open_storage
from trainables.records import TrialResult, TrialSpec, blank_row

GRID = {"method": "pq", "num_codebooks": [1, 2, 4, 8], "codebook_size": [4, 8, 16]}
LSQ = {"method": "lsq", "num_codebooks": [1, 2, 3, 4], "codebook_size": [4, 8]}


def sweep(**changes: Any) -> SweepConfig:
    base = {
        "name": "s",
        "table": "builtin:synthetic-300x8",
        "quantizers": [GRID],
        "objectives": ["payload_bytes", "reconstruction.mse"],
    }
    return build({**base, **changes})


def prepared(tmp_path: Path, **changes: Any) -> Prepared:
    return prepare(sweep(output=str(tmp_path), **changes), None)


def error_of(planned: Planned | TrialSpec) -> float:
    """The larger the better; a product quantizer is a little worse than its size says."""
    config = planned.config if isinstance(planned.config, dict) else planned.config.model_dump()
    bits = config.get("num_codebooks", 1) * math.log2(config.get("codebook_size", 2))
    return math.exp(-0.3 * bits) * (1.3 if planned.method == "pq" else 1.0)


def strategy_of(ready: Prepared) -> Strategy:
    search = make_search(ready, Folder(tempfile.mkdtemp()))
    assert search is not None
    return search.strategy


def tried(ready: Prepared, most: int = 100) -> list[Planned]:
    """What the strategy asks for when every answer is ``error_of``."""
    strategy = strategy_of(ready)
    found = []
    while len(found) < most and (planned := strategy.ask()) is not None:
        found.append(planned)
        strategy.tell(planned, Outcome((error_of(planned),), planned.predicted_bytes, 1.0))
    return found


# Spaces ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"learning_rate": {"low": 1e-2, "high": 1e-4}}, "learning_rate: low .* must be below high"),
        ({"learning_rate": {"low": 0, "high": 1, "log": True}}, "with log: true, low must be above 0"),
        ({"learning_rate": {"lo": 1e-4, "high": 1}}, "unknown key 'lo'.*Did you mean 'low'"),
        ({"learning_rate": {"low": 1e-4}}, "the key 'high' is missing"),
        ({"learning": {"low": 1e-4, "high": 1}}, "learning_rate"),
        ({"num_codebooks": []}, "the list is empty"),
    ],
)
def test_mistakes_in_a_range_are_named(tmp_path: Path, entry: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        prepared(tmp_path, quantizers=[{"method": "dccl", **entry}], search={"kind": "random", "samples": 3})


@pytest.mark.parametrize("kind", ["grid", "frontier"])
def test_ranges_need_a_search_that_draws(tmp_path: Path, kind: str) -> None:
    with pytest.raises(InputError, match="dccl.learning_rate is a range, but search.kind"):
        prepared(
            tmp_path,
            quantizers=[{"method": "dccl", "learning_rate": {"low": 1e-4, "high": 1e-2}}],
            search={"kind": kind},
        )


@pytest.mark.parametrize(
    ("search", "message"),
    [
        ({"kind": "random"}, "needs samples"),
        ({"kind": "grid", "samples": 3}, "takes no samples"),
        ({"kind": "frontier", "sampler": "tpe"}, "sampler works only with kind: optuna"),
        ({"kind": "optuna", "sampler": "cma"}, "search.sampler"),
    ],
)
def test_mistakes_in_a_search_are_named(search: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        sweep(search=search)


def test_random_draws_each_configuration_once_and_the_same_again(tmp_path: Path) -> None:
    some = prepared(tmp_path, search={"kind": "random", "samples": 5}).plan
    keys = [spec.key for spec in some.trials]
    assert len(set(keys)) == 6 and some.trials[0].method == "identity"
    assert keys == [spec.key for spec in prepared(tmp_path, search={"kind": "random", "samples": 5}).plan.trials]
    assert keys != [spec.key for spec in prepared(tmp_path, search={"kind": "random", "samples": 5, "seed": 1}).plan.trials]
    everything = prepared(tmp_path, search={"kind": "random", "samples": 99}).plan
    assert {spec.key for spec in everything.trials} == {spec.key for spec in prepared(tmp_path).plan.trials}


def test_random_draws_from_ranges(tmp_path: Path) -> None:
    entry = {
        "method": "dccl",
        "num_codebooks": {"low": 2, "high": 5},
        "codebook_size": [4, 8],
        "learning_rate": {"low": "1e-4", "high": "1e-2", "log": True},
        "recipe": "fast",
    }
    trials = prepared(tmp_path, quantizers=[entry], search={"kind": "random", "samples": 200}).plan.trials[1:]
    assert len(trials) == 200 and all(spec.config["recipe"] == "fast" for spec in trials)
    assert {spec.config["num_codebooks"] for spec in trials} == {2, 3, 4, 5}
    assert {spec.config["codebook_size"] for spec in trials} == {4, 8}
    logs = np.log10([spec.config["learning_rate"] for spec in trials])
    assert logs.min() >= -4 and logs.max() <= -2 and 0.3 < np.mean(logs < -3) < 0.7


# Constraints -----------------------------------------------------------------------------------------------------


def test_what_is_too_large_is_a_row_and_no_trial(tmp_path: Path) -> None:
    ready = prepared(tmp_path, constraints={"payload_bytes": "<= 1KB"})
    assert all(ready.plan.predicted_bytes[spec.key] <= 1000 for spec in ready.plan.trials[1:])
    refused = [row for row in ready.plan.skipped if row["status"] == "infeasible"]
    assert len(refused) + len(ready.plan.trials) == 13 and len({row["trial_key"] for row in refused}) == len(refused)
    assert all("would break payload_bytes <= 1KB" in row["reason"] for row in refused)


@pytest.mark.parametrize(
    ("text", "value", "baseline", "beyond"),
    [
        ("<= 0.2", 0.25, None, 0.05),
        ("<= 0.2", 0.2, None, 0.0),
        (">= 0.9", 0.8, None, 0.1),
        (">= baseline - 1%", 0.79, 0.8, 0.002),
        (">= baseline - 0.01", 0.79, 0.8, 0.0),
        (">= baseline", 0.79, 0.8, 0.01),
        ("<= baseline + 10%", 2.0, 1.0, 0.9),
        (">= baseline - 1%", -2.02, -2.0, 0.0),
        (">= baseline - 1%", 0.5, None, math.inf),
        ("<= 0.2", math.nan, None, math.inf),
    ],
)
def test_violations(text: str, value: float, baseline: float | None, beyond: float) -> None:
    (one,) = parse_constraints({"sentiment.accuracy": text}, ["sentiment.accuracy"])
    found = one.violation(value, baseline)
    assert found == beyond or abs(max(found, 0.0) - beyond) < 1e-12


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"payload": "<= 1MB"}, "payload.*payload_bytes"),
        ({"payload_bytes": "1MB"}, "not a limit such as"),
        ({"payload_bytes": "<= small"}, "not a size"),
        ({"payload_bytes": "<= baseline - 1%"}, "a size has no baseline"),
        ({"reconstruction.mse": "<= low"}, "not a number"),
        ({"reconstruction.mse": "< 3"}, "not a limit such as"),
    ],
)
def test_mistakes_in_constraints_are_named(tmp_path: Path, entry: dict[str, str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        prepared(tmp_path, constraints=entry)


def test_sizes_and_marks() -> None:
    limits = parse_constraints({"compression_ratio": ">= 8", "reconstruction.nmse": "<= 0.2"}, ["reconstruction.nmse"])
    assert size_violations(limits, 200, 800) == {"compression_ratio": 4.0}
    assert too_large(limits, 100, 800) is None and "x4.0" in str(too_large(limits, 200, 800))
    row = {"status": "ok", "quantizer": "pq", "compression_ratio": 9.0, "reason": None}
    score = {"task": "reconstruction", "metric": "nmse", "value": 0.3, "baseline": 0.0}
    result = TrialResult(row, [score])
    mark(limits, result)
    assert row["status"] == "infeasible" and row["reason"] == "reconstruction.nmse is 0.3, the limit is <= 0.2"
    baseline = TrialResult({"status": "ok", "quantizer": "identity", "compression_ratio": 1.0}, [])
    mark(limits, baseline)
    assert baseline.row["status"] == "ok"


# Adaptive searches -----------------------------------------------------------------------------------------------

OPTUNA = [{"kind": "optuna", "sampler": name} for name in ("tpe", "nsga2", "gp")]


@pytest.mark.thorough
@pytest.mark.parametrize("search", [*OPTUNA, {"kind": "frontier"}])
def test_a_finite_space_is_exhausted_without_repeats(tmp_path: Path, search: dict[str, Any]) -> None:
    ready = prepared(tmp_path, quantizers=[GRID, LSQ, "scalar"], budgets={"compression_ratio": [4, 8]}, search=search)
    found = tried(ready) if search.get("sampler") != "gp" else tried(ready, 12)
    keys = {(one.method, one.config) for one in found}
    assert len(keys) == len(found)
    if search.get("sampler") != "gp":
        assert keys == {(one.method, one.config) for one in ready.plan.space.configurations()}


def test_optuna_goes_where_the_front_is_and_keeps_to_sizes(tmp_path: Path) -> None:
    entry = {"method": "pq", "num_codebooks": {"low": 1, "high": 8}, "codebook_size": {"low": 2, "high": 64, "log": True}}
    limits = {"payload_bytes": "<= 1500"}
    ready = prepared(tmp_path, quantizers=[entry], search={"kind": "optuna", "samples": 25}, constraints=limits)
    strategy = strategy_of(ready)
    found = []
    for _ in range(25):
        planned = strategy.ask()
        assert planned is not None
        found.append(planned)
        strategy.tell(planned, Outcome((error_of(planned),), planned.predicted_bytes, 1.0))
    assert all(one.predicted_bytes <= 1500 for one in found) and len({one.config for one in found}) == 25
    assert strategy.refused and all(status == "infeasible" for _, status, _ in strategy.refused)
    assert len(strategy.refused) < 60  # drawn blindly, about three of four would be too large


def test_nan_and_violations_do_not_stop_optuna(tmp_path: Path) -> None:
    ready = prepared(tmp_path, quantizers=[GRID, LSQ], search={"kind": "optuna"})
    strategy = strategy_of(ready)
    for number in range(20):
        planned = strategy.ask()
        assert planned is not None
        value = math.nan if number % 2 else error_of(planned)
        strategy.tell(planned, Outcome((value,), planned.predicted_bytes, 1.0, violations={"reconstruction.mse": math.inf}))
    assert strategy.ask() is None


@pytest.mark.thorough
def test_the_frontier_search_is_ahead_of_the_grid(tmp_path: Path) -> None:
    """Half of the methods are dominated and slow: those it leaves for later."""
    ready = prepared(tmp_path, quantizers=[GRID, {**LSQ, "rounds": [1, 2, 3, 4]}], search={"kind": "frontier"})
    strategy = strategy_of(ready)
    order = []
    while (planned := strategy.ask()) is not None:
        order.append(planned)
        slow = planned.method == "pq"
        outcome = Outcome((error_of(planned) * (20 if slow else 1),), planned.predicted_bytes, 9.0 if slow else 0.1)
        strategy.tell(planned, outcome)
    places = {method: np.mean([n for n, one in enumerate(order) if one.method == method]) for method in ("pq", "lsq")}
    assert places["lsq"] < places["pq"] - 5


def test_the_frontier_search_stops_what_cannot_pay(tmp_path: Path) -> None:
    both = {"search": {"kind": "frontier"}, "scheduler": {"kind": "frontier"}}
    ready = prepared(tmp_path, quantizers=[GRID, LSQ], **both)
    strategy = strategy_of(ready)
    points: dict[bool, list[tuple[float, float]]] = {True: [], False: []}  # of what was stopped, and of the others
    while (planned := strategy.ask()) is not None:
        final = error_of(planned) * (1.0 if planned.config.codebook_size == 8 else 3.0)
        reason = None
        for share in (0.25, 0.5, 0.75):
            step = FitStep("refine", share, final * (1 + 0.5 * (1 - share)))
            reason = reason or (strategy.judge(planned, step, 4 * share) if planned.method == "lsq" else None)
        points[reason is not None].append((math.log(planned.predicted_bytes), final))
        values = (final if reason is None else math.nan,)
        strategy.tell(planned, Outcome(values, planned.predicted_bytes, 4.0, stopped=reason is not None))
    assert points[True]
    reference = [math.log(ready.stats.dense_bytes), 2.0]
    area = {name: hypervolume(some, ["min", "min"], reference) for name, some in points.items()}
    assert area[False] >= 0.995 * hypervolume(points[True] + points[False], ["min", "min"], reference)
    assert area[True] < area[False]


def result_of(ready: Prepared, spec: TrialSpec, status: str = "ok") -> TrialResult:
    row = blank_row(spec, ("t", *ready.table.shape), status=status)
    row["payload_bytes"] = ready.plan.space.planned(spec.method, _config(spec)).predicted_bytes
    score = {"task": "reconstruction", "metric": "mse", "value": error_of(spec) + 0.001 * spec.seed, "baseline": 0.0}
    return TrialResult(row, [score] if status == "ok" else [], seconds=1.0)


def _config(spec: TrialSpec) -> Any:
    import quantizers

    return quantizers.make_config(spec.method, spec.config)


def test_every_seed_runs_and_a_resumed_search_begins_with_what_was_chosen(tmp_path: Path) -> None:
    """Driven as Tune drives it, without Ray: the intake hands trials out and takes results in."""
    changes = {"quantizers": [LSQ], "seeds": [0, 1], "search": {"kind": "optuna", "samples": 3}, "keep_artifacts": "none"}
    ready = prepared(tmp_path, **changes)
    journal, storage, ledger = tmp_path / "search.jsonl", open_storage(str(tmp_path)), Ledger(tmp_path / "ledger")

    def start() -> tuple[AdaptiveSearch, Intake]:
        search = make_search(ready, storage)
        assert search is not None
        intake = Intake(ready.config, ("t", *ready.table.shape), ledger=ledger)
        intake.draw_from(search)
        return search, intake

    search, intake = start()
    assert search.total == 7
    for _ in range(4):  # the baseline, two seeds of one, one seed of another; then killed
        spec = intake.next_trial()
        assert spec is not None
        if spec.method != "identity":
            ledger.put(spec.key, result_of(ready, spec))
            intake.take(spec, result_of(ready, spec))
    search.close()
    done = set(intake.results)
    with journal.open("a") as file:
        file.write('{"quantizer": "ls')
    search, intake = start()
    ran = []
    while (spec := intake.next_trial()) is not None:
        ran.append(spec)
        if spec.method != "identity":
            intake.take(spec, result_of(ready, spec, "failed" if spec.seed else "ok"))
    search.close()
    assert len(ran) == 1 + 6 - 3 and not {spec.key for spec in ran} & done
    assert intake.reused == 3
    plan = search.plan()
    assert len(plan.trials) == 7 and {spec.key for spec in plan.trials} >= done
    assert all(plan.predicted_bytes[spec.key] > 0 for spec in plan.trials)
    chosen = [json.loads(line)["config"] for line in journal.read_text().splitlines() if line.endswith("}")]
    assert len(chosen) == 3 and len({json.dumps(one) for one in chosen}) == 3


def test_the_journal_is_written_seldom_and_whole_at_the_end(tmp_path: Path) -> None:
    written: list[int] = []

    class Counted(Folder):
        def write(self, name: str, content: bytes) -> None:
            written.append(content.count(b"\n"))
            super().write(name, content)

    journal = Journal(Counted(str(tmp_path)), seconds=1000.0)
    for number in range(1000):
        journal.add(f"line {number}")
    assert written == [1]
    journal.flush()
    journal.flush()
    assert written == [1, 1000] and Journal(Folder(str(tmp_path))).lines()[-1] == "line 999"


def test_an_adaptive_search_needs_a_metric(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="needs a metric beside payload_bytes"):
        prepared(tmp_path, objectives=["payload_bytes"], search={"kind": "optuna"})


def test_ranges_without_samples_are_refused(tmp_path: Path) -> None:
    entry = {"method": "pq", "num_codebooks": {"low": 1, "high": 8}}
    with pytest.raises(InputError, match="search.samples is missing"):
        prepared(tmp_path, quantizers=[entry], search={"kind": "optuna"})
