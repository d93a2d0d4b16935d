"""Before a sweep: reads the table, makes the tasks and the plan, and checks the run's folder. Nothing is written here."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import hashlib
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from quantizers import QuantizerConfig, Table, TableStats, registry
from quantizers.errors import InputError
from sweeps.spec.config import OWN_TABLE, SweepConfig
from sweeps.spec.constraints import Constraint, parse_constraints
from sweeps.spec.limits import check_size
from sweeps.spec.mistakes import Mistake, attempt, explain, unknown_keys
from sweeps.spec.plan import Plan, check_objectives, check_search, make_plan
from sweeps.spec.space import parse_entry
from sweeps.storage.inputs import brought
from trainables.leading import LeadingTask
from trainables.provenance import code_digest
from trainables.records import WHOLE_TABLE, content_key
from trainables.registry import get as task_class
from trainables.registry import make_task
from trainables.tables.arrays import load_npy
from trainables.tables.formats import read_table
from trainables.task import DownstreamTask

_MOST_CHOICES = 100  # values of a parameter that are looked at to tell all mistakes at once


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A sweep that is ready to run."""

    config: SweepConfig
    data_dir: Path | None
    table: Table
    stats: TableStats
    weights: np.ndarray | None
    task_entries: tuple[Any, ...]
    tasks: tuple[DownstreamTask, ...]
    plan: Plan
    objectives: tuple[str, ...]
    directions: Mapping[str, Mapping[str, str]]
    constraints: tuple[Constraint, ...] = ()


def prepare(config: SweepConfig, data_dir: Path | None) -> Prepared:
    """Read and check everything that a sweep needs.

    Raises:
        InputError: the table, a task, a method, an objective or the run's folder is not what the sweep needs.
    """
    check_size(config)
    entries = _with_reconstruction(config.tasks)
    tasks = tuple(make_task(entry, data_dir) for entry in entries)
    labels = [task.label for task in tasks]
    for label in labels:
        if labels.count(label) > 1:
            raise InputError(f"tasks: {label} is listed twice.")
    directions = {
        f"{task.label}.{metric.name}": {
            "direction": metric.direction,
            "unit": metric.unit,
            "description": metric.description,
        }
        for task in tasks
        for metric in task.measured()
    }
    objectives = config.objectives or ("payload_bytes", *(f"{task.label}.{task.measured()[0].name}" for task in tasks))
    check_objectives(objectives, directions)
    check_search(config, objectives)
    constraints = parse_constraints(config.constraints, directions)
    lead = None
    if config.of_task or OWN_TABLE == config.table or "fisher" in (config.weights, config.metric):
        why = "weights: fisher" if config.weights == "fisher" else "metric: fisher"
        why = "vocabulary: task" if config.vocabulary else why
        why = "table: task" if config.table == OWN_TABLE else why
        why = why if config.regime == "pretrained" else f"regime: {config.regime}"
        lead, leading = leading_task(tasks, why)
        if "fisher" in (config.weights, config.metric) and not leading.has_fisher:
            raise InputError(f"{leading.label} gives no Fisher information: weights and metric cannot be fisher.")
    if config.table == OWN_TABLE:
        table = leading.own_table()
    else:
        table = read_table(brought(config.table), data_dir=data_dir, rows=config.rows, max_unpacked=config.limits.unpacked)
    for task in tasks:
        nothing = task.check(table)
        if nothing is not None:
            raise InputError(f"tasks: {task.label} cannot measure {config.table}: {nothing.reason}.")
    if config.of_task and lead is not None:
        table = leading.task_table(table)
    weights = read_weights(config.weights, table, data_dir)
    under_metric = config.metric != "none"
    stats = dataclasses.replace(TableStats.of(table), under_metric=under_metric)
    others: dict[str, TableStats] = {}
    if lead is not None and config.regime != "pretrained":
        shapes = leading.role_shapes(table)
        # Training is what makes the other tables, so that nothing but their shape is known yet.
        unseen = {role: TableStats.unseen(*shapes[role]) for role in leading.roles[1:]}
        others = {role: dataclasses.replace(one, under_metric=under_metric) for role, one in unseen.items()}
    plan = make_plan(
        config,
        stats,
        table_digest=table.digest,
        weights_digest=_weights_digest(config.weights, weights),
        task_keys=[task_key(task) for task in tasks],
        lead=lead,
        task_scope=leading.label if config.of_task and lead is not None else WHOLE_TABLE,
        trained=any(isinstance(task, LeadingTask) for task in tasks),
        constraints=constraints,
        others=others,
    )
    return Prepared(config, data_dir, table, stats, weights, entries, tasks, plan, objectives, directions, constraints)


