"""`frontier submit` as far as it goes without a cluster: what is sent, where results go, and what is refused."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

import sweeps.commands.submit  # noqa: F401 - adds the command
import sweeps.commands.sweeps  # noqa: F401 - of one command alone Typer makes the whole program
from quantizers.errors import InputError
from sweeps.cluster import submit
from sweeps.commands import application
from sweeps.spec.config import SweepConfig, build, load


def cluster_file(folder: Path, **frontier: Any) -> Path:
    path = folder / "cluster.yaml"
    provider = {"type": "local", "head_ip": "127.0.0.1", "worker_ips": []}
    path.write_text(yaml.safe_dump({"cluster_name": "c", "provider": provider, "metadata": {"frontier": frontier}}))
    return path


def sweep(**more: Any) -> SweepConfig:
    return build({"name": "s", "table": "builtin:glove-10k-50d", "quantizers": ["pq"], **more})


@pytest.mark.parametrize(
    ("given", "output", "expected"),
    [
        ({}, None, "/nfs/runs"),
        ({"output": "here"}, None, "/nfs/runs"),  # a folder of the laptop
        ({"output": "/own"}, None, "/own"),
        ({"output": "s3://b/runs"}, None, "s3://b/runs"),
        ({"output": "/own"}, "~/other", "~/other"),
    ],
)
def test_where_the_cluster_keeps_the_run(tmp_path: Path, given: dict[str, str], output: str | None, expected: str) -> None:
    cluster = submit.read_cluster(str(cluster_file(tmp_path, output="/nfs/runs", tracking="http://127.0.0.1:5000")))
    config = submit.on_cluster(sweep(**given), cluster, output)
    assert (config.output, config.tracking) == (expected, "http://127.0.0.1:5000")


def test_the_sweep_says_more_than_the_cluster(tmp_path: Path) -> None:
    cluster = submit.read_cluster(str(cluster_file(tmp_path, tracking="http://127.0.0.1:5000")))
    assert submit.on_cluster(sweep(tracking=False), cluster, None).tracking is False
    assert submit.on_cluster(sweep(tracking="http://other:1"), cluster, None).tracking == "http://other:1"
    assert submit.on_cluster(sweep(), cluster, None).output == "~/runs"
    dashboard = submit.read_cluster("http://127.0.0.1:8265/")
    assert (dashboard.target, dashboard.has_file) == ("http://127.0.0.1:8265", False)


def test_what_is_sent_runs_by_itself(tmp_path: Path) -> None:
    config = sweep()
    with submit._working_dir(config) as folder:
        assert load(str(folder / "sweep.yaml")) == config
        assert not list(folder.rglob("__pycache__"))
        assert sum(path.stat().st_size for path in folder.rglob("*")) < 20_000_000
        code = "import quantizers, sweeps, analysis; print(quantizers.__file__, sweeps.__file__, analysis.__file__)"
        said = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True).stdout
        assert all(place.startswith(str(folder)) for place in said.split()), said
    assert not folder.exists()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, "no such cluster file"),
        ("a: [", "not valid YAML"),
        ("name: quick\ntable: t\n", "no `provider`"),
        ("provider: {type: local}\nmetadata: {frontier: {otput: x}}\n", "Did you mean 'output'"),
        ("provider: {type: local}\nmetadata: [1]\n", "must be a mapping"),
        ("provider: 2001-99-99\n", "not valid YAML"),
        ("a: \udcff\n", "not valid YAML"),
        ("a: " + "[" * 3000, "nests more than 50 levels deep"),
        ("a: 1\n--- \nprovider: {type: local}\n", "no `provider`"),
    ],
)
def test_files_that_are_none(tmp_path: Path, text: str | None, expected: str) -> None:
    path = tmp_path / "c.yaml"
    if text is not None:
        path.write_text(text, errors="surrogateescape")
    with pytest.raises(InputError, match=expected):
        submit.read_cluster(str(path))


def test_results_never_go_over_other_files(tmp_path: Path) -> None:
    cluster = submit.read_cluster(str(cluster_file(tmp_path)))
    folder = tmp_path / "runs" / "s"
    submit.check_target(folder, cluster)
    folder.mkdir(parents=True)
    with pytest.raises(InputError, match="Choose another --fetch"):
        submit.check_target(folder, cluster)
    (folder / ".fetched").write_text(cluster.target)
    submit.check_target(folder, cluster)


def test_a_cluster_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "sweep.yaml").write_text(sweep(budgets={"compression_ratio": [8]}).to_yaml())
    words = ["submit", "http://127.0.0.1:1", str(tmp_path / "sweep.yaml"), "--fetch", str(tmp_path / "runs")]
    done = CliRunner().invoke(application(), words, env={"RAY_AUTH_TOKEN": "x" * 64})
    assert done.exit_code == 2
    assert "http://127.0.0.1:1" in done.output and "answer" in done.output or "cluster up" in done.output
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("accept", [False, True])
def test_what_the_job_is_asked_to_do(accept: bool) -> None:
    asked: list[dict[str, Any]] = []

    class Client:
        def list_jobs(self) -> list[Any]:
            return []

        def submit_job(self, **options: Any) -> None:
            asked.append(options)

    connection: Any = SimpleNamespace(ask=lambda question: question(Client()))
    submit.send(connection, sweep(), "/data", accept_changed_table=accept)
    words = asked[0]["entrypoint"].split()
    assert words[:4] == ["python", "-m", "sweeps", "run"] and words[words.index("--data") + 1] == "/data"
    assert ("--accept-changed-table" in words) == accept
    assert asked[0]["runtime_env"]["env_vars"]["RAY_JOB_STOP_SIGNAL"] == "SIGINT", "what runs goes on to its end"
