"""Downstream tasks against answers worked out by hand or by brute force."""

from __future__ import annotations

import importlib.metadata

import numpy as np
import pytest
import torch

from quantizers import InputError, Skip, Table
from trainables import registry
from trainables.leading import LeadingTask
from trainables.lexicon import lexicon
from trainables.networks.network_task import NetworkTask
from trainables.registry import make_task, tasks
from trainables.tables.formats import read_table
from trainables.task import Baseline, Score
from trainables.tasks.analogy import answers
from trainables.tasks.neighbours import nearest
from trainables.tasks.similarity import DATASETS, spearman


def random_table(rows: int, dim: int, seed: int = 0, words: bool = False) -> Table:
    vectors = torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed))
    return Table(vectors, [f"w{row}" for row in range(rows)] if words else None)


@pytest.fixture
def data_dir(corpora):
    tmp_path = corpora
    folder = tmp_path / "wordsim"
    folder.mkdir()
    for file in DATASETS.values():
        (folder / file).write_text("# a comment\n" + "".join(f"w{row}\tW{row + 1}\t{row}\n" for row in range(20)))
    (folder / "questions-words.txt").write_text(
        ": capitals\nman king woman queen\nman king Woman none\n: gram1\nbig bigger man men\n"
    )
    return tmp_path


# What every task must keep -----------------------------------------------------------------------------------------


QUICK = {"hidden_size": 8, "epochs": 1, "train_texts": 64}
OTHERS = {"pmi": {"dataset": "conll2000", "epochs": 1, "held_out": 0.2, "min_count": 1}}


def quick_task(name, data_dir):
    quick = QUICK if issubclass(tasks()[name], NetworkTask) else {}
    return make_task({"task": name, **OTHERS.get(name, quick)}, data_dir)


@pytest.mark.parametrize("name", list(tasks()))
def test_contract(name, data_dir):
    """A lossless reconstruction scores the baseline; scores are declared, repeatable, not NaN; nothing is changed."""
    table = read_table("builtin:glove-10k-50d", rows=2000)
    (data_dir / "wordsim" / "questions-words.txt").write_text(": gram1\ngood better great best\nman king woman queen\n")
    pairs = "".join(f"{a}\t{b}\t{row}\n" for row, (a, b) in enumerate(zip(table.words[:30], table.words[30:], strict=False)))
    for file in DATASETS.values():
        (data_dir / "wordsim" / file).write_text(pairs)
    task = quick_task(name, data_dir)
    assert task.check(table) is None
    before = table.vectors.clone()
    baseline = task.baseline(table, seed=0)
    assert task.score(table.vectors.clone(), table, baseline, seed=1) == dict(baseline.scores)
    declared = {metric.name for metric in task.measured()}
    noisy = table.vectors + 0.3 * random_table(2000, 50).vectors
    for dense in (noisy, torch.zeros(table.shape), noisy[:1].expand(2000, 50), 1e20 * noisy):
        scores = task.score(dense, table, baseline, seed=0)
        assert scores == task.score(dense, table, baseline, seed=0)
        assert set(scores) == set(baseline.scores) and set(scores) <= declared
        assert not any(np.isnan(score.value) for score in scores.values())
    assert all(isinstance(array, np.ndarray) for array in baseline.arrays.values())
    assert torch.equal(table.vectors, before)


@pytest.mark.parametrize("name", list(tasks()))
def test_every_setting_has_a_value_once_there_is_a_table(name, data_dir):
    task = make_task({"task": name, **OTHERS.get(name, {})}, data_dir)
    resolved = task.resolved(read_table("builtin:glove-10k-50d", rows=50))
    assert resolved.keys() == task.settings.model_dump().keys()
    assert None not in resolved.values()


@pytest.mark.parametrize("name", [name for name, task in tasks().items() if not issubclass(task, LeadingTask)])
def test_the_number_of_threads_changes_nothing(name, data_dir):
    table = read_table("builtin:glove-10k-50d", rows=3000)
    words = table.words
    lines = "".join(f"{words[row]} {words[row + 1]} {words[row + 7]} {words[row + 9]}\n" for row in range(200))
    (data_dir / "wordsim" / "questions-words.txt").write_text(": x\n" + lines)
    for file in DATASETS.values():
        (data_dir / "wordsim" / file).write_text("".join(f"{words[i]}\t{words[2 * i]}\t{i % 7}\n" for i in range(300)))
    task = make_task(name, data_dir)
    baseline = task.baseline(table, seed=0)
    dense = table.vectors + 0.3 * random_table(3000, 50).vectors
    threads = torch.get_num_threads()
    found = []
    try:
        for number in (1, 2):
            torch.set_num_threads(number)
            found.append(task.score(dense, table, baseline, seed=0))
    finally:
        torch.set_num_threads(threads)
    assert found[0] == found[1]


