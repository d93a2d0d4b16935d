"""Trainings with a task, and whole trials, that are lost and go on: the same to the bit, and no faster by the clock."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import quantizers
from quantizers import Table
from quantizers.base import generator
from quantizers.fitting.checkpoint import Stopwatch, saved_by
from sweeps.record.checkpoints import Checkpoints, delete_all
from sweeps.record.ledger import Ledger
from sweeps.spec.config import build
from sweeps.spec.prepare import prepare
from sweeps.storage import Folder
from trainables import trial
from trainables.networks.batches import encode
from trainables.networks.scoring import predict
from trainables.networks.sequence import SequenceNetwork
from trainables.networks.training import train
from trainables.registry import make_task

SETTINGS = SimpleNamespace(
    epochs=3, patience=9, batch_size=8, learning_rate=0.01, decay=0.9, average=0.9, clip_norm=5.0, precision="float32"
)
TABLE = Table(torch.randn(20, 6, generator=generator(5)))
METHODS = {
    "adacomp": {"code_lengths": (8, 4)},
    "dccl": {"num_codebooks": 3, "codebook_size": 4},
    "dpq": {"num_codebooks": 2, "codebook_size": 8},
    "rq": {"num_codebooks": 2, "codebook_size": 8},
}


def embedding_of(method: str) -> nn.Module:
    if method in METHODS:
        return quantizers.create(method, **METHODS[method]).fit(TABLE).training_module(TABLE, seed=3)
    return nn.Embedding(20, 6, _weight=TABLE.vectors.clone(), _freeze=method == "held")


def run_training(embedding: nn.Module, saver: Any, **options: Any) -> tuple[Any, list[Any], list[torch.Tensor]]:
    """What came of it, its reports, and all weights."""
    random = np.random.default_rng(1)
    texts = [[str(word) for word in random.integers(0, 20, random.integers(1, 9))] for _ in range(40)]
    data = encode(texts, [int(text[0]) % 3 for text in texts], int, 100)
    network = SequenceNetwork(6, 5, 2, 3, dropout=0.3, bidirectional=False, per_token=False, generator=generator(0))
    reports: list[Any] = []

    def measure() -> float:
        return sum(int((classes == batch.targets).sum()) for batch, classes in predict(embedding, network, data)) / len(data)

    with saved_by(saver):
        done = train(
            {"input": embedding},
            network,
            network.epoch(data, SETTINGS.batch_size),
            measure,
            SETTINGS,
            seed=1,
            report=reports.append,
            phase="task",
            **options,
        )
    return done, reports, [*embedding.state_dict().values(), *network.state_dict().values()]


@pytest.mark.thorough
@pytest.mark.parametrize(
    "method",
    ["trained", "held", *(pytest.param(name, marks=pytest.mark.slow) if name == "adacomp" else name for name in METHODS)],
)
def test_a_lost_training_goes_on_where_it_was(method: str, saver: Any) -> None:
    watched = saver()
    expected, reports, weights = run_training(embedding_of(method), watched)
    assert watched.saves == 15
    watched.delete()
    for lost_after in (1, 5, 8, 14):  # in an epoch, and when all its steps are done
        with pytest.raises(saver.Lost):
            run_training(embedding_of(method), saver(lost_after))
        before = torch.get_rng_state()
        again = saver()
        done, rest, resumed = run_training(embedding_of(method), again)
        assert again.saves == 15 - lost_after
        assert done == expected
        assert rest == reports[-len(rest) :]
        assert all(torch.equal(one, other) for one, other in zip(weights, resumed, strict=True))
        assert torch.equal(torch.get_rng_state(), before)
        again.delete()


def test_a_lost_retraining_of_codebooks(saver: Any) -> None:
    options = {"keep_start": True, "train_network": False, "epochs": 2}
    watched = saver()
    expected, _, weights = run_training(embedding_of("rq"), watched, **options)
    watched.delete()
    with pytest.raises(saver.Lost):
        run_training(embedding_of("rq"), saver(7), **options)
    done, _, resumed = run_training(embedding_of("rq"), saver(), **options)
    assert done == expected
    assert all(torch.equal(one, other) for one, other in zip(weights, resumed, strict=True))


@pytest.mark.thorough
def test_a_trial_that_is_lost_again_and_again(saver: Any, corpora: Path, tmp_path: Path) -> None:
    """Baseline, fit and training of one trial: each is lost once, and the row says what all of it took."""
    task = {"task": "sentiment", "hidden_size": 8, "epochs": 2, "batch_size": 8}
    method = {"method": "dpq", "num_codebooks": 2, "codebook_size": 4, "epochs": 8}
    config = build(
        {"name": "lost", "table": "builtin:glove-10k-50d", "tasks": [task], "quantizers": [method], "regime": "end_to_end"}
    )
    prepared = prepare(config, corpora)
    (spec,) = [spec for spec in prepared.plan.trials if spec.method == "dpq"]
    tasks = [make_task(entry, corpora) for entry in prepared.task_entries]

    def attempt(kept: Any, ledger: str) -> Any:
        trial._BASELINES.clear()
        with saved_by(kept):
            return trial.run(
                spec,
                prepared.table,
                tasks,
                weights=None,
                artifact_path=lambda role: tmp_path / "artifact",
                once=Ledger(tmp_path / ledger).once,
                device=torch.device("cpu"),
                report=lambda step: None,
            )

    def there() -> list[str]:
        return sorted(path.name.rsplit(".", 1)[1] for path in (tmp_path / "checkpoints").iterdir())

    watched = saver()
    expected = attempt(watched, "one")
    assert there() == ["baseline", "dpq", "task"]
    watched.delete()
    assert there() == []
    for saves, names in ((40, ["baseline"]), (24, ["baseline", "dpq"]), (30, ["baseline", "dpq", "task"])):
        with pytest.raises(saver.Lost):
            attempt(saver(saves), "other")
        assert there() == names
    before = {name: saver().load(name)["seconds"] for name in ("input.dpq", "task")}
    result = attempt(saver(), "other")
    assert result.scores == expected.scores
    assert result.row["artifact_digest"] == expected.row["artifact_digest"]
    shown = [[(point["phase"], point["fraction"], point["value"]) for point in one.curves] for one in (expected, result)]
    assert shown[0] == shown[1]
    assert result.row["fit_seconds"] > before["input.dpq"] > 0
    assert result.row["train_seconds"] > before["task"] > 0
    assert result.seconds > result.row["fit_seconds"] + result.row["train_seconds"]


def test_seconds_before_the_loss_count(saver: Any) -> None:
    kept = saver()
    with saved_by(kept):
        watch = Stopwatch()
        kept.carried_seconds += 100.0
        assert 100 < watch.seconds() < 101
        assert Stopwatch().seconds() < 1
    assert Stopwatch().seconds() < 1


def test_when_it_is_time_to_save(tmp_path: Path) -> None:
    kept = Checkpoints(Folder(str(tmp_path)), "trial", seconds=1000.0)
    assert not kept.due()
    kept.seconds = 0.01
    kept.saved(took_seconds=0.0)
    time.sleep(0.02)
    assert kept.due()
    kept.saved(took_seconds=100.0)  # on a slow storage
    time.sleep(0.02)
    assert not kept.due()


def test_what_cannot_be_written_fails_nothing_and_what_is_left_is_deleted(tmp_path: Path) -> None:
    files = Folder(str(tmp_path))
    (tmp_path / "checkpoints").write_text("a file where the folder would be")
    blocked = Checkpoints(files, "trial", seconds=0.0)
    blocked.save("fit", {"x": 1})
    assert blocked.load("fit") is None
    (tmp_path / "checkpoints").unlink()
    Checkpoints(files, "trial", seconds=0.0).save("fit", {"x": torch.ones(2)})
    assert torch.equal(Checkpoints(files, "trial").load("fit")["x"], torch.ones(2))  # type: ignore[index]
    assert Checkpoints(files, "other").load("fit") is None
    delete_all(files)
    assert files.names("checkpoints") == []
