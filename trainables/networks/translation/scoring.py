"""What a trained network translates, what BLEU says of it, and how much its loss feels the rows of its tables.

Reference: BLEU (Papineni et al. 2002) as sacrebleu counts it (Post 2018).

Shapes: N rows of the source table, V of the target table, D columns, B pairs, T target tokens, R rows of a search.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from sacrebleu.metrics.bleu import BLEU
from torch import Tensor, nn
from torch.nn import functional

from trainables.networks.batches import NO_TARGET
from trainables.networks.translation.search import beam_search
from trainables.networks.translation.texts import END, MARKS, START, PairTexts
from trainables.networks.translation.transformer import Sources, Transformer
from trainables.networks.vocabulary import UNKNOWN

_TRANSLATING_BATCH = 128
_NEVER = [MARKS.index(UNKNOWN), MARKS.index(START)]  # no translation has these


def make_bleu(tokenizer: str) -> BLEU:
    """BLEU as sacrebleu counts it, of one reference, in lower case."""
    return BLEU(lowercase=True, tokenize=tokenizer, force=True)  # force: no warning of text that comes tokenized


def signature(bleu: BLEU) -> str:
    """What sacrebleu says of how it counts."""
    bleu.corpus_score(["a"], [["a"]])  # the number of references is known after scoring only
    return str(bleu.get_signature())


class _Decoding:
    """Log-probabilities of next words, by a network that keeps its states from step to step."""

    def __init__(self, network: Transformer, embeddings: Mapping[str, nn.Module], sources: Sources, words: Tensor) -> None:
        self._network, self._target, self._sources, self._words = network, embeddings["target"], sources, words
        self._past: list[tuple[Tensor, Tensor]] | None = None

    def __call__(self, words: Tensor, place: int, origin: Tensor) -> Tensor:
        self._sources = self._sources.take(origin)
        if self._past is not None:
            self._past = [(keys[origin], values[origin]) for keys, values in self._past]
        states, self._past = self._network.step(self._target(words), place, self._past, self._sources)
        logits = states @ self._words.T
        logits[:, _NEVER] = -torch.inf
        return logits.log_softmax(dim=1)


@torch.no_grad()
def translate(
    embeddings: Mapping[str, nn.Module], network: Transformer, pairs: PairTexts, *, beam: int, penalty: float
) -> list[list[int]]:
    """Translations of the source texts, as rows of the target table without marks; all modules are put in evaluation mode.

    A translation has at most twice the source's tokens, and ten.
    """
    for module in (*embeddings.values(), network):
        module.eval()
    found: list[list[int]] = [[] for _ in range(len(pairs))]
    words = network.words(embeddings)
    for batch in pairs.batches(_TRANSLATING_BATCH):
        there = batch.to(network.device)
        sources = network.encode(embeddings["source"](there.source), there.source_lengths)
        best = beam_search(
            _Decoding(network, embeddings, sources, words),
            2 * there.source_lengths + 10,
            beam=beam,
            start=MARKS.index(START),
            end=MARKS.index(END),
            penalty=penalty,
        )
        for place, translation in zip(batch.places.tolist(), best, strict=True):
            found[place] = translation
    return found


def sensitivity(rows: Mapping[str, Tensor], network: Transformer, pairs: PairTexts) -> dict[str, tuple[Tensor, Tensor]]:
    """How much the loss feels each row of both tables, and each direction: the empirical Fisher information.

    Args:
        rows: the tables that the network was trained with: ``source`` (N, D), ``target`` (V, D).
        network: the trained network.
        pairs: the training set.

    Returns:
        By role, (N,) or (V,) sums over a row's occurrences of the squared gradient of its pair's loss; (D, D) the second
        moment of the gradients, summed over all occurrences. A target row that words are scored by occurs at every token,
        with the gradient (p - y) h of that token's loss, and where it is read.
    """
    network.eval()
    for parameter in network.parameters():
        parameter.requires_grad_(False)
    felt = {role: table.new_zeros(len(table)) for role, table in rows.items()}
    moment = {role: table.new_zeros(table.shape[1], table.shape[1]) for role, table in rows.items()}
    for batch in pairs.batches(_TRANSLATING_BATCH):
        there = batch.to(network.device)
        ids = {"source": there.source, "target": there.target}
        vectors = {role: rows[role][places].requires_grad_() for role, places in ids.items()}
        stands = there.wanted != NO_TARGET
        states = network.decode(vectors["target"], network.encode(vectors["source"], there.source_lengths))[stands]
        words = rows["target"] if network.output is None else network.output.weight
        logits = states @ words.T
        loss = functional.cross_entropy(logits, there.wanted[stands], reduction="sum")  # of each pair's own, not a mean
        gradients = torch.autograd.grad(loss, list(vectors.values()))
        for (role, places), gradient in zip(ids.items(), gradients, strict=True):
            flat = gradient.flatten(0, 1)
            felt[role].index_add_(0, places.flatten(), flat.square().sum(dim=1))
            moment[role] += flat.T @ flat
        if network.output is None:
            with torch.no_grad():
                wrong = logits.softmax(dim=1)
                wrong[torch.arange(len(wrong), device=wrong.device), there.wanted[stands]] -= 1
                wrong.square_()
                felt["target"] += states.square().sum(dim=1) @ wrong
                moment["target"] += states.T @ (wrong.sum(dim=1)[:, None] * states)
    return {role: (felt[role], moment[role]) for role in rows}
