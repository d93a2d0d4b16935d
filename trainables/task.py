"""What a downstream task is: the contract that every task keeps.

Shapes: N rows, D columns.

A task is asked for its scores on the uncompressed table once (the baseline, which the ledger keeps) and then on the dense
reconstruction of every compressed file. What both need and only the original can give (its nearest neighbours, say) travels
in the baseline's arrays.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from quantizers.base import Skip
from quantizers.errors import InputError
from quantizers.table import Table


@dataclasses.dataclass(frozen=True)
class Metric:
    """One number that a task measures; ``direction`` says which way is better."""

    name: str
    direction: Literal["min", "max"]
    unit: str = ""
    description: str = ""


@dataclasses.dataclass(frozen=True)
class Score:
    """A measured value, never NaN, and the number of examples (pairs, questions, rows) behind it."""

    value: float
    num_examples: int


@dataclasses.dataclass(frozen=True)
class Baseline:
    """What a task measured on the uncompressed table.

    Attributes:
        scores: by metric name.
        arrays: what scoring uses again, by plain names.
    """

    scores: Mapping[str, Score]
    arrays: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)


class TaskSettings(BaseModel):
    """Settings of one task: frozen, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class DownstreamTask(ABC):
    """A measurement of what a table is good for. One task, one module; the registry finds it.

    Attributes:
        name: what people type.
        version: raised when the same table would score differently; part of every result's key.
        metrics: every metric the task can measure; which of them an instance measures may depend on its settings.
        Settings: the settings.

    Args:
        settings: an instance of ``Settings``.
        data_dir: folder of the data files, or None where none was given.
    """

    name: ClassVar[str]
    version: ClassVar[int] = 1
    metrics: ClassVar[Sequence[Metric]]
    Settings: ClassVar[type[TaskSettings]] = TaskSettings

    def __init__(self, settings: TaskSettings, *, data_dir: Path | None = None) -> None:
        self.settings: Any = settings
        self.data_dir = data_dir

    @property
    def label(self) -> str:
        """The task's name in results and objectives (``label.metric``)."""
        return self.name

    @property
    def roles(self) -> tuple[str, ...]:
        """Names of the tables that a trial compresses with the task; the first is the table that a sweep names."""
        return ("input",)

    def measured(self) -> Sequence[Metric]:
        """The metrics that this instance measures, given its settings."""
        return self.metrics

    def data_files(self) -> Sequence[Path]:
        """The data files that the scores depend on.

        Raises:
            InputError: one is not there; the message says which, where it was looked for, and where it comes from.
        """
        return ()

    def identity(self) -> dict[str, Any]:
        """What the scores depend on beside the table and the seed, in JSON's types: the ledger's key is made of it.

        Raises:
            InputError: a data file is missing.
        """
        return {
            "task": self.name,
            "version": self.version,
            "settings": json.loads(self.settings.model_dump_json()),
            "data": [hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest() for path in self.data_files()],
        }

    def resolved(self, table: Table) -> dict[str, Any]:
        """Every setting by name, in JSON's types, as it is for ``table``: what a setting leaves open (None) is filled in."""
        settings: dict[str, Any] = json.loads(self.settings.model_dump_json())
        return settings

    def code_modules(self) -> Sequence[str]:
        """Modules whose code decides the scores; what they import counts too, in this project."""
        return (type(self).__module__,)

    def check(self, table: Table) -> Skip | None:
        """Why the task has nothing to measure on ``table`` (it holds no words, say), or None.

        Raises:
            InputError: a data file is missing.
        """
        self.data_files()
        return None

    @abstractmethod
    def baseline(self, table: Table, *, seed: int) -> Baseline:
        """Measure the uncompressed ``table``."""

    @abstractmethod
    def score(self, dense: Tensor, table: Table, baseline: Baseline, *, seed: int) -> dict[str, Score]:
        """Measure a reconstruction.

        Args:
            dense: (N, D) float32, rebuilt from the compressed file.
            table: the uncompressed table: its words, and what a metric compares with.
            baseline: what :meth:`baseline` returned for ``table``.
            seed: of training, for tasks that train.

        Returns:
            Scores by metric name. A metric that this table has too few examples for is left out.
        """

    def find_data(self, relative: str, source: str) -> Path:
        """The data file ``relative`` under the data folder.

        Args:
            relative: path below the data folder.
            source: where people get the file.

        Raises:
            InputError: there is no data folder, or the file is not in it.
        """
        if self.data_dir is None:
            raise InputError(f"Task {self.name} reads {relative} from the data folder, and none was given: pass --data DIR.")
        path = self.data_dir / relative
        if not path.is_file():
            raise InputError(f"Task {self.name}: {path} is missing under --data {self.data_dir}; it comes from {source}.")
        return path


def word_rows(words: Sequence[str] | None) -> Callable[[str], int | None]:
    """What gives the row of a word in a table with these ``words``: as it stands, else in lower case, else None.

    Of a word that has several rows, the first is given.
    """
    rows = {word: row for row, word in reversed(list(enumerate(words or ())))}

    def find(word: str) -> int | None:
        row = rows.get(word)
        return rows.get(word.lower()) if row is None else row

    return find


def unit_rows(vectors: Tensor) -> Tensor:
    """Rows scaled to length 1, in float64; rows of zeros stay zero."""
    exact = vectors.to(torch.float64)
    lengths: Tensor = torch.linalg.vector_norm(exact, dim=1, keepdim=True)
    return exact / lengths.clamp_min(1e-300)
