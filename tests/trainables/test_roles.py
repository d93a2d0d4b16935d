"""Trials that compress several tables, with a task whose network reads two: rows of one, and classes of the other."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import quantizers
from analysis.layout import artifact_names
from quantizers import InputError, Table
from quantizers.base import generator
from sweeps.record.artifacts import fetch_copy
from sweeps.record.ledger import Ledger
from sweeps.spec.config import build
from sweeps.spec.plan import make_plan
from sweeps.storage import open_storage
from trainables import reconstruction, trial
from trainables.leading import Report, silent
from trainables.networks.network_task import NetworkTask, full_table
from trainables.networks.training import Epoch, Trained, TrainedNetwork, train
from trainables.task import Metric, Score, TaskSettings

WORDS, COLUMNS, CLASSES, HIDDEN = 40, 6, 30, 4
SHAPES = {"input": (WORDS, COLUMNS), "output": (CLASSES, HIDDEN)}


@dataclasses.dataclass
class Pairs:
    ids: Tensor
    targets: Tensor

    def to(self, device: torch.device) -> Pairs:
        return self


class Network(TrainedNetwork):
    """The class of a word: its vector, made smaller, times each row of the other table."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(COLUMNS, HIDDEN, generator=generator(3)))

    def logits(self, embeddings: Mapping[str, nn.Module], ids: Tensor) -> Tensor:
        return embeddings["input"](ids) @ self.weight @ embeddings["output"](torch.arange(CLASSES)).T

    def loss(self, embeddings: Mapping[str, nn.Module], batch: Pairs, lower: Any) -> Tensor:
        return functional.cross_entropy(self.logits(embeddings, batch.ids), batch.targets)


class Settings(TaskSettings):
    epochs: int = 40


class TwoTables(NetworkTask):
    name = "two"
    metrics = (Metric("accuracy", "max"),)
    Settings = Settings

    @property
    def roles(self) -> tuple[str, ...]:
        return ("input", "output")

    @property
    def label(self) -> str:
        return self.name

    def data_files(self) -> Sequence[Path]:
        return ()

    def code_modules(self) -> Sequence[str]:
        return (type(self).__module__,)

    def role_shapes(self, table: Table) -> dict[str, tuple[int, int]]:
        return SHAPES

    def own_table(self) -> Table:
        vectors = torch.randn(WORDS, COLUMNS, generator=generator(1))
        return Table(vectors, [f"w{row}" for row in range(WORDS)], name="own")

    def task_table(self, table: Table) -> Table:
        return table

    def vocabulary(self, table: Table) -> Any:
        ids = torch.arange(WORDS)
        return SimpleNamespace(oov_words=2, data=Pairs(ids, ids % CLASSES), rows=ids, take=lambda dense: dense)

    def network(self, embedding_dim: int, seed: int) -> TrainedNetwork:
        return Network()

    def start(
        self, rows: Tensor, vocabulary: Any, seed: int, *, finetune: bool
    ) -> tuple[dict[str, nn.Embedding], TrainedNetwork]:
        tables, network = super().start(rows, vocabulary, seed, finetune=finetune)
        return {**tables, "output": full_table(torch.randn(CLASSES, HIDDEN, generator=generator(2)), trained=True)}, network

    def fit(
        self,
        embeddings: Mapping[str, nn.Module],
        network: Any,
        vocabulary: Any,
        *,
        seed: int,
        report: Report,
        phase: str = "task",
        **options: Any,
    ) -> Trained:
        settings = SimpleNamespace(
            epochs=self.settings.epochs, patience=99, learning_rate=0.03, decay=1.0, average=0.0, clip_norm=5.0
        )
        settings.precision = "float32"

        def dev() -> float:
            return -float(network.loss(embeddings, vocabulary.data, None).detach())

        data = Epoch(lambda order: [vocabulary.data], 1)
        return train(embeddings, network, data, dev, settings, seed=seed, report=report, phase=phase, **options)

    def test(self, rows: Mapping[str, Tensor], network: Any, vocabulary: Any) -> dict[str, Score]:
        full = {role: nn.Embedding.from_pretrained(table) for role, table in rows.items()}
        right = network.logits(full, vocabulary.data.ids).argmax(dim=1) == vocabulary.data.targets
        return {"accuracy": Score(float(right.float().mean()), WORDS)}


