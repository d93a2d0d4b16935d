"""Finds every task: the modules of this package and the entry points ``embedding_frontier.tasks``.

A new task is one new file: nothing here, or anywhere else, lists the tasks by name.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from quantizers.errors import InputError, unknown_name
from quantizers.registry import discover, validated
from trainables.task import DownstreamTask

ENTRY_POINT_GROUP = "embedding_frontier.tasks"


@functools.cache
def _registry() -> dict[str, type[DownstreamTask]]:
    import trainables.tasks

    return discover(trainables.tasks, DownstreamTask, ENTRY_POINT_GROUP, "task")  # type: ignore[type-abstract]


def tasks() -> dict[str, type[DownstreamTask]]:
    """Every registered task by name, in alphabetical order."""
    return dict(_registry())


def get(name: str) -> type[DownstreamTask]:
    """The task called ``name``.

    Raises:
        InputError: there is none; the message suggests the nearest name.
    """
    registry = _registry()
    if name not in registry:
        raise unknown_name("task", name, registry)
    return registry[name]


def make_task(entry: str | Mapping[str, Any], data_dir: Path | None = None) -> DownstreamTask:
    """The task of a sweep file's entry: ``"neighbours"``, or ``{"task": "similarity", "dataset": "ws353"}``.

    Raises:
        InputError: unknown task, unknown setting (the nearest is suggested), or a value that does not fit.
    """
    if isinstance(entry, str):
        entry = {"task": entry}
    if "task" not in entry:
        raise InputError(f"A task needs its name: {{task: NAME, ...}}, not {dict(entry)!r}.")
    cls = get(str(entry["task"]))
    settings = {key: value for key, value in entry.items() if key != "task"}
    return cls(validated(cls.Settings, settings, f"task {cls.name}"), data_dir=data_dir)
