"""The task that translates: its tables, its baseline, its regimes and its command, on a corpus of a few words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import quantizers
from quantizers import InputError, Table
from quantizers.fitting.checkpoint import saved_by
from sweeps.commands import application
from sweeps.record.ledger import Ledger
from sweeps.spec.config import build
from sweeps.spec.prepare import prepare
from trainables import trial
from trainables.provenance import covered
from trainables.registry import make_task
from trainables.task import Metric

pytestmark = pytest.mark.thorough  # trains

SMALL = {"hidden_size": 16, "embedding_dim": 12, "inner_size": 16, "heads": 2, "num_layers": 1, "dropout": 0.0, "beam": 2}
QUICK = {**SMALL, "epochs": 1, "batch_size": 16, "learning_rate": 0.01, "warm_up": 5, "average": 0.9, "longest_text": 8}
SOURCE = ["the", "was", ".", "man", "woman", "dog", "good", "bad", "zzqx"]


def task(corpora: Path, **settings: Any) -> Any:
    return make_task({"task": "translation", **QUICK, **settings}, corpora)


def test_its_own_tables(corpora: Path) -> None:
    made = task(corpora)
    table = made.own_table()
    assert made.roles == ("source", "target") and set(table.words[:3]) == {"the", "was", "."}
    assert sorted(table.words) == sorted([*SOURCE, "<unk>"]) and table.words[-1] == "<unk>"
    own = made.task_table(table)
    assert own.words == list(table.words) and torch.equal(own.vectors, table.vectors)
    assert float(own.counts[own.words.index("the")]) == 240 and float(own.counts[-1]) == 0
    assert torch.equal(table.vectors, made.own_table().vectors)
    assert 0.7 < float(table.vectors.norm(dim=1).mean()) < 1.3
    found = made.vocabulary(own)
    assert found.target[:3] == ("<unk>", "<s>", "</s>") and set(found.target[3:6]) == {"war", "der", "."}
    assert made.role_shapes(own) == {"source": (10, 12), "target": (len(found.target), 12)}
    words = [found.target[row] for row in found.pairs["test"].target.ids[:5]]
    assert tuple(words) == made.corpus.read(corpora).test.translations[0]
    assert found.oov_words == 0


def test_a_table_that_is_given_is_the_source_languages(corpora: Path) -> None:
    made = task(corpora, min_count=1)
    table = Table(torch.arange(8.0).reshape(4, 2), ["berlin", "was", "the", "dog"])
    found = made.vocabulary(table)
    assert found.rows.tolist() == [1, 2, 3] and found.unknown == 3 and found.oov_words == 6
    own = made.task_table(table)
    assert own.words == ["was", "the", "dog", "<unk>"]
    torch.testing.assert_close(own.vectors[-1], table.vectors[1:].mean(dim=0))
    assert float(own.counts[-1]) == 240 * 5 - sum(float(own.counts[row]) for row in range(3))
    assert made.vocabulary(own).rows.tolist() == [0, 1, 2, 3]
    assert "no words" in made.check(Table(torch.ones(3, 2))).reason
    assert "no word of its texts" in made.check(Table(torch.ones(1, 2), ["berlin"])).reason


def test_settings_signature_and_code(corpora: Path) -> None:
    with pytest.raises(InputError, match="hidden_size is 16: expected a multiple of the 3 heads"):
        task(corpora, heads=3)
    with pytest.raises(InputError, match="none was given: pass --data DIR"):
        make_task("translation").identity()
    made = task(corpora)
    assert len(made.identity()["data"]) == 6
    assert "case:lc|eff:no|tok:13a|smooth:exp|version:" in made.identity()["signature"]
    (metric,) = made.measured()
    assert isinstance(metric, Metric) and made.identity()["signature"] in metric.description
    other = make_task({"task": "translation", "dataset": "iwslt14"}, corpora)
    assert other.label == "translation_iwslt14" and "tok:none" in other.signature
    modules = set(covered(made.code_modules()))
    assert {"trainables.corpora.parallel", "trainables.networks.translation.search"} < modules
    assert not {"trainables.corpora.sst", "trainables.networks.sequence"} & modules


@pytest.mark.thorough
@pytest.mark.parametrize("tied", [True, False])
def test_a_baseline_learns_to_translate(tied: bool, corpora: Path) -> None:
    made = task(corpora, epochs=8, patience=8, batch_size=8, tied=tied)
    table = made.own_table()
    baseline = made.baseline(table, seed=0, finetune=True)
    assert 90 < baseline.scores["bleu"].value <= 100 and baseline.scores["bleu"].num_examples == 40
    rows = {"source": torch.tensor(baseline.arrays["table"]), "target": torch.tensor(baseline.arrays["table.target"])}
    assert not torch.equal(rows["source"], table.vectors)
    network, found = made.trained_network(baseline), made.vocabulary(table)
    assert made.test(rows, network, found) == baseline.scores
    worse = made.test({**rows, "target": torch.zeros_like(rows["target"])}, network, found)["bleu"].value
    assert worse < (50 if tied else 95)
    assert made.evaluate(Table(torch.zeros_like(rows["source"]), table.words), baseline)["bleu"].value < 50
    weights, metric = made.fisher_weights(table, baseline), made.fisher_metric(baseline)
    assert {role: len(one) for role, one in weights.items()} == {role: len(one) for role, one in rows.items()}
    assert all(float(one.min()) > 0 for one in weights.values())
    assert {role: one.shape for role, one in metric.items()} == {role: (12, 12) for role in rows}


class Bench:
    """Runs the trials of a sweep as a worker does."""

    def __init__(self, folder: Path, corpora: Path) -> None:
        self.folder, self.corpora = folder, corpora
        self.once = Ledger(folder / "ledger").once

    def results(self, **keys: Any) -> dict[str, trial.TrialResult]:
        table = {
            "name": "t",
            "table": "task",
            "output": str(self.folder / "runs"),
            "tasks": [{"task": "translation", **QUICK}],
        }
        method = {"method": "rq", "num_codebooks": 2, "codebook_size": 4}
        prepared = prepare(build({**table, "quantizers": [method], **keys}), self.corpora)
        found = {}
        for spec in prepared.plan.trials:
            trial._BASELINES.clear()  # as in another process
            found[spec.method] = trial.run(
                spec,
                prepared.table,
                [make_task(entry, self.corpora) for entry in prepared.task_entries],
                weights=None,
                artifact_path=lambda role, key=spec.key: self.folder / f"{key}{f'.{role}' if role else ''}.safetensors",
                once=self.once,
                device=torch.device("cpu"),
                report=lambda step: None,
            )
        return found


def bleu(result: trial.TrialResult) -> tuple[float, float]:
    (score,) = [score for score in result.scores if score["metric"] == "bleu"]
    assert score["direction"] == "max" and score["num_examples"] == 40
    return score["value"], score["baseline"]


@pytest.mark.thorough
@pytest.mark.parametrize(
    "keys",
    [
        {"regime": "finetuned", "metric": "fisher", "weights": "fisher", "retrain": {"epochs": 1}},
        {"regime": "end_to_end"},
    ],
    ids=["finetuned", "end_to_end"],
)
def test_both_tables_are_compressed(keys: dict[str, Any], tmp_path: Path, corpora: Path) -> None:
    bench = Bench(tmp_path / "bench", corpora)
    found = bench.results(**keys)
    value, baseline = bleu(found["identity"])
    assert value == baseline == bleu(found["rq"])[1] and 0 <= bleu(found["rq"])[0] <= 100
    row = found["rq"].row
    roles = json.loads(row["roles"])
    assert list(roles) == ["source", "target"] and row["status"] == "ok"
    assert row["payload_bytes"] == sum(part["payload_bytes"] for part in roles.values())
    words = {}
    for role, end in (("source", ""), ("target", ".target")):
        module = quantizers.load(bench.folder / f"{row['trial_key']}{end}.safetensors")
        words[role] = list(module.words or ())
        assert module.payload_bytes == roles[role]["payload_bytes"] and len(words[role]) == module.num_embeddings
    assert words["source"][-1] == "<unk>" and words["target"][:3] == ["<unk>", "<s>", "</s>"]


@pytest.mark.thorough
def test_pretrained_compresses_the_source_table_alone(tmp_path: Path, corpora: Path) -> None:
    method = {"method": "rq", "num_codebooks": 2, "codebook_size": 16}
    found = Bench(tmp_path / "bench", corpora).results(table="builtin:glove-10k-50d", quantizers=[method])
    assert bleu(found["identity"])[0] == bleu(found["identity"])[1] == bleu(found["rq"])[1]
    assert found["rq"].row["num_embeddings"] == 10_000


def test_a_training_goes_on_where_it_was_lost(corpora: Path, saver: Any) -> None:
    made = task(corpora, dropout=0.1, train_texts=64)
    table = made.own_table()
    whole = made.baseline(table, seed=0, finetune=True)
    with pytest.raises(saver.Lost), saved_by(saver(lost_after=2)):
        made.baseline(table, seed=0, finetune=True)
    with saved_by(saver()):
        resumed = made.baseline(table, seed=0, finetune=True)
    assert resumed.scores == whole.scores
    assert all(np.array_equal(resumed.arrays[key], whole.arrays[key]) for key in whole.arrays if key != "seconds")


def test_the_command_trains_and_scores_again(corpora: Path, tmp_path: Path) -> None:
    sets = [option for key, value in QUICK.items() for option in ("--set", f"{key}={value}")]

    def run(*words: str | Path) -> str:
        result = CliRunner().invoke(application(), ["train", "translation", "--data", str(corpora), *map(str, words)])
        assert result.exit_code == 0, result.output
        return result.output

    said = run(*sets, "-o", tmp_path / "trained")
    again = run("--evaluate", tmp_path / "trained", "-o", tmp_path / "again")
    line = next(line for line in said.splitlines() if line.startswith("translation.bleu: "))
    assert line in again.splitlines() and "40 examples" in line
    kept = json.loads((tmp_path / "again" / "scores.json").read_text())["scores"]["bleu"]
    assert task(corpora).signature in kept["description"] and kept["description"] in said