TASK = TwoTables(Settings())


def planned(*entries: Any, **keys: Any) -> Any:
    table = TASK.own_table()
    config = build({"name": "two", "table": "task", "regime": "finetuned", "quantizers": list(entries), **keys})
    stats = quantizers.TableStats.of(table)
    others = {"output": quantizers.TableStats.unseen(CLASSES, HIDDEN)}
    options: dict[str, Any] = {"table_digest": table.digest, "weights_digest": "", "task_keys": ["two"], "lead": 0}
    return make_plan(config, stats, **options, task_scope="two", trained=True, others=others)


def ran(folder: Path, *entries: Any, **keys: Any) -> list[trial.TrialResult]:
    trial._BASELINES.clear()
    ledger = Ledger(folder / "ledger")

    def where(key: str) -> Any:
        return lambda role: folder / "artifacts" / f"{key}{f'.{role}' if role else ''}.safetensors"

    return [
        trial.run(
            spec,
            TASK.own_table(),
            [TASK],
            weights=None,
            artifact_path=where(spec.key),
            once=ledger.once,
            device=torch.device("cpu"),
            report=silent,
        )
        for spec in planned(*entries, **keys).trials
    ]


def test_sizes_are_the_sum_of_both_files(tmp_path: Path) -> None:
    identity, result = ran(tmp_path, {"method": "scalar", "bits": 8})
    files = [quantizers.read(tmp_path / name) for name in artifact_names(result.row)]
    assert [file.quantizer.shape for file in files] == list(SHAPES.values())
    for name in ("payload_bytes", "file_bytes"):
        whole = sum(file.file_bytes if name == "file_bytes" else file.storage.payload_bytes for file in files)
        assert result.row[name] == whole
    assert result.row["predicted_payload_bytes"] == result.row["payload_bytes"]
    dense = 4 * (WORDS * COLUMNS + CLASSES * HIDDEN)
    assert result.row["dense_bytes"] == identity.row["payload_bytes"] == dense
    assert result.row["compression_ratio"] == dense / result.row["payload_bytes"]
    parts = json.loads(result.row["roles"])
    assert {role: (one["num_embeddings"], one["embedding_dim"]) for role, one in parts.items()} == SHAPES
    assert [one["artifact_digest"] for one in parts.values()] == [file.digest for file in files]
    assert identity.row["mse"] == 0.0 < result.row["mse"] < 0.01


def test_the_score_is_of_both_tables_as_they_were_read_back(tmp_path: Path) -> None:
    identity, result = ran(tmp_path, {"method": "scalar", "bits": 1})
    (score,) = result.scores
    assert score["role"] == "input+output" and score["baseline"] == identity.scores[0]["value"] > 0.6
    network = TASK.trained_network(
        trial.shared_baseline(TASK, "two", TASK.own_table(), 0, Ledger(tmp_path / "ledger").once, finetune=True)
    )
    rows = [quantizers.read(tmp_path / name).quantizer.to_dense() for name in artifact_names(result.row)]
    expected = TASK.test(dict(zip(SHAPES, rows, strict=True)), network, TASK.vocabulary(TASK.own_table()))
    assert score["value"] == expected["accuracy"].value


def test_retraining_moves_the_codebooks_of_both_tables(tmp_path: Path) -> None:
    method = {"method": "rq", "num_codebooks": 2, "codebook_size": 8}
    pair = [ran(tmp_path, method, **keys)[1] for keys in ({}, {"retrain": {"epochs": 20}})]
    for names in zip(*(artifact_names(result.row) for result in pair), strict=True):
        before, after = (quantizers.read(tmp_path / name).quantizer.state() for name in names)
        assert torch.equal(before["codes"], after["codes"]) and not torch.equal(before["codebooks"], after["codebooks"])
    assert pair[1].scores[0]["value"] >= pair[0].scores[0]["value"]


