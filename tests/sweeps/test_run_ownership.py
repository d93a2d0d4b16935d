"""One driver at a time works on a run, wherever it is kept; whoever else comes is refused, and disturbs nothing."""

import os
import socket
import subprocess
import sys
import threading
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import sweeps.commands.sweeps  # noqa: F401  (its commands)
from quantizers.errors import InputError
from sweeps import driver
from sweeps.commands import application
from sweeps.record import run_folder, status
from sweeps.record.run_folder import delete_working_files, open_run, owned
from sweeps.record.status import Progress, is_alive, read_status
from sweeps.spec.config import SweepConfig, build
from sweeps.storage import Folder, claims, mirror, open_storage
from sweeps.storage.layout import DRIVER_CLAIM
from sweeps.storage.processes import note

FAR = "1 1 another-boot pid:[1]"


def sweep(output: object, **changes: Any) -> SweepConfig:
    return build({"name": "s", "table": "t", "quantizers": ["pq"], "output": str(output), "tracking": False, **changes})


def spec(key: str) -> Any:
    return types.SimpleNamespace(key=key, method="pq", seed=0)


def until(holds: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_of_two_drivers_at_the_same_moment_one_works(tmp_path: Path) -> None:
    config, start, refused, ran = sweep(tmp_path), threading.Barrier(8), [], []
    all_tried = threading.Barrier(8)

    def work() -> None:
        start.wait()
        try:
            with owned(config, say=print):
                ran.append(1)
                all_tried.wait(60)
        except InputError as error:
            refused.append(str(error))
            all_tried.wait(60)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(ran) == 1 and len(refused) == 7
    assert all(f"process {os.getpid()} on " in one and "frontier status" in one for one in refused)
    assert not config.run_dir.exists(), "nobody wrote anything, so nothing is left"


@pytest.mark.process
def test_a_second_driver_of_another_process_is_refused_and_touches_nothing(tmp_path: Path) -> None:
    config = sweep(tmp_path, budgets={"compression_ratio": [8]})
    (tmp_path / "sweep.yaml").write_text(config.to_yaml())
    with owned(config, say=print):
        (config.run_dir / "sweep.yaml").write_text(config.to_yaml())
        before = {path: path.read_bytes() for path in config.run_dir.iterdir()}
        command = [sys.executable, "-m", "sweeps", "run", str(tmp_path / "sweep.yaml")]
        second = subprocess.run(command, capture_output=True, text=True, check=False, timeout=280)
        assert second.returncode == 2, second.stdout + second.stderr
        assert "still at work" in second.stderr and str(os.getpid()) in second.stderr
        assert second.stderr.strip().count("\n") == 0
        assert {path: path.read_bytes() for path in config.run_dir.iterdir()} == before
    assert [path.name for path in config.run_dir.iterdir()] == ["sweep.yaml"]


def test_the_claim_is_given_back_when_a_run_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = sweep(tmp_path / "runs")

    def fail(*_: object) -> None:
        assert (config.run_dir / DRIVER_CLAIM).is_file()
        raise KeyboardInterrupt

    monkeypatch.setattr(driver, "prepare", fail)
    for _ in range(2):  # the same process goes on
        with pytest.raises(KeyboardInterrupt):
            driver.run(config)
        assert not (tmp_path / "runs").exists()
    monkeypatch.undo()
    with pytest.raises(InputError, match="t"):  # there is no such table
        driver.run(config)
    assert not (tmp_path / "runs").exists()


def test_a_finished_run_keeps_no_working_files(tmp_path: Path) -> None:
    config = sweep(tmp_path, ledger=False)
    for name in ("ray/tune/trial/params.json", "ray/shared/fits/a.safetensors", "ray/shared/baselines/b.safetensors"):
        (config.run_dir / name).parent.mkdir(parents=True, exist_ok=True)
        (config.run_dir / name).write_text("x")
    left = config.run_dir / "artifacts" / ".a.safetensors.1-2.part"  # by a worker that was killed
    left.parent.mkdir()
    for file in (left, left.with_name("a.safetensors"), config.run_dir / ".trials.parquet.1-2.part"):
        file.write_text("x")
    delete_working_files(config, keep_shared=True)  # a resumed run has use for them
    assert sorted(path.name for path in config.run_dir.rglob("*") if path.is_file()) == [
        "a.safetensors", "a.safetensors", "b.safetensors"
    ]  # fmt: skip
    delete_working_files(config, keep_shared=False)
    assert [path.name for path in config.run_dir.rglob("*") if path.is_file()] == ["a.safetensors"]
    assert not (config.run_dir / "ray").exists()
    delete_working_files(config, keep_shared=False)


def test_a_driver_elsewhere_that_is_at_work_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It touches the claim while we watch: refused at once, not after a minute."""
    config, said = sweep(tmp_path), []
    storage = Folder(config.run_location)
    storage.write(DRIVER_CLAIM, f"{FAR}\nx\nfar-away\nlong ago".encode())
    looks = 0

    def touch(_: float) -> None:
        nonlocal looks
        looks += 1
        if looks == 3:
            os.utime(config.run_dir / DRIVER_CLAIM, ns=(1, 1))

    monkeypatch.setattr(run_folder.time, "sleep", touch)
    with pytest.raises(InputError, match="process 1 on far-away, since long ago"), owned(config, say=said.append):
        pass
    assert looks == 3 and len(said) == 1 and "waiting up to 60 s" in said[0]
    assert storage.read(DRIVER_CLAIM), "still the other's"


def test_a_driver_elsewhere_that_is_silent_is_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, said = sweep(tmp_path), []
    storage = Folder(config.run_location)
    storage.write(DRIVER_CLAIM, f"{FAR}\nx\nfar-away\nlong ago".encode())
    monkeypatch.setattr(claims, "STALE_SECONDS", 0.5)
    with owned(config, say=said.append):
        assert b"far-away" not in (storage.read(DRIVER_CLAIM) or b"")
    assert len(said) == 1 and storage.read(DRIVER_CLAIM) is None


def test_a_silent_fit_is_seen_to_be_at_work_from_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No trial says anything for longer than the time after which a driver is taken for dead."""
    monkeypatch.setattr(status, "_BEAT_SECONDS", 0.02)
    with Progress(None, tmp_path, name="s", total=1, skipped=0, objective=("t.m", "max")):
        state = read_status(tmp_path)
        assert state is not None
        for _ in range(3):
            seen = state["updated_at"]
            until(lambda seen=seen: (read_status(tmp_path) or {"updated_at": 0})["updated_at"] > seen)
            state = read_status(tmp_path)
            assert state is not None
        assert state["done"] == 0
        monkeypatch.setattr(status, "STALE_SECONDS", 60.0)
        assert is_alive({**state, "process": FAR})
    ended = read_status(tmp_path)
    time.sleep(0.1)
    assert read_status(tmp_path) == ended, "nobody writes it any more"


def test_the_state_is_whole_while_trials_come_and_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status, "_BEAT_SECONDS", 0.0001)
    failures: list[BaseException] = []
    monkeypatch.setattr(threading, "excepthook", lambda args: failures.append(args.exc_value))
    with Progress(None, tmp_path, name="s", total=5000, skipped=0, objective=("t.m", "max")) as progress:
        for number in range(2000):
            progress.started(spec(str(number)))
            if number % 3:
                progress.set_aside(spec(str(number)))
    state = read_status(tmp_path)
    assert state is not None and len(state["running"]) <= 667 and failures == []


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """``s3://tests`` on a server of this module's own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    patch = pytest.MonkeyPatch()
    patch.setenv("AWS_ACCESS_KEY_ID", "key")
    patch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:

        def answers() -> bool:
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", port)) == 0

        until(answers)
        import boto3

        client = boto3.client("s3", endpoint_url=f"http://127.0.0.1:{port}", region_name="us-east-1")
        client.create_bucket(Bucket="tests")
        yield f"s3://tests/{{}}?endpoint_override=127.0.0.1:{port}&scheme=http&region=us-east-1"
    finally:
        server.terminate()
        server.wait()
        patch.undo()


@pytest.mark.slow
def test_a_run_on_s3_that_is_at_work(bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = sweep(bucket.format("runs"))
    location, cli = config.run_location, CliRunner()
    here, other = tmp_path / "here", tmp_path / "other"
    monkeypatch.setenv("HOME", str(here))
    monkeypatch.setattr(status, "_BEAT_SECONDS", 0.05)
    monkeypatch.setattr(status, "_SEND_SECONDS", 0.05)
    kept = open_storage(location)
    with owned(config, say=print):
        run_dir = config.run_dir
        run_dir.mkdir(parents=True)
        (run_dir / "sweep.yaml").write_text(config.to_yaml())
        mirror.push(config)

        def send() -> None:
            mirror.push(config, [status.STATUS_FILE])

        options: dict[str, Any] = {"name": "s", "total": 1, "skipped": 0, "objective": ("t.m", "max"), "send": send}
        with Progress(None, run_dir, **options) as progress:
            progress.started(spec("k"))
            until(lambda: kept.exists("status.json"))  # sent while it runs
            (run_dir / "trials.parquet").write_bytes(b"not yet sent")

            # Another driver, and somebody who looks, on this machine: the copy stays the driver's.
            refused = cli.invoke(application(), ["resume", location])
            assert refused.exit_code == 2 and "still at work" in refused.output, refused.output
            assert cli.invoke(application(), ["status", location]).exit_code == 0
            assert (run_dir / "trials.parquet").read_bytes() == b"not yet sent"

            # The same on another machine, to which this process's notes say nothing.
            monkeypatch.setenv("HOME", str(other))
            monkeypatch.setattr(claims, "is_here", lambda left: False)
            monkeypatch.setattr(status, "is_here", lambda left: False)
            monkeypatch.setattr(claims, "is_gone", lambda left: False)
            monkeypatch.setattr(status, "is_gone", lambda left: False)
            shown = cli.invoke(application(), ["status", location])
            assert shown.exit_code == 0 and "has stopped" not in shown.output, shown.output
            state = read_status(open_run(location))
            assert state is not None and is_alive(state) and state["running"]
            content = kept.read(DRIVER_CLAIM)
            looks = 0

            def touch(_: float) -> None:
                nonlocal looks
                looks += 1
                if looks % 3 == 0:
                    kept.touch(DRIVER_CLAIM)

            monkeypatch.setattr(run_folder, "time", type("Clock", (), {"sleep": staticmethod(touch)}))
            refused = cli.invoke(application(), ["resume", location])
            assert refused.exit_code == 2 and "still at work" in refused.output, refused.output
            assert kept.read(DRIVER_CLAIM) == content and note() in (content or b"").decode()
            monkeypatch.setenv("HOME", str(here))
            progress.phase("finished")
        mirror.push(config)
    assert not kept.exists(DRIVER_CLAIM)
    monkeypatch.setenv("HOME", str(other))
    ended = read_status(open_run(location))
    assert ended is not None and ended["phase"] == "finished"
