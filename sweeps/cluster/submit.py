"""A sweep on somebody's cluster, from a laptop: a Ray job through a tunnel, its log, and its results brought back.

The job's working directory holds this program's packages and the sweep file, so that the cluster runs the code that was
submitted. Nothing but SSH (or a dashboard that is reachable already) is needed: no port of the cluster is open to others.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Any

import yaml

from quantizers.errors import InputError, unknown_name
from sweeps.cluster.packages import copy_packages
from sweeps.spec.config import SweepConfig
from sweeps.spec.yaml_text import load_documents
from sweeps.storage import is_remote, join
from sweeps.storage.layout import SWEEP_FILE
from trainables.tables.credentials import refuse_credentials

_ROW = "frontier.sweep"  # under which the job's metadata names its sweep
_LOOK_SECONDS = 1.0
_TUNNEL_SECONDS = 60.0
_SETTINGS = ("output", "data", "tracking")
_UNFETCHED = ["/ray", "/ledger", "/.driver-*"]  # what a person does not look at
_MARK = ".fetched"
_TOKEN = " The cluster's token is expected in ~/.ray/auth_token or RAY_AUTH_TOKEN."
# Ctrl-C for the job: trials that run end, and what there is is reported; ten minutes are enough for that or nothing is.
_STOPPING = {"RAY_JOB_STOP_SIGNAL": "SIGINT", "RAY_JOB_STOP_WAIT_TIME_S": "600"}


@dataclasses.dataclass(frozen=True)
class Cluster:
    """Where sweeps are sent.

    Attributes:
        target: a cluster file of ``ray up``, or the ``http://`` address of a dashboard.
        settings: what its file says of output, data and tracking.
    """

    target: str
    settings: dict[str, Any]

    @property
    def has_file(self) -> bool:
        """Whether it is a cluster file: such a cluster is reached by SSH."""
        return not self.target.startswith(("http://", "https://"))


def read_cluster(target: str) -> Cluster:
    """The cluster that a person named.

    Raises:
        InputError: no such file, not a cluster file, or unknown settings in it.
    """
    refuse_credentials("the cluster", target)
    if target.startswith(("http://", "https://")):
        return Cluster(target.rstrip("/"), {})
    path = Path(target)
    if not path.is_file():
        raise InputError(f"{target}: no such cluster file; give one of `ray up`, or the http:// address of a dashboard.")
    try:
        documents = load_documents(path.read_bytes(), target)
    except OSError as error:
        raise InputError(f"{target}: cannot be read: {error.strerror or error}.") from None
    config = documents[0] if len(documents) == 1 else None
    if not isinstance(config, dict) or "provider" not in config:
        raise InputError(f"{target}: not a cluster file of `ray up` (it has no `provider`).")
    settings: Any = config.get("metadata") or {}
    settings = (settings.get("frontier") or {}) if isinstance(settings, dict) else settings
    if not isinstance(settings, dict):
        raise InputError(f"{target}: metadata.frontier must be a mapping of settings to values.")
    refuse_credentials(f"{path}: metadata.frontier", settings)
    for name in settings:
        if name not in _SETTINGS:
            raise unknown_name(f"setting in {target} under metadata.frontier", name, _SETTINGS)
    return Cluster(str(path), dict(settings))


def on_cluster(config: SweepConfig, cluster: Cluster, output: str | None) -> SweepConfig:
    """The sweep as the cluster runs it: output and MLflow server as its file says, unless the sweep (or ``output``) does.

    No path is relative to the job's folder: relative ones are below the home of the cluster's user (output), or below the
    output folder (ledger, a tracking database).
    """
    given = output or (config.output if _is_placed(config.output) else None)
    folder = _below("~", given or cluster.settings.get("output") or "runs")
    changes: dict[str, Any] = {"output": folder}
    if config.ledger and not config.ledger.startswith("RUN_DIR"):
        changes["ledger"] = _below(folder, config.ledger)
    tracking = config.tracking if config.tracking is not None else cluster.settings.get("tracking")
    if tracking:
        changes["tracking"] = _tracking("~/runs" if is_remote(folder) else folder, tracking)
    return config.model_copy(update=changes)


def _is_placed(path: str) -> bool:
    """Whether a path or address means the same place from whatever folder."""
    return is_remote(path) or path[:1] in ("/", "~")


def _below(folder: str, path: str) -> str:
    """A relative path as one below ``folder``: the job's own folder is deleted by Ray some time after the job."""
    return path if _is_placed(path) else join(folder, *PurePosixPath(path).parts)


