"""The ledger: results that are kept, and files that are made once however many ask."""

import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from sweeps.record.ledger import Ledger, Turn
from sweeps.storage import claims as module
from trainables.trial import TrialResult


def whole(path: Path) -> None:
    path.write_text("whole")


def test_results_are_kept_and_damage_is_a_miss(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    assert ledger.get("k") is None
    result = TrialResult(
        {"trial_key": "k", "status": "ok", "mse": 0.1, "sqnr_db": float("inf")}, [{"value": 1.5}], [{"phase": "fit"}]
    )
    ledger.put("k", result)
    assert ledger.get("k") == result
    file = tmp_path / "results" / "k.json"
    file.write_text(file.read_text()[:-5])
    assert ledger.get("k") is None
    assert Ledger(tmp_path / "off", remember_results=False).get("k") is None


def test_a_trial_is_one_sweeps_at_a_time_and_then_done(tmp_path: Path) -> None:
    one, other = Ledger(tmp_path), Ledger(tmp_path)
    with one.turn("k", 0) as ours, other.turn("k", 0) as theirs, other.turn("another", 0) as free:
        assert (ours, theirs, free) == (Turn.OURS, Turn.THEIRS, Turn.OURS)
    with pytest.raises(RuntimeError), one.turn("k", 0):  # it fails: another may try
        raise RuntimeError
    with one.turn("k", 0) as ours:
        assert ours is Turn.OURS
        threading.Timer(0.5, one.put, ["k", TrialResult({"trial_key": "k", "status": "ok"})]).start()
        began = time.monotonic()
        with other.turn("k", 0.3) as theirs:  # in vain
            assert theirs is Turn.THEIRS and time.monotonic() - began > 0.3
        while one.get("k") is None:
            time.sleep(0.05)
    with other.turn("k", 0) as turn:
        assert turn is Turn.DONE
    assert [path.name for path in (tmp_path / "results").iterdir()] == ["k.json"]


def test_a_failed_maker_leaves_nothing_and_the_next_one_makes_it(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)

    def fail(path: Path) -> None:
        path.write_text("half")
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        ledger.once("fits", "a", fail, Path.read_text)
    assert list((tmp_path / "fits").iterdir()) == []
    assert ledger.once("fits", "a", whole, Path.read_text) == "whole"


def test_a_claim_whose_maker_died_is_taken_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "fits"
    folder.mkdir()
    claim = folder / "a.claim"
    claim.write_text("1 another-machine pid:[1] x")
    monkeypatch.setattr(module, "STALE_SECONDS", 0.5)
    began = time.monotonic()
    assert Ledger(tmp_path).once("fits", "a", whole, Path.read_text) == "whole"
    assert not claim.exists()
    assert time.monotonic() - began > 0.5


@pytest.mark.process
def test_a_claim_of_a_killed_process_is_taken_over_at_once(tmp_path: Path) -> None:
    code = "import sys; from sweeps.storage.claims import Claim; from sweeps.storage import Folder;"
    code += "assert Claim(Folder(sys.argv[1]), 'fits/a.claim').take()"
    (tmp_path / "fits").mkdir()
    subprocess.run([sys.executable, "-c", code, tmp_path], check=True)
    assert (tmp_path / "fits" / "a.claim").is_file()
    began = time.monotonic()
    Ledger(tmp_path).once("fits", "a", whole, Path.read_text)
    assert time.monotonic() - began < 0.5 * module.STALE_SECONDS
    assert [path.name for path in (tmp_path / "fits").iterdir()] == ["a.safetensors"]


@pytest.mark.thorough
def test_a_claim_is_kept_fresh_while_its_maker_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_FRESH_SECONDS", 0.05)
    monkeypatch.setattr(module, "STALE_SECONDS", 0.5)
    ledger, calls = Ledger(tmp_path), []

    def make(path: Path) -> None:
        calls.append(1)
        time.sleep(1.5)
        path.write_text("whole")

    other = threading.Thread(target=lambda: ledger.once("fits", "a", make, Path.read_text))
    other.start()
    time.sleep(0.1)
    ledger.once("fits", "a", make, Path.read_text)
    other.join()
    assert calls == [1]
