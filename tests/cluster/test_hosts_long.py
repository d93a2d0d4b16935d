"""A head that dies, the same on s3://, and more hosts; `make test-cluster-long` runs it and prints the figures."""

import json
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hosts import Hosts, why_not
from on_hosts import bring_up, eventually, mlflow_runs, submit, submit_command, sweep_file

from analysis import store

pytestmark = [
    pytest.mark.skipif(not os.environ.get("FRONTIER_HOSTS"), reason="on hosts: make test-cluster-long"),
    pytest.mark.skipif(why_not() is not None, reason=f"hosts: {why_not()}"),
    pytest.mark.timeout(3600),
]
_KEYS = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_EC2_METADATA_DISABLED": "true"}
_SERVER = "endpoint_override=10.77.0.1:5001&scheme=http&region=us-east-1"


@pytest.fixture(params=["nfs", "s3"])
def place(request: pytest.FixtureRequest) -> Iterator[tuple[Hosts, str]]:
    """Three hosts with Ray, and where runs go."""
    with Hosts(3) as hosts:
        output, server = str(hosts.shared / "runs"), None
        if request.param == "s3":
            output = f"s3://runs/here?{_SERVER}"
            server = subprocess.Popen(hosts.words(0, "exec python -m moto.server -H 10.77.0.1 -p 5001 >/dev/null 2>&1"))
            eventually("S3", lambda: hosts.on(0, "bash -c '</dev/tcp/10.77.0.1/5001'", check=False).returncode == 0)
            hosts.on(0, "curl -s -X PUT http://10.77.0.1:5001/runs")
        hosts.cluster_file({"SLEEP_SECONDS": 5, **_KEYS}, output=output)
        bring_up(hosts)
        yield hosts, output
        if server is not None:
            hosts.on(0, "pkill -f moto.server")
            server.wait(60)


def finished(hosts: Hosts, output: str, name: str) -> dict[str, dict[str, Any]]:
    """Trials in the ledger, by key, as anybody sees them there; a claim beside them is of one that runs."""
    if output.startswith("s3://"):
        code = (
            "import json; from sweeps.storage import join, open_storage;"
            f"s = open_storage(join('{output}', '{name}', 'ledger', 'results'));"
            "print('FOUND', json.dumps([s.read(n).decode() for n in s.names('') if n.endswith('.json')]))"
        )
        keys = " ".join(f"{key}={value}" for key, value in _KEYS.items())
        said = hosts.on(0, f'{keys} python -c "{code}"').stdout
        texts = json.loads(said.partition("FOUND ")[2])
    else:
        texts = [path.read_text() for path in Path(output, name, "ledger", "results").glob("*.json")]
    rows = [json.loads(text)["row"] for text in texts]
    return {row["trial_key"]: row for row in rows}


def test_the_head_dies_and_nothing_finished_is_run_again(place: tuple[Hosts, str]) -> None:
    """A worker dies too, before; the head comes back with its disk, but what counts is on the storage."""
    hosts, output = place
    sweep = sweep_file(hosts, "headless", 20)
    submitted = submit(hosts, sweep)
    try:
        eventually("four trials", lambda: len(finished(hosts, output, "headless")) >= 4)
        hosts.kill(3)
        eventually("eight trials", lambda: len(finished(hosts, output, "headless")) >= 8)
        hosts.kill(1)
    finally:
        time.sleep(3)
        hosts.on(0, "pkill -f 'sweeps submit'", check=False)
        submitted.communicate(timeout=60)
    before = finished(hosts, output, "headless")
    assert 8 <= len(before) < 23
    hosts.start(1)
    hosts.start(3)
    bring_up(hosts)
    run = f"{output}/headless" if "?" not in output else output.replace("?", "/headless?")
    done = hosts.on(1, f"source ~/.bashrc; python -m sweeps resume '{run}' --address auto", timeout=900)
    assert done.returncode == 0, done.stdout
    assert f"({len(before)} reused)" in done.stdout
    keys = " ".join(f"{key}={value}" for key, value in _KEYS.items())
    fetched = hosts.on(0, f"{keys} {submit_command(hosts, sweep)}", timeout=900)  # all is there: it comes back
    assert fetched.returncode == 0, fetched.stdout + fetched.stderr
    rows = store.read_trials(hosts.folder / "fetched" / "headless").to_pylist()
    assert len({row["trial_key"] for row in rows}) == len(rows) == 23
    assert {row["status"] for row in rows} == {"ok"}
    for row in rows:
        if row["trial_key"] in before:
            assert row["started_at"].isoformat() == before[row["trial_key"]]["started_at"]
            assert row["artifact_digest"] == before[row["trial_key"]]["artifact_digest"]
    assert sorted(mlflow_runs(hosts, "headless")) == sorted((row["trial_key"], "FINISHED") for row in rows)