def _tracking(folder: str, uri: str) -> str:
    start = "sqlite:///" if uri.startswith("sqlite:///") else ""
    return uri if "://" in uri and not start else start + _below(folder, uri.removeprefix(start))


class Connection:
    """The cluster's job server, through a tunnel where it has a cluster file; a context manager.

    Raises:
        InputError: no token, the cluster does not answer, or it refuses the token.
    """

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._tunnel: subprocess.Popen[bytes] | None = None
        self._client: Any = None

    def __enter__(self) -> Connection:
        try:
            self.ask(lambda client: client.get_version())
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._close()

    def ask(self, question: Callable[[Any], Any]) -> Any:
        """``question(client)``; the tunnel is dug again where it has fallen in."""
        for attempt in range(5):
            if self._client is None:
                self._client = self._connect()
            try:
                return question(self._client)
            except RuntimeError as error:
                raise self._refusal(error) from None
            except OSError as error:  # requests' errors too
                self._close()
                if attempt == 4:
                    raise InputError(f"{self._cluster.target}: the cluster does not answer any more ({error}).") from None
                time.sleep(2.0)
        raise AssertionError("unreachable")

    def _connect(self) -> Any:
        os.environ.setdefault("RAY_AUTH_MODE", "token")
        from ray.exceptions import AuthenticationError
        from ray.job_submission import JobSubmissionClient

        address = self._dig() if self._cluster.has_file else self._cluster.target
        try:
            return JobSubmissionClient(address)
        except (RuntimeError, ConnectionError, AuthenticationError) as error:
            raise self._refusal(error) from None

    def _refusal(self, error: Exception) -> InputError:
        text = str(error).strip().splitlines()[0]
        hint = _TOKEN if "uthent" in str(error) else " Is the cluster up (`ray up`)?"
        return InputError(f"{self._cluster.target}: {text}{hint}")

    def _dig(self) -> str:
        """Open the tunnel; returns the address at this end."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        command = [sys.executable, "-m", "ray.scripts.scripts", "dashboard", self._cluster.target, "-p", str(port)]
        with tempfile.TemporaryFile() as log:
            self._tunnel = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )
            until = time.monotonic() + _TUNNEL_SECONDS
            while time.monotonic() < until and self._tunnel.poll() is None:
                with socket.socket() as probe:
                    if probe.connect_ex(("127.0.0.1", port)) == 0:
                        return f"http://127.0.0.1:{port}"
                time.sleep(0.2)
            log.seek(0)
            lines = [line for line in log.read().decode(errors="replace").splitlines() if line.strip()]
        self._close()
        why = lines[-1].strip() if lines else "no answer"
        raise InputError(f"{self._cluster.target}: cannot open a tunnel to the head ({why}). Is the cluster up (`ray up`)?")

    def _close(self) -> None:
        self._client = None
        if self._tunnel is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._tunnel.pid, signal.SIGTERM)  # `ray dashboard` and its ssh
            self._tunnel.wait()
            self._tunnel = None


def find_job(connection: Connection, name: str) -> str | None:
    """The job that runs sweep ``name`` now, or None."""
    for job in connection.ask(lambda client: client.list_jobs()):
        if (job.metadata or {}).get(_ROW) == name and not job.status.is_terminal():
            return str(job.submission_id)
    return None


def send(
    connection: Connection,
    config: SweepConfig,
    data: str | None,
    show: Callable[[str], None] = lambda line: None,
    *,
    accept_changed_table: bool = False,
) -> str:
    """Submit the sweep; returns the job's name. ``show`` is told what is sent along of other packages."""
    with _working_dir(config, show) as folder:
        command = ["python", "-m", "sweeps", "run", SWEEP_FILE, "--address", "auto"]
        command += [] if data is None else ["--data", data]
        command += ["--accept-changed-table"] if accept_changed_table else []
        environment = {**_STOPPING, "COLUMNS": "140"}
        job = f"frontier-{uuid.uuid4().hex[:12]}"

        def submit(client: Any) -> None:
            if all(one.submission_id != job for one in client.list_jobs()):  # else it arrived, and the answer was lost
                client.submit_job(
                    entrypoint=shlex.join(command),
                    submission_id=job,
                    runtime_env={"working_dir": str(folder), "env_vars": environment},
                    metadata={_ROW: config.name},
                )

        connection.ask(submit)
        return job


