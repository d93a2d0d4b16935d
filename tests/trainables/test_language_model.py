"""Language models: texts in streams, the network against itself read word by word, and trials with two tables."""

from __future__ import annotations

import contextlib
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

import quantizers
from quantizers import InputError, Table
from quantizers.base import generator
from quantizers.fitting.checkpoint import saved_by
from sweeps.record.ledger import Ledger
from sweeps.spec.config import build
from sweeps.spec.prepare import prepare
from trainables import trial
from trainables.corpora import CORPORA
from trainables.networks.language.network import LanguageNetwork
from trainables.networks.language.scoring import log_loss, perplexity, sensitivity
from trainables.networks.language.texts import Streams
from trainables.registry import make_task

pytestmark = pytest.mark.thorough  # trains

WORDS, COLUMNS, UNITS = 9, 6, 5
QUICK = {"task": "language_model", "hidden_size": 8, "embedding_dim": 6, "num_layers": 1, "batch_size": 4, "bptt": 10}
QUICK |= {"epochs": 3, "learning_rate": 0.02, "optimizer": "adam", "clip_norm": 1.0, "average": 0.9, "dropout": 0.1}


def network(*, rnn: str = "lstm", tied: bool = False, dropout: float = 0.0, streams: int = 1) -> LanguageNetwork:
    return LanguageNetwork(
        WORDS, COLUMNS, UNITS, 2, rnn=rnn, tied=tied, dropout=dropout, streams=streams, generator=generator(0)
    )


def tables(*, tied: bool = False) -> dict[str, nn.Embedding]:
    made = {"input": nn.Embedding(WORDS, COLUMNS, _weight=torch.randn(WORDS, COLUMNS, generator=generator(1)))}
    if not tied:
        made["output"] = nn.Embedding(WORDS, UNITS, _weight=torch.randn(WORDS, UNITS, generator=generator(2)))
    return made


def a_text(tokens: int = 40) -> np.ndarray:
    return np.random.default_rng(3).integers(0, WORDS, tokens)


# Texts -------------------------------------------------------------------------------------------------------------


@given(tokens=st.integers(1, 60), count=st.integers(1, 5), length=st.integers(1, 9))
def test_streams_are_the_text_and_what_stood_before(tokens: int, count: int, length: int) -> None:
    text = np.arange(100, 100 + tokens)
    streams = Streams(text, 7, count, length)
    segments = list(streams.segments())
    assert len(segments) == len(streams) or tokens < count
    steps = tokens // count
    assert sum(segment.targets.numel() for segment in segments) == streams.tokens == steps * count
    if steps:
        targets = torch.cat([segment.targets for segment in segments]).T.flatten().tolist()
        assert targets == text[: steps * count].tolist()
        assert torch.cat([segment.ids for segment in segments]).T.flatten().tolist() == [7, *targets[:-1]]
        assert [segment.first for segment in segments] == [True, *[False] * (len(segments) - 1)]


def test_every_line_ends_in_a_word_of_its_own(corpora: Path) -> None:
    task = make_task(QUICK, corpora)
    found = task.vocabulary(task.own_table())
    lines = (corpora / "ptb" / "ptb.test.txt").read_text().splitlines()
    assert len(found.texts["test"]) == sum(len(line.split()) + 1 for line in lines)
    assert (found.texts["test"] == found.end_of_line).sum() == len(lines)
    assert found.oov_words == 0 and torch.equal(found.rows, torch.arange(len(found.words)))
    assert found.counts.tolist() == sorted(found.counts.tolist(), reverse=True)


def test_rare_words_of_wikitext_and_its_layouts(tmp_path: Path) -> None:
    folder = tmp_path / "wikitext2"
    folder.mkdir()
    (folder / "train.txt").write_text(" a a a b b b \n\n once twice twice a \n")
    (folder / "valid.txt").write_text("a once\n")
    (folder / "test.txt").write_text("new b\n\n")
    splits = CORPORA["wikitext2"].read(tmp_path)
    unk, eos = "<unk>", "<eos>"
    assert splits.train.tokens == (("a", "a", "a", "b", "b", "b", eos), (eos,), (unk, unk, unk, "a", eos))
    assert splits.dev.tokens == (("a", unk, eos),) and splits.test.tokens == ((unk, "b", eos), (eos,))
    for split in ("train", "valid", "test"):
        (folder / f"wiki.{split}.tokens").write_text("x x x\n")
    assert CORPORA["wikitext2"].read(tmp_path).train.tokens == (("x", "x", "x", eos),)
    (folder / "wiki.train.tokens").write_text("x\nof <eos> here\n")
    with pytest.raises(InputError, match=r"wiki.train.tokens:2: holds the token <eos>"):
        CORPORA["wikitext2"].read(tmp_path)