# Neighbours --------------------------------------------------------------------------------------------------------


def brute_force(vectors: torch.Tensor, query: int, k: int) -> list[int]:
    x = vectors.double().numpy()
    norms = np.maximum(np.linalg.norm(x, axis=1), 1e-300)
    cosines = np.round((x @ x[query]) / norms / norms[query], 7)
    cosines[query] = -np.inf
    return np.lexsort((np.arange(len(x)), -cosines))[:k].tolist()


@pytest.mark.parametrize("chunk", [7, 4096])
def test_nearest_is_exhaustive_search(chunk, monkeypatch):
    monkeypatch.setattr("trainables.tasks.neighbours._CHUNK_ROWS", chunk)
    vectors = random_table(300, 5).vectors
    vectors[100:110] = vectors[3]  # equals: the first in the table wins
    vectors[200:205] = 0
    queries = torch.tensor([0, 3, 105, 202, 299])
    expected = [brute_force(vectors, query, 12) for query in queries.tolist()]
    assert nearest(vectors, queries, 12).tolist() == expected
    assert expected[2][:2] == [3, 100]
    assert expected[3] == list(range(12))  # a row of zeros is equally far from all


def test_recall_by_hand():
    # Rows on a circle; the reconstruction swaps rows 0 and 3. Nearest two of each: 0: 1 2; 1: 0 2; 2: 1 3; 3: 2 1.
    angles = torch.tensor([0.0, 0.1, 0.25, 0.45])
    circle = torch.stack([angles.cos(), angles.sin()], dim=1)
    assert nearest(circle, torch.arange(4), 2).tolist() == [[1, 2], [0, 2], [1, 3], [2, 1]]
    dense = circle[[3, 1, 2, 0]]
    # Now 0: 2 1; 1: 3 2; 2: 1 0; 3: 1 2. Kept: 2 + 1 + 1 + 2 of 8. With k = 3 everything is a neighbour.
    assert nearest(dense, torch.arange(4), 2).tolist() == [[2, 1], [3, 2], [1, 0], [1, 2]]
    task = make_task("neighbours")
    baseline = task.baseline(Table(circle), seed=0)
    two = Baseline(baseline.scores, {**baseline.arrays, "neighbours": baseline.arrays["neighbours"][:, :2]})
    assert task.score(dense, Table(circle), two, seed=0) == {"recall_at_10": Score(6 / 8, 4)}
    assert task.score(dense, Table(circle), baseline, seed=0) == {"recall_at_10": Score(1.0, 4)}


def test_neighbours_sample():
    table = random_table(500, 4)
    baselines = [make_task({"task": "neighbours", "queries": 50}).baseline(table, seed=seed) for seed in (0, 1)]
    assert np.array_equal(
        baselines[0].arrays["queries"], baselines[1].arrays["queries"]
    )  # the trial's seed has no part in it
    other = make_task({"task": "neighbours", "queries": 50, "sample_seed": 1}).baseline(table, seed=0)
    assert not np.array_equal(baselines[0].arrays["queries"], other.arrays["queries"])
    first = make_task({"task": "neighbours", "rows": 40}).baseline(table, seed=0)
    assert first.scores["recall_at_10"].num_examples == 40 and first.arrays["neighbours"].max() < 40
    assert make_task("neighbours").check(random_table(1, 4)) == Skip("a table of one row has no neighbours")


# Word similarity ---------------------------------------------------------------------------------------------------


def test_spearman_by_hand():
    assert spearman(np.array([1.0, 2, 3]), np.array([5.0, 6, 70])) == pytest.approx(1)
    assert spearman(np.array([1.0, 2, 3]), np.array([7.0, 6, 5])) == pytest.approx(-1)
    # Ranks 1, 2.5, 2.5, 4 and 1, 2, 3, 4: differences 0, .5, -.5, 0; with ties 4.5 / sqrt(4.5 * 5).
    assert spearman(np.array([1.0, 2, 2, 9]), np.array([1.0, 2, 3, 4])) == pytest.approx(4.5 / np.sqrt(22.5), rel=1e-15)
    assert spearman(np.zeros(4), np.arange(4.0)) == 0


