"""The ledger's upkeep: what is deleted by age and by reference, and what its history says of the time to come."""

import os
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import sweeps.commands.ledger  # noqa: F401 - adds its commands
from analysis import store
from quantizers.errors import InputError
from sweeps.commands import application
from sweeps.record.cleanup import clean
from sweeps.record.estimate import History, estimate
from sweeps.record.ledger import Ledger
from trainables.trial import TrialResult, TrialSpec

DAY = 86_400


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    """Results, fits, a baseline and a left-over claim, some of them 40 days old; and a run that holds the old ones."""
    folder = tmp_path / "ledger"
    for kind, name, old in [
        ("results", "a.json", True),
        ("results", "b.json", False),
        ("fits", "fa.safetensors", True),
        ("fits", "fb.safetensors", False),
        ("fits", "fc.claim", True),
        ("baselines", "base.safetensors", True),
    ]:
        path = folder / kind / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("12345")
        if old:
            os.utime(path, (time.time() - 40 * DAY,) * 2)
    run = tmp_path / "runs" / "r"
    run.mkdir(parents=True)
    (run / "sweep.yaml").write_text("name: r")
    kept, skipped = ({"trial_key": key, "fit_key": fit, "quantizer": "pq"} for key, fit in (("a", "fa"), ("skipped", None)))
    store.write(run, "trials", [{**kept, "status": "failed"}, {**skipped, "status": "skipped"}])
    return folder


def left(ledger: Path) -> set[str]:
    return {path.stem for path in ledger.glob("*/*")}


def test_by_age(ledger: Path) -> None:
    assert clean(str(ledger), older_than_seconds=30 * DAY, dry_run=True) == {
        "results": (1, 5), "fits": (2, 10), "baselines": (1, 5)
    }  # fmt: skip
    assert left(ledger) == {"a", "b", "fa", "fb", "fc", "base"}
    clean(str(ledger), older_than_seconds=30 * DAY)
    assert left(ledger) == {"b", "fb"}


def test_by_reference(ledger: Path, tmp_path: Path) -> None:
    assert clean(str(ledger), runs=[tmp_path / "runs"]) == {"results": (1, 5), "fits": (2, 10)}
    assert left(ledger) == {"a", "fa", "base"}


def test_by_both(ledger: Path, tmp_path: Path) -> None:
    clean(str(ledger), older_than_seconds=30 * DAY, runs=[tmp_path / "runs" / "r"])
    assert left(ledger) == {"a", "b", "fa", "fb"}


def test_what_is_refused(ledger: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="Say what to delete"):
        clean(str(ledger))
    with pytest.raises(InputError, match="no ledger there"):
        clean(str(tmp_path), older_than_seconds=1)
    with pytest.raises(InputError, match="neither a run"):
        clean(str(ledger), runs=[ledger])
    (tmp_path / "runs" / "r" / "trials.parquet").unlink()
    with pytest.raises(InputError, match="has not ended"):
        clean(str(ledger), runs=[tmp_path / "runs"])
    assert len(left(ledger)) == 6


def test_the_command(ledger: Path) -> None:
    done = CliRunner().invoke(application(), ["ledger", "clean", str(ledger), "--older-than", "30d", "--dry-run"])
    assert done.exit_code == 0 and "results: 1 would be deleted, 5 bytes" in done.stdout, done.output
    assert CliRunner().invoke(application(), ["ledger", "clean", str(ledger), "--older-than", "1 moon"]).exit_code == 2
    assert len(left(ledger)) == 6


def result(key: str, method: str, rows: int, seconds: float) -> TrialResult:
    row: dict[str, Any] = {
        "trial_key": key,
        "status": "ok",
        "quantizer": method,
        "num_embeddings": rows,
        "embedding_dim": 10,
    }
    return TrialResult(row, seconds=seconds)


def test_seconds_by_method_and_size() -> None:
    history = History([result("a", "pq", 100, 1), result("b", "pq", 100, 3), result("c", "pq", 1000, 10)])
    assert history.seconds("pq", (100, 10)) == 2
    assert history.seconds("pq", (200, 10)) == 4  # twice the values of the nearest size
    assert history.seconds("pq", (2000, 10)) == 20
    assert history.seconds("rq", (100, 10)) is None


def test_an_estimate_counts_what_is_left(tmp_path: Path) -> None:
    def spec(method: str, seed: int) -> TrialSpec:
        return TrialSpec(method, {}, None, seed, "pretrained", "none", "t", "", (), "code")

    trials = [spec("identity", 0), spec("cast", 0), spec("cast", 1), spec("scalar", 0)]
    ledger = Ledger(tmp_path)
    ledger.put(trials[1].key, result(trials[1].key, "cast", 100, 2))
    left = estimate(ledger, trials, (300, 10))
    assert (left.known, left.seconds, left.unknown) == (1, 6, ("identity", "scalar"))
    assert estimate(None, trials, (300, 10)).known == 0
