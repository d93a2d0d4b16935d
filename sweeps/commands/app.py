"""What all commands share: the application, the consoles, common options, errors.

Exit codes: 0 ok, 1 some trials failed or files vanished, 2 the input is wrong. Libraries that are slow to import are
imported where needed, so that ``--help`` answers at once.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import importlib.metadata
import json
import math
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from quantizers.errors import InputError
from sweeps.storage.layout import STATUS_FILE, SWEEP_FILE

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
_MOST_NAMED = 10
_WIDTH = None if sys.stdout.isatty() or "COLUMNS" in os.environ else 140  # a log file has no width: keep rows on a line
out = Console(highlight=False, width=_WIDTH)
err = Console(stderr=True, highlight=False, width=_WIDTH)


# Modules of the packages that `pip install` brings with [sweep] only.
SWEEP_MODULES = frozenset(
    "filelock jinja2 markupsafe matplotlib mlflow moocore optuna pandas plotly pooch ray requests sacrebleu seqeval sklearn "
    "threadpoolctl urllib3".split()
)


def _print_version(wanted: bool) -> None:
    if wanted:
        out.print(f"frontier {importlib.metadata.version('embedding-frontier')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Measure how small an embedding table can be made."""


def run_folder(text: str) -> Path:
    """The folder that an argument RUN_DIR means: runs on ``s3://`` are fetched.

    Raises:
        typer.Exit: there is nothing, or a folder that only holds runs; it was said which there are.
    """
    from sweeps.record.run_folder import open_run
    from sweeps.storage import is_remote
    from trainables.tables.credentials import refuse_credentials

    try:
        refuse_credentials("RUN_DIR", text)
        path = open_run(text)
        if not is_remote(text):
            _check_there(path)
    except InputError as error:
        err.print(f"[bold red]error:[/] {escape(str(error))}", soft_wrap=True)
        raise typer.Exit(2) from None
    return path


def _check_there(path: Path) -> None:
    """Refuse a path with nothing there, and a folder whose folders are the runs; name the runs that are meant perhaps."""
    if path.is_file() or (path / SWEEP_FILE).exists() or (path / STATUS_FILE).exists():
        return
    beside = sorted(found.parent for found in (path if path.is_dir() else path.parent).glob(f"*/{SWEEP_FILE}"))
    if not path.exists():
        near = difflib.get_close_matches(path.name, [run.name for run in beside], n=1)
        hint = f" Did you mean {path.parent / near[0]}?" if near else ""
        there = f" Runs there: {', '.join(run.name for run in beside[:_MOST_NAMED])}." if beside and not near else ""
        raise InputError(f"{path}: no such run.{hint}{there}")
    if beside:
        raise InputError(f"{path}: not a run, but holds some; name one: {', '.join(map(str, beside[:_MOST_NAMED]))}")


TABLE_HELP = (
    "A table: text, .bin (word2vec, fastText), .kv, .npy, .npz, .pt, .safetensors, .parquet, .arrow, .feather, .csv, .tsv, "
    "a model's folder, or builtin:NAME; FILE#NAME for one tensor of several."
)
DataOption = Annotated[
    Path | None, typer.Option("--data", envvar="FRONTIER_DATA", help="Folder of tables and task data.", show_envvar=True)
]
RunDir = Annotated[
    Path, typer.Argument(parser=run_folder, metavar="RUN_DIR", help="Folder of the run, or its s3:// address.")
]
UnpackedOption = Annotated[
    str | None,
    typer.Option(
        "--max-unpacked",
        help="Largest unpacked size of a compressed table, such as 10GB. Default: 30 times its file, at least 16 MiB.",
    ),
]
AcceptOption = Annotated[
    bool,
    typer.Option("--accept-changed-table", help="Continue although the table has changed; all trials run again."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead, and nothing else: docs/json.md.")]
SetOption = Annotated[list[str] | None, typer.Option("--set", help="Override a key: KEY=VALUE. Repeatable.")]


def checked(command: Callable[..., Any]) -> Callable[..., Any]:
    """A command whose wrong input, or missing package for sweeps, ends in exit code 2 and a line for each mistake."""

    @functools.wraps(command)
    def inner(*args: Any, **kwargs: Any) -> Any:
        try:
            _refuse_credentials(kwargs)
            return command(*args, **kwargs)
        except InputError as error:
            messages = getattr(error, "lines", (str(error),))  # a sweep file's mistakes, all of them
        except ModuleNotFoundError as error:
            missing = (error.name or "").partition(".")[0]
            if missing not in SWEEP_MODULES:
                raise
            messages = (f"this needs {missing}, one of the packages for sweeps: pip install 'embedding-frontier[sweep]'.",)
        for message in messages:
            err.print(f"[bold red]error:[/] {escape(message)}", soft_wrap=True)
        raise typer.Exit(2)

    return inner


def print_json(told: Any) -> None:
    """Print ``told`` as JSON to standard output: objects of dataclasses too; numbers that JSON lacks are null."""
    typer.echo(json.dumps(_plain(told), indent=2, allow_nan=False))


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return str(value) if isinstance(value, Path) else value


def _refuse_credentials(arguments: Mapping[str, Any]) -> None:
    """Refuse an address with a password in it, in any argument: what is said of an argument often repeats it."""
    from trainables.tables.credentials import refuse_credentials

    for name, value in arguments.items():
        refuse_credentials(name, value)


def size(option: str, text: str | None) -> int | None:
    """The bytes that ``text`` says, such as 1MB; None for None.

    Raises:
        InputError: it is not a size.
    """
    from sweeps.spec.units import parse_bytes

    try:
        return None if text is None else int(parse_bytes(text))
    except ValueError as error:
        raise InputError(f"{option}: {error}.") from None


def seconds(option: str, text: str | None) -> float | None:
    """The seconds that ``text`` says, such as 2m; None for None.

    Raises:
        InputError: it is not a time.
    """
    from sweeps.spec.units import parse_seconds

    try:
        return None if text is None else float(parse_seconds(text))
    except ValueError as error:
        raise InputError(f"{option}: {error}.") from None


def check_data(data: Path | None) -> None:
    """Refuse a data folder that is not there."""
    if data is not None and not data.is_dir():
        raise InputError(f"--data {data}: no such folder.")


def say_incomplete(run_dir: Path) -> None:
    """Print what is missing of a run; nothing where nothing is."""
    from analysis.runs import incomplete
    from sweeps.record.run_folder import course_of

    missing = incomplete(run_dir, course_of(run_dir))
    if missing is not None:
        out.print(f"[yellow]{escape(str(missing))}[/]")


def remembered_data(run_dir: Path) -> Path | None:
    """The data folder that a run was started with."""
    from sweeps.record.status import read_status

    state = read_status(run_dir) or {}
    return Path(state["data_dir"]) if state.get("data_dir") else None
