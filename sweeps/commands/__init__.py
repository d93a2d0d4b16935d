"""The command ``frontier``: one module for each group of commands."""

from __future__ import annotations


def main() -> None:
    """Entry point of ``frontier``."""
    from sweeps.commands import choose, data, ledger, submit, sweeps, tables, train, ui  # noqa: F401 - each adds its commands
    from sweeps.commands.app import app

    app()
