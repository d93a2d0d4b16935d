"""What the tests on hosts have in common."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from hosts import Hosts


def bring_up(hosts: Hosts) -> None:
    """`ray up`, and Ray on every host that is on, and MLflow on the head."""
    hosts.on(0, "test -f ~/.ray/auth_token || (mkdir -p ~/.ray && ray get-auth-token --generate)")
    hosts.on(0, "chmod 600 ~/.ray/auth_token")
    hosts.on(0, f"ray up -y {hosts.folder}/cluster.yaml", timeout=900)
    wanted = [1] + [n for n in hosts.numbers if hosts.address(n) in (hosts.folder / "cluster.yaml").read_text()]
    eventually("Ray on all hosts", lambda: set(raylets(hosts)) >= set(wanted), 600)
    eventually("MLflow", lambda: hosts.on(1, "bash -c '</dev/tcp/127.0.0.1/5000'", check=False).returncode == 0)


def submit_command(hosts: Hosts, sweep: Path) -> str:
    return f"python -m sweeps submit {hosts.folder}/cluster.yaml {sweep} --fetch {hosts.folder}/fetched"


def submit(hosts: Hosts, sweep: Path) -> subprocess.Popen[str]:
    """Submit and follow a sweep from the laptop, in the background."""
    words = hosts.words(0, submit_command(hosts, sweep))
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def eventually(what: str, check: Any, seconds: float = 240) -> None:
    until = time.monotonic() + seconds
    while not check():
        if time.monotonic() > until:
            raise AssertionError(f"not within {seconds:.0f} s: {what}")
        time.sleep(1)


def raylets(hosts: Hosts) -> list[int]:
    return [n for n in hosts.numbers if any("raylet/raylet" in line for line in hosts.ray_processes(n))]


def sweep_file(hosts: Hosts, name: str, count: int, **more: Any) -> Path:
    np.save(hosts.shared / "table.npy", np.random.default_rng(0).standard_normal((300, 16)).astype(np.float32))
    sweep = {
        "name": name,
        "table": str(hosts.shared / "table.npy"),
        "quantizers": [{"method": "sleeper", "number": list(range(count))}, "pq", "rq"],
        "budgets": {"compression_ratio": [4]},
        "tasks": ["neighbours"],
        **more,
    }
    path = hosts.folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(sweep))
    return path


def mlflow_runs(hosts: Hosts, name: str) -> list[tuple[str, str]]:
    """(trial key, status) of each trial that MLflow on the head has."""
    code = (
        "from mlflow import MlflowClient; import json; c = MlflowClient('http://127.0.0.1:5000');"
        f"e = c.get_experiment_by_name('{name}').experiment_id;"
        "runs = [r for r in c.search_runs([e], max_results=1000) if r.data.tags['role'] == 'trial'];"
        "print('RUNS', json.dumps([(r.data.tags['trial_key'], r.info.status) for r in runs]))"
    )
    said = hosts.on(1, f'python -c "{code}"').stdout
    return [(key, status) for key, status in json.loads(said.partition("RUNS ")[2])]