def wrong_names(keys: Mapping[str, Any]) -> list[Mistake]:
    """What is wrong in a sweep's quantizers, tasks, objectives and constraints: names, parameters, settings.

    Args:
        keys: of a sweep file; wrong in any way. What the sweep's model refuses by itself is passed over.
    """
    found: list[Mistake] = []
    quantizers = keys.get("quantizers")
    # A misspelt key 'budgets' is told as such; that every method lacks budgets is no mistake of its own then.
    has_budgets = keys.get("budgets") is not None or bool(difflib.get_close_matches("budgets", list(map(str, keys))))
    for number, entry in enumerate(quantizers if isinstance(quantizers, list) else ()):
        found += _wrong_quantizer(entry, ("quantizers", number), has_budgets=has_budgets)
    tasks = keys.get("tasks", [])
    entries = [one for one in tasks if isinstance(one, str | dict)] if isinstance(tasks, list) else []
    wrong = [mistake for number, entry in enumerate(entries) for mistake in _wrong_task(entry, ("tasks", number))]
    if wrong:
        return [*found, *wrong]  # which metrics there are depends on the tasks
    made = [make_task(entry) for entry in _with_reconstruction(tuple(entries))]
    metrics = [f"{task.label}.{metric.name}" for task in made for metric in task.measured()]
    objectives, constraints = keys.get("objectives"), keys.get("constraints")
    for number, name in enumerate(objectives if isinstance(objectives, list) else ()):
        if isinstance(name, str):
            found += attempt(functools.partial(check_objectives, [name], metrics), ("objectives", number))
    for name, limit in constraints.items() if isinstance(constraints, dict) else ():
        found += attempt(functools.partial(parse_constraints, {name: limit}, metrics), ("constraints", name))
    return found


def _wrong_quantizer(entry: Any, path: tuple[str | int, ...], *, has_budgets: bool) -> list[Mistake]:
    if not isinstance(entry, str | dict):
        return []
    given = {"method": entry} if isinstance(entry, str) else {name: entry[name] for name in entry if name != "roles"}
    method = given.pop("method", None)
    if not isinstance(method, str):
        return [Mistake(path, f"quantizers: {given}: the key 'method' is missing.")]
    if wrong := attempt(lambda: registry.get(method), (*path, "method"), "quantizers: "):
        return wrong
    known = list(registry.get(method).Config.model_fields)
    if wrong := unknown_keys(map(str, given), known, f"quantizer {method}"):
        return [Mistake((*path, *one.path), one.text) for one in wrong]
    if not given and not has_budgets:
        return [Mistake(path, f"quantizers: {method} has no parameters here and the sweep has no 'budgets': give either.")]
    wrong = _wrong_values(registry.get(method).Config, given, f"quantizers: {method}")
    if wrong:
        return [Mistake((*path, *one.path), one.text) for one in wrong]
    return attempt(lambda: parse_entry({"method": method, **given}), path, "quantizers: ")


def _wrong_values(model: type[QuantizerConfig], given: Mapping[str, Any], prefix: str) -> list[Mistake]:
    """What ``model`` refuses of the listed values of parameters; lists are choices."""
    choices = {name: value if isinstance(value, list) else [value] for name, value in given.items()}
    choices = {name: values for name, values in choices.items() if values and not isinstance(values[0], Mapping)}
    first = {name: values[0] for name, values in choices.items()}
    others = [{**first, name: value} for name, values in choices.items() for value in values[1:_MOST_CHOICES]]
    found: dict[str, Mistake] = {}
    for one in (first, *others):
        try:
            model.model_validate(one)
        except ValidationError as error:
            found |= {
                mistake.text: Mistake(mistake.path[:1], mistake.text) for mistake in explain(error, model, one, prefix)
            }
    return list(found.values())