def test_similarity_by_hand(data_dir):
    # w0 ... w9: the angle between neighbours grows with the row, and so does the rating: rho is -1.
    angles = torch.cumsum(torch.arange(10) * 0.02, dim=0)
    table = Table(torch.stack([angles.cos(), angles.sin()], dim=1), [f"w{row}" for row in range(10)])
    task = make_task({"task": "similarity", "dataset": "men", "min_pairs": 9}, data_dir)
    assert [metric.name for metric in task.measured()] == ["men", "mean"]
    baseline = task.baseline(table, seed=0)
    # W1 is found in lower case; the pairs with w10 and beyond are left out: 9 of 20 are known.
    assert baseline.scores == {"men": Score(pytest.approx(-1), 9), "mean": Score(pytest.approx(-1), 9)}
    flipped = table.vectors.flip(0)
    assert task.score(flipped, table, baseline, seed=0)["men"].value == pytest.approx(1)
    few = make_task({"task": "similarity", "dataset": ["men", "rw"], "min_pairs": 10}, data_dir)
    assert few.check(table) == Skip("no word similarity set has 10 pairs that the table knows")
    assert few.check(Table(table.vectors)) == Skip("the table has no words")


def test_parallel_vectors_tie(data_dir):
    """Their cosines are 1, whatever rounding makes of it; so are the pairs' ranks, and rho is 0."""
    lengths = torch.rand(21, 1, generator=torch.Generator().manual_seed(0)) + 0.1
    table = Table(lengths * torch.tensor([[0.3, 0.7, 0.11]]), [f"w{row}" for row in range(21)])
    task = make_task({"task": "similarity", "dataset": "men"}, data_dir)
    assert task.baseline(table, seed=0).scores["men"] == Score(0.0, 20)


def test_similarity_settings(data_dir):
    with pytest.raises(InputError, match="similarity, dataset: Unknown word similarity set 'ws35'. Did you mean 'ws353'?"):
        make_task({"task": "similarity", "dataset": "ws35"})
    with pytest.raises(InputError, match="each once"):
        make_task({"task": "similarity", "dataset": ["men", "men"]})
    (data_dir / "wordsim" / "rw.tsv").write_text("a\tb\t1\nc\td\n")
    with pytest.raises(InputError, match=r"rw.tsv:2: expected word, word and rating between tabs, not 'c\\td'"):
        make_task({"task": "similarity", "dataset": "rw"}, data_dir).check(random_table(9, 2, words=True))


# Analogies ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunk", [3, 2048])
def test_answers_are_exhaustive_search(chunk, monkeypatch):
    monkeypatch.setattr("trainables.tasks.analogy._CHUNK_ROWS", chunk)
    monkeypatch.setattr("trainables.tasks.analogy._CHUNK_QUESTIONS", 4)
    vectors = random_table(60, 4).vectors
    vectors[50:] = vectors[20]
    questions = np.random.default_rng(0).integers(0, 60, (30, 3))
    x = vectors.double().numpy()
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    for (a, b, c), answer in zip(questions, answers(vectors, questions), strict=True):
        scores = np.round(x @ (x[b] - x[a] + x[c]), 6)
        scores[[a, b, c]] = -np.inf
        assert answer == np.argmax(scores)


def test_analogy_by_hand(data_dir):
    words = ["man", "king", "woman", "queen", "big", "bigger", "men"]
    vectors = [[1.0, 0, 0], [1, 1, 0], [0, 0, 1], [0, 1, 1], [1, 0, 1], [1, 0.1, 1], [0.9, 0.2, 0.1]]
    table = Table(torch.tensor(vectors), words)
    task = make_task("analogy", data_dir)
    assert task.check(table) is None
    baseline = task.baseline(table, seed=0)  # "none" is not in the table: one semantic and one syntactic question
    assert baseline.scores["semantic"] == Score(1.0, 1)  # king - man + woman
    assert baseline.scores["accuracy"].num_examples == 2 and baseline.scores["syntactic"].num_examples == 1
    swapped = table.vectors[[0, 1, 2, 6, 4, 5, 3]]
    assert task.score(swapped, table, baseline, seed=0)["semantic"] == Score(0.0, 1)
    few = make_task({"task": "analogy", "vocabulary": 4}, data_dir).baseline(table, seed=0)
    assert set(few.scores) == {"accuracy", "semantic"}
    assert isinstance(task.check(random_table(5, 2, words=True)), Skip)
    (data_dir / "wordsim" / "questions-words.txt").write_text(": x\na b c\n")
    with pytest.raises(InputError, match=r"questions-words.txt:2: expected four words, not 'a b c'"):
        task.check(table)