def test_a_network_is_trained_through_both_tables(tmp_path: Path) -> None:
    result = ran(tmp_path, {"method": "rq", "num_codebooks": 2, "codebook_size": 8}, regime="end_to_end")[1]
    assert {"input: books", "output: books", "task"} <= {curve["phase"] for curve in result.curves}
    assert result.scores[0]["value"] > 3 / CLASSES


def test_a_role_has_parameters_of_its_own() -> None:
    own = {"method": "rq", "num_codebooks": 2, "codebook_size": 8, "roles": {"output": {"num_codebooks": 1}}}
    plan = planned(own, {**own, "roles": {}})
    configs = [(spec.config["num_codebooks"], spec.config_of("output")["num_codebooks"]) for spec in plan.trials[1:]]
    assert configs == [(2, 1), (2, 2)] and len({spec.key for spec in plan.trials}) == 3
    assert json.loads(plan.trials[1].config_json)["roles"]["output"]["num_codebooks"] == 1


def test_a_budget_is_shared_in_proportion_to_the_tables() -> None:
    plan = planned("scalar", budgets={"compression_ratio": [4]})
    (spec,) = plan.trials[1:]
    assert spec.budget_bytes == (4 * (WORDS * COLUMNS + CLASSES * HIDDEN)) // 4
    for role, shape in SHAPES.items():
        config = quantizers.make_config("scalar", spec.config_of(role))
        share = trial.share_of(spec.budget_bytes, role, {name: 4 * n * d for name, (n, d) in SHAPES.items()})
        assert quantizers.get("scalar").storage(config, shape).payload_bytes <= share


def test_a_role_that_is_not_there_is_refused() -> None:
    with pytest.raises(InputError, match="no further table has the role 'softmax'.*Known: output"):
        planned({"method": "rq", "num_codebooks": 2, "codebook_size": 8, "roles": {"softmax": {"num_codebooks": 1}}})


def test_another_run_takes_over_both_files(tmp_path: Path) -> None:
    result = ran(tmp_path / "first", {"method": "scalar", "bits": 8})[1]
    result.artifact = str(tmp_path / "first" / "artifacts" / f"{result.row['trial_key']}.safetensors")
    config = build(
        {"name": "second", "table": "task", "regime": "finetuned", "quantizers": ["scalar"], "output": str(tmp_path)}
    )
    assert fetch_copy(result, result.row["trial_key"], config)
    here = open_storage(config.run_location)
    assert all(here.exists(name) for name in artifact_names(result.row))
    (tmp_path / "second" / artifact_names(result.row)[1]).unlink()
    assert not fetch_copy(result, result.row["trial_key"], build({**config.model_dump(), "name": "third"}))


def test_errors_of_tables_together_are_those_of_all_values() -> None:
    tables = [Table(torch.randn(shape, generator=generator(seed))) for seed, shape in enumerate(SHAPES.values())]
    rebuilt = [table.vectors + 0.1 * torch.randn(table.shape, generator=generator(9)) for table in tables]
    measured = [reconstruction.measure(*pair) for pair in zip(tables, rebuilt, strict=True)]
    found = reconstruction.together([table.shape for table in tables], measured)
    errors = torch.cat([(table.vectors - one).flatten().double() for table, one in zip(tables, rebuilt, strict=True)])
    values = torch.cat([table.vectors.flatten().double() for table in tables])
    spread = sum(float((table.vectors.double() - table.vectors.double().mean(0)).square().sum()) for table in tables)
    assert found["mse"] == pytest.approx(float(errors.square().mean()))
    assert found["half_mse"] == pytest.approx(float(errors.square().sum()) / (2 * (WORDS + CLASSES)))
    assert found["nmse"] == pytest.approx(float(errors.square().sum()) / spread)
    assert found["sqnr_db"] == pytest.approx(10 * float(torch.log10(values.square().sum() / errors.square().sum())))
    assert found["max_abs_error"] == pytest.approx(float(errors.abs().max()))
