"""The command ``frontier``: one module for each group of commands."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typer import Typer


def application() -> Typer:
    """``frontier`` with all its commands."""
    from sweeps.commands import choose, data, ledger, submit, sweeps, tables, train, ui  # noqa: F401 - each adds its commands
    from sweeps.commands.app import app

    return app


def main() -> None:
    """Entry point of ``frontier``."""
    application()()