# Polarity ----------------------------------------------------------------------------------------------------------


def test_lexicon():
    words = lexicon()
    assert (sum(words.values()), len(words)) == (2006 - 3, 2006 + 4783 - 6)  # three words are in both lists
    assert words["good"] and not words["bad"] and "envious" not in words


def test_polarity_of_separable_and_of_equal_words():
    good = [word for word, positive in lexicon().items() if positive][:40]
    bad = [word for word, positive in lexicon().items() if not positive][:60]
    sign = torch.tensor([1.0] * 40 + [-1.0] * 60)
    table = Table(torch.stack([sign, torch.linspace(0, 1, 100)], dim=1), good + bad)
    task = make_task("polarity")
    baseline = task.baseline(table, seed=0)
    assert baseline.scores == {"accuracy": Score(1.0, 100)}
    assert task.score(torch.ones(100, 2), table, baseline, seed=0) == {"accuracy": Score(0.6, 100)}  # always "bad"
    assert task.check(table.head(44)) == Skip("the table has 4 words of one polarity, 5 are needed")
    assert task.check(Table(table.vectors)) == Skip("the table has no words")


def test_polarity_of_glove():
    """A fixed number: the table, the folds and the classifier are."""
    score = make_task("polarity").baseline(read_table("builtin:glove-10k-50d"), seed=0).scores["accuracy"]
    assert score.num_examples == 1091
    assert score.value == pytest.approx(972 / 1091, abs=2 / 1091)  # two words' room for another library's last bits


# Registry ----------------------------------------------------------------------------------------------------------


def test_names_and_settings_are_suggested(data_dir):
    with pytest.raises(InputError, match="Unknown task 'neighbors'. Did you mean 'neighbours'?"):
        make_task("neighbors")
    with pytest.raises(InputError, match="Unknown parameter of task neighbours 'query'. Did you mean 'queries'?"):
        make_task({"task": "neighbours", "query": 3})
    with pytest.raises(InputError, match="Task neighbours, queries: .*greater than or equal to 1 .*given: 0"):
        make_task({"task": "neighbours", "queries": 0})
    with pytest.raises(InputError, match="A task needs its name"):
        make_task({"queries": 3})


def test_missing_data_is_explained(tmp_path):
    table = random_table(9, 2, words=True)
    for name in ("similarity", "analogy"):
        with pytest.raises(InputError, match="none was given: pass --data DIR"):
            make_task(name).check(table)
        with pytest.raises(InputError, match=rf"is missing under --data {tmp_path}; it comes from the word"):
            make_task(name, tmp_path).identity()


def test_identity_holds_settings_version_and_data(data_dir):
    one = make_task({"task": "similarity", "dataset": "rw"}, data_dir)
    same = make_task({"dataset": ["rw"], "task": "similarity", "min_pairs": 10}, data_dir)
    assert one.identity() == same.identity()
    before = one.identity()
    (data_dir / "wordsim" / "rw.tsv").write_text("a\tb\t1\n")
    assert one.identity() != before
    assert make_task("neighbours").identity() == {
        "task": "neighbours",
        "version": 1,
        "settings": {"queries": 1000, "sample_seed": 0, "rows": None},
        "data": [],
    }


OTHER_TASK = """
from trainables.task import Baseline, DownstreamTask, Metric, Score


class Constant(DownstreamTask):
    name = "NAME"
    metrics = (Metric("one", "max"),)

    def baseline(self, table, *, seed):
        return Baseline({"one": Score(1.0, 1)})

    def score(self, dense, table, baseline, *, seed):
        return {"one": Score(1.0, 1)}
"""


@pytest.mark.parametrize(
    ("module", "name", "value"),
    [("other_a", "constant", "other_a:Constant"), ("other_b", "constant", "other_b"), ("other_c", "polarity", "other_c")],
)
def test_other_peoples_tasks(monkeypatch, tmp_path, module, name, value):
    (tmp_path / f"{module}.py").write_text(OTHER_TASK.replace("NAME", name))
    monkeypatch.syspath_prepend(tmp_path)
    point = importlib.metadata.EntryPoint("any", value, registry.ENTRY_POINT_GROUP)
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: [point] if group == point.group else [])
    registry._registry.cache_clear()
    try:
        if name == "polarity":
            with pytest.raises(InputError, match="Two tasks are called 'polarity'"):
                tasks()
        else:
            assert make_task("constant").identity()["task"] == "constant"
    finally:
        registry._registry.cache_clear()
