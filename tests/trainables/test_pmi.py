"""PMI factorization: counting against brute force, entries and losses by hand, training on a text of two topics."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import quantizers
from quantizers import InputError, Skip, Table
from sweeps.record.ledger import Ledger
from sweeps.spec.config import build
from sweeps.spec.prepare import prepare
from trainables import trial
from trainables.registry import make_task
from trainables.tasks.pmi import counting
from trainables.tasks.pmi.counting import cooccurrences, numbered, positive_pmi
from trainables.tasks.pmi.factorization import LOSSES

pytestmark = pytest.mark.thorough  # trains


def by_hand(lines, window, weighting):
    """Counts by pairs of words, in plain Python."""
    found: Counter[tuple[str, str]] = Counter()
    for line in lines:
        for place, word in enumerate(line):
            for distance in range(1, window + 1):
                if place + distance < len(line):
                    weight = 1 / distance if weighting == "inverse" else 1.0
                    found[word, line[place + distance]] += weight
                    found[line[place + distance], word] += weight
    return found


@settings(max_examples=60, deadline=None)
@given(
    lines=st.lists(st.lists(st.sampled_from("abcdef"), max_size=9), max_size=6),
    window=st.integers(1, 4),
    weighting=st.sampled_from(["inverse", "flat"]),
    chunk=st.integers(1, 12),
    min_count=st.integers(1, 3),
    max_words=st.none() | st.integers(1, 4),
)
def test_counts_are_those_of_a_plain_loop(lines, window, weighting, chunk, min_count, max_words):
    whole, counting._CHUNK_TOKENS = counting._CHUNK_TOKENS, chunk
    try:
        text = numbered(lines, min_count=min_count, max_words=max_words)
        found = cooccurrences(text, window=window, weighting=weighting).toarray()
    finally:
        counting._CHUNK_TOKENS = whole
    often = Counter(word for line in lines for word in line)
    expected = sorted((word for word in often if often[word] >= min_count), key=lambda word: (-often[word], word))
    assert list(text.words) == expected[:max_words]
    assert np.bincount(text.ids, minlength=len(text.words)).tolist() == [often[word] for word in text.words]
    pairs = by_hand([[word for word in line if word in text.words] for line in lines], window, weighting)
    for row, word in enumerate(text.words):
        for column, other in enumerate(text.words):
            assert found[row, column] == pytest.approx(pairs[word, other])


def test_pmi_by_hand():
    # Pairs side by side: a-b twice, b-c once. With both directions a: 2, b: 3, c: 1 of 6.
    text = numbered([["a", "b"], ["b", "a"], ["b", "c"]], min_count=1, max_words=None)
    assert list(text.words) == ["b", "a", "c"]
    counts = cooccurrences(text, window=2, weighting="inverse")
    assert counts.toarray().tolist() == [[0, 2, 1], [2, 0, 0], [1, 0, 0]]
    pmi = positive_pmi(counts, smoothing=1.0).toarray()
    assert pmi[0, 1] == pmi[1, 0] == pytest.approx(math.log((2 / 6) / ((3 / 6) * (2 / 6))))
    assert pmi[0, 2] == pytest.approx(math.log(2)) and pmi[1, 2] == pmi[0, 0] == 0
    assert positive_pmi(counts, smoothing=1.0, min_count=2).toarray().tolist() == [
        [0, pmi[0, 1], 0],
        [pmi[1, 0], 0, 0],
        [0, 0, 0],
    ]
    # Contexts smoothed to the power 0: each of the three has a third.
    flat = positive_pmi(counts, smoothing=0.0).toarray()
    assert flat[1, 0] == pytest.approx(math.log(3)) and flat[0, 1] == pytest.approx(math.log(2 / 3 * 3))
    assert flat[0, 2] == 0  # 1/3 of b's neighbours are c: log 1


def test_losses_by_hand():
    predicted, values = torch.tensor([1.0, 0.0]), torch.tensor([2.0, 200.0])
    low = (2 / 100) ** 0.75
    assert LOSSES["glove_pmi"](predicted, values).item() == pytest.approx((low * 1 + 1 * 200**2) / 2)
    log = [1 - math.log(2), math.log(200)]
    assert LOSSES["glove_log_pmi"](predicted, values).item() == pytest.approx((low * log[0] ** 2 + log[1] ** 2) / 2)
    assert LOSSES["mse_log_pmi"](predicted, values).item() == pytest.approx((log[0] ** 2 + log[1] ** 2) / 2)
    # A value of 0 weighs nothing in GloVe's losses; its logarithm is that of 1e-9.
    zero = torch.zeros(1)
    assert LOSSES["glove_log_pmi"](zero, zero).item() == 0
    assert LOSSES["mse_log_pmi"](zero, zero).item() == pytest.approx(math.log(1e-9) ** 2)


# The task ----------------------------------------------------------------------------------------------------------

TOPICS = [[f"{topic}{word}" for word in "abcdef"] for topic in ("beast", "train", "plant", "metal", "spice", "cloud")]
TASK = {
    "task": "pmi",
    "dataset": "topics.txt",
    "window": 3,
    "embedding_dim": 8,
    "dropout": 0.0,
    "biases": "none",
    "epochs": 30,
    "patience": 30,
    "batch_size": 16,
    "learning_rate": 0.1,
    "held_out": 0.1,
}


@pytest.fixture
def topics(tmp_path: Path) -> Path:
    """Lines of words of one topic each, and word pairs that are alike where they share it."""
    random = np.random.default_rng(0)
    lines = [" ".join(random.choice(TOPICS[index % 6], 6)).title() for index in range(900)]
    (tmp_path / "topics.txt").write_text("\n".join([*lines, "Once <unk> <unk> <unk>"]) + "\n")
    words = [word for topic in TOPICS for word in topic]
    pairs = [(one, other, int(one[:-1] == other[:-1])) for one in words for other in words if one < other]
    (tmp_path / "wordsim").mkdir()
    (tmp_path / "wordsim" / "EN-MEN-TR-3k.txt").write_text("".join(f"{a}\t{b}\t{rating}\n" for a, b, rating in pairs))
    return tmp_path


def results(topics: Path, **keys: Any) -> dict[str, tuple[dict[str, Any], dict[tuple[str, str], dict[str, Any]]]]:
    """Row and scores (by task and metric) of every trial of a sweep led by pmi, by method."""
    sweep = {"name": "p", "table": "task", "regime": "end_to_end", "output": str(topics / "runs"), **keys}
    sweep.setdefault("tasks", [TASK, {"task": "similarity", "dataset": "men"}])
    prepared = prepare(build(sweep), topics)
    ledger, found = Ledger(topics / "ledger"), {}
    for spec in prepared.plan.trials:
        result = trial.run(
            spec,
            prepared.table,
            [make_task(entry, topics) for entry in prepared.task_entries],
            weights=None,
            artifact_path=lambda role, key=spec.key: topics / f"{key}.{role}.safetensors",
            once=ledger.once,
            device=torch.device("cpu"),
            report=lambda step: None,
        )
        found[spec.method] = (result.row, {(score["task"], score["metric"]): score for score in result.scores})
    return found


def test_own_table(topics: Path) -> None:
    task = make_task(TASK, topics)
    table = task.own_table()
    assert sorted(table.words) == sorted(word for topic in TOPICS for word in topic)  # neither the rare one nor <unk>
    assert table.counts.tolist() == sorted(table.counts.tolist(), reverse=True) and table.counts.sum() == 5400
    assert table.shape == (36, 8) and table.vectors.std().item() == pytest.approx(0.05, rel=0.3)
    assert task.check(table) is None and task.roles == ("word", "context")
    assert make_task({**TASK, "shared": True}, topics).roles == ("word",)
    assert task.role_shapes(table) == {"word": (36, 8), "context": (36, 8)}


def test_no_pair_is_both_trained_and_held_out(topics: Path) -> None:
    task = make_task({**TASK, "held_out": 0.2}, topics)
    matrix = task.vocabulary(task.own_table())
    sets = [
        {tuple(sorted(pair)) for pair in zip(part.words.tolist(), part.contexts.tolist(), strict=True)}
        for part in (matrix.train, matrix.dev, matrix.test)
    ]
    assert all(sets) and not (sets[0] & sets[1] or sets[0] & sets[2] or sets[1] & sets[2])
    assert len(matrix.train) == 2 * len(sets[0]) - sum(a == b for a, b in sets[0])
    half = make_task({**TASK, "shared": True, "held_out": 0.2}, topics)
    assert len(half.vocabulary(half.own_table()).train) == len(sets[0])


def test_rows_of_another_table(topics: Path) -> None:
    task = make_task(TASK, topics)
    table = Table(torch.randn(4, 3), ["Traina", "beasta", "whale", "trainb"])
    own = task.task_table(table)
    assert own.words == ["beasta", "trainb"] and torch.equal(own.vectors, table.vectors[[1, 3]])
    assert task.vocabulary(table).oov_words == 34
    assert "leave no PMI entries" in task.check(table).reason
    assert task.check(Table(torch.randn(4, 3))) == Skip("the table has no words")


@pytest.mark.thorough
def test_training_finds_the_topics(topics: Path) -> None:
    """From scratch, through whole tables and through pools; similarity reads the words' file."""
    pool = {"method": "hashed", "pool_size": 144, "block_size": 4, "signs": True}
    found = results(topics, quantizers=[pool])
    row, scores = found["hashed"]
    assert row["payload_bytes"] == 2 * 144 * 4 and row["dense_bytes"] == 2 * 36 * 8 * 4
    nothing = found["identity"][1]["pmi", "loss"]
    for _, one in found.values():
        assert one["pmi", "loss"]["role"] == "word+context" and one["similarity", "men"]["role"] == "word"
        assert one["pmi", "loss"]["baseline"] == nothing["value"] == nothing["baseline"]
        assert one["similarity", "men"]["value"] > 0.4 and one["similarity", "men"]["num_examples"] == 630
    # What the reconstruction is compared with is the trained table, not the random one that training began with.
    assert scores["similarity", "men"]["baseline"] == found["identity"][1]["similarity", "men"]["value"]


