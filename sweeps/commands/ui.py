"""The command ``frontier ui``."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from quantizers.errors import InputError
from sweeps.commands.app import app, checked, out, run_folder
from trainables.tables.credentials import refuse_credentials

_GRACE_SECONDS = 5.0
_LOOK_SECONDS = 0.1


@app.command(
    epilog="Examples:  frontier ui   |   frontier ui runs/my-table   |   frontier ui --tracking http://127.0.0.1:5000"
)
@checked
def ui(
    run_dir: Annotated[
        Path | None,
        typer.Argument(parser=run_folder, metavar="RUN_DIR", help="A run, or its s3:// address. Default: all in runs/."),
    ] = None,
    tracking: Annotated[str | None, typer.Option(help="An MLflow database or server.")] = None,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port on this machine.")] = 5000,
) -> None:
    """Open the MLflow UI. If a server is already running, print the addresses of the pages."""
    from sweeps.spec.config import default_tracking_uri, load_run

    refuse_credentials("--tracking", tracking)
    uri, only = tracking or default_tracking_uri(), None
    if run_dir is not None:
        if tracking is not None:
            raise InputError(f"give either RUN_DIR ({run_dir}) or --tracking, not both.")
        config = load_run(run_dir)
        if config.tracking_uri is None:
            raise InputError(f"{run_dir}: ran without MLflow records (tracking: false).")
        uri, only = config.tracking_uri, config.name
    database = Path(uri.removeprefix("sqlite:///"))
    if uri.startswith("sqlite:///") and not database.is_file():
        raise InputError(f"{database}: no such MLflow database. Run a sweep first, or name a run: frontier ui RUN_DIR.")
    from sweeps.record.tracking.database import ARTIFACTS
    from sweeps.record.tracking.experiment import page_addresses

    runs_already = uri.startswith(("http://", "https://"))
    server = uri.rstrip("/") if runs_already else f"http://127.0.0.1:{port}"
    for name, address in page_addresses(uri, server):
        if only in (None, name):
            out.print(f"{name}: {address}", soft_wrap=True)
    if runs_already:
        return
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", uri, "--host", "127.0.0.1"]
    if uri.startswith("sqlite:///"):
        command += ["--artifacts-destination", str(database.absolute().parent / ARTIFACTS)]
    out.print(f"MLflow UI: {server} (Ctrl-C ends it)")
    raise typer.Exit(_serve([*command, "--port", str(port), "--workers", "1"]))


def _serve(command: Sequence[str]) -> int:
    """Run a server until it ends or this process is told to end; its exit code, 0 where a person ended it.

    The server is the first of several processes, which would outlive it.
    """
    environment = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with subprocess.Popen(command, env=environment, start_new_session=True) as server:
        ended: list[int] = []

        def end(number: int, _: object) -> None:
            ended.append(number)
            os.killpg(server.pid, signal.SIGTERM)

        before = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
        try:
            code = _wait(server, ended)
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
    if not ended:
        return code
    return 0 if ended[0] == signal.SIGINT else 128 + ended[0]


def _wait(server: subprocess.Popen[bytes], ended: Sequence[int]) -> int:
    """Exit code of ``server``, which gets some seconds once it has been told to end: it waits for pages that are open."""
    since = None
    while (code := server.poll()) is None:
        if ended:
            since = since or time.monotonic()
            if time.monotonic() - since > _GRACE_SECONDS:
                os.killpg(server.pid, signal.SIGKILL)
        time.sleep(_LOOK_SECONDS)
    return code
