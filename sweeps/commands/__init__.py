"""The command ``frontier``: one module for each group of commands."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typer import Typer

_GROUPS = ("sweeps", "choose", "ui", "tables", "train", "data", "submit", "ledger")  # in the order of ``frontier --help``


def application() -> Typer:
    """``frontier`` with all its commands."""
    for group in _GROUPS:
        importlib.import_module(f"sweeps.commands.{group}")  # adds its commands
    from sweeps.commands.app import app

    return app


def main() -> None:
    """Entry point of ``frontier``."""
    application()()
