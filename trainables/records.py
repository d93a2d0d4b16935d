"""What a trial is to do and what it found out, as plain data: what travels between processes and is kept in the ledger."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from typing import Any

import quantizers
from quantizers import Quantizer
from trainables.provenance import code_digest, versions

WHOLE_TABLE = "whole table"


def content_key(*parts: Any) -> str:
    """Digest (20 hexadecimal digits) of JSON-able ``parts``."""
    return hashlib.blake2b(json.dumps(parts, sort_keys=True).encode(), digest_size=10).hexdigest()


@dataclasses.dataclass(frozen=True)
class TrialSpec:
    """What one trial does; JSON-able, and enough to run it anywhere the table is.

    Attributes:
        method: name of the quantizer.
        config: its parameters, complete; of the first role's table, where the task has several.
        role_configs: by role, the parameters for the other tables.
        budget_bytes: what the payloads of all tables may take; None for baselines and explicit configurations.
        seed: of the fit and of the tasks.
        regime: how table and task are trained.
        weights: name of the row weights ("none": all rows count the same).
        table_digest: content digest of the table.
        weights_digest: content digest of the row weights.
        task_keys: content keys of the tasks.
        code_digest: digest of the code, as it was when the trial was planned.
        fit_with: parameters of the larger configuration that this one is cut from, where the method is nested.
        retrain: what is trained further after compression (parts, epochs, learning_rate), or None.
        metric: what the distortion is measured in ("none": the plain squared error).
        lead: place of the task that leads the regime, the row weights or the metric; None where no task does.
        task_scope: label of the task whose words the table has, or "whole table".
    """

    method: str
    config: Mapping[str, Any]
    budget_bytes: int | None
    seed: int
    regime: str
    weights: str
    table_digest: str
    weights_digest: str
    task_keys: tuple[str, ...]
    code_digest: str
    fit_with: Mapping[str, Any] | None = None
    retrain: Mapping[str, Any] | None = None
    metric: str = "none"
    lead: int | None = None
    task_scope: str = WHOLE_TABLE
    role_configs: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)

    def config_of(self, role: str) -> Mapping[str, Any]:
        """The parameters for the table of ``role``."""
        return self.role_configs.get(role, self.config)

    @property
    def config_json(self) -> str:
        """All parameters, as they stand in results."""
        return config_json(self.config, self.role_configs)

    @property
    def key(self) -> str:
        """Content key: the same key means the same result."""
        cls = quantizers.get(self.method)
        # A budget changes what is fitted only where the length varies; elsewhere the configuration says it all.
        budget = None if _exact(cls, self.config) else self.budget_bytes
        retrain = None if self.retrain is None else dict(self.retrain)
        roles = {role: dict(config) for role, config in self.role_configs.items()}
        more = [roles] if roles else []
        return content_key("trial", self._base(self.config), self.regime, list(self.task_keys), budget, retrain, *more)

    def _base(self, config: Mapping[str, Any]) -> list[Any]:
        # What is fitted is the leading task's fine-tuned table, or weighted by it.
        lead = None if self.lead is None else [self.regime, self.task_keys[self.lead]]
        return [
            self.table_digest,
            self.method,
            dict(config),
            self.seed,
            self.weights_digest,
            self.code_digest,
            lead,
            self.metric,
        ]

    @property
    def fit_key(self) -> str:
        """Content key of the fit; trials with the same one share it."""
        return content_key("fit", self._base(self.fit_with or self.config))

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> TrialSpec:
        """Undo :meth:`to_json`."""
        return cls(**{**data, "task_keys": tuple(data["task_keys"])})


def config_json(config: Mapping[str, Any], role_configs: Mapping[str, Mapping[str, Any]]) -> str:
    """Parameters as they stand in results; those of further tables under ``roles``."""
    more = {"roles": {role: dict(own) for role, own in role_configs.items()}} if role_configs else {}
    return json.dumps({**config, **more}, sort_keys=True)


def share_of(budget_bytes: int, role: Any, dense_bytes: Mapping[Any, int]) -> int:
    """What of a budget the table of ``role`` may take: in proportion to its uncompressed size."""
    return budget_bytes * dense_bytes[role] // sum(dense_bytes.values())


def _exact(cls: type[Quantizer], config: Mapping[str, Any]) -> bool:
    return cls.storage(quantizers.make_config(cls.name, config), (1, 1)).exact


def trial_code_digest(method: str) -> str:
    """Digest of the code that a trial of ``method`` runs, the tasks' apart."""
    return code_digest((quantizers.get(method).__module__, "trainables.trial"))


@dataclasses.dataclass
class TrialResult:
    """What a trial found out; JSON-able.

    Attributes:
        row: columns of ``trials.parquet``.
        scores: rows of ``scores.parquet``.
        curves: the reports of the fit and of trainings, in order: phase, fraction, value, seconds since the fit began, and
            curves of their own.
        artifact: where the compressed file was written.
        seconds: from the start of the trial to its end.
    """

    row: dict[str, Any]
    scores: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    curves: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    artifact: str | None = None
    seconds: float | None = None

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> TrialResult:
        """Undo :meth:`to_json`."""
        return cls(**data)


def blank_row(spec: TrialSpec, table: tuple[str, int, int], *, status: str, reason: str | None = None) -> dict[str, Any]:
    """The columns of a trial that are known before it runs."""
    name, num_embeddings, embedding_dim = table
    return {
        "trial_key": spec.key,
        "table": name,
        "table_digest": spec.table_digest,
        "task_scope": spec.task_scope,
        "quantizer": spec.method,
        "config_json": spec.config_json,
        "regime": spec.regime,
        "retrain": None if spec.retrain is None else json.dumps(dict(spec.retrain), sort_keys=True),
        "weights": spec.weights,
        "fit_metric": spec.metric,
        "budget_bytes": spec.budget_bytes,
        "seed": spec.seed,
        "status": status,
        "reason": reason,
        "reused": False,
        "num_embeddings": num_embeddings,
        "embedding_dim": embedding_dim,
        "fit_key": spec.fit_key,
        "shared_fit": False,
        "code_digest": spec.code_digest,
        "versions": json.dumps(versions(), sort_keys=True),
    }
