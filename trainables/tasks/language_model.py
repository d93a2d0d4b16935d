"""Which word follows: a recurrent language model whose input and output tables are compressed.

Reference: Zaremba, Sutskever & Vinyals 2014 (the network); Shi & Yu, Interspeech 2018 (basis embedding: both tables in
product codes, see :mod:`quantizers.output` for the softmax); Kim, Kim & Lee 2020, section 4 (PTB, the input table).

A trial of regime ``finetuned`` with ``retrain`` of codebooks and network is basis embedding's recipe: full tables are
trained first, then both are quantized, codes stay, and centroids and network are trained on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from quantizers.base import Skip, generator
from quantizers.errors import InputError
from quantizers.table import Table
from trainables.corpora import CORPORA
from trainables.leading import Report, silent
from trainables.networks.language.network import INPUT, OUTPUT, LanguageNetwork
from trainables.networks.language.scoring import log_loss, perplexity, sensitivity
from trainables.networks.language.settings import LanguageModelSettings
from trainables.networks.language.texts import Streams, TextVocabulary, own_words, text_vocabulary
from trainables.networks.network_task import NetworkTask, full_table
from trainables.networks.training import Groups, Trained, TrainedNetwork, train
from trainables.networks.vocabulary import read_corpus
from trainables.tables.formats import read_table
from trainables.task import Baseline, Metric, Score, word_rows

_DEV_STREAMS, _DEV_LENGTH = 16, 50  # the development set only chooses: it is read in parallel
_TEST_LENGTH = 500


class LanguageModel(NetworkTask):
    """Perplexity of PTB or WikiText-2. Data: the corpus, see ``frontier data``."""

    name = "language_model"
    metrics = (Metric("perplexity", "min", description="of the test text, every word of it, the state carried throughout"),)
    Settings = LanguageModelSettings
    has_fisher = True

    @property
    def roles(self) -> tuple[str, ...]:
        """The input table, the output table, or both; one that is tied is the input."""
        if self.settings.tied:
            return (INPUT,)
        return (INPUT, OUTPUT) if self.settings.compress == "both" else (self.settings.compress,)

    def resolved(self, table: Table) -> dict[str, Any]:
        """See :meth:`NetworkTask.resolved`; ``train_texts`` is how many lines there are."""
        lines = len(read_corpus(self.settings.dataset, self.data_dir, self.settings.train_texts).train)
        open_ones = {"vocabulary": "the training text's words", "output_table": "random", "train_texts": lines}
        return open_ones | {name: value for name, value in super().resolved(table).items() if value is not None}

    def data_files(self) -> Sequence[Path]:
        """The corpus's files, the vocabulary and the output table."""
        files = list(CORPORA[self.settings.dataset].files(self.data_dir))
        for given, source in ((self.settings.vocabulary, "you: a word a line"), (self.settings.output_table, "you")):
            if given is not None:
                files.append(self.find_data(given, source))
        return files

    def check(self, table: Table) -> Skip | None:
        """The table must have words, and some of the task's; the output table has the width of the network."""
        if (skip := super().check(table)) is not None:
            return skip
        if self.roles == (OUTPUT,) and table.embedding_dim != self.settings.hidden_size:
            return Skip(f"compress: output needs a table of {self.settings.hidden_size} columns, as hidden_size says")
        found = self.vocabulary(table)
        return Skip("the table has no word of its texts") if found.oov_words == len(found.words) else None

    # The tables ------------------------------------------------------------------------------------------------------

    @property
    def _word_file(self) -> Path | None:
        given = self.settings.vocabulary
        return None if given is None else self.find_data(given, "you: a word a line")

    def vocabulary(self, table: Table) -> TextVocabulary:
        """The task's words, where ``table`` has them, and its texts."""
        settings = self.settings
        words = tuple(table.words or ())
        return text_vocabulary(settings.dataset, self.data_dir, settings.train_texts, self._word_file, words)

    def own_table(self) -> Table:
        """The task's words with random vectors."""
        words = own_words(self.settings.dataset, self.data_dir, self._word_file)
        return Table(self._random(len(words), self.settings.embedding_dim, generator(0)), words, name=self.label)

    def task_table(self, table: Table) -> Table:
        """The table that a network of this task has: V rows, and how often each is read in the training text."""
        found = self.vocabulary(table)
        return Table(found.take(table.vectors), found.words, found.counts, f"{table.name} ({self.label})")

    def role_shapes(self, table: Table) -> dict[str, tuple[int, int]]:
        """Rows and columns of the compressed tables."""
        shapes = {INPUT: table.shape, OUTPUT: (table.num_embeddings, self.settings.hidden_size)}
        return {role: shapes[role] for role in self.roles}

    def role_tables(self, table: Table, baseline: Baseline, *, finetuned: bool) -> dict[str, Table]:
        """See :meth:`NetworkTask.role_tables`; all tables have the task's words and how often each is read."""
        tables = super().role_tables(table, baseline, finetuned=finetuned) if INPUT in self.roles else {}
        if OUTPUT in self.roles:
            vectors = torch.tensor(baseline.arrays[f"table.{OUTPUT}"])
            found = self.vocabulary(table)
            tables[OUTPUT] = Table(vectors, found.words, found.counts, f"{self.label}, {OUTPUT}")
        return tables

    def _random(self, rows: int, dim: int, random: torch.Generator) -> Tensor:
        most = self.settings.initial_range
        return torch.empty(rows, dim).uniform_(-most, most, generator=random)

    def _output_start(self, vocabulary: TextVocabulary, seed: int) -> Tensor:
        """(V, H): what the output table starts from."""
        shape = len(vocabulary.words), self.settings.hidden_size
        start = self._random(*shape, generator(seed, 2))
        given = self.settings.output_table
        if given is None:
            return start
        table = read_table(str(self.find_data(given, "you")))
        if table.embedding_dim != shape[1] or (table.words is None and len(table.vectors) != shape[0]):
            raise InputError(f"output_table {given}: is {table.shape}; expected {shape}, or words with {shape[1]} columns.")
        if table.words is None:
            return table.vectors.clone()
        find = word_rows(table.words)
        rows = torch.tensor([-1 if (row := find(word)) is None else row for word in vocabulary.words])
        start[rows >= 0] = table.vectors[rows[rows >= 0]]
        return start

    # Training --------------------------------------------------------------------------------------------------------

    def network(self, embedding_dim: int, seed: int) -> LanguageNetwork:
        """A network at its start; tables that are not compressed are its own."""
        settings, random = self.settings, generator(seed)
        words = own_words(settings.dataset, self.data_dir, self._word_file)
        network = LanguageNetwork(
            len(words),
            embedding_dim,
            settings.hidden_size,
            settings.num_layers,
            rnn=settings.rnn,
            tied=settings.tied,
            dropout=settings.dropout,
            streams=settings.batch_size,
            generator=random,
        )
        for role, dim in ((INPUT, embedding_dim), *([] if settings.tied else [(OUTPUT, settings.hidden_size)])):
            if role not in self.roles:
                network.own(role, full_table(self._random(len(words), dim, random)))
        return network

    def start(
        self, rows: Tensor, vocabulary: TextVocabulary, seed: int, *, finetune: bool
    ) -> tuple[dict[str, nn.Embedding], TrainedNetwork]:
        """See :meth:`NetworkTask.start`; tables that are not compressed are the network's own."""
        tables, network = super().start(rows, vocabulary, seed, finetune=finetune)
        if not self.settings.tied:
            tables[OUTPUT] = full_table(self._output_start(vocabulary, seed).to(rows.device), trained=True)
        for role in set(tables) - set(self.roles):
            cast(LanguageNetwork, network).own(role, tables.pop(role))
        return tables, network

    def fit(
        self,
        embeddings: Mapping[str, nn.Module],
        network: LanguageNetwork,
        vocabulary: TextVocabulary,
        *,
        seed: int,
        report: Report,
        phase: str = "task",
        **options: Any,
    ) -> Trained:
        """Train; see :func:`trainables.networks.training.train` for the options."""
        settings = self.settings
        before = vocabulary.end_of_line
        data = network.epoch(Streams(vocabulary.texts["train"], before, settings.batch_size, settings.bptt))
        dev = Streams(vocabulary.texts["dev"], before, _DEV_STREAMS, _DEV_LENGTH)

        def measure_dev() -> float:
            return -perplexity(log_loss(embeddings, network, dev))

        options = {"plateau": settings.plateau, "log_interval": settings.log_interval, **options}
        options["make_optimizer"] = self._optimizer
        return train(embeddings, network, data, measure_dev, settings, seed=seed, report=report, phase=phase, **options)

    def _optimizer(self, parameters: Groups, learning_rate: float) -> torch.optim.Optimizer:
        settings = self.settings
        options = {"lr": learning_rate, "weight_decay": settings.weight_decay, "fused": True}
        if settings.optimizer == "sgd":
            return torch.optim.SGD(parameters, momentum=settings.momentum, **options)
        return torch.optim.Adam(parameters, **options)

    def test(self, rows: Mapping[str, Tensor], network: LanguageNetwork, vocabulary: TextVocabulary) -> dict[str, Score]:
        """The test text's perplexity with the dense tables ``rows`` by role."""
        tables = {role: full_table(table.to(network.device)) for role, table in rows.items()}
        streams = Streams(vocabulary.texts["test"], vocabulary.end_of_line, 1, _TEST_LENGTH)
        return {"perplexity": Score(perplexity(log_loss(tables, network, streams)), streams.tokens)}

    def all_tables(self, rows: Mapping[str, Tensor], network: LanguageNetwork) -> Mapping[str, Tensor]:
        """See :meth:`NetworkTask.all_tables`."""
        return {**rows, **{role: cast(nn.Embedding, own).weight.detach() for role, own in network.tables.items()}}

    def felt(
        self, rows: Mapping[str, Tensor], network: LanguageNetwork, vocabulary: TextVocabulary
    ) -> Mapping[str, tuple[Tensor, Tensor]]:
        """See :func:`~trainables.networks.language.scoring.sensitivity`."""
        settings = self.settings
        text = Streams(vocabulary.texts["train"], vocabulary.end_of_line, settings.batch_size, settings.bptt)
        return sensitivity(rows, network, text)

    def occurrences(self, vocabulary: TextVocabulary, role: str) -> int:
        """The tokens of the training text."""
        return len(vocabulary.texts["train"])

    def score(
        self, dense: Tensor, table: Table, baseline: Baseline, *, seed: int, report: Report = silent
    ) -> dict[str, Score]:
        """See :meth:`NetworkTask.score`."""
        if INPUT not in self.roles:
            raise InputError(f"{self.label}: compress: output needs the regime finetuned or end_to_end.")
        return super().score(dense, table, baseline, seed=seed, report=report)
