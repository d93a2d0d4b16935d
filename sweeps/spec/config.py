"""A sweep's description: the YAML file, its defaults, its checks, and changes from the command line.

All mistakes end in one :class:`~sweeps.spec.mistakes.MistakesError` that says for each what, where, what was expected, and
the nearest valid name.
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from analysis.store import read_sweep
from quantizers.errors import InputError
from sweeps.spec.mistakes import Mistake, MistakesError, explain
from sweeps.spec.sweep_file import as_run, change, read_documents
from sweeps.spec.units import Bytes, Seconds
from sweeps.storage import is_remote, join
from sweeps.storage.layout import STATUS_FILE, SWEEP_FILE
from sweeps.storage.mirror import copy_of, origin
from trainables.tables.credentials import refuse_credentials


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Budgets(_Section):
    """Code budgets: compression ratios, or payload bytes; one of the two."""

    compression_ratio: tuple[Annotated[float, Field(gt=1e-6)], ...] = ()
    payload_bytes: tuple[Bytes, ...] = ()

    @model_validator(mode="after")
    def _one(self) -> Budgets:
        if bool(self.compression_ratio) == bool(self.payload_bytes):
            raise ValueError("give either compression_ratio or payload_bytes, with at least one value")
        return self


class Search(_Section):
    """How the space is searched.

    ``grid`` runs all of it; ``random`` draws from it; ``optuna`` learns from the objectives what to try next; ``frontier``
    learns sizes, errors and seconds, and runs first what moves the frontier most for its time.
    """

    kind: Literal["grid", "random", "optuna", "frontier"] = "grid"
    samples: int | None = Field(default=None, ge=1)
    sampler: Literal["tpe", "nsga2", "gp"] | None = None
    seed: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _consistent(self) -> Search:
        if self.kind == "grid" and self.samples is not None:
            raise ValueError("a grid runs every configuration and takes no samples; to draw some of them use kind: random")
        if self.kind == "random" and self.samples is None:
            raise ValueError("kind: random needs samples, the number of configurations to draw")
        if self.sampler is not None and self.kind != "optuna":
            raise ValueError("sampler works only with kind: optuna")
        return self


class Scheduler(_Section):
    """Whether trials are stopped early; ``none`` runs each to its end.

    ``moasha`` compares them at shares 1/reduction_factor, 1/reduction_factor^2, ... of their fits, from ``grace`` on;
    ``frontier`` belongs to the search of that name, and stops what cannot move the frontier any more.
    """

    kind: Literal["none", "moasha", "frontier"] = "none"
    reduction_factor: float = Field(default=3.0, gt=1)
    grace: float = Field(default=0.1, gt=0, lt=1)
    curves: dict[str, Literal["min", "max"]] = Field(default={"value": "min"}, min_length=1)


class Resources(_Section):
    """What one trial takes. A trial uses as many threads as it has CPUs."""

    cpu: float = Field(default=1, gt=0)
    gpu: Literal["auto"] | Annotated[float, Field(ge=0)] = "auto"
    memory: Bytes | None = None
    gpu_memory: Bytes | None = None


class HypervolumeStop(_Section):
    """End when so many trials in a row have not enlarged the frontier's hypervolume by more than the share ``gain``."""

    trials: int = Field(ge=1)
    gain: float = Field(default=0.0, ge=0)


class Retrain(_Section):
    """What is trained further with the task after compression; only in the regime finetuned."""

    parts: tuple[Literal["codebooks", "network"], ...] = Field(default=("codebooks", "network"), min_length=1)
    epochs: int = Field(default=3, ge=1)
    learning_rate: float = Field(default=5e-4, gt=0)


class Limits(_Section):
    """Guards against a slip that would take days or all memory: the most trials, and bytes of an unpacked table.

    Without ``unpacked``, a compressed table may unpack to 30 times its size, or to 16 MiB where that is more.
    """

    trials: int = Field(default=100_000, ge=1)
    unpacked: Bytes | None = None


OWN_TABLE = "task"  # in place of a table: the leading task's own, with random vectors to start from


class Stop(_Section):
    """When to end a sweep before all its trials ran; those that run then go on to their end."""

    time: Seconds | None = None
    trials: int | None = Field(default=None, ge=1)
    hypervolume: HypervolumeStop | None = None


