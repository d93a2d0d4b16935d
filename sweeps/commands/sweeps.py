"""The command ``frontier``: sweeps. What works on one table or file is in :mod:`sweeps.commands.tables`.

Exit codes: 0 ok, 1 some trials failed or files vanished, 2 the input is wrong, 130 after Ctrl-C, 143 after SIGTERM.
Libraries that are slow to import are imported where needed, so that ``--help`` answers at once.
"""

from __future__ import annotations

import itertools
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from analysis.text import counted
from quantizers.errors import InputError
from sweeps.commands.app import (
    AcceptOption,
    DataOption,
    JsonOption,
    RunDir,
    SetOption,
    app,
    check_data,
    checked,
    out,
    print_json,
    remembered_data,
    run_folder,
    say_incomplete,
    seconds,
)
from sweeps.storage.layout import REPORT_FILE, STATUS_FILE

GraceOption = Annotated[
    str | None,
    typer.Option("--grace", help="Time that running trials have after SIGTERM, before the report. Default: 20s."),
]


@app.command(
    epilog="Examples:  frontier run quick   |   frontier run search --out /nfs/runs   |   "
    "frontier run glove100 --data DIR --set 'seeds=[0,1,2]'   |   frontier run adacomp-table2 --scale paper --data DIR"
)
@checked
def run(
    sweep: Annotated[str, typer.Argument(help="A sweep file, or the name of a preset (see: frontier presets).")],
    data: DataOption = None,
    output: Annotated[
        str | None, typer.Option("--out", help="Folder of runs, or s3://bucket/path; the run goes to OUT/<name>/.")
    ] = None,
    address: Annotated[str | None, typer.Option(help="Ray cluster ('auto': this machine's). Default: a new one.")] = None,
    scale: Annotated[
        str | None, typer.Option(help="Scale of a preset: small (default) or paper. See: frontier presets.")
    ] = None,
    changes: SetOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the trials and their sizes; run nothing.")] = False,
    accept_changed_table: AcceptOption = False,
    grace: GraceOption = None,
) -> None:
    """Run the sweeps of a file or preset one after the other. An existing run is resumed."""
    from sweeps.spec.config import load_all
    from sweeps.spec.prepare import wrong_names

    check_data(data)
    configs = load_all(sweep, changes or (), scale=scale, further=wrong_names, output=output)
    if dry_run:
        from sweeps.commands.show import show_plan

        for config in configs:
            show_plan(config, data, out, accept_changed_table=accept_changed_table)
        return
    _run(configs, data, address, accept_changed_table, seconds("--grace", grace))


@app.command(epilog="Example:  frontier resume runs/quick")
@checked
def resume(
    run_dir: RunDir,
    data: DataOption = None,
    address: Annotated[str | None, typer.Option(help="Ray cluster to use. Default: a new one.")] = None,
    accept_changed_table: AcceptOption = False,
    grace: GraceOption = None,
) -> None:
    """Continue a sweep. Finished trials are not run again."""
    from sweeps.spec.config import load_run
    from sweeps.spec.prepare import wrong_names

    check_data(data)
    run_dir = run_dir.absolute()
    config = load_run(run_dir, further=wrong_names)
    _run([config], data or remembered_data(run_dir), address, accept_changed_table, seconds("--grace", grace))


def _run(
    configs: Sequence[Any], data: Path | None, address: str | None, accept_changed_table: bool, grace_seconds: float | None
) -> None:
    from sweeps.commands.show import show_run
    from sweeps.driver import GRACE_SECONDS
    from sweeps.driver import run as run_sweep
    from sweeps.record.run_folder import check_run_dir, check_table
    from sweeps.spec.prepare import prepare
    from sweeps.tune.interrupts import TerminatedError

    for config in configs if len(configs) > 1 else ():
        check_run_dir(config)
        prepared = prepare(config, data)  # a mistake in the last sweep should not show hours after the first has begun
        check_table(config.run_dir, prepared.table.digest, accept=accept_changed_table)
    worst = 0
    for number, config in enumerate(configs, start=1):
        try:
            finished = run_sweep(
                config,
                data_dir=data,
                address=address,
                console=out,
                command=shlex.join(["frontier", *sys.argv[1:]]),
                accept_changed_table=accept_changed_table,
                grace_seconds=GRACE_SECONDS if grace_seconds is None else grace_seconds,
            )
        except (KeyboardInterrupt, TerminatedError) as stop:
            out.print(f"Stopped. Finished trials are kept; continue with: frontier resume {config.run_dir}", soft_wrap=True)
            raise typer.Exit(130 if isinstance(stop, KeyboardInterrupt) else 143) from None
        show_run(finished, config, out)
        if finished.interrupted or finished.terminated:
            left = ", ".join(other.name for other in configs[number:])
            if left:
                out.print(f"Not started: {left}. The same command continues with them.", soft_wrap=True)
            raise typer.Exit(finished.exit_code)
        worst = max(worst, finished.exit_code)
    raise typer.Exit(worst)


