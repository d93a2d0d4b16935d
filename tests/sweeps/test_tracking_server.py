"""Records on an MLflow server as a group has one: PostgreSQL behind it, a password before it, files on S3."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import boto3
import pytest
from mlflow import MlflowClient

from sweeps.record.tracking.files import Attachment
from sweeps.record.tracking.tracker import Tracker
from trainables.records import TrialResult

pytestmark = [pytest.mark.slow, pytest.mark.process]
PASSWORD = "correct-horse-battery"
POSTGRES = max(Path("/usr/lib/postgresql").glob("*/bin"), default=None)  # Debian's
AWS = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}


def _port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextlib.contextmanager
def _running(words: Sequence[str], port: int, log: Path, **options: Any) -> Iterator[None]:
    """A server, from when it answers on ``port``."""
    with log.open("wb") as out:
        process = subprocess.Popen(words, stdout=out, stderr=out, start_new_session=True, **options)
        try:
            while not _answers(port):
                assert process.poll() is None, log.read_text()
                time.sleep(0.2)
            yield
        finally:
            for number in (signal.SIGQUIT, signal.SIGKILL):  # the first is PostgreSQL's word for: at once
                with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired):
                    os.killpg(process.pid, number)
                    process.wait(10)
            process.wait()


@contextlib.contextmanager
def _postgres(folder: Path) -> Iterator[str]:
    """A new PostgreSQL cluster; the address of its database."""
    if POSTGRES is None:
        pytest.skip("no PostgreSQL here (Debian: apt-get install postgresql)")
    port, data = _port(), folder / "postgres"
    data.mkdir()
    options: dict[str, Any] = {"cwd": "/"}
    if os.geteuid() == 0:  # PostgreSQL does not run as root
        for above in (folder, *folder.parents):
            if above.owner() == "root" and above != Path("/") and above.parent != Path("/"):
                above.chmod(0o755)
        subprocess.run(["chown", "postgres", str(data)], check=True)
        options["user"] = "postgres"
    made = [str(POSTGRES / "initdb"), "-D", str(data), "-U", "postgres", "--auth=trust", "--no-sync"]
    subprocess.run(made, check=True, stdout=subprocess.DEVNULL, **options)
    words = [str(POSTGRES / "postgres"), "-D", str(data), "-p", str(port), "-h", "127.0.0.1", "-k", str(data), "-F"]
    with _running(words, port, folder / "postgres.log", **options):
        yield f"postgresql+psycopg2://postgres@127.0.0.1:{port}/postgres"


@contextlib.contextmanager
def _s3(folder: Path) -> Iterator[str]:
    port = _port()
    with _running([sys.executable, "-m", "moto.server", "-p", str(port)], port, folder / "s3.log"):
        yield f"http://127.0.0.1:{port}"


@contextlib.contextmanager
def _mlflow(folder: Path, environment: Mapping[str, str], database: str) -> Iterator[str]:
    port = _port()
    words = [sys.executable, "-m", "mlflow", "server", "--app-name", "basic-auth", "--backend-store-uri", database]
    words += ["--artifacts-destination", "s3://files/mlflow", "--port", str(port), "--workers", "1"]
    with _running(words, port, folder / "mlflow.log", cwd=folder, env=dict(environment)):
        yield f"http://127.0.0.1:{port}"


def _trial(key: str, status: str) -> TrialResult:
    row: dict[str, Any] = {
        "trial_key": key,
        "table": "t",
        "quantizer": "pq",
        "config_json": "{}",
        "seed": 0,
        "status": status,
    }
    row |= {
        "payload_bytes": 900,
        "compression_ratio": 8.0,
        "table_digest": "d" * 32,
        "num_embeddings": 9,
        "embedding_dim": 5,
    }
    row["started_at"] = "2026-01-02T03:04:05+00:00"
    return TrialResult(row, [], [{"phase": "fit", "fraction": 1.0, "value": 0.5, "seconds": 1.0}], None, 1.0)


@pytest.mark.timeout(600)
def test_a_server_with_a_password_takes_records_and_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in AWS.items():
        monkeypatch.setenv(name, value)
    with _postgres(tmp_path) as database, _s3(tmp_path) as s3:
        store = boto3.client("s3", endpoint_url=s3)
        store.create_bucket(Bucket="files")
        served = {
            **os.environ,
            "MLFLOW_S3_ENDPOINT_URL": s3,
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "MLFLOW_FLASK_SERVER_SECRET_KEY": "of a test",
            "MLFLOW_AUTH_ADMIN_PASSWORD": PASSWORD,
        }
        with _mlflow(tmp_path, served, database) as uri:
            refused = Tracker(uri, "s", ("payload_bytes",), pause=0.1, patience=1.0)
            refused.log(_trial("a", "ok"))
            refused.close()
            assert refused.problem is not None and refused.problem.startswith("1 record waits (")
            monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "admin")
            monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORD)
            sender = Tracker(uri, "s", ("payload_bytes",), patience=120.0)
            for number in range(12):
                sender.log(_trial(f"k{number}", ["ok", "skipped", "infeasible"][number % 3]))
            sender.close()
            file = tmp_path / "a.safetensors"
            file.write_bytes(b"compressed")
            held = [Attachment("k0", (file,), [{"phase": "fit", "value": 0.5}], "digest")]
            sender.summarize([file], {}, finished_at="2026-01-02T03:05:05+00:00", finished=True, frontier=held)
            assert sender.problem is None
            client = MlflowClient(uri)
            number = client.get_experiment_by_name("s").experiment_id
            ended = [run.info.status for run in client.search_runs([number], "tags.role = 'trial'")]
            assert sorted(ended) == ["FAILED"] * 4 + ["FINISHED"] * 4 + ["KILLED"] * 4
            names = {entry["Key"].rsplit("/", 1)[-1] for entry in store.list_objects_v2(Bucket="files")["Contents"]}
            assert names == {"a.safetensors", "curve.csv"}
        logs = "".join(path.read_text(errors="replace") for path in tmp_path.glob("*.log"))
        assert PASSWORD not in logs
