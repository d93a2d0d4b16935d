"""``frontier train``: a network on a table, scored again with a compressed file."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

import quantizers
from quantizers import FitStep
from sweeps.commands import application, train
from trainables.networks.network_task import NetworkTask
from trainables.tables.formats import read_table

QUICK = ["hidden_size=8", "epochs=2", "batch_size=16", "learning_rate=0.01"]


def frontier(*arguments: str | Path) -> Result:
    return CliRunner().invoke(application(), ["train", *map(str, arguments)])


def scores(folder: Path, metric: str = "accuracy") -> float:
    return float(json.loads((folder / "scores.json").read_text())["scores"][metric]["value"])


def test_train_then_evaluate_a_compressed_file(corpora: Path, tmp_path: Path) -> None:
    trained, again, small = tmp_path / "trained", tmp_path / "again", tmp_path / "small"
    (tmp_path / "settings.yaml").write_text("epochs: 50\nhidden_size: 8\n")
    sets = [option for one in QUICK[1:] for option in ("--set", one)]
    table = "builtin:glove-10k-50d"
    settings = ("--config", tmp_path / "settings.yaml", *sets)
    result = frontier("sentiment", "--embedding", table, "--data", corpora, *settings, "-o", trained)
    assert result.exit_code == 0, result.output
    assert result.output.count("development") == 2  # --set is on top of --config
    result = frontier("sentiment", "--evaluate", trained, "--embedding", table, "--data", corpora, "-o", again)
    assert result.exit_code == 0, result.output
    assert scores(again) == scores(trained)
    assert f"sentiment.accuracy: {scores(again):.4f} (40 examples" in result.output
    file = tmp_path / "rq.safetensors"
    quantizers.create("rq", num_codebooks=1, codebook_size=2).fit(read_table(table)).save(file)
    result = frontier("sentiment", "--evaluate", trained, "--embedding", file, "--data", corpora, "-o", small)
    assert result.exit_code == 0, result.output
    assert 0 <= scores(small) <= 1


def test_a_language_model_needs_no_table(corpora: Path, tmp_path: Path) -> None:
    (tmp_path / "lm.yaml").write_text("embedding_dim: 6\nnum_layers: 1\nbatch_size: 4\nlog_interval: 10\n")
    sets = ("--set", "epochs=1", "--set", "hidden_size=6")
    result = frontier("language_model", "--config", tmp_path / "lm.yaml", *sets, "--data", corpora, "-o", tmp_path / "lm")
    assert result.exit_code == 0, result.output
    assert result.output.count("loss") > result.output.count("development") == 1
    result = frontier("language_model", "--evaluate", tmp_path / "lm", "--data", corpora, "-o", tmp_path / "again")
    assert result.exit_code == 0, result.output
    assert scores(tmp_path / "again", "perplexity") == scores(tmp_path / "lm", "perplexity") > 1


def test_mistakes_end_in_one_line_and_leave_nothing(corpora: Path, tmp_path: Path) -> None:
    out, file = tmp_path / "out", tmp_path / "rq.safetensors"
    quantizers.create("rq", num_codebooks=1, codebook_size=2).fit(read_table("builtin:glove-10k-50d")).save(file)
    table = ("--embedding", "builtin:glove-10k-50d", "--data", corpora, "-o", out)
    for arguments, message in (
        (("sentimen", *table), "Did you mean 'sentiment'"),
        (("polarity", *table), "task that trains a network"),
        (("sentiment", *table, "--set", "hiden_size=3"), "hidden_size"),
        (("sentiment", *table, "--evaluate", tmp_path), "expected a folder that frontier train wrote"),
        (("sentiment", *table, "--config", tmp_path / "no.yaml"), "cannot be read"),
        (("sentiment", "--embedding", file, "--data", corpora, "-o", out, "--finetune"), "a sweep with 'retrain'"),
        (("sentiment", "--embedding", "builtin:synthetic-20x4", "--data", corpora, "-o", out), "has no word of its texts"),
    ):
        result = frontier(*arguments)
        assert result.exit_code == 2, (arguments, result.output)
        assert message in " ".join(result.output.split()), result.output
        assert not out.exists()


@pytest.mark.parametrize("option", ["--help", "-h"])
def test_help_has_examples(option: str) -> None:
    result = frontier(option)
    assert result.exit_code == 0 and "Examples" in result.output


def test_a_training_that_is_cut_short_says_so(corpora: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sweeps.commands.train._LINE_SECONDS", 0.05)
    honest = train._Progress.report

    def report(self: train._Progress, step: FitStep) -> None:
        honest(self, step)
        if step.fraction == 0.5:
            time.sleep(0.3)
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(train._Progress, "report", report)
    sets = [option for one in ["epochs=4", *QUICK[:1], *QUICK[2:]] for option in ("--set", one)]
    words = ("--embedding", "builtin:glove-10k-50d", "--data", corpora)
    result = frontier("sentiment", *words, *sets, "-o", tmp_path / "cut")
    assert result.exit_code == 130, result.output
    assert "The training was cut short: Ctrl-C in epoch 2 of 4." in result.output and "2 epochs in" in result.output
    assert "epoch 2 of 4  loss" in result.output and "epoch 3 of 4 goes on" in result.output
    for file in ("scores.json", "task.json"):
        assert json.loads((tmp_path / "cut" / file).read_text())["cut_short"] == "Ctrl-C in epoch 2 of 4"
    again = frontier("sentiment", "--evaluate", tmp_path / "cut", *words, "-o", tmp_path / "again")
    assert again.exit_code == 0 and "The training was cut short" in again.output
    assert json.loads((tmp_path / "again" / "scores.json").read_text())["cut_short"] == "Ctrl-C in epoch 2 of 4"
    assert scores(tmp_path / "again") == scores(tmp_path / "cut")


def test_a_training_that_is_stopped_before_it_began_writes_nothing(
    corpora: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(NetworkTask, "baseline", lambda *about, **options: signal.raise_signal(signal.SIGTERM))
    result = frontier("sentiment", "--embedding", "builtin:glove-10k-50d", "--data", corpora, "-o", tmp_path / "never")
    assert result.exit_code == 143 and "nothing was written" in result.output
    assert not (tmp_path / "never").exists()
