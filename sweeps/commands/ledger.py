"""The commands ``frontier ledger ...``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from quantizers.errors import InputError
from sweeps.commands.app import app, checked, out

ledger = typer.Typer(help="Maintain a ledger, the store of finished trials.", no_args_is_help=True)
app.add_typer(ledger, name="ledger")


@ledger.callback()
def _group() -> None:
    """Keeps ``clean`` a command of its own, although there is no other yet."""


@ledger.command(epilog="Example:  frontier ledger clean runs/quick/ledger --older-than 30d --unless-in runs --dry-run")
@checked
def clean(
    folder: Annotated[str, typer.Argument(help="The ledger: a folder, or s3://...")],
    older_than: Annotated[str | None, typer.Option(help="Delete only entries older than this: 12h, 30d.")] = None,
    unless_in: Annotated[list[Path] | None, typer.Option(help="Keep entries that these runs (or folders) use.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be deleted; delete nothing.")] = False,
) -> None:
    """Delete entries by age or by use. A sweep that needs a deleted entry measures it again."""
    from sweeps.record import cleanup
    from sweeps.spec.units import parse_seconds

    try:
        seconds = None if older_than is None else float(parse_seconds(older_than))
    except ValueError as error:
        raise InputError(f"--older-than: {error}.") from None
    deleted = cleanup.clean(folder, older_than_seconds=seconds, runs=unless_in or (), dry_run=dry_run)
    verb = "would be deleted" if dry_run else "deleted"
    for kind, (count, size) in deleted.items():
        out.print(f"{kind}: {count} {verb}, {size:,} bytes")
    if not deleted:
        out.print(f"Nothing {verb}.")
