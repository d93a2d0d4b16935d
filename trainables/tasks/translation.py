"""German sentences in English: a small Transformer whose source and target tables are compressed.

Reference: Vaswani et al. 2017 (the network); Shu & Nakayama 2018 (source and target embeddings of a translation
model compressed by 94 to 99 %); Elliott et al. 2016 (Multi30k), Cettolo et al. 2014 (IWSLT 2014).

A row of a table stands for a whole word. The target table is what the decoder reads and, unless ``tied`` is false, what
words are scored by: all that grows with the vocabularies is then in the two tables. BLEU is sacrebleu's, in lower case.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, cast

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from quantizers.base import generator
from quantizers.table import Table
from trainables.corpora import CORPORA, Splits
from trainables.corpora.parallel import ParallelCorpus
from trainables.leading import Report
from trainables.networks.network_task import NetworkTask, full_table
from trainables.networks.training import Epoch, Trained, TrainedNetwork, train
from trainables.networks.translation.scoring import make_bleu, sensitivity, signature, translate
from trainables.networks.translation.transformer import Transformer
from trainables.networks.translation.vocabulary import PairVocabulary, own_words, pair_vocabulary
from trainables.networks.vocabulary import UNKNOWN, read_corpus
from trainables.task import Baseline, Metric, Score, TaskSettings

_SOURCE, _TARGET = "source", "target"


class TranslationSettings(TaskSettings):
    """Network, training and search.

    Attributes:
        dataset: the corpus.
        embedding_dim: columns of both tables, where no table is given.
        min_count: how often the training texts have a word that has a row.
        hidden_size: units of the network's states, a multiple of the heads.
        num_layers: of the encoder, and of the decoder.
        heads: of attention.
        inner_size: units between the two linear maps of a layer.
        tied: whether words are scored by the target table, or by an output matrix that is not compressed.
        dropout: on vectors, attention and what each part of a layer adds.
        label_smoothing: share of the target that goes to all words alike.
        epochs: the most epochs.
        patience: epochs without a better development score after which training ends.
        batch_size: pairs a step.
        learning_rate: of Adam.
        warm_up: steps in which the learning rate rises from 0.
        decay: factor on the learning rate after every epoch.
        average: of the weights' moving average, which is what is scored; 0 scores the weights themselves.
        clip_norm: largest norm of a gradient.
        precision: of the network's products in training; bfloat16 is faster where the processor has it. Weights, their
            steps and all scoring are float32.
        beam: hypotheses of the search on the test set; the development set is translated greedily.
        length_penalty: exponent of the length that a hypothesis's log-probability is divided by.
        longest_text: tokens of a training sentence that are read, and of a source sentence.
        train_texts: only the first pairs of the training set; None for all.
    """

    dataset: Literal["multi30k", "iwslt14"] = "multi30k"
    embedding_dim: int = Field(default=256, ge=1)
    min_count: int = Field(default=2, ge=1)
    hidden_size: int = Field(default=256, ge=1)
    num_layers: int = Field(default=2, ge=1)
    heads: int = Field(default=4, ge=1)
    inner_size: int = Field(default=512, ge=1)
    tied: bool = True
    dropout: float = Field(default=0.2, ge=0, lt=1)
    label_smoothing: float = Field(default=0.1, ge=0, lt=1)
    epochs: int = Field(default=8, ge=1)
    patience: int = Field(default=3, ge=1)
    batch_size: int = Field(default=64, ge=1)
    learning_rate: float = Field(default=1e-3, gt=0)
    warm_up: int = Field(default=500, ge=0)
    decay: float = Field(default=0.85, gt=0, le=1)
    average: float = Field(default=0.998, ge=0, lt=1)
    clip_norm: float = Field(default=1.0, gt=0)
    precision: Literal["float32", "bfloat16"] = "float32"
    beam: int = Field(default=5, ge=1)
    length_penalty: float = Field(default=1.0, ge=0)
    longest_text: int = Field(default=100, ge=1)
    train_texts: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _heads_divide(self) -> TranslationSettings:
        if self.hidden_size % self.heads:
            raise ValueError(f"hidden_size is {self.hidden_size}: expected a multiple of the {self.heads} heads")
        return self


class Translation(NetworkTask):
    """BLEU of Multi30k or IWSLT 2014, German to English. Data: the corpus, see ``frontier data``."""

    name = "translation"
    metrics = (Metric("bleu", "max", description="BLEU of the test set's translations, 0 to 100, by sacrebleu"),)
    Settings = TranslationSettings
    has_fisher = True
    reads = _SOURCE

    @property
    def roles(self) -> tuple[str, ...]:
        """The table of the source language, and that of the target language."""
        return (_SOURCE, _TARGET)

    def measured(self) -> Sequence[Metric]:
        """BLEU, with sacrebleu's signature."""
        return [Metric("bleu", "max", description=f"BLEU of the test set, 0 to 100; sacrebleu {self.signature}")]

    @property
    def corpus(self) -> ParallelCorpus:
        """The corpus."""
        return cast(ParallelCorpus, CORPORA[self.settings.dataset])

    @property
    def signature(self) -> str:
        """sacrebleu's: what BLEU's values depend on beside the texts."""
        return signature(make_bleu(self.corpus.bleu_tokenizer))

    def identity(self) -> dict[str, Any]:
        """See :meth:`NetworkTask.identity`; with sacrebleu's signature, which has its version."""
        return {**super().identity(), "signature": self.signature}

    def resolved(self, table: Table) -> dict[str, Any]:
        """See :meth:`NetworkTask.resolved`; ``train_texts`` is how many pairs there are."""
        return {**super().resolved(table), "train_texts": len(self._splits().train)}

    # The tables ------------------------------------------------------------------------------------------------------

    def _splits(self) -> Splits:
        return read_corpus(self.settings.dataset, self.data_dir, self.settings.train_texts)

    def _words(self) -> tuple[tuple[str, ...], ...]:
        settings = self.settings
        return own_words(settings.dataset, self.data_dir, settings.train_texts, settings.min_count)

    def vocabulary(self, table: Table) -> PairVocabulary:
        """The task's rows in ``table``, which is one of the source language, and its texts."""
        settings = self.settings
        return pair_vocabulary(
            settings.dataset,
            self.data_dir,
            settings.train_texts,
            settings.longest_text,
            settings.min_count,
            tuple(table.words or ()),
        )

    def own_table(self) -> Table:
        """The source words, the most frequent first, and ``<unk>``, with random vectors of length about 1."""
        words = [*self._words()[0], UNKNOWN]
        return Table(_random(len(words), self.settings.embedding_dim, generator(0)), words, name=self.label)

    def task_table(self, table: Table) -> Table:
        """The source table that a network of this task has: V rows, and how often each is read in the training texts."""
        found = self.vocabulary(table)
        words = [table.words[row] for row in found.rows.tolist()] if table.words is not None else []
        if found.unknown == len(words):
            words.append(UNKNOWN)
        counts = np.bincount(found.pairs["train"].source.ids, minlength=len(words))
        return Table(found.take(table.vectors), words, torch.from_numpy(counts), f"{table.name} ({self.label})")

    def role_shapes(self, table: Table) -> dict[str, tuple[int, int]]:
        """Rows and columns of the source table and of the target table."""
        return {_SOURCE: table.shape, _TARGET: (len(self.vocabulary(table).target), table.embedding_dim)}

    def role_tables(self, table: Table, baseline: Baseline, *, finetuned: bool) -> dict[str, Table]:
        """See :meth:`NetworkTask.role_tables`; the target table has its words, and how often each is read."""
        tables = super().role_tables(table, baseline, finetuned=finetuned)
        found = self.vocabulary(table)
        target = tables[_TARGET]
        counts = np.bincount(found.pairs["train"].target.ids, minlength=len(found.target))
        return {**tables, _TARGET: Table(target.vectors, found.target, torch.from_numpy(counts), target.name)}

    # Training --------------------------------------------------------------------------------------------------------

    def network(self, embedding_dim: int, seed: int) -> Transformer:
        """A network at its start."""
        settings = self.settings
        return Transformer(
            embedding_dim,
            len(self._words()[1]) + 3,
            hidden_size=settings.hidden_size,
            num_layers=settings.num_layers,
            heads=settings.heads,
            inner_size=settings.inner_size,
            dropout=settings.dropout,
            tied=settings.tied,
            label_smoothing=settings.label_smoothing,
            generator=generator(seed),
        )

    def fit(
        self,
        embeddings: Mapping[str, nn.Module],
        network: Transformer,
        vocabulary: PairVocabulary,
        *,
        seed: int,
        report: Report,
        phase: str = "task",
        **options: Any,
    ) -> Trained:
        """Train; see :func:`trainables.networks.training.train` for the options."""
        settings, pairs = self.settings, vocabulary.pairs["train"]

        def measure_dev() -> float:
            return self._bleu(embeddings, network, vocabulary, "dev", beam=1).value

        data = Epoch(lambda order: pairs.batches(settings.batch_size, order), -(-len(pairs) // settings.batch_size))
        options = {"warm_up": settings.warm_up, **options}
        return train(embeddings, network, data, measure_dev, settings, seed=seed, report=report, phase=phase, **options)

    def test(self, rows: Mapping[str, Tensor], network: Transformer, vocabulary: PairVocabulary) -> dict[str, Score]:
        """The test set's BLEU with the dense tables ``rows`` of both roles."""
        embeddings = {role: full_table(table.to(network.device)) for role, table in rows.items()}
        return {"bleu": self._bleu(embeddings, network, vocabulary, "test", beam=self.settings.beam)}

    def _bleu(
        self, embeddings: Mapping[str, nn.Module], network: Transformer, vocabulary: PairVocabulary, split: str, *, beam: int
    ) -> Score:
        pairs, penalty = vocabulary.pairs[split], self.settings.length_penalty
        found = translate(embeddings, network, pairs, beam=beam, penalty=penalty)
        texts = [self.corpus.detokenize([vocabulary.target[row] for row in translation]) for translation in found]
        references = list(getattr(self._splits(), split).references)
        bleu = make_bleu(self.corpus.bleu_tokenizer).corpus_score(texts, [references])
        return Score(min(float(bleu.score), 100.0), len(texts))  # rounding may give a little more

    def start(
        self, rows: Tensor, vocabulary: PairVocabulary, seed: int, *, finetune: bool
    ) -> tuple[dict[str, nn.Embedding], TrainedNetwork]:
        """See :meth:`NetworkTask.start`; the target table is random."""
        tables, network = super().start(rows, vocabulary, seed, finetune=finetune)
        target = _random(len(vocabulary.target), rows.shape[1], generator(seed, 2)).to(rows.device)
        return {**tables, _TARGET: full_table(target, trained=True)}, network

    def felt(
        self, rows: Mapping[str, Tensor], network: Transformer, vocabulary: PairVocabulary
    ) -> Mapping[str, tuple[Tensor, Tensor]]:
        """See :func:`~trainables.networks.translation.scoring.sensitivity`."""
        return sensitivity(rows, network, vocabulary.pairs["train"])

    def occurrences(self, vocabulary: PairVocabulary, role: str) -> int:
        """The tokens of one side of the training set."""
        return len(getattr(vocabulary.pairs["train"], role).ids)


def _random(rows: int, dim: int, random: torch.Generator) -> Tensor:
    return torch.randn(rows, dim, generator=random) / math.sqrt(dim)