_STATUS = (
    *(
        "name",
        "phase",
        "started_at",
        "updated_at",
        "total",
        "done",
        "failed",
        "reused",
        "skipped",
        "running",
        "seconds_left",
    ),
    *("objective", "best", "frontier", "failures"),
)


@app.command(epilog="Examples:  frontier status runs/quick --watch   |   frontier status runs/quick --json")
@checked
def status(
    run_dir: RunDir,
    watch: Annotated[bool, typer.Option("--watch", help="Update until the sweep ends.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Show the progress of a sweep and the best result so far for each budget."""
    from rich.live import Live

    from sweeps.record.display import render
    from sweeps.record.run_folder import latest_status
    from sweeps.record.status import is_alive, read_status
    from sweeps.storage.mirror import origin

    if watch and as_json:
        raise InputError("Give --watch or --json, not both.")
    state = read_status(run_dir)
    if state is None and (run_dir / STATUS_FILE).exists():
        raise InputError(f"{run_dir / STATUS_FILE}: damaged; a running sweep, or frontier resume {run_dir}, rewrites it.")
    if state is None:
        raise InputError(f"{run_dir}: not a run (it has no status.json).")
    if as_json:
        print_json({name: state[name] for name in _STATUS} | {"alive": is_alive(state), "run_dir": run_dir})
        return
    if not watch:
        out.print(render(state))
        if state["phase"] not in ("finished", "interrupted") and not is_alive(state):
            where = shlex.quote(origin(run_dir) or str(run_dir))
            out.print(f"The sweep has stopped; continue with: frontier resume {where}", soft_wrap=True)
        return
    with Live(render(state), console=out, refresh_per_second=2) as live:
        while is_alive(state):
            time.sleep(0.5 if origin(run_dir) is None else 5.0)
            state = latest_status(run_dir) or state
            live.update(render(state))


@app.command(
    epilog="Examples:  frontier report runs/quick   |   frontier report runs/a runs/b -o both.html   |   "
    "frontier report runs/adacomp-table2-* --paper-tables -o table2.md"
)
@checked
def report(
    run_dirs: Annotated[
        list[Path],
        typer.Argument(parser=run_folder, metavar="RUN_DIR...", help="Folders of runs, or their s3:// addresses."),
    ],
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Default: report.html in the first run.")] = None,
    paper_tables: Annotated[
        bool,
        typer.Option(
            "--paper-tables",
            help="Write the AdaComp paper's tables and figures beside our results instead, as .html or .md.",
        ),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Write the HTML report of one or more runs, finished or still running. The page needs no network."""
    pictures: list[Path] = []
    if paper_tables:
        from analysis.paper.page import write_paper

        path, *pictures = write_paper(run_dirs, output or run_dirs[0] / "paper-tables.html")
    else:
        from analysis.report.page import write_report
        from sweeps.record.run_folder import course_of

        path = write_report(run_dirs, output or run_dirs[0] / REPORT_FILE, {one: course_of(one) for one in run_dirs})
    if as_json:
        print_json({"report": path, "report_bytes": path.stat().st_size, "figures": pictures, "run_dirs": run_dirs})
        return
    if not paper_tables:
        for one in run_dirs:
            say_incomplete(one)
    for picture in pictures:
        out.print(f"Figure: {picture}", soft_wrap=True)
    out.print(f"Report: {path}", soft_wrap=True)


@app.command(epilog="Examples:  frontier presets   |   frontier run quick --dry-run")
@checked
def presets(
    names: Annotated[bool, typer.Option("--names", help="Print only the names, one per line.")] = False,
) -> None:
    """List the built-in sweeps."""
    from sweeps.spec.sweep_file import preset_names, preset_scales, preset_text

    for name in preset_names():
        if names:
            out.print(name)
            continue
        head = itertools.takewhile(lambda line: line.startswith("#"), preset_text(name).splitlines())
        comment = " ".join(line[1:].strip() for line in head)
        scales = preset_scales(name)
        more = f" Scales: {', '.join(scales)} (--scale)." if scales else ""
        out.print(f"[bold]{name}[/]  {escape(comment + more)}")


@app.command(epilog="Example:  frontier sync runs/quick")
@checked
def sync(run_dir: RunDir) -> None:
    """Send MLflow records that could not be sent during the sweep. A second call sends nothing."""
    from sweeps.record.tracking.sync import send_records

    sent = send_records(run_dir.absolute())
    out.print(f"{counted(sent.records, 'record')} sent.")
    if sent.ended:
        out.print(f"{counted(sent.ended, 'run')} ended that nobody had ended.")
    for key, why in sent.refused.items():
        out.print(f"[yellow]refused[/]: {key}: {escape(why)}", soft_wrap=True)