def test_a_vocabulary_file(corpora: Path) -> None:
    (corpora / "words.txt").write_text("good\nthe\n")
    task = make_task({**QUICK, "vocabulary": "words.txt"}, corpora)
    found = task.vocabulary(task.own_table())
    assert found.words == ("good", "the", "<eos>", "<unk>")
    assert set(found.texts["train"].tolist()) == {0, 1, 2, 3}
    for content, message in (("good\nthe film\n", ":2: expected one word"), ("good\nthe\ngood\n", "'good' twice")):
        (corpora / "wrong.txt").write_text(content)
        with pytest.raises(InputError, match=message):
            make_task({**QUICK, "vocabulary": "wrong.txt"}, corpora).own_table()


def test_words_without_a_vector_have_rows_of_their_own(corpora: Path) -> None:
    task = make_task(QUICK, corpora)
    table = Table(torch.randn(3, 6, generator=generator(1)), ["the", "good", "elsewhere"])
    own = task.task_table(table)
    assert own.words == task.own_table().words and task.vocabulary(table).oov_words == len(own.words) - 2
    assert torch.equal(own.vectors[own.words.index("good")], table.vectors[1])
    assert len({tuple(row.tolist()) for row in own.vectors}) == len(own.vectors)
    assert torch.equal(task.task_table(own).vectors, own.vectors)


# The network -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rnn", ["tanh", "relu", "lstm", "gru"])
@pytest.mark.parametrize("tied", [False, True])
def test_a_text_costs_the_same_whatever_segments_it_is_read_in(rnn: str, tied: bool) -> None:
    net, given_tables, text = network(rnn=rnn, tied=tied), tables(tied=tied), a_text()
    whole = log_loss(given_tables, net, Streams(text, 0, 1, 100))
    for length in (1, 7):
        assert log_loss(given_tables, net, Streams(text, 0, 1, length)) == pytest.approx(whole, rel=1e-6)
    # Word by word, through torch's own layers.
    states: list[Any] = [None, None]
    table = given_tables["input" if tied else "output"]
    total = 0.0
    for before, word in zip([0, *text[:-1]], text, strict=True):
        hidden = given_tables["input"](torch.tensor([[before]]))
        for index, layer in enumerate(net.layers):
            hidden, states[index] = layer(hidden, states[index])
        logits = (table.weight @ hidden[0, 0] + net.bias).detach()
        total += math.log(float(logits.exp().sum())) - float(logits[word])
    assert whole == pytest.approx(total / len(text), rel=1e-5)


def test_perplexity_of_knowing_nothing_is_the_number_of_words() -> None:
    given_tables = {**tables(), "output": nn.Embedding(WORDS, UNITS, _weight=torch.zeros(WORDS, UNITS))}
    assert perplexity(log_loss(given_tables, network(), Streams(a_text(), 0, 1, 8))) == pytest.approx(WORDS)
    assert math.isfinite(perplexity(math.inf)) and perplexity(math.nan) == perplexity(1e9)


def test_training_carries_the_state_and_forgets_it_at_the_start() -> None:
    net, given_tables = network(streams=2), tables()
    nothing = contextlib.nullcontext()
    segments = list(Streams(a_text(), 0, 2, 10).segments())
    first, second = (net.loss(given_tables, segment, nothing) for segment in segments)
    whole, _ = net.losses(given_tables, next(Streams(a_text(), 0, 2, 20).segments()), net.start(2))
    torch.testing.assert_close((first + second) / 2, whole.mean())
    torch.testing.assert_close(net.loss(given_tables, segments[0], nothing), first)


@pytest.mark.parametrize("method", ["pq", "lowrank"])
def test_compressed_tables_cost_what_their_expansions_do(method: str) -> None:
    config = {"pq": {"num_codebooks": 1, "codebook_size": 4}, "lowrank": {"rank": 2}}[method]
    net, full = network(), tables()
    small = {role: quantizers.create(method, **config).fit(Table(own.weight.detach())) for role, own in full.items()}
    modules = {role: quantizer.training_module(Table(full[role].weight.detach())) for role, quantizer in small.items()}
    segment = next(Streams(a_text(), 0, 1, 20).segments())
    loss = net.loss(modules, segment, contextlib.nullcontext())
    expanded = {role: nn.Embedding.from_pretrained(quantizer.to_dense()) for role, quantizer in small.items()}
    torch.testing.assert_close(loss, net.loss(expanded, segment, contextlib.nullcontext()), rtol=1e-5, atol=1e-5)
    loss.backward()
    assert all(float(one.grad.norm()) > 0 for module in modules.values() for one in module.parameters())


