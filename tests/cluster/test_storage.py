"""Where runs are kept: folders, s3:// (a server of moto), and folders of the driver's node, reached through Ray."""

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from typer.testing import Result

from analysis import store
from quantizers.errors import InputError
from sweeps.record.checkpoints import Checkpoints, delete_all
from sweeps.record.ledger import Ledger
from sweeps.spec.config import build, load_run
from sweeps.storage import Folder, Storage, join, open_storage, split
from sweeps.storage import base as module
from sweeps.storage.inputs import brought
from sweeps.storage.mirror import artifact, copy_of, run_folder
from sweeps.storage.processes import note
from sweeps.storage.through_driver import Place, Places, ThroughDriver
from sweeps.tune.task_files import pack, unpack
from trainables.registry import make_task

pytestmark = [pytest.mark.xdist_group("warm ray"), pytest.mark.ray]


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """``s3://tests`` on a server of this test's own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    patch = pytest.MonkeyPatch()
    patch.setenv("AWS_ACCESS_KEY_ID", "key")
    patch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    log = open(os.devnull, "w")  # noqa: SIM115
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)], stdout=log, stderr=log
    )
    try:
        _wait_for_port(port)
        import boto3

        client = boto3.client("s3", endpoint_url=f"http://127.0.0.1:{port}", region_name="us-east-1")
        client.create_bucket(Bucket="tests")
        yield f"s3://tests/{{}}?endpoint_override=127.0.0.1:{port}&scheme=http&region=us-east-1"
    finally:
        server.terminate()
        server.wait()
        log.close()
        patch.undo()


def _wait_for_port(port: int) -> None:
    for _ in range(600):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise AssertionError("the server did not start")


@pytest.fixture(params=["folder", "s3", "ray"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Storage]:
    if request.param == "folder":
        yield Folder(str(tmp_path))
    elif request.param == "s3":
        yield open_storage(request.getfixturevalue("bucket").format(tmp_path.name))
    else:
        request.getfixturevalue("warm_ray")
        with Places(str(tmp_path), str(tmp_path), elsewhere=True) as places:
            place = places.place(str(tmp_path))
            opened = Place(place.location, "not-there", place.keeper).open()
            assert isinstance(opened, ThroughDriver)
            yield opened


def test_checkpoints_are_where_the_run_is(storage: Storage) -> None:
    state = {"step": 3, "weights": torch.arange(5.0), "best": None}
    Checkpoints(storage, "abc", 0).save("train", state)
    other = Checkpoints(storage, "abc", 0)  # as another worker has it
    found = other.load("train")
    assert found is not None and found["step"] == 3 and found["best"] is None
    assert torch.equal(found["weights"], state["weights"])
    assert Checkpoints(storage, "abd", 0).load("train") is None
    other.delete()
    assert other.load("train") is None
    Checkpoints(storage, "abe", 0).save("train", state)
    delete_all(storage)
    assert list(storage.names("checkpoints")) == []


def test_locations() -> None:
    assert join("s3://b/runs?scheme=http", "a", "b") == "s3://b/runs/a/b?scheme=http"
    assert join("s3://b/", "a") == "s3://b/a"
    assert join("s3://b/runs/x?y=z", "..", "ledger") == "s3://b/runs/ledger?y=z"
    assert join("/x/y", "..", "z") == "/x/z"
    assert join("/x/y", "z", "a.txt") == "/x/y/z/a.txt"
    assert split("s3://b/runs/a?x=y") == ("s3://b/runs?x=y", "a")
    assert split("/x/y/a?b.txt") == ("/x/y", "a?b.txt")
    config = build({"name": "n", "table": "t", "quantizers": ["pq"], "output": "s3://b/runs?scheme=http"})
    assert config.run_location == "s3://b/runs/n?scheme=http"
    assert config.ledger_location == "s3://b/runs/n/ledger?scheme=http"
    assert config.run_dir.name == "n" and config.tracking_uri.startswith("sqlite:////")
    assert build({**config.model_dump(mode="json"), "ledger": "s3://b/ledger"}).ledger_location == "s3://b/ledger"
    local = build({"name": "n", "table": "t", "quantizers": ["pq"], "output": "/x"})
    assert (local.run_location, local.ledger_location) == ("/x/n", "/x/n/ledger")


def test_an_address_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected s3://BUCKET/PATH|not an s3:// address"):
        open_storage("s3://").exists("a")


def test_files(storage: Storage) -> None:
    assert storage.read("a/b.json") is None
    assert storage.fetch("a/b.json") is None
    assert not storage.exists("a/b.json")
    assert storage.version("a/b.json") is None
    assert storage.names("a") == []
    storage.write("a/b.json", b"content")
    storage.write("a/a.json", b"")
    assert storage.names("a") == ["a.json", "b.json"]
    assert storage.exists("a/b.json")
    assert storage.read("a/b.json") == b"content"
    assert storage.fetch("a/b.json").read_bytes() == b"content"
    storage.delete("a/b.json")
    storage.delete("a/b.json")
    assert storage.read("a/b.json") is None


@pytest.mark.parametrize("size", [0, 10, 33_000_000])
def test_big_files_go_there_and_back(storage: Storage, size: int) -> None:
    content = np.random.default_rng(0).bytes(size)
    storage.local("artifacts/x.bin").write_bytes(content)
    storage.keep("artifacts/x.bin")
    found = storage.fetch("artifacts/x.bin")
    assert found is not None and found.read_bytes() == content
    assert [path.name for path in found.parent.iterdir() if path.name.endswith(".part")] == []


def test_one_claim_of_many(storage: Storage) -> None:
    won: list[bool] = []

    def claim(number: int) -> None:
        if storage.claim("fits/a.claim", f"{number}".encode()):
            won.append(True)

    threads = [threading.Thread(target=claim, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    before = storage.version("fits/a.claim")
    time.sleep(1.1)
    storage.touch("fits/a.claim")
    assert storage.version("fits/a.claim") != before


def test_a_ledger_makes_once_for_all(storage: Storage) -> None:
    ledger, calls = Ledger(storage), []

    def make(path: Path) -> None:
        calls.append(1)
        time.sleep(0.5)
        path.write_text("whole")

    seen: list[str] = []
    threads = [
        threading.Thread(target=lambda: seen.append(ledger.once("fits", "k", make, Path.read_text))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (calls, seen) == ([1], ["whole"] * 4)
    assert list(storage.names("fits")) == ["k.safetensors"]


def test_a_server_that_is_away_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RETRY_SECONDS", 1.0)
    calls: list[float] = []

    def call() -> str:
        calls.append(time.monotonic())
        if len(calls) < 3:
            raise ConnectionError("away")
        return "back"

    assert module.retried(call, lambda error: isinstance(error, ConnectionError)) == "back"
    with pytest.raises(ConnectionError):
        module.retried(lambda: (_ for _ in ()).throw(ConnectionError("gone")), lambda error: True)


def test_a_worker_takes_no_folder_for_the_drivers_by_its_name(warm_ray: Path, tmp_path: Path) -> None:
    with Places(str(tmp_path), str(tmp_path), elsewhere=True) as places:
        place = places.place(str(tmp_path))
        assert isinstance(place.open(), Folder)  # the mark is there
        assert [path.name for path in tmp_path.iterdir()] == [place.mark]
    assert list(tmp_path.iterdir()) == []
    assert Place(str(tmp_path)).open().location == str(tmp_path)


def test_marks_of_killed_drivers_go(tmp_path: Path) -> None:
    run, ledger = tmp_path / "run", tmp_path / "ledger"
    ended = subprocess.run(
        [sys.executable, "-c", "from sweeps.storage.processes import note; print(note(), end='')"],
        cwd=Path(__file__).parents[2], capture_output=True, check=True,
    ).stdout  # fmt: skip
    for folder, marks in (
        (run, {".driver-a": b"", ".driver-b": ended}),  # the run is this driver's alone
        (ledger, {".driver-a": b"", ".driver-c": ended, ".driver-d": note().encode(), ".driver-e": b"", "kept": ended}),
    ):
        folder.mkdir()
        for name, content in marks.items():
            (folder / name).write_bytes(content)
    with Places(str(run), str(ledger), elsewhere=False):
        assert list(run.iterdir()) == []
        assert sorted(path.name for path in ledger.iterdir()) == [".driver-d", ".driver-e", "kept"]
    with Places(str(run), str(ledger), elsewhere=True):
        (mark,) = run.iterdir()
        assert mark.read_text() == note() == (ledger / mark.name).read_text()


def test_task_data_goes_along(tmp_path: Path) -> None:
    folder = tmp_path / "wordsim"
    folder.mkdir()
    (folder / "wordsim353.tsv").write_text("cat\tdog\t7.5\n")
    task = make_task({"task": "similarity", "dataset": "ws353"}, tmp_path)
    carried = pack([task], tmp_path)
    assert carried.files == {"wordsim/wordsim353.tsv": b"cat\tdog\t7.5\n"}
    there = unpack(carried)
    assert there != tmp_path
    assert make_task({"task": "similarity", "dataset": "ws353"}, there).identity() == task.identity()
    assert not pack([make_task("neighbours", None)], None).files


def test_a_table_from_s3(bucket: str) -> None:
    folder = open_storage(bucket.format("tables"))
    folder.write("t.words", b"a\nb")
    np.save(folder.local("t.npy"), np.eye(2, dtype=np.float32))
    folder.keep("t.npy")
    from trainables.tables.formats import read_table

    table = read_table(brought(bucket.format("tables/t.npy")))
    assert (table.words, table.shape, table.name) == (["a", "b"], (2, 2), "t")
    with pytest.raises(InputError, match="no such file"):
        brought(bucket.format("tables/other.npy"))
    assert brought("builtin:glove-10k-50d") == "builtin:glove-10k-50d"
    folder.write("t.kv", b"x")
    folder.write("t.kv.vectors.npy", b"y")
    beside = Path(brought(bucket.format("tables/t.kv")) + ".vectors.npy")
    assert beside.read_bytes() == b"y"


def test_a_run_that_is_kept_on_s3(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, warm_ray: Path, frontier: Callable[..., Result]
) -> None:
    rng = np.random.default_rng(0)
    np.save(tmp_path / "t.npy", rng.standard_normal((64, 8)).astype(np.float32))
    output = bucket.format("runs")
    sweep: dict[str, Any] = {
        "name": "on-s3",
        "table": str(tmp_path / "t.npy"),
        "quantizers": ["pq", "rq"],
        "budgets": {"compression_ratio": [2]},
        "tracking": False,
    }
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(sweep))
    first, other = tmp_path / "first", tmp_path / "other"
    first.mkdir(), other.mkdir()
    monkeypatch.setenv("HOME", str(first))
    done = frontier("run", tmp_path / "sweep.yaml", "--out", output)
    assert done.exit_code == 0, done.output
    location = join(output, "on-s3")
    kept = open_storage(location)
    assert {"sweep.yaml", "trials.parquet", "report.html", "status.json"} <= set(kept.names(""))
    assert len(kept.names("artifacts")) == len(kept.names("ledger/results")) == 3

    # Another machine: its disk knows nothing of the run.
    monkeypatch.setenv("HOME", str(other))
    again = frontier("resume", location)
    assert again.exit_code == 0, again.output
    assert "3 reused" in again.stdout
    small = tmp_path / "small.safetensors"
    exported = frontier("export", location, "--max-bytes", "2KB", "-o", small)
    assert exported.exit_code == 0, exported.output
    assert small.is_file()
    missing = frontier("report", join(output, "nothing"))
    assert missing.exit_code == 2
    assert "not a run" in missing.stderr

    folder = run_folder(location)
    assert folder == copy_of(location)
    rows = store.read_trials(folder).to_pylist()
    assert [row["status"] for row in rows] == ["ok"] * 3
    assert load_run(folder).run_location == location
    assert all(artifact(folder, row["trial_key"]).stat().st_size == row["file_bytes"] for row in rows)
