"""The command ``frontier``: choosing a point of a finished sweep, and taking its file along."""

from __future__ import annotations

import json
import math
import shlex
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.markup import escape

from quantizers.errors import InputError
from quantizers.files import writing
from sweeps.commands.app import (
    DataOption,
    JsonOption,
    RunDir,
    app,
    check_data,
    checked,
    out,
    print_json,
    remembered_data,
    run_or_file,
    say_incomplete,
    size,
)

if TYPE_CHECKING:
    from analysis.recommend import Drop

MaxBytes = Annotated[str | None, typer.Option(help="Largest payload, such as 2MB.")]
MaxDrop = Annotated[
    str | None,
    typer.Option(help="Largest drop from uncompressed: 1%, or 0.01 in the metric's unit."),
]
Task = Annotated[str | None, typer.Option(help="A task or task.metric. Default: the sweep's objectives.")]
Format = Literal["safetensors", "onnx", "codes", "dense", "gensim", "model2vec", "sentence-transformers", "staticvectors"]
FORMAT_HELP = (
    "safetensors: the compressed file. onnx: a model, compressed too. codes: text, with the codebook as .npy. dense: the "
    "rebuilt table: .npy, .safetensors, .txt, .vec, .bin. gensim (X.kv), model2vec, sentence-transformers, staticvectors "
    "(folders): for these programs."
)