@pytest.mark.parametrize("tied", [False, True])
def test_sensitivity_is_squared_gradients(tied: bool) -> None:
    net, full = network(tied=tied).eval(), tables(tied=tied)
    rows = {role: own.weight.detach() for role, own in full.items()}
    streams = Streams(a_text(12), 0, 1, 12)
    found = sensitivity(rows, net, streams)
    (segment,) = streams.segments()
    vectors = rows["input"][segment.ids].requires_grad_()
    hidden, _ = net.read(vectors, net.start(1))
    output = rows["input" if tied else "output"]
    logits = functional.linear(hidden[:, 0], output, net.bias)
    (gradient,) = torch.autograd.grad(functional.cross_entropy(logits, segment.targets[:, 0], reduction="sum"), vectors)
    of_input = torch.zeros(WORDS).index_add_(0, segment.ids[:, 0], gradient[:, 0].square().sum(dim=1))
    moment = gradient[:, 0].T @ gradient[:, 0]
    felt = torch.zeros(WORDS)
    second = torch.zeros(output.shape[1], output.shape[1])
    for place in range(12):  # every place's loss has a gradient to every row of the output table
        table = output.clone().requires_grad_()
        one = functional.cross_entropy(functional.linear(hidden[place].detach(), table, net.bias), segment.targets[place])
        (own,) = torch.autograd.grad(one, table)
        felt += own.square().sum(dim=1)
        second += own.T @ own
    expected = {"input": (of_input + felt, moment + second)} if tied else {}
    expected = expected or {"input": (of_input, moment), "output": (felt, second)}
    for role, pair in expected.items():
        for ours, theirs in zip(found[role], pair, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


# The task ----------------------------------------------------------------------------------------------------------


@pytest.mark.thorough
def test_roles_and_shapes(corpora: Path) -> None:
    for settings, shapes in (
        ({}, {"input": 6, "output": 8}),
        ({"compress": "input"}, {"input": 6}),
        ({"compress": "output", "embedding_dim": 8}, {"output": 8}),
        ({"tied": True}, {"input": 6}),
    ):
        task = make_task({**QUICK, **settings}, corpora)
        table = task.own_table()
        assert task.check(table) is None and task.roles == tuple(shapes)
        assert task.role_shapes(table) == {role: (len(table.words), dim) for role, dim in shapes.items()}
        baseline = task.baseline(table, seed=0, finetune=True)
        course = task.lead(
            table, None, baseline, method="rq", regime="finetuned", retrain=None, seed=0, fisher=["weights", "metric"]
        )
        assert {role: own.shape for role, own in course.tables.items()} == task.role_shapes(table)
        assert all(own.words == table.words for own in course.tables.values())
        assert all(len(weights) == len(table.words) for weights in course.weights.values())
        # The uncompressed tables give the baseline's score.
        dense = {role: own.vectors for role, own in course.tables.items()}
        assert task.test(dense, task.trained_network(baseline), task.vocabulary(table)) == baseline.scores
        assert task.evaluate(Table(torch.tensor(baseline.arrays["table"]), table.words), baseline) == baseline.scores
    assert "8 columns" in make_task({**QUICK, "compress": "output"}, corpora).check(task.own_table()).reason
    with pytest.raises(InputError, match="one table"):
        make_task({**QUICK, "tied": True, "compress": "output"}, corpora)


@pytest.mark.thorough
def test_it_learns_and_says_so_within_epochs(corpora: Path) -> None:
    task = make_task({**QUICK, "log_interval": 10, "optimizer": "sgd", "learning_rate": 2.0, "momentum": 0.5}, corpora)
    told: list[Any] = []
    baseline = task.baseline(task.own_table(), seed=0, finetune=True, report=told.append)
    words = len(task.own_table().words)
    assert 1 < baseline.scores["perplexity"].value < 0.8 * words
    assert baseline.scores["perplexity"].num_examples == len(task.vocabulary(task.own_table()).texts["test"])
    per_epoch = len(Streams(task.vocabulary(task.own_table()).texts["train"], 0, 4, 10))
    assert len(told) == 3 * (1 + (per_epoch - 1) // 10)
    assert [step.fraction for step in told] == sorted(step.fraction for step in told)
    assert sum("dev" in step.metrics for step in told) == 3


def test_an_output_table_to_start_from(corpora: Path) -> None:
    task = make_task(QUICK, corpora)
    words = task.own_table().words
    vectors = np.random.default_rng(0).normal(size=(len(words), 8)).astype(np.float32)
    np.save(corpora / "out.npy", vectors)
    (corpora / "out.txt").write_text("good " + " ".join(["2"] * 8) + "\n")
    found = task.vocabulary(task.own_table())
    by_place = make_task({**QUICK, "output_table": "out.npy"}, corpora)
    assert np.array_equal(by_place._output_start(found, 0).numpy(), vectors)
    by_word = make_task({**QUICK, "output_table": "out.txt"}, corpora)._output_start(found, 0)
    assert by_word[words.index("good")].tolist() == [2.0] * 8
    assert torch.equal(by_word[0], task._output_start(found, 0)[0])
    np.save(corpora / "out.npy", vectors[:, :5])
    with pytest.raises(InputError, match=r"output_table out.npy: is .*expected"):
        by_place._output_start(found, 0)


@pytest.mark.thorough
def test_goes_on_from_a_checkpoint_with_the_state_that_was_carried(corpora: Path, saver: Any) -> None:
    task = make_task({**QUICK, "epochs": 2}, corpora)
    table = task.own_table()
    expected = task.baseline(table, seed=0, finetune=True)
    with pytest.raises(saver.Lost), saved_by(saver(lost_after=23)):
        task.baseline(table, seed=0, finetune=True)
    with saved_by(saver()):
        again = task.baseline(table, seed=0, finetune=True)
    assert again.scores == expected.scores
    for name, array in expected.arrays.items():
        if name != "seconds":
            assert np.array_equal(array, again.arrays[name]), name


@pytest.mark.thorough
def test_basis_embedding_of_both_tables_in_one_trial(corpora: Path, tmp_path: Path) -> None:
    """Full tables, then both quantized, codes frozen, then centroids and network trained; what is scored is the files."""
    task = make_task({**QUICK, "hidden_size": 6}, corpora)
    table = task.own_table()
    baseline = task.baseline(table, seed=0, finetune=True)
    retrain = {"parts": ["codebooks", "network"], "epochs": 2, "learning_rate": 0.01}
    course = task.lead(table, None, baseline, method="pq", regime="finetuned", retrain=retrain, seed=0, fisher=[])
    fitted = {
        role: quantizers.create("pq", num_codebooks=2, codebook_size=4).fit(course.seen(role)) for role in course.tables
    }
    codes = {role: quantizer.codes().clone() for role, quantizer in fitted.items()}
    expanded = {role: quantizer.to_dense() for role, quantizer in fitted.items()}
    before = task.test(expanded, task.trained_network(baseline), course.vocabulary)
    trained = course.train(fitted, report=lambda step: None)
    dense = {}
    for role, quantizer in trained.items():
        quantizer.save(tmp_path / f"{role}.safetensors")
        dense[role] = quantizers.read(tmp_path / f"{role}.safetensors").quantizer.to_dense()
        assert torch.equal(quantizer.codes(), codes[role]) and list(quantizer.words) == list(table.words)
    found = course.scores(task, dense)
    assert found is not None and found[1]["perplexity"].value < before["perplexity"].value


@pytest.mark.thorough
def test_a_sweep_of_both_tables(corpora: Path, tmp_path: Path) -> None:
    keys = {"name": "lm", "table": "task", "regime": "finetuned", "tasks": [QUICK], "output": str(tmp_path)}
    retrain = {"parts": ["codebooks", "network"], "epochs": 1, "learning_rate": 0.01}
    entry = {"method": "pq", "num_codebooks": 2, "codebook_size": 4, "roles": {"output": {"num_codebooks": 4}}}
    prepared = prepare(build({**keys, "quantizers": [entry], "retrain": retrain}), corpora)
    ledger = Ledger(tmp_path / "ledger")
    rows = {}
    for spec in prepared.plan.trials:
        result = trial.run(
            spec,
            prepared.table,
            prepared.tasks,
            weights=None,
            artifact_path=lambda role, key=spec.key: tmp_path / f"{key}.{role}.safetensors",
            once=ledger.once,
            device=torch.device("cpu"),
            report=lambda step: None,
        )
        assert result.row["status"] == "ok", result.row["reason"]
        rows[spec.method] = result
    words = len(prepared.table.words)
    assert rows["identity"].row["payload_bytes"] == 4 * words * (6 + 8)
    assert rows["pq"].row["payload_bytes"] == words * (1 + 1) + 4 * 4 * (6 + 8)
    (whole,) = (score for score in rows["identity"].scores if score["metric"] == "perplexity")
    (small,) = (score for score in rows["pq"].scores if score["metric"] == "perplexity")
    assert whole["value"] == whole["baseline"] == small["baseline"] != small["value"]
    assert small["direction"] == "min"
