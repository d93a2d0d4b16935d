"""The translating network, its search and its batches, against single texts, single steps and brute force."""

from __future__ import annotations

import contextlib
import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from quantizers.base import generator
from trainables.networks.translation.scoring import sensitivity, translate
from trainables.networks.translation.search import beam_search
from trainables.networks.translation.texts import MARKS, PairTexts, texts
from trainables.networks.translation.transformer import Transformer
from trainables.networks.translation.vocabulary import frequent

START, END = MARKS.index("<s>"), MARKS.index("</s>")
SOURCE_ROWS, TARGET_ROWS, DIM = 9, 11, 6


def network(tied: bool = True, dropout: float = 0.0, seed: int = 0) -> Transformer:
    net = Transformer(
        DIM,
        TARGET_ROWS,
        hidden_size=8,
        num_layers=2,
        heads=2,
        inner_size=12,
        dropout=dropout,
        tied=tied,
        label_smoothing=0.1,
        generator=generator(seed),
    )
    return net.eval()


def tables() -> dict[str, nn.Embedding]:
    random = generator(3)
    sizes = {"source": SOURCE_ROWS, "target": TARGET_ROWS}
    return {role: nn.Embedding(rows, DIM, _weight=torch.randn(rows, DIM, generator=random)) for role, rows in sizes.items()}


def some_pairs(count: int = 20) -> tuple[PairTexts, list[tuple[list[int], list[int]]]]:
    random = np.random.default_rng(1)
    pairs = [
        (random.integers(0, SOURCE_ROWS, random.integers(1, 7)).tolist(), random.integers(3, TARGET_ROWS, size).tolist())
        for size in random.integers(1, 8, count)
    ]
    source, target = (texts([[str(row) for row in pair[side]] for pair in pairs], int, 100) for side in (0, 1))
    return PairTexts(source, target), pairs


def test_batches_hold_every_pair_once() -> None:
    data, pairs = some_pairs(150)
    for random in (None, generator(3)):
        seen = []
        for batch in data.batches(4, random):
            for row, place in enumerate(batch.places.tolist()):
                source, target = pairs[place]
                length = int(batch.source_lengths[row])
                assert batch.source[row, :length].tolist() == source and not batch.source[row, length:].any()
                assert batch.target[row, : len(target) + 1].tolist() == [START, *target]
                assert batch.wanted[row].tolist()[: len(target) + 1] == [*target, END]
                assert set(batch.wanted[row].tolist()[len(target) + 1 :]) <= {-100}
                seen.append(place)
        assert sorted(seen) == list(range(150)) and (seen == sorted(seen)) is False
    padding = sum((batch.wanted == -100).sum() for batch in data.batches(4, generator(3)))
    assert padding < 0.2 * sum(len(target) + 1 for _, target in pairs)
    assert [len(one) for one in (texts([["1"] * 9], int, 4), texts([], int, 4))] == [1, 0]
    assert texts([["1"] * 9], int, 4).lengths.tolist() == [4]


def alone(net: Transformer, embeddings: dict[str, nn.Embedding], source: list[int], target: list[int]) -> Tensor:
    """The loss of each token of one pair, (T,), the end mark's too."""
    seen = net.encode(embeddings["source"](torch.tensor([source])), torch.tensor([len(source)]))
    states = net.decode(embeddings["target"](torch.tensor([[START, *target]])), seen)[0]
    wanted = torch.tensor([*target, END])
    return functional.cross_entropy(states @ net.words(embeddings).T, wanted, label_smoothing=0.1, reduction="none")


@pytest.mark.parametrize("tied", [True, False])
def test_padding_changes_nothing(tied: bool) -> None:
    net, embeddings = network(tied), tables()
    data, pairs = some_pairs()
    single = torch.cat([alone(net, embeddings, *pair) for pair in pairs])
    (batch,) = data.batches(len(pairs))
    torch.testing.assert_close(net.loss(embeddings, batch, contextlib.nullcontext()), single.mean())
    vectors = embeddings["source"](batch.source)
    behind = torch.arange(batch.source.shape[1]) >= batch.source_lengths[:, None]
    spoilt = net.encode(torch.where(behind[:, :, None], torch.nan, vectors), batch.source_lengths)
    plain = net.encode(vectors, batch.source_lengths)
    target = embeddings["target"](batch.target)
    torch.testing.assert_close(net.decode(target, spoilt), net.decode(target, plain))
    torch.testing.assert_close(net.decode(target[:, :2], plain), net.decode(target, plain)[:, :2])  # none looks ahead


def test_steps_with_kept_states_are_the_whole_texts() -> None:
    net, embeddings = network(), tables()
    (batch,) = some_pairs()[0].batches(20)
    sources = net.encode(embeddings["source"](batch.source), batch.source_lengths)
    vectors = embeddings["target"](batch.target)
    past, found = None, []
    for place in range(vectors.shape[1]):
        states, past = net.step(vectors[:, place], place, past, sources)
        found.append(states)
    torch.testing.assert_close(torch.stack(found, dim=1), net.decode(vectors, sources))


def test_weights_follow_from_the_generator_alone() -> None:
    before = torch.get_rng_state()
    one, same, other = network(), network(), network(seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), same.parameters(), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
    assert network(tied=False).output is not None and one.output is None


# Search --------------------------------------------------------------------------------------------------------------


