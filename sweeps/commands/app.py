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
import re
import shlex
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console
from rich.markup import escape
from typer.core import TyperCommand

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


# Options that take a number with a unit; with --set, any key may.
WITH_UNITS = {
    "size": ("--max-bytes", "--max-unpacked", "--set"),
    "time": ("--grace", "--older-than", "--set"),
    "drop": ("--max-drop",),
}


class Command(TyperCommand):
    """A command that says how to write ``--max-bytes 1 MB``, of which the shell makes an option and an argument."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """The arguments that are left; see :class:`typer.core.TyperCommand`.

        Raises:
            typer.Exit: a unit stands apart from its number.
        """
        parts = [part for arg in args for part in (arg.split("=", 1) if arg.startswith("--") else [arg])]
        for option, value, unit in zip(parts, parts[1:], parts[2:], strict=False):
            kind = _kind_apart(option, value, unit)
            if kind is not None:
                said = (
                    f"{option} {value} {unit}: {unit!r} is a separate argument here. Write the {kind} without a space, "
                    f"{option} {value}{unit}, or in quotes, {option} '{value} {unit}'."
                )
                err.print(f"[bold red]error:[/] {escape(said)}", soft_wrap=True)
                raise typer.Exit(2)
        return super().parse_args(ctx, args)


def _kind_apart(option: str, value: str, unit: str) -> str | None:
    """What a number and its unit say that stand apart behind an option; None where they do not, or may mean a file."""
    number = value.rpartition("=")[2] if option == "--set" else value
    kinds = [kind for kind, options in WITH_UNITS.items() if option in options]
    if not kinds or not unit or not re.fullmatch(r"[0-9.]+", number) or Path(unit).exists():
        return None
    from sweeps.spec.units import SIZES, TIMES

    says = {"size": unit.upper() in SIZES, "time": unit in TIMES, "drop": unit == "%"}
    return next((kind for kind in kinds if says[kind]), None)


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
    return _argument(text, "run")


def run_or_file(text: str) -> Path:
    """The folder of a run, as :func:`run_folder` has it, or a compressed file.

    Raises:
        typer.Exit: as :func:`run_folder`.
    """
    return _argument(text, "run or file")


def compressed_file(text: str) -> Path:
    """The path of a compressed file; what is in it, its reader checks.

    Raises:
        typer.Exit: there is nothing, or a folder; it was said what it is, and how to come to a compressed file.
    """
    return _argument(text, "file")


def _argument(text: str, kind: Literal["run", "run or file", "file"]) -> Path:
    from sweeps.record.run_folder import open_run
    from sweeps.storage import is_remote
    from trainables.tables.credentials import refuse_credentials

    try:
        refuse_credentials("FILE" if kind == "file" else "RUN_DIR", text)
        path = Path(text) if kind == "file" else open_run(text)
        if not is_remote(text):
            _check_there(path, kind)
    except InputError as error:
        err.print(f"[bold red]error:[/] {escape(str(error))}", soft_wrap=True)
        raise typer.Exit(2) from None
    return path


def _check_there(path: Path, kind: Literal["run", "run or file", "file"]) -> None:
    """Refuse a path with nothing there, or with what ``kind`` is not; name the runs and files that are meant perhaps."""
    is_run = (path / SWEEP_FILE).exists() or (path / STATUS_FILE).exists()
    if path.is_file() or (is_run and kind != "file"):
        return
    if kind == "file" and path.is_dir():
        raise InputError(_not_a_file(path, is_run))
    beside = _runs_in(path if path.is_dir() else path.parent)
    if not path.exists():
        runs = [*beside, *(run for run in _runs_in(Path("runs")) if run not in beside)]
        near = _nearest(path.name, runs, "run ")
        if kind == "run":
            there = f" Runs there: {', '.join(run.name for run in beside[:_MOST_NAMED])}." if beside and not near else ""
            raise InputError(f"{path}: no such run.{_meant(near)}{there}")
        files = path.parent.glob("*") if path.parent.is_dir() else ()
        near += _nearest(path.name, [file for file in files if file.is_file()], "file ")
        raise InputError(f"{path}: no run and no compressed file of this name.{_meant(near)}")
    same = Path("runs") / path.name
    if (same / SWEEP_FILE).is_file() and kind == "run":
        raise InputError(f"{path}: not a run. Did you mean {same}?")
    if beside:
        raise InputError(f"{path}: not a run, but holds some; name one: {', '.join(map(str, beside[:_MOST_NAMED]))}")


def _runs_in(folder: Path) -> list[Path]:
    return sorted(found.parent for found in folder.glob(f"*/{SWEEP_FILE}"))


def _nearest(name: str, paths: Iterable[Path], what: str) -> list[str]:
    """The path whose last part is most like ``name``, with what it is; empty where none is."""
    by_name = {path.name: path for path in reversed(list(paths))}
    return [f"{what}{by_name[near]}" for near in difflib.get_close_matches(name, by_name, n=1)]


def _meant(near: Sequence[str]) -> str:
    return f" Did you mean the {' or the '.join(near)}?" if near else ""


def _not_a_file(path: Path, is_run: bool) -> str:
    """What a folder is that was given for a compressed file, and how to come to such a file."""
    from trainables.tables.readers.folder import holds_model

    where = shlex.quote(str(path))
    if is_run:
        return (
            f"{path}: a run; expected one compressed file. frontier recommend {where} says which trial to take, "
            f"frontier export {where} --trial KEY -o FILE writes its file."
        )
    if holds_model(path):
        return (
            f"{path}: a model's folder; expected a compressed file. This makes one of its table: "
            f"frontier compress {where} --method pq --ratio 16 -o FILE"
        )
    found = sorted(file.name for file in path.glob("*.safetensors"))
    inside = f" In it: {', '.join(found[:_MOST_NAMED])}{', ...' if len(found) > _MOST_NAMED else ''}." if found else ""
    return (
        f"{path}: a folder, neither of a run nor of a model; expected a compressed file, as frontier compress and "
        f"frontier export write it.{inside}"
    )


def unknown_word(word: str, known: Iterable[str], file: Path) -> InputError:
    """The error for a word that is not in a file, with the nearest that is."""
    near = difflib.get_close_matches(word, [one for one in known if one[:1] == word[:1]], n=1, cutoff=0.6)
    return InputError(f"{file}: has no word {word!r}.{f' Did you mean {near[0]!r}?' if near else ''}")


TABLE_HELP = (
    "A table: text, .bin (word2vec, fastText), .kv, .npy, .npz, .pt, .safetensors, .parquet, .arrow, .feather, .csv, .tsv, "
    "a model's folder, or builtin:NAME; FILE#NAME for one tensor of several."
)
DataOption = Annotated[
    Path | None, typer.Option("--data", envvar="FRONTIER_DATA", help="Folder of tables and task data.", show_envvar=True)
]
CompressedFile = Annotated[Path, typer.Argument(parser=compressed_file, metavar="FILE", help="A compressed file.")]
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