@pytest.mark.parametrize("loss", list(LOSSES))
def test_one_table_of_words_and_contexts(topics: Path, loss: str) -> None:
    task = {**TASK, "shared": True, "biases": "shared", "loss": loss, "optimizer": "adam", "negatives": 1, "epochs": 3}
    row, scores = results(topics, tasks=[task], quantizers=[{"method": "hashed", "pool_size": 48}])["hashed"]
    assert row["payload_bytes"] == 48 * 4
    assert scores["pmi", "loss"]["role"] == "word"


def test_a_pool_starts_from_its_own_draws(topics: Path) -> None:
    """Training from scratch starts from N(0, 0.05), not from the averages that a fit to random vectors has."""
    task = make_task({**TASK, "epochs": 1, "learning_rate": 1e-9}, topics)
    table = task.own_table()
    baseline = task.baseline(table, seed=0, finetune=True)
    course = task.lead(table, None, baseline, method="hashed", regime="end_to_end", retrain=None, seed=3, fisher=())
    config = quantizers.make_config("hashed", {"pool_size": 16})
    fitted = {role: quantizers.get("hashed")(config).fit(course.seen(role)) for role in course.tables}
    trained = course.train(fitted, report=lambda step: None)
    for index, role in enumerate(("word", "context")):
        start = quantizers.get("hashed").untrained(config, table.shape, seed=6 + index)
        assert torch.allclose(trained[role].state()["pool"], start.state()["pool"], atol=1e-5)