class Chain:
    """Words that follow by the last word, the place, and the text alone."""

    def __init__(self, texts: int, words: int, places: int, seed: int) -> None:
        self.table = torch.randn(texts, places, words, words, generator=generator(seed)).mul(2).log_softmax(dim=-1)
        self.rows = torch.arange(texts)

    def __call__(self, words: Tensor, place: int, origin: Tensor) -> Tensor:
        self.rows = self.rows[origin]
        return self.table[self.rows, place, words]

    def worth(self, text: int, words: list[int], penalty: float) -> float:
        total, last = 0.0, START
        for place, word in enumerate([*words, END]):
            total += float(self.table[text, place, last, word])
            last = word
        return total / (len(words) + 1) ** penalty


@settings(max_examples=30)
@given(st.integers(0, 10_000), st.sampled_from([0.0, 0.6, 1.0]))
def test_a_beam_that_holds_all_finds_the_best(seed: int, penalty: float) -> None:
    longest = torch.tensor([3, 0, 2])
    chain = Chain(3, 4, 4, seed)
    found = beam_search(chain, longest, beam=64, start=START, end=END, penalty=penalty)
    for text, most in enumerate(longest.tolist()):
        others = [word for word in range(4) if word != END]
        every = [list(words) for size in range(most + 1) for words in itertools.product(others, repeat=size)]
        best = max(every, key=lambda words: chain.worth(text, words, penalty))
        assert chain.worth(text, found[text], penalty) == pytest.approx(chain.worth(text, best, penalty))


@settings(max_examples=30)
@given(st.integers(0, 10_000), st.integers(1, 4))
def test_a_text_is_translated_alike_whatever_is_beside_it(seed: int, beam: int) -> None:
    longest = torch.tensor([5, 2, 4, 3])
    chain = Chain(4, 6, 6, seed)
    together = beam_search(chain, longest, beam=beam, start=START, end=END, penalty=1.0)
    for text in range(4):
        single = Chain(4, 6, 6, seed)
        single.rows = torch.tensor([text])
        assert beam_search(single, longest[text : text + 1], beam=beam, start=START, end=END, penalty=1.0) == [
            together[text]
        ]
        assert len(together[text]) <= int(longest[text]) and END not in together[text]
    if beam == 1:
        for text in range(4):
            words, last = [], START
            while len(words) < int(longest[text]):
                last = int(chain.table[text, len(words), last].argmax())
                if last == END:
                    break
                words.append(last)
            assert together[text] == words


def test_scores_that_are_not_numbers_end() -> None:
    def broken(words: Tensor, place: int, origin: Tensor) -> Tensor:
        return torch.full((len(words), 5), torch.nan)

    assert beam_search(broken, torch.tensor([3, 2]), beam=2, start=START, end=END, penalty=1.0) == [[], []]


def test_translations_are_the_best_of_single_steps() -> None:
    net, embeddings = network(), tables()
    data, pairs = some_pairs(12)
    found = translate(embeddings, net, data, beam=1, penalty=1.0)
    for (source, _), translation in zip(pairs, found, strict=True):
        words: list[int] = []
        seen = net.encode(embeddings["source"](torch.tensor([source])), torch.tensor([len(source)]))
        while len(words) < 2 * len(source) + 10:
            states = net.decode(embeddings["target"](torch.tensor([[START, *words]])), seen)[0, -1]
            logits = embeddings["target"].weight @ states
            logits[[0, START]] = -math.inf  # neither the unknown word nor the start mark
            if int(logits.argmax()) == END:
                break
            words.append(int(logits.argmax()))
        assert translation == words


# What the loss feels -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tied", [True, False])
def test_sensitivity_is_the_sum_of_squared_gradients_of_every_occurrence(tied: bool) -> None:
    net, embeddings = network(tied), tables()
    data, pairs = some_pairs(6)
    rows = {role: embedding.weight.detach() for role, embedding in embeddings.items()}
    found = sensitivity(rows, net, data)
    felt: dict[str, Any] = {role: torch.zeros(len(table)) for role, table in rows.items()}
    moment: dict[str, Any] = {role: torch.zeros(DIM, DIM) for role in rows}

    def count(role: str, row: int, gradient: Tensor) -> None:
        felt[role][row] += gradient.square().sum()
        moment[role] += torch.outer(gradient, gradient)

    for source, target in pairs:
        read = {"source": rows["source"][source], "target": rows["target"][[START, *target]]}
        read = {role: vectors.clone().requires_grad_() for role, vectors in read.items()}
        seen = net.encode(read["source"][None], torch.tensor([len(source)]))
        states = net.decode(read["target"][None], seen)[0]
        words = rows["target"] if net.output is None else net.output.weight.detach()
        loss = functional.cross_entropy(states @ words.T, torch.tensor([*target, END]), reduction="sum")
        for role, gradient in zip(read, torch.autograd.grad(loss, list(read.values()), retain_graph=True), strict=True):
            for row, one in zip({"source": source, "target": [START, *target]}[role], gradient, strict=True):
                count(role, row, one)
        for state, word in zip(states.detach(), [*target, END], strict=True) if tied else ():
            scored = words.clone().requires_grad_()
            (gradient,) = torch.autograd.grad(functional.cross_entropy(scored @ state, torch.tensor(word)), scored)
            for row, one in enumerate(gradient):
                count("target", row, one)
    for role in rows:
        torch.testing.assert_close(found[role][0], felt[role])
        torch.testing.assert_close(found[role][1], moment[role], rtol=1e-5, atol=1e-4)


def test_frequent_words_come_first() -> None:
    sentences = [["b", "a", "a"], ["b", "c", "a"], ["d", "d"]]
    assert frequent(sentences, 2) == ["a", "b", "d"] and frequent(sentences, 1) == ["a", "b", "d", "c"]