def cpu_seconds(hosts: Hosts, word: str) -> float:
    """Processor time of the head's processes with ``word`` in their command."""
    own, total = os.readlink(f"/proc/{hosts.pids[1]}/ns/pid"), 0.0
    for entry in Path("/proc").iterdir():
        try:
            if not entry.name.isdigit() or os.readlink(entry / "ns" / "pid") != own:
                continue
            line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if word in line:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                total += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        except OSError:
            continue
    return total


def taken(hosts: Hosts, results: Path) -> tuple[int, float, float]:
    """Trials that are done, and what the driver and Ray's control took of the processor for them and before."""
    return len(list(results.glob("*.json"))), cpu_seconds(hosts, "sweeps run"), cpu_seconds(hosts, "gcs_server")


def measured(hosts: Hosts, count: int) -> tuple[float, str]:
    """Trials a minute on ``count`` hosts, from the time that each has had its first until one has had its last."""
    sleepers = [{"method": "sleeper", "number": list(range(12 * count - 1))}]
    sweep = sweep_file(hosts, f"hosts{count}", 0, quantizers=sleepers)
    results = hosts.shared / "runs" / f"hosts{count}" / "ledger" / "results"
    submitted = submit(hosts, sweep)
    eventually("trials on all hosts", lambda: results.is_dir() and len(list(results.glob("*.json"))) >= 2 * count)
    before = taken(hosts, results)
    eventually("most trials", lambda: len(list(results.glob("*.json"))) >= 11 * count)
    trials, driver, control = (now - then for now, then in zip(taken(hosts, results), before, strict=True))
    said, _ = submitted.communicate(timeout=600)
    assert submitted.returncode == 0, said
    ends: dict[str, list[float]] = {}
    for path in results.glob("*.json"):
        ends.setdefault(json.loads(path.read_text())["row"]["node"], []).append(path.stat().st_mtime)
    assert len(ends) == count
    begin, end = max(min(times) for times in ends.values()), min(max(times) for times in ends.values())
    rate = 60 * sum(begin < time <= end for times in ends.values() for time in times) / (end - begin)
    return rate, f"driver {1000 * driver / trials:.0f} ms of processor a trial, control {1000 * control / trials:.0f} ms"


def test_more_hosts_more_trials_a_minute(capsys: pytest.CaptureFixture[str]) -> None:
    """1, 2, 4, 8 hosts, trials that sleep 5 s."""
    rates: dict[int, float] = {}
    with Hosts(8) as hosts:
        for count in (1, 2, 4, 8):
            hosts.cluster_file({"SLEEP_SECONDS": 5}, hosts=count, output=str(hosts.shared / "runs"))
            bring_up(hosts)
            rates[count], cost = measured(hosts, count)
            share = rates[count] / rates[1] / count
            with capsys.disabled():
                print(f"{count} hosts: {rates[count]:.1f} trials a minute, {share:.2f} of linear; {cost}")  # noqa: T201
    for count, rate in rates.items():
        assert rate >= 0.85 * count * rates[1]
