"""The command ``frontier data``: gets published tables and texts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from analysis.text import counted
from quantizers.errors import unknown_name
from sweeps.commands.app import DataOption, app, checked, err, out

if TYPE_CHECKING:
    from trainables.published.catalogue import PublishedData

data_app = typer.Typer(
    help="Download or list published tables and texts.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(data_app, name="data")

_DEFAULT = Path("data")
_SHOWN_FILES = 6


@data_app.command("list", epilog="Examples:  frontier data list   |   frontier data list --names")
@checked
def list_data(
    names: Annotated[bool, typer.Option("--names", help="Print only the names, one per line.")] = False,
    data: DataOption = None,
) -> None:
    """List the data that can be fetched, with licences and what is already present."""
    from trainables.published.catalogue import PUBLISHED

    if names:
        for name in PUBLISHED:
            out.print(name)
        return
    folder = data or _DEFAULT
    for one in PUBLISHED.values():
        _show(one)
        out.print(
            f"    {'complete' if one.is_complete(folder) else 'incomplete'} under {escape(str(folder))}", soft_wrap=True
        )


@data_app.command(epilog="Examples:  frontier data fetch sst conll2000   |   frontier data fetch glove.6B --data DIR")
@checked
def fetch(
    names: Annotated[list[str], typer.Argument(help="What to fetch (see: frontier data list).")],
    data: DataOption = None,
    base_url: Annotated[
        str | None,
        typer.Option(
            envvar="FRONTIER_DATA_MIRROR", help="Mirror to use instead of the publishers' hosts, with the same paths."
        ),
    ] = None,
) -> None:
    """Fetch published data into the data folder (--data; default: ./data).

    Existing files are kept. An interrupted download resumes. An archive is unpacked only if its checksum matches the
    recorded one (SHA-256; MD5 for ptb).
    """
    from trainables.published.catalogue import PUBLISHED
    from trainables.published.fetching import mirrored

    for name in names:
        if name not in PUBLISHED:
            raise unknown_name("data set", name, PUBLISHED)
    mirrored("", base_url)  # a wrong one is refused before anything is fetched
    folder = data or _DEFAULT
    for name in dict.fromkeys(names):
        _fetch(PUBLISHED[name], folder, base_url)
    out.print(f"Use it with: --data {escape(str(folder))}", soft_wrap=True)


def _fetch(one: PublishedData, folder: Path, base_url: str | None) -> None:
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    from trainables.published.fetching import fetch as fetch_data

    _show(one)
    columns = (TextColumn("    {task.description}"), BarColumn(), TextColumn("{task.fields[state]}"), TimeRemainingColumn())
    with Progress(*columns, console=err, transient=True) as shown:
        bar = shown.add_task("connecting", total=None, state="")

        def report(what: str, done: int, total: int | None) -> None:
            of = f" of {_size(total)}" if total is not None else ""
            state = counted(done, "file") if what == "unpacking" else f"{_size(done)}{of}"
            shown.update(bar, description=what, completed=done, total=total, state=state)

        new = fetch_data(one, folder, report, base_url=base_url)
    for path in new[:_SHOWN_FILES]:
        out.print(f"    {escape(str(path))}", soft_wrap=True)
    if len(new) > _SHOWN_FILES:
        out.print(f"    and {len(new) - _SHOWN_FILES:,} more")
    if not new:
        out.print("    already present; nothing downloaded")


def _show(one: PublishedData) -> None:
    out.print(f"[bold]{one.name}[/]  {escape(one.about)}, {_size(one.download_bytes)} to download", soft_wrap=True)
    out.print(f"    licence: {escape(one.licence)}; from {escape(one.page)}", soft_wrap=True)


def _size(number: int) -> str:
    return f"{number / 1e6:,.1f} MB"