def _wrong_task(entry: Any, path: tuple[str | int, ...]) -> list[Mistake]:
    settings = {} if isinstance(entry, str) else {name: value for name, value in entry.items() if name != "task"}
    name = entry if isinstance(entry, str) else entry.get("task")
    if isinstance(name, str) and not attempt(lambda: task_class(name), path):
        cls = task_class(name)
        if wrong := unknown_keys(map(str, settings), list(cls.Settings.model_fields), f"task {name}"):
            return [Mistake((*path, *one.path), one.text) for one in wrong]
        try:
            cls.Settings.model_validate(settings)
        except ValidationError as error:
            wrong = explain(error, cls.Settings, settings, f"tasks: {name}")
            return [Mistake((*path, *one.path), one.text) for one in wrong]
    return attempt(lambda: make_task(entry), path, "tasks: ")


def leading_task(tasks: Sequence[DownstreamTask], why: str) -> tuple[int, LeadingTask]:
    """The one task of a sweep that trains a network, and its place.

    Raises:
        InputError: there is none, or more than one.
    """
    trained = [(index, task) for index, task in enumerate(tasks) if isinstance(task, LeadingTask)]
    if len(trained) != 1:
        names = ", ".join(task.label for _, task in trained) or "none"
        raise InputError(f"{why} needs exactly one task that trains a network, such as sentiment; this sweep has {names}.")
    return trained[0]


def _weights_digest(spec: str, weights: np.ndarray | None) -> str:
    if weights is None:
        return "" if spec == "none" else spec
    return hashlib.blake2b(weights.tobytes(), digest_size=8).hexdigest()


def _with_reconstruction(entries: tuple[Any, ...]) -> tuple[Any, ...]:
    """Reconstruction costs next to nothing and every table and plot can use it: it is always measured."""
    names = [entry if isinstance(entry, str) else entry.get("task") for entry in entries]
    return entries if "reconstruction" in names else ("reconstruction", *entries)


def task_key(task: DownstreamTask) -> str:
    """Content key of a task: its name, version, settings, data and code."""
    return content_key("task", task.identity(), code_digest(task.code_modules()))


def read_weights(spec: str, table: Table, data_dir: Path | None) -> np.ndarray | None:
    """Row weights (N,): ``none``, ``counts``, ``sqrt_counts``, or a file (``.npy``, or text with one number a line).

    ``fisher`` gives None here: those weights are made of the task's baseline, in every trial with its own seed's.

    Raises:
        InputError: the table has no counts, or the file is missing or does not fit the table.
    """
    if spec in ("none", "fisher"):
        return None
    if spec in ("counts", "sqrt_counts"):
        if table.counts is None:
            raise InputError(f"weights: {spec}: the table {table.name} has no counts (word frequencies) beside it.")
        counts = table.counts.numpy()
        return np.asarray(counts if spec == "counts" else np.sqrt(counts), dtype=np.float32)
    spec = brought(spec)
    candidates = [Path(spec)] + ([data_dir / spec] if data_dir is not None else [])
    path = next((one for one in candidates if one.is_file()), None)
    if path is None:
        raise InputError(f"weights: {spec!r} is not a file; expected none, counts, sqrt_counts, fisher or a file.")
    with np.errstate(over="ignore"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "loadtxt: input contained no data")  # said below, as too few weights
        try:
            values = load_npy(path) if path.suffix == ".npy" else np.loadtxt(path, dtype=np.float32)
        except InputError:
            raise
        except (ValueError, OverflowError, OSError) as error:
            raise InputError(f"{path}: not a file of weights: {' '.join(str(error).split())}.") from None
        values = np.asarray(values, dtype=np.float32).reshape(-1)[: table.num_embeddings]
    if len(values) != table.num_embeddings or not np.isfinite(values).all() or values.min() < 0 or not values.any():
        raise InputError(f"{path}: expected {table.num_embeddings} finite weights, none negative, not all zero.")
    return values
