"""The three regimes, trial by trial, on a corpus whose classes follow from single words."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch

import quantizers
from quantizers import InputError
from sweeps.record.ledger import Ledger
from sweeps.spec.config import SweepConfig, build
from sweeps.spec.prepare import Prepared, prepare
from trainables import trial
from trainables.registry import make_task
from trainables.trial import TrialResult, TrialSpec

pytestmark = pytest.mark.thorough  # trains

TASK = {"task": "sentiment", "hidden_size": 16, "epochs": 6, "patience": 6, "batch_size": 8, "learning_rate": 0.01}


class Bench:
    """Runs trials of a sweep as a worker does, with a ledger that counts what is made."""

    def __init__(self, folder: Path, corpora: Path) -> None:
        self.folder, self.corpora = folder, corpora
        self.made: list[str] = []
        self._ledger = Ledger(folder / "ledger")

    def once(self, kind: str, key: str, make: Any, read: Any) -> Any:
        def counted(path: Path) -> None:
            self.made.append(kind)
            make(path)

        return self._ledger.once(kind, key, counted, read)

    def prepared(self, **keys: Any) -> Prepared:
        return prepare(self.config(**keys), self.corpora)

    def config(self, **keys: Any) -> SweepConfig:
        table = {"name": "r", "table": "builtin:glove-10k-50d", "tasks": [TASK], "output": str(self.folder / "runs")}
        return build({**table, "quantizers": [{"method": "rq", "num_codebooks": 2, "codebook_size": 4}], **keys})

    def run(self, prepared: Prepared, spec: TrialSpec) -> TrialResult:
        tasks = [make_task(entry, self.corpora) for entry in prepared.task_entries]
        trial._BASELINES.clear()  # as in another process
        return trial.run(
            spec,
            prepared.table,
            tasks,
            weights=None if prepared.weights is None else torch.tensor(prepared.weights),
            artifact_path=lambda role: self.folder / f"{spec.key}{f'.{role}' if role else ''}.safetensors",
            once=self.once,
            device=torch.device("cpu"),
            report=lambda step: None,
        )

    def results(self, **keys: Any) -> dict[str, TrialResult]:
        prepared = self.prepared(**keys)
        return {spec.method: self.run(prepared, spec) for spec in prepared.plan.trials}


@pytest.fixture
def bench(tmp_path: Path, corpora: Path) -> Bench:
    return Bench(tmp_path / "bench", corpora)


def accuracy(result: TrialResult) -> tuple[float, float]:
    (score,) = [score for score in result.scores if score["metric"] == "accuracy"]
    return score["value"], score["baseline"]


def test_pretrained_compresses_the_whole_table_and_trains_on_it(bench: Bench) -> None:
    found = bench.results()
    value, baseline = accuracy(found["identity"])
    assert value == baseline
    assert found["rq"].row["num_embeddings"] == 10_000 and found["rq"].row["task_scope"] == "whole table"
    assert accuracy(found["rq"])[1] == baseline
    assert accuracy(found["rq"])[0] < baseline  # 16 vectors tell few words apart
    assert {curve["phase"] for curve in found["rq"].curves} >= {"task"}
    assert bench.made.count("baselines") == 2  # reconstruction's and the task's, shared by both trials


@pytest.mark.thorough
@pytest.mark.parametrize(
    "keys",
    [
        {},
        {"regime": "finetuned", "metric": "fisher", "weights": "fisher", "retrain": {"epochs": 2}},
        {"regime": "end_to_end"},
    ],
    ids=["pretrained", "finetuned", "end_to_end"],
)
def test_pairs_of_sentences_in_every_regime(bench: Bench, keys: dict[str, Any]) -> None:
    method = {"method": "rq", "num_codebooks": 2, "codebook_size": 4 if keys else 64}  # of some ten rows, or of 10,000
    found = bench.results(tasks=[{**TASK, "task": "entailment"}], quantizers=[method], **keys)
    value, baseline = accuracy(found["identity"])
    assert value == baseline == accuracy(found["rq"])[1] and baseline > 0.5
    assert accuracy(found["rq"])[0] > 0.3 and {score["num_examples"] for score in found["rq"].scores} >= {40}


def test_finetuned_compresses_the_tuned_table_of_its_seed(bench: Bench) -> None:
    prepared = bench.prepared(regime="finetuned", seeds=[0, 1])
    assert prepared.table.num_embeddings < 20
    results = [bench.run(prepared, spec) for spec in prepared.plan.trials]
    assert len(results) == 4 and bench.made.count("baselines") == 4
    for result in results:
        value, baseline = accuracy(result)
        assert result.row["task_scope"] == "sentiment" and result.row["regime"] == "finetuned"
        assert result.row["oov_words"] == 1 and result.row["train_seconds"] is None
        if result.row["quantizer"] == "identity":
            assert value == baseline
            dense = quantizers.load(bench.folder / f"{result.row['trial_key']}.safetensors").to_dense()
            assert not torch.equal(dense, prepared.table.vectors)
    tuned = {
        result.row["seed"]: result.row["artifact_digest"] for result in results if result.row["quantizer"] == "identity"
    }
    assert tuned[0] != tuned[1]


def test_retraining_moves_codebooks_and_keeps_codes(bench: Bench) -> None:
    plain = bench.results(regime="finetuned")["rq"]
    found = {}
    for parts in (["codebooks"], ["network"], ["codebooks", "network"]):
        retrain = {"parts": parts, "epochs": 3, "learning_rate": 0.01}
        found[tuple(parts)] = bench.results(name="-".join(parts), regime="finetuned", retrain=retrain)["rq"]
    keys = {plain.row["trial_key"], *(result.row["trial_key"] for result in found.values())}
    assert len(keys) == 4
    states = {
        parts: quantizers.read(bench.folder / f"{result.row['trial_key']}.safetensors").quantizer.state()
        for parts, result in {(): plain, **found}.items()
    }
    for parts, state in states.items():
        assert torch.equal(state["codes"], states[()]["codes"])
        assert all(torch.equal(state[name], states[()][name]) for name in state) == ("codebooks" not in parts)
    for parts, result in found.items():
        assert accuracy(result)[0] >= accuracy(plain)[0], parts
        assert result.row["train_seconds"] > 0
        assert json.loads(result.row["retrain"])["parts"] == list(parts)
    assert accuracy(found["codebooks", "network"])[0] > accuracy(plain)[0]


@pytest.mark.thorough
def test_end_to_end_trains_a_new_network_through_the_module(bench: Bench) -> None:
    methods = [{"method": "adacomp", "code_lengths": [[32, 16]]}, {"method": "hashed", "pool_size": 64}]
    methods.append({"method": "dpq", "num_codebooks": 5, "codebook_size": 8})
    found = bench.results(regime="end_to_end", quantizers=methods)
    value, baseline = accuracy(found["identity"])
    assert value == baseline
    for method in ("adacomp", "hashed", "dpq"):
        result = found[method]
        assert result.row["train_seconds"] > 0
        assert accuracy(result)[0] > 0.3, method  # five classes
    shares = [
        [curve[f"share_book_{book}"] for book in (0, 1)] for curve in found["adacomp"].curves if curve["phase"] == "task"
    ]
    assert len(shares) == 6 and all(sum(both) == pytest.approx(1) for both in shares)
    last = quantizers.read(bench.folder / f"{found['adacomp'].row['trial_key']}.safetensors").quantizer.books()
    assert torch.bincount(last, minlength=2)[0] / len(last) in [pytest.approx(both[0]) for both in shares]


def test_fisher_weights_are_those_of_the_seeds_baseline(bench: Bench) -> None:
    prepared = bench.prepared(regime="finetuned", weights="fisher")
    spec = next(spec for spec in prepared.plan.trials if spec.method == "rq")
    weighted = bench.run(prepared, spec)
    assert weighted.row["weights"] == "fisher" and weighted.row["weighted_mse"] is not None
    plain = bench.results(name="plain", regime="finetuned")["rq"]
    assert plain.row["trial_key"] != spec.key and plain.row["weighted_mse"] is None
    assert weighted.row["mse"] >= plain.row["mse"] * 0.999
    assert bench.made.count("baselines") == 2  # the task's and reconstruction's, shared by both sweeps
    assert dataclasses.replace(spec, retrain={"epochs": 1}).key != spec.key


def test_the_fisher_metric_keeps_what_the_task_feels(bench: Bench) -> None:
    sizes = list(range(3, 9))
    methods = [{"method": "rq", "num_codebooks": 1, "codebook_size": sizes}, {"method": "scalar", "bits": 4}]
    found = {}
    for metric in ("none", "fisher"):
        prepared = bench.prepared(name=metric, regime="finetuned", quantizers=methods, metric=metric)
        found[metric] = [bench.run(prepared, spec) for spec in prepared.plan.trials if spec.method == "rq"]
        assert [row["quantizer"] for row in prepared.plan.skipped] == (["scalar"] if metric == "fisher" else [])
    assert "not linear" in prepared.plan.skipped[0]["reason"]
    plain, felt = found["none"], found["fisher"]
    assert len(felt) == len(plain) == len(sizes) and {one.row["fit_metric"] for one in felt} == {"fisher"}
    assert [one.row["payload_bytes"] for one in felt] == [one.row["payload_bytes"] for one in plain]
    # Over all sizes: of one, chance decides as much as the metric, with 40 sentences.
    assert sum(one.row["mse"] for one in felt) > sum(one.row["mse"] for one in plain)
    assert sum(accuracy(one)[0] for one in felt) > sum(accuracy(one)[0] for one in plain)


def test_interruption_still_scores(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(step: Any) -> None:
        if step.phase == "baseline":
            raise KeyboardInterrupt

    prepared = bench.prepared(regime="finetuned")
    tasks = [make_task(entry, bench.corpora) for entry in prepared.task_entries]
    trained = next(task for task in tasks if task.name == "sentiment")
    baseline = trained.baseline(prepared.table, seed=0, finetune=True, report=interrupt)
    assert int(baseline.arrays["epochs"]) == 1 and 0 <= baseline.scores["accuracy"].value <= 1


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"regime": "finetuned", "tasks": ["reconstruction"]}, "regime: finetuned needs exactly one task that trains.*none"),
        ({"regime": "end_to_end", "tasks": [TASK, "chunking"]}, "exactly one task.*sentiment, chunking"),
        ({"weights": "fisher", "tasks": ["polarity"]}, "weights: fisher needs exactly one task"),
        ({"vocabulary": "task", "tasks": ["polarity"]}, "vocabulary: task needs exactly one task"),
        ({"retrain": {}}, "retrain.*regime: finetuned"),
        ({"regime": "finetuned", "vocabulary": "table"}, "vocabulary cannot be table"),
        ({"regime": "finetuned", "retrain": {"parts": ["codes"]}}, "retrain.parts"),
        ({"regime": "end-to-end"}, "regime.*end_to_end"),
    ],
)
def test_mistakes(bench: Bench, keys: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        bench.prepared(**keys)
