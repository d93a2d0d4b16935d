"""`ray up`, `frontier submit`, lost hosts, cut links and strangers, on three hosts; `make test-cluster` runs it."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hosts import ROOT, Hosts, why_not
from on_hosts import bring_up, eventually, mlflow_runs, raylets, submit, sweep_file

from analysis import store

pytestmark = [
    pytest.mark.skipif(not os.environ.get("FRONTIER_HOSTS"), reason="on hosts: make test-cluster"),
    pytest.mark.skipif(why_not() is not None, reason=f"hosts: {why_not()}"),
    pytest.mark.timeout(1200),
]
_SAME = ("payload_bytes", "file_bytes", "artifact_digest", "mse", "cosine", "max_abs_error", "status", "config_json", "seed")


@pytest.fixture(scope="module")
def hosts() -> Iterator[Hosts]:
    with Hosts(3) as made:
        made.cluster_file({"SLEEP_SECONDS": 5, "MEET_IN": made.shared / "meeting"}, output=str(made.shared / "runs"))
        bring_up(made)
        yield made


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_hosts_leave_nothing_however_they_end(how: signal.Signals) -> None:
    code = "with hosts.Hosts(2) as made: print(made.folder, *made.pids.values(), flush=True); time.sleep(60)"
    listen = "signal.signal(signal.SIGINT, signal.default_int_handler)"  # which a shell's background jobs are born without
    words = [sys.executable, "-c", f"import hosts, signal, time\n{listen}\n{code}"]
    with subprocess.Popen(words, cwd=ROOT / "tests" / "cluster", stdout=subprocess.PIPE, text=True) as made:
        assert made.stdout is not None
        folder, *pids = made.stdout.readline().split()
        assert len(pids) == 3 and all(Path("/proc", pid).exists() for pid in pids)
        made.send_signal(how)
    assert made.returncode != 0
    eventually("its processes are gone", lambda: not any(Path("/proc", pid).exists() for pid in pids), 30)
    if how == signal.SIGKILL:  # then the next ones sweep up
        Hosts(0).__exit__()
    assert not Path(folder).exists()
    assert folder not in Path("/proc/mounts").read_text()


def test_only_those_with_the_token_get_in(hosts: Hosts) -> None:
    """A stranger on the network, with the same programs, tries every door."""
    head = hosts.address(1)
    stranger = {"timeout": 100, "check": False}
    for port in (8265, 5000):  # dashboard and MLflow: nobody is there for other machines
        assert hosts.on(2, f"bash -c '</dev/tcp/{head}/{port}'", **stranger).returncode != 0
    # Even on the head itself, the dashboard wants the token: neither jobs nor their logs and results without it.
    ask = "curl -s -o /dev/null -w '%{http_code}'"
    for place in ("jobs/", "jobs/any/logs", "v0/actors", "cluster_status"):
        assert hosts.on(1, f"{ask} http://127.0.0.1:8265/api/{place}", **stranger).stdout == "401", place
    job = "-X POST -H 'Content-Type: application/json' -d '{\"entrypoint\": \"touch /tmp/stolen\"}'"
    assert hosts.on(1, f"{ask} {job} http://127.0.0.1:8265/api/jobs/", **stranger).stdout == "401"
    wrong = "-H 'Authorization: Bearer wrong'"
    assert hosts.on(1, f"{ask} {wrong} {job} http://127.0.0.1:8265/api/jobs/", **stranger).stdout == "403"
    assert hosts.on(2, f"{ask} {job} http://{head}:52365/api/job_agent/jobs/", **stranger).stdout == "401"
    # Ray's own protocol.
    join = f"import ray; ray.init('{head}:6379'); print(ray.nodes())"
    for environment in ("RAY_AUTH_MODE=disabled", "RAY_AUTH_MODE=token RAY_AUTH_TOKEN=wrong"):
        done = hosts.on(2, f'env {environment} timeout 60 python -c "{join}"', **stranger)
        assert done.returncode != 0
        assert "NodeManagerAddress" not in done.stdout
    submit = f"python -m sweeps submit {hosts.folder}/cluster.yaml quick --fetch /tmp/nothing"
    done = hosts.on(0, f"RAY_AUTH_TOKEN=wrong {submit}", **stranger)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "oken" in done.stderr and "Traceback" not in done.stderr
    assert not hosts.on(1, "ls /tmp/stolen", check=False).stdout
    assert hosts.on(1, "stat -c %a ~/.ray/auth_token").stdout.strip() == "600"


def test_ports_that_others_reach_are_written_down(hosts: Hosts) -> None:
    page = (ROOT / "docs" / "cluster.md").read_text(encoding="utf-8")
    for line in hosts.on(1, "ss -ltnpH").stdout.splitlines():
        address = line.split()[3]
        if not address.startswith(("127.", "[::1]")):
            process = re.search(r'\(\("([^"]+)"', line)[1]
            assert f"`{process}`" in page, line


def test_a_sweep_from_the_laptop_runs_on_all_hosts_and_the_report_comes_back(hosts: Hosts) -> None:
    sweep = sweep_file(hosts, "first", 9)
    meeting = hosts.shared / "meeting"
    meeting.mkdir()
    (meeting / "count").write_text("3")  # however slowly a host begins, the others leave it some trials
    done = hosts.on(
        0, f"python -m sweeps submit {hosts.folder}/cluster.yaml {sweep} --fetch {hosts.folder}/fetched", timeout=600
    )
    (meeting / "count").unlink()
    assert done.returncode == 0, done.stdout + done.stderr
    run = hosts.folder / "fetched" / "first"
    assert (run / "report.html").stat().st_size > 10_000
    rows = store.read_trials(run).to_pylist()
    assert {row["node"] for row in rows} == {"n1", "n2", "n3"}
    assert {row["status"] for row in rows} == {"ok"}
    assert len(rows) == 12
    for row in rows:
        assert (run / "artifacts" / f"{row['trial_key']}.safetensors").stat().st_size == row["file_bytes"]
    assert not (run / "ledger").exists()
    assert sorted(mlflow_runs(hosts, "first")) == sorted((row["trial_key"], "FINISHED") for row in rows)


def test_a_dead_host_and_a_cut_link_cost_time_and_nothing_else(hosts: Hosts) -> None:
    sweep = sweep_file(hosts, "losses", 15)
    submitted = submit(hosts, sweep)
    status = hosts.shared / "runs" / "losses" / "status.json"
    try:
        eventually("trials on all hosts", lambda: status.is_file() and json.loads(status.read_text())["done"] >= 4)
        hosts.kill(3)
        hosts.cut(2)
        time.sleep(30)
        hosts.join(2)
        said, _ = submitted.communicate(timeout=600)
    finally:
        hosts.on(0, "pkill -f 'sweeps submit'", check=False)
        submitted.wait(60)
    assert submitted.returncode == 0, said
    rows = store.read_trials(hosts.folder / "fetched" / "losses").to_pylist()
    assert len({row["trial_key"] for row in rows}) == len(rows) == 18
    assert {row["status"] for row in rows} == {"ok"}

    alone = hosts.on(0, f"python -m sweeps run {sweep} --out {hosts.folder}/alone --set tracking=false", timeout=600)
    assert alone.returncode == 0, alone.stdout
    expected = {row["trial_key"]: row for row in store.read_trials(hosts.folder / "alone" / "losses").to_pylist()}
    assert {key: [row[name] for name in _SAME] for key, row in expected.items()} == {
        row["trial_key"]: [row[name] for name in _SAME] for row in rows
    }
    scores = [
        sorted((one["trial_key"], one["task"], one["metric"], one["value"]) for one in store.read_scores(run).to_pylist())
        for run in (hosts.folder / "alone" / "losses", hosts.folder / "fetched" / "losses")
    ]
    assert scores[0] == scores[1]
    assert sorted(mlflow_runs(hosts, "losses")) == sorted((key, "FINISHED") for key in expected)


def test_a_host_comes_back_and_ray_down_leaves_nothing(hosts: Hosts) -> None:
    if 3 not in hosts.numbers:
        hosts.start(3)  # its disk is as it was: the head's autoscaler takes it in again
    eventually("Ray on the host that was lost", lambda: 3 in raylets(hosts), 400)
    hosts.on(0, f"ray down -y {hosts.folder}/cluster.yaml", timeout=300)
    # `ray down` stops the head alone; the others end by themselves when they have not heard of it for a minute.
    with contextlib.suppress(AssertionError):
        eventually("no Ray process", lambda: not any(hosts.ray_processes(number) for number in hosts.numbers), 120)
    assert {number: hosts.ray_processes(number) for number in hosts.numbers} == {number: [] for number in hosts.numbers}