def test_other_regimes_keep_the_given_vectors(topics: Path) -> None:
    task = make_task(TASK, topics)
    table = task.own_table()
    baseline = task.baseline(table, seed=0)
    assert np.array_equal(baseline.arrays["table"], table.vectors.numpy())
    fine = task.baseline(table, seed=0, finetune=True)
    assert fine.scores["loss"].value < baseline.scores["loss"].value
    own = Table(torch.tensor(fine.arrays["table"]), table.words)
    assert task.evaluate(own, fine) == dict(fine.scores)
    found = results(topics, regime="finetuned", quantizers=[{"method": "scalar", "bits": 8}])["scalar"]
    assert found[1]["pmi", "loss"]["value"] == pytest.approx(fine.scores["loss"].value, rel=0.05)


def test_mistakes(topics: Path) -> None:
    for keys, message in (
        ({"dataset": "wikitext3"}, "wikitext3"),
        ({"dataset": "texts/none.txt"}, "no text file texts/none.txt"),
        ({"loss": "glove"}, "loss"),
        ({"windows": 3}, "Did you mean 'window'"),
    ):
        with pytest.raises(InputError, match=message):
            make_task({**TASK, **keys}, topics).own_table()


def test_train_command(topics: Path, frontier: Any) -> None:
    """It needs no table; what it trained is scored again without one."""
    sets = [word for key, value in {**TASK, "epochs": 2}.items() if key != "task" for word in ("--set", f"{key}={value}")]
    result = frontier("train", "pmi", *sets, "--data", topics, "-o", topics / "out")
    assert result.exit_code == 0, result.output
    again = frontier("train", "pmi", "--evaluate", topics / "out", "--data", topics, "-o", topics / "again")
    assert again.exit_code == 0, again.output
    lines = [next(line for line in one.output.splitlines() if line.startswith("pmi.loss")) for one in (result, again)]
    assert lines[0] == lines[1]