@app.command(
    epilog="Examples:  frontier recommend runs/quick   |   frontier recommend runs/quick --max-bytes 200KB --task neighbours"
    "   |   frontier recommend runs/quick --max-drop 1% --json"
)
@checked
def recommend(
    run_dir: RunDir,
    max_bytes: MaxBytes = None,
    max_drop: MaxDrop = None,
    task: Task = None,
    everything: Annotated[bool, typer.Option("--all", help="List every point instead.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Say which configuration to take: within a limit of size or accuracy, or else at the knee of the frontier."""
    from analysis.answer import answers, lines
    from analysis.recommend import recommend as advise
    from analysis.runs import incomplete
    from sweeps.record.run_folder import course_of

    advice = advise(run_dir, max_bytes=size("--max-bytes", max_bytes), max_drop=_drop(max_drop), task=task)
    limits = [f"at most {max_bytes}"] if max_bytes else []
    limits += [f"within {max_drop} of uncompressed"] if max_drop else []
    found = answers(advice, " and ".join(limits))
    if as_json:
        missing = incomplete(run_dir, course_of(run_dir))
        print_json({"incomplete": missing, "answers": found, "unmet": advice.unmet, "frontiers": advice.frontiers})
        return
    say_incomplete(run_dir)
    if everything:
        for one in advice.found:
            parameters = ", ".join(f"{name}={value}" for name, value in one.config.items() if value is not None)
            out.print(f"{one.metric} {_numbers(one)}  {one.quantizer}  {one.trial_keys[0] if one.trial_keys else ''}")
            if parameters:
                out.print(f"    [dim]{escape(parameters)}[/]", soft_wrap=True)
        for line in advice.unmet:
            out.print(f"[yellow]{escape(line)}[/]")
    else:
        for line in lines(found, advice.unmet, run_dir):
            out.print(escape(line), soft_wrap=True)


def _drop(text: str | None) -> Drop | None:
    """The drop that ``--max-drop`` says; None for None."""
    from analysis.recommend import parse_drop

    try:
        return None if text is None else parse_drop(text)
    except InputError as error:
        raise InputError(f"--max-drop: {error}") from None


def _numbers(one: Any) -> str:
    from analysis import text

    seeds = one.by_seed.values()
    span = text.over_seeds(one.value_low, one.value_high, min(seeds, default=None), max(seeds, default=None), len(seeds))
    return f"{text.number(one.value)}{f' ({span})' if span else ''}  {text.size(one.payload_bytes)}"


@app.command(
    epilog="Examples:  frontier export runs/quick --max-bytes 200KB -o small.safetensors   |   "
    "frontier export runs/quick --trial KEY --format onnx -o small.onnx   |   "
    "frontier export small.safetensors --format model2vec -o small-model"
)
@checked
def export(
    run_dir: Annotated[
        Path,
        typer.Argument(
            parser=run_or_file, metavar="RUN_DIR|FILE", help="Folder or s3:// address of the run, or one compressed file."
        ),
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="File to write, or folder where the format is one.")],
    trial: Annotated[str | None, typer.Option(help="Key of the trial, or an unambiguous prefix.")] = None,
    max_bytes: MaxBytes = None,
    max_drop: MaxDrop = None,
    task: Task = None,
    kind: Annotated[Format, typer.Option("--format", help=FORMAT_HELP)] = "safetensors",
    role: Annotated[
        str | None, typer.Option(help="Of a trial with several tables, export this one only (input, output, ...).")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace what is at the output path.")] = False,
    data: DataOption = None,
) -> None:
    """Export the compressed file of a trial, after checking it against the sweep's records.

    A trial with several tables gives one file for each, named after its role: small.input.safetensors and so on.
    """
    import quantizers
    from trainables.tables.outputs import refuse_overwriting

    check_data(data)
    if run_dir.is_file():
        if role is not None:
            raise InputError(f"--role chooses a table of a trial; {run_dir} is one file.")
        refuse_overwriting(output, kind, force=force)
        _write(run_dir, quantizers.read(run_dir), output, kind, "digest as in its header", force)
        return
    from sweeps.storage import mirror
    from sweeps.storage.layout import other_roles

    row = _chosen(run_dir, trial, size("--max-bytes", max_bytes), _drop(max_drop), task)
    others = other_roles(row)
    names = [next(iter(json.loads(row["roles"]))), *others] if others else []
    if role is not None and role not in names:
        raise InputError(f"--role {role}: trial {row['trial_key']} has {', '.join(names) or 'one table and no roles'}.")
    chosen = [(index, name) for index, name in enumerate(names or [None]) if role in (None, name)]
    targets = [
        output if name is None or role is not None else output.with_name(f"{output.stem}.{name}{output.suffix}")
        for _, name in chosen
    ]
    for target in targets:
        refuse_overwriting(target, kind, force=force)
    say_incomplete(run_dir)
    for (index, name), target in zip(chosen, targets, strict=True):
        path = mirror.artifact(run_dir, row["trial_key"], name if index else None)
        if not path.is_file():
            raise InputError(f"{path}: the sweep did not keep this file; run it with keep_artifacts: all.")
        artifact = quantizers.read(path)
        recorded = row if name is None else {**row, **json.loads(row["roles"])[name]}
        whose = f"trial {row['trial_key']}" if name is None else f"trial {row['trial_key']}, {name}"
        verified = f"{whose}: {_verify(artifact, recorded, run_dir, data or remembered_data(run_dir), again=not index)}"
        _write(path, artifact, target, kind, verified, force)


def _write(path: Path, artifact: Any, output: Path, kind: str, verified: str, force: bool) -> None:
    """Write one compressed file in the format that was asked for."""
    from trainables.tables.outputs import OUTPUTS, export

    method, payload = artifact.quantizer.name, artifact.storage.payload_bytes
    if kind == "safetensors":
        with path.open("rb") as source, writing(output) as target:
            shutil.copyfileobj(source, target)
    else:
        export(artifact.quantizer, output, kind, force=force)
    out.print(f"{method}, {payload:,} bytes, {verified}", soft_wrap=True)
    out.print(f"{'Folder' if OUTPUTS[kind].is_folder else 'File'}: {output}", soft_wrap=True)


def _chosen(
    run_dir: Path, trial: str | None, max_bytes: int | None, max_drop: Drop | None, task: str | None
) -> dict[str, Any]:
    """The row of the trial that is meant."""
    from analysis import store
    from analysis.answer import nothing_found
    from analysis.recommend import recommend as advise

    rows = [row for row in store.read_trials(run_dir).to_pylist() if row["status"] == "ok"]
    if trial is not None:
        if max_bytes is not None or max_drop is not None:
            raise InputError("Give --trial or limits, not both.")
        found = [row for row in rows if row["trial_key"].startswith(trial)]
        if len(found) != 1:
            hint = "give a longer prefix" if found else "see the keys in its report"
            raise InputError(f"--trial {trial} matches {len(found) or 'no'} finished trials of {run_dir}; {hint}.")
        return dict(found[0])
    if max_bytes is None and max_drop is None:
        raise InputError(
            "Choose a trial: give --trial KEY, --max-bytes or --max-drop. "
            f"If you have no limit in mind: frontier recommend {shlex.quote(str(run_dir))}"
        )
    advice = advise(run_dir, max_bytes=max_bytes, max_drop=max_drop, task=task)
    if not advice.found:
        raise InputError(nothing_found(advice.unmet) or f"{run_dir}: no trial is within these limits.")
    named = [row for row in rows if row["trial_key"] in advice.found[0].trial_keys[:1]]
    if not named:
        raise InputError(
            f"{run_dir}: trials.parquet lacks the trials that frontier.parquet names; rewrite both with: "
            f"frontier resume {run_dir}"
        )
    return dict(named[0])


def _verify(artifact: Any, row: dict[str, Any], run_dir: Path, data: Path | None, *, again: bool) -> str:
    """Refuse a file that is not what was measured; says how far the check went.

    ``again`` has the error measured again, where the file is of the sweep's own table.
    """
    from sweeps.spec.config import OWN_TABLE, load_run
    from sweeps.storage.inputs import brought
    from trainables import reconstruction
    from trainables.tables.formats import read_table

    for name, value in (("file_bytes", artifact.file_bytes), ("artifact_digest", artifact.digest)):
        if value != row[name]:
            raise InputError(
                f"{run_dir}: the file of trial {row['trial_key']} has {name} {value}, but {row[name]} was recorded."
            )
    if not again:
        return "digest as recorded"
    config = load_run(run_dir)
    if config.table == OWN_TABLE:
        return "digest as recorded"
    try:
        table = read_table(brought(config.table), data_dir=data, rows=config.rows, max_unpacked=config.limits.unpacked)
    except InputError:
        return "digest as recorded (the table was not found, so the error was not measured again; see --data)"
    if table.digest != row["table_digest"]:
        return "digest as recorded (the table has changed since, so the error was not measured again)"
    mse = reconstruction.measure(table, artifact.quantizer.to_dense())["mse"]
    if mse is None or row["mse"] is None or not math.isclose(mse, row["mse"], rel_tol=1e-6, abs_tol=1e-30):
        raise InputError(f"{run_dir}: trial {row['trial_key']} rebuilds with mse {mse}, but {row['mse']} was recorded.")
    return "digest and error as recorded"
