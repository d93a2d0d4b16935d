"""Networks on pairs of sentences, against each sentence read alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from quantizers import InputError
from quantizers.base import generator
from quantizers.fitting.checkpoint import saved_by
from trainables.networks.pairs import PairNetwork, of_pairs
from trainables.provenance import covered
from trainables.registry import make_task
from trainables.tables.formats import read_table


def network(shared: bool, layers: int = 2, seed: int = 0) -> PairNetwork:
    return PairNetwork(6, 5, layers, 3, dropout=0.3, shared=shared, generator=generator(seed)).eval()


def alone(net: PairNetwork, first: Tensor, second: Tensor) -> Tensor:
    """The classes of one pair: its sentences (T, D), each as it was written."""

    def largest(layers: Any, states: Tensor) -> Tensor:
        for layer in layers:
            states, _ = layer(states)
        return states.max(dim=0).values

    u = largest(net.forwards, first)
    v = largest(net.backwards if len(net.backwards) else net.forwards, second)
    logits: Tensor = net.output(torch.cat([u, v, (u - v).abs(), u * v]))
    return logits


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("layers", [1, 2])
def test_each_sentence_is_read_alone_whatever_is_behind_it(shared: bool, layers: int) -> None:
    net = network(shared, layers)
    sizes = [(1, 1), (3, 4), (6, 1), (1, 8), (4, 5)]
    random = generator(1)
    pairs = [tuple(torch.randn(size, 6, generator=random) for size in both) for both in sizes]
    lengths = torch.tensor([sum(both) for both in sizes])
    vectors = torch.full((len(sizes), int(lengths.max()), 6), torch.nan)
    for text, (first, second) in zip(vectors, pairs, strict=True):
        text[: len(first) + len(second)] = torch.cat([first, second.flip(0)])
    logits = net(vectors, lengths)
    assert logits.shape == (5, 9, 3)
    for answer, (first, second) in zip(logits, pairs, strict=True):
        torch.testing.assert_close(answer[len(first) - 1], alone(net, first, second))


def test_weights_follow_from_the_generator_alone() -> None:
    before = torch.get_rng_state()
    one, same, other = network(False), network(False), network(False, seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), same.parameters(), strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
    assert sum(p.numel() for p in network(True).parameters()) < sum(p.numel() for p in one.parameters())


def test_one_class_a_pair() -> None:
    assert of_pairs([[-100, 2, -100], [0, -100]], [[1, 1, 0], [0, 2]]) == ([2, 0], [1, 0])


def test_a_pair_is_one_text_with_a_target_where_it_falls_in_two(corpora: Path) -> None:
    table = read_table("builtin:glove-10k-50d")

    def read(longest: int) -> tuple[Any, Any]:
        task: Any = make_task({"task": "entailment", "longest_text": longest, "train_texts": 7}, corpora)
        return task.splits().train, task.vocabulary(table)

    train, vocabulary = read(400)
    data = vocabulary.texts["train"]
    assert len(data) == len(train) == 7 and len(vocabulary.texts["test"]) == 40
    assert table.words is not None
    words = [table.words[row] for row in vocabulary.rows.tolist()] + ["zzqx"]  # the word without a vector
    for index, (first, second) in enumerate(zip(train.tokens, train.hypotheses, strict=True)):
        start, stop = data.starts[index : index + 2]
        assert [words[place] for place in data.ids[start:stop]] == [*first, *second[::-1]]
        expected = np.full(stop - start, -100)
        expected[len(first) - 1] = train.labels[index]
        assert data.targets[start:stop].tolist() == expected.tolist()
    short = read(2)[1].texts["train"]
    assert short.lengths.tolist() == [4] * 7 and short.targets[1::4].tolist() == list(train.labels)
    assert [words[place] for place in short.ids[:4]] == [*train.tokens[0][:2], "story", "its"]


def test_a_sentence_of_no_words_is_one_unknown_word(corpora: Path) -> None:
    path = corpora / "snli/snli_1.0_train.jsonl"
    path.write_text('{"gold_label": "neutral", "sentence1": "...", "sentence2": "!"}\n')
    task: Any = make_task("entailment", corpora)
    vocabulary = task.vocabulary(read_table("builtin:glove-10k-50d"))
    assert vocabulary.texts["train"].ids.tolist() == [vocabulary.unknown] * 2
    assert vocabulary.texts["train"].targets.tolist() == [1, -100]


def test_settings_and_code(corpora: Path) -> None:
    with pytest.raises(InputError, match="entailment, bidirectional: .*from left to right only"):
        make_task({"task": "entailment", "bidirectional": True}, corpora)
    with pytest.raises(InputError, match="none was given: pass --data DIR"):
        make_task("entailment").identity()
    assert len(make_task("entailment", corpora).identity()["data"]) == 3
    modules = covered(make_task("entailment", corpora).code_modules())
    assert {"trainables.corpora.snli", "trainables.networks.pairs", "trainables.networks.training"} < set(modules)
    assert not {"trainables.corpora.sst", "trainables.corpora.imdb", "trainables.corpora.conll"} & set(modules)
    for name in ("sentiment", "chunking"):
        others = covered(make_task(name, corpora).code_modules())
        assert not {"trainables.corpora.snli", "trainables.networks.pairs"} & set(others)


@pytest.mark.parametrize("shared", [True, False])
def test_a_training_goes_on_where_it_was_lost(shared: bool, corpora: Path, saver: Any) -> None:
    settings = {"hidden_size": 8, "epochs": 2, "batch_size": 64, "shared": shared}
    task: Any = make_task({"task": "entailment", **settings}, corpora)
    table = task.task_table(read_table("builtin:glove-10k-50d"))
    whole = task.baseline(table, seed=0, finetune=True)
    with pytest.raises(saver.Lost), saved_by(saver(lost_after=5)):
        task.baseline(table, seed=0, finetune=True)
    with saved_by(saver()):
        resumed = task.baseline(table, seed=0, finetune=True)
    assert resumed.scores == whole.scores
    assert all(np.array_equal(resumed.arrays[key], whole.arrays[key]) for key in whole.arrays if key != "seconds")
