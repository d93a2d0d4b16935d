"""The command ``frontier submit``: a sweep on a cluster, from a laptop."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from quantizers.errors import InputError
from sweeps.commands.app import AcceptOption, SetOption, app, checked, out
from sweeps.storage.layout import REPORT_FILE


@app.command(
    epilog="Examples:  frontier submit cluster.yaml my-sweep.yaml   |   frontier submit http://127.0.0.1:8265 quick --out s3://b/runs"
)
@checked
def submit(
    cluster: Annotated[str, typer.Argument(metavar="CLUSTER", help="A cluster file, or a dashboard's http:// address.")],
    sweep: Annotated[str, typer.Argument(help="A sweep file, or the name of a preset.")],
    data: Annotated[str | None, typer.Option("--data", help="Folder of tables and task data, as the head sees it.")] = None,
    output: Annotated[str | None, typer.Option("--out", help="Folder of runs on the cluster, or s3://...")] = None,
    target: Annotated[Path, typer.Option("--fetch", help="Local folder for the results: FETCH/<name>/.")] = Path("runs"),
    changes: SetOption = None,
    accept_changed_table: AcceptOption = False,
    end: Annotated[bool, typer.Option("--stop", help="End the running sweep and report its finished trials.")] = False,
) -> None:
    """Run a sweep on a cluster, follow it, and fetch its results. If it is already running, only follow it."""
    from sweeps.cluster import submit as jobs
    from sweeps.spec.config import load
    from sweeps.spec.prepare import wrong_names

    where = jobs.read_cluster(cluster)
    config = jobs.on_cluster(load(sweep, changes or (), further=wrong_names), where, output)
    folder = target / config.name
    jobs.check_target(folder, where)
    again = shlex.join(["frontier", *(word for word in sys.argv[1:] if word != "--stop")])
    with jobs.Connection(where) as connection:
        job = jobs.find_job(connection, config.name)
        if end:
            if job is None:
                raise InputError(f"{config.name}: not running on {cluster}.")
            jobs.stop(connection, job)
            out.print(f"{config.name}: ends when its running trials have finished. Follow it with: {again}")
            return
        if job is None:
            job = jobs.send(
                connection,
                config,
                data or where.settings.get("data"),
                lambda line: out.print(line, markup=False),
                accept_changed_table=accept_changed_table,
            )
            out.print(f"Job {job}: {config.name} on {cluster}; results in {config.output}/{config.name}", soft_wrap=True)
        else:
            out.print(f"Job {job}: {config.name} is already running on {cluster}", soft_wrap=True)
        try:
            code = jobs.follow(connection, job, lambda text: out.print(text, end="", markup=False, soft_wrap=True))
        except KeyboardInterrupt:
            out.print(f"\nThe sweep continues on {cluster}. Follow it with: {again}", soft_wrap=True)
            out.print(f"End it with: {again} --stop", soft_wrap=True)
            raise typer.Exit(130) from None
    if code != 2:
        if jobs.fetch(config, where, folder):
            out.print(f"Results here: {folder / REPORT_FILE}", soft_wrap=True)
        else:
            out.print(f"Results on the cluster: {config.output}/{config.name}", soft_wrap=True)
    raise typer.Exit(code)
