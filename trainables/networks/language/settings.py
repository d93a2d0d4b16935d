"""Settings of a language model: corpus, tables, network and training."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from trainables.task import TaskSettings


class LanguageModelSettings(TaskSettings):
    """Network and training.

    Attributes:
        dataset: the corpus.
        vocabulary: a file of the words that have rows, one a line, under the data folder; None for those of the training
            text.
        compress: which tables a trial compresses; what is not compressed is part of the network.
        tied: whether one table is both input and output; the last layer then has as many units as it has columns.
        embedding_dim: columns of the input table, where no table is given.
        output_table: vectors that the output table starts from, of ``hidden_size`` columns, by word or in the order of the
            vocabulary; None for random ones.
        initial_range: random tables start between minus this and this.
        rnn: kind of the recurrent layers.
        hidden_size: units of a layer, and columns of the output table.
        num_layers: recurrent layers.
        dropout: on the vectors, between the layers and in front of the output.
        epochs: the most epochs.
        patience: epochs without a better development score after which training ends.
        batch_size: streams that the training text is cut into.
        bptt: words of each stream a step, which is how far back gradients go; the state goes on.
        optimizer: what takes the steps.
        momentum: of ``sgd``.
        weight_decay: of either optimizer.
        learning_rate: at the start.
        decay: factor on the learning rate after every epoch.
        plateau: factor on the learning rate after every epoch that was not the best so far.
        average: of the weights' moving average, which is what is scored; 0 scores the weights themselves.
        clip_norm: largest norm of a gradient.
        precision: of the network's products in training; bfloat16 is faster where the processor has it. Weights, their
            steps, compressed softmaxes and all scoring are float32.
        log_interval: steps after which the loss is reported within an epoch too; 0 for none.
        train_texts: only the first lines of the training text; None for all. The vocabulary is always that of all.
    """

    dataset: Literal["ptb", "wikitext2"] = "ptb"
    vocabulary: str | None = None
    compress: Literal["both", "input", "output"] = "both"
    tied: bool = False
    embedding_dim: int = Field(default=200, ge=1)
    output_table: str | None = None
    initial_range: float = Field(default=0.1, gt=0)
    rnn: Literal["tanh", "relu", "lstm", "gru"] = "lstm"
    hidden_size: int = Field(default=200, ge=1)
    num_layers: int = Field(default=2, ge=1)
    dropout: float = Field(default=0.2, ge=0, lt=1)
    epochs: int = Field(default=12, ge=1)
    patience: int = Field(default=2, ge=1)
    batch_size: int = Field(default=20, ge=1)
    bptt: int = Field(default=20, ge=1)
    optimizer: Literal["adam", "sgd"] = "sgd"
    momentum: float = Field(default=0.0, ge=0, lt=1)
    weight_decay: float = Field(default=0.0, ge=0)
    learning_rate: float = Field(default=20.0, gt=0)
    decay: float = Field(default=1.0, gt=0, le=1)
    plateau: float = Field(default=0.5, gt=0, le=1)
    average: float = Field(default=0.999, ge=0, lt=1)
    clip_norm: float = Field(default=0.25, gt=0)
    precision: Literal["float32", "bfloat16"] = "float32"
    log_interval: int = Field(default=0, ge=0)
    train_texts: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _tied_is_one_table(self) -> LanguageModelSettings:
        if self.tied and (self.compress == "output" or self.output_table is not None):
            raise ValueError("tied: input and output are one table: compress must be both or input, without output_table")
        return self
