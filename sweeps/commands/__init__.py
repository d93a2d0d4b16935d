"""The command ``frontier``: one module for each group of commands."""

from __future__ import annotations

import importlib
import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typer import Typer
    from typer.models import CommandInfo, TyperInfo

_GROUPS = ("init", "sweeps", "choose", "ui", "tables", "train", "data", "submit", "ledger")
# The commands as ``frontier --help`` has them, every one: in the order in which a person comes to need them.
_PANELS = {
    "A sweep": ("init", "run", "status", "resume"),
    "Its results": ("recommend", "report", "ui", "export"),
    "One table": ("compress", "inspect", "convert"),
    "Lists and data": ("methods", "tasks", "presets", "data"),
    "More": ("train", "submit", "sync", "ledger"),
}


def application() -> Typer:
    """``frontier`` with all its commands."""
    for group in _GROUPS:
        importlib.import_module(f"sweeps.commands.{group}")  # adds its commands
    from sweeps.commands.app import app

    order = [(panel, name) for panel, names in _PANELS.items() for name in names]
    names = [name for _, name in order]
    for found in (app.registered_commands, app.registered_groups):
        found.sort(key=lambda one: names.index(_name(one)))
        for one in found:
            one.rich_help_panel = order[names.index(_name(one))][0]
    _finish(app)
    return app


def _finish(group: Typer) -> None:
    """What all commands have: examples stand between bars in the source, and on lines of their own in ``--help``."""
    from sweeps.commands.app import Command

    for command in group.registered_commands:
        command.cls = Command
        command.epilog = (command.epilog or "").replace(":  ", ":\n\n", 1).replace("   |   ", "\n\n")
    for inner in group.registered_groups:
        if inner.typer_instance is not None:
            _finish(inner.typer_instance)


def _name(command: CommandInfo | TyperInfo) -> str:
    """What people type."""
    return str(command.name or getattr(command.callback, "__name__", ""))


def main() -> None:
    """Entry point of ``frontier``."""
    try:
        application()()
    except SystemExit as end:
        if end.code == 143:  # after SIGTERM: all is written, a kill is near, and Python's own end takes seconds
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(143)
        raise