class SweepConfig(_Section):
    """One sweep. See ``docs/sweep-file.md`` for every key with an example."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)
    table: str
    rows: int | None = Field(default=None, ge=1)
    weights: str = "none"
    metric: Literal["none", "fisher"] = "none"
    quantizers: Literal["all"] | Annotated[tuple[str | dict[str, Any], ...], Field(min_length=1)]
    budgets: Budgets | None = None
    tasks: tuple[str | dict[str, Any], ...] = ("reconstruction",)
    regime: Literal["pretrained", "finetuned", "end_to_end"] = "pretrained"
    retrain: Retrain | None = None
    vocabulary: Literal["table", "task"] | None = None
    seeds: tuple[Annotated[int, Field(ge=0, lt=2**63)], ...] = Field(default=(0,), min_length=1)
    objectives: tuple[str, ...] | None = None
    search: Search = Search()
    scheduler: Scheduler = Scheduler()
    constraints: dict[str, str] = {}
    resources: Literal["auto"] | Resources = "auto"
    trial_timeout: Seconds | None = None
    max_failures: int = Field(default=1, ge=0)
    stop: Stop = Stop()
    limits: Limits = Limits()
    keep_artifacts: Literal["all", "frontier", "none"] = "all"
    ledger: str | Literal[False] = "RUN_DIR/ledger"
    tracking: str | Literal[False] | None = None
    output: str = "runs"

    @model_validator(mode="after")
    def _searches(self) -> SweepConfig:
        if self.scheduler.kind == "frontier" and self.search.kind != "frontier":
            raise ValueError("scheduler: {kind: frontier} needs search: {kind: frontier}")
        return self

    @model_validator(mode="after")
    def _regimes(self) -> SweepConfig:
        if self.retrain is not None and self.regime != "finetuned":
            raise ValueError("retrain needs regime: finetuned")
        if self.table == OWN_TABLE and self.rows is not None:
            raise ValueError("table: task has the rows of the task's words; rows cannot cut it")
        if self.table == OWN_TABLE and self.regime == "pretrained":
            raise ValueError("table: task starts from random vectors: regime must be finetuned or end_to_end")
        if self.vocabulary == "table" and self.regime != "pretrained":
            raise ValueError(f"regime {self.regime} compresses the task's words: vocabulary cannot be table")
        return self

    @property
    def of_task(self) -> bool:
        """Whether the table is cut to the words of the task."""
        return self.vocabulary == "task" or self.regime != "pretrained"

    @property
    def run_location(self) -> str:
        """Where the run is kept: ``<output>/<name>``, a path or an ``s3://`` address."""
        return join(self.output if is_remote(self.output) else str(Path(self.output).expanduser().absolute()), self.name)

    @property
    def run_dir(self) -> Path:
        """Where the driver works on the run: its folder, or this machine's copy of one on ``s3://``."""
        return copy_of(self.run_location) if is_remote(self.run_location) else Path(self.run_location)

    @property
    def ledger_location(self) -> str | None:
        """Where the ledger is, or None where it is off."""
        if self.ledger is False:
            return None
        start, _, below = self.ledger.partition("RUN_DIR")
        if start == "" and below != self.ledger:
            return join(self.run_location, *below.strip("/").split("/"))
        return self.ledger if is_remote(self.ledger) else str(Path(self.ledger).expanduser().absolute())

    @property
    def shares_ledger(self) -> bool:
        """Whether other sweeps may use the ledger: it is not in the run's own folder."""
        ledger = self.ledger_location
        return ledger is not None and not posixpath.normpath(ledger).startswith(f"{posixpath.normpath(self.run_location)}/")

    @property
    def tracking_uri(self) -> str | None:
        """Where MLflow records go: by default a database in the output folder; None where tracking is off."""
        if self.tracking is False:
            return None
        if not self.tracking:
            return default_tracking_uri(self.run_dir.parent)
        # MLflow itself takes a ~ for the name of a folder.
        start, _, path = self.tracking.rpartition(":///")
        if start in ("", "sqlite") and path.startswith("~"):
            return self.tracking.removesuffix(path) + str(Path(path).expanduser())
        return self.tracking

    @property
    def trial_resources(self) -> Resources:
        """What one trial takes, ``auto`` spelt out."""
        return Resources() if self.resources == "auto" else self.resources

    def to_yaml(self) -> str:
        """The resolved sweep as YAML that loads to the same sweep."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=120)


def default_tracking_uri(output: str | Path = "runs") -> str:
    """The MLflow database that belongs to an output folder."""
    return f"sqlite:///{Path(output).absolute() / 'mlflow.db'}"


def load_all(
    source: str,
    changes: Sequence[str] = (),
    *,
    scale: str | None = None,
    further: Callable[[Mapping[str, Any]], Sequence[Mistake]] | None = None,
    **overrides: Any,
) -> list[SweepConfig]:
    """Read the sweeps of a YAML file (documents between ``---``) or a preset.

    Args:
        source: path of a YAML file, or the name of a preset.
        changes: ``key=value`` pairs, the key dotted (``budgets.compression_ratio=[8,16]``), the value YAML; for every sweep.
        scale: of a preset that has scales; None for its first.
        further: finds more mistakes in the keys of a sweep, such as
            :func:`~sweeps.spec.prepare.wrong_names`; all are told together.
        overrides: top-level keys set on top (None: left alone).

    Raises:
        MistakesError: there are mistakes; all of them are in it.
        InputError: no such preset or file, it is not YAML, or two sweeps have one name.
    """
    configs: list[SweepConfig] = []
    lines: list[str] = []
    documents = read_documents(source, scale)
    for document in documents:
        for text in changes:
            document.change(text)
        document.keys.update({key: value for key, value in overrides.items() if value is not None})
        refuse_credentials(document.where, document.keys)
        mistakes = list(further(document.keys)) if further is not None else []
        try:
            configs.append(SweepConfig.model_validate(document.keys))
        except ValidationError as error:
            mistakes = [*explain(error, SweepConfig, document.keys), *mistakes]
        lines += document.told(mistakes)
    if lines:
        raise MistakesError(lines)
    folders: set[Path] = set()
    for document, config in zip(documents, configs, strict=True):
        if config.run_dir in folders:
            raise InputError(f"{document.where}: an earlier sweep has the name {config.name!r} too. Names must differ.")
        folders.add(config.run_dir)
    return configs


def load(source: str, changes: Sequence[str] = (), **overrides: Any) -> SweepConfig:
    """Read the one sweep of a YAML file or a preset; see :func:`load_all`.

    Raises:
        InputError: as there, or there are several.
    """
    first, *more = load_all(source, changes, **overrides)
    if more:
        names = ", ".join(config.name for config in (first, *more))
        raise InputError(f"{source}: expected one sweep, found {len(more) + 1}: {names}.")
    return first


def load_run(run_dir: Path, **options: Any) -> SweepConfig:
    """The sweep whose folder, or copy of one on ``s3://``, is ``run_dir``; as it was run, where its file is gone.

    ``options`` are those of :func:`load_all`.

    Raises:
        InputError: it is no run's folder, or its file is damaged.
    """
    moved = {} if origin(run_dir) else {"output": str(run_dir.absolute().parent), "name": run_dir.absolute().name}
    if not (run_dir / SWEEP_FILE).is_file():
        keys = as_run(run_dir)
        if keys is None:
            raise InputError(f"{run_dir}: not a run (it has no sweep.yaml).")
        return build({**keys, **moved}, str(run_dir / STATUS_FILE))
    read_sweep(run_dir)  # says where it has been changed
    return load(str(run_dir / SWEEP_FILE), **moved, **options)


def build(data: Mapping[str, Any], where: str = "sweep") -> SweepConfig:
    """Check ``data`` and fill in defaults; see :func:`load`."""
    refuse_credentials(where, dict(data))
    try:
        return SweepConfig.model_validate(dict(data))
    except ValidationError as error:
        raise MistakesError(f"{where}: {one.text}" for one in explain(error, SweepConfig, data)) from None


def parse_parameters(changes: Sequence[str]) -> dict[str, Any]:
    """``key=value`` pairs of ``--set`` as a mapping, the values read as YAML."""
    data: dict[str, Any] = {}
    for text in changes:
        change(data, text)
    return data