@contextlib.contextmanager
def _working_dir(config: SweepConfig, show: Callable[[str], None] = lambda line: None) -> Iterator[Path]:
    """A folder with this program, the methods and tasks of other packages, and the sweep; ``show`` is told of the others."""
    with tempfile.TemporaryDirectory(prefix="frontier-submit-") as place:
        for line in copy_packages(Path(place)):
            show(f"Sent along: {line}")
        Path(place, SWEEP_FILE).write_text(config.to_yaml(), encoding="utf-8")
        yield Path(place)


def follow(connection: Connection, job: str, show: Callable[[str], None]) -> int:
    """Show the job's log until the job has ended.

    Returns:
        Exit code of the sweep; 130 where somebody stopped it.
    """
    shown = 0
    while True:
        details = connection.ask(lambda client: client.get_job_info(job))
        log = str(connection.ask(lambda client: client.get_job_logs(job)))
        if len(log) > shown:
            show(log[shown:])
            shown = len(log)
        if details.status.is_terminal():
            break
        time.sleep(_LOOK_SECONDS)
    if details.status == "STOPPED":
        return 130
    if details.driver_exit_code is None and details.status == "FAILED":
        raise InputError(f"job {job} did not run: {' '.join(str(details.message).split())[:500]}")
    return int(details.driver_exit_code or 0)


def check_target(folder: Path, cluster: Cluster) -> None:
    """Refuse to bring results into a folder that holds something else.

    Raises:
        InputError: it does.
    """
    mark = folder / _MARK
    if folder.exists() and not (mark.is_file() and mark.read_text(encoding="utf-8") == cluster.target):
        raise InputError(
            f"{folder}: already exists and was not fetched from {cluster.target}. Choose another --fetch, or move it away."
        )


def fetch(config: SweepConfig, cluster: Cluster, folder: Path) -> bool:
    """Bring the run's directory back into ``folder``; False where there is no way to it from here."""
    from sweeps.storage import mirror

    if not is_remote(config.output) and not cluster.has_file:
        return False
    folder.mkdir(parents=True, exist_ok=True)
    (folder / _MARK).write_text(cluster.target, encoding="utf-8")
    if is_remote(config.output):
        copy = mirror.run_folder(config.run_location)
        for name in mirror.FILES:
            if (copy / name).is_file():
                shutil.copyfile(copy / name, folder / name)
        return True
    settings = yaml.safe_load(Path(cluster.target).read_text(encoding="utf-8"))
    settings["rsync_exclude"] = [*settings.get("rsync_exclude", []), *_UNFETCHED]
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        yaml.safe_dump(settings, file)
        file.flush()
        command = [sys.executable, "-m", "ray.scripts.scripts", "rsync-down", file.name]
        done = subprocess.run(
            [*command, f"{config.output}/{config.name}/", f"{folder}/"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode:
        lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        raise InputError(f"{cluster.target}: the results could not be fetched ({lines[-1] if lines else done.returncode}).")
    return (folder / SWEEP_FILE).is_file()


def stop(connection: Connection, job: str) -> None:
    """Ask the job to end: trials that run are finished, and what there is is reported."""
    connection.ask(lambda client: client.stop_job(job))
