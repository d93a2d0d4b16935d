"""One ledger of several sweeps: finished results stay, and many are read with few requests."""

import json
from collections.abc import Sequence
from pathlib import Path

from sweeps.record.cleanup import clean
from sweeps.record.ledger import Ledger
from sweeps.storage import Folder
from trainables.trial import TrialResult


def result(key: str, status: str) -> TrialResult:
    return TrialResult({"trial_key": key, "status": status})


class Counting(Folder):
    """A folder that counts what it is asked for."""

    def __init__(self, location: str) -> None:
        super().__init__(location)
        self.reads: list[str] = []
        self.listings = 0

    def read(self, name: str) -> bytes | None:
        self.reads.append(name)
        return super().read(name)

    def names(self, folder: str) -> Sequence[str]:
        self.listings += 1
        return super().names(folder)


def test_a_stopped_trial_does_not_take_the_place_of_a_finished_one(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.put("k", result("k", "ok"))
    ledger.put("k", result("k", "stopped"))
    assert ledger.get("k") == result("k", "ok")
    assert [found.row["status"] for found in ledger.results()] == ["ok"]


def test_a_finished_trial_is_preferred_whichever_came_first(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.put("k", result("k", "stopped"))
    assert ledger.get("k") == result("k", "stopped")
    ledger.put("k", result("k", "ok"))
    assert ledger.get("k") == result("k", "ok")


def test_a_stopped_row_of_an_older_ledger_is_read(tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "k.json").write_text(json.dumps(result("k", "stopped").to_json()))
    assert Ledger(tmp_path).get("k") == result("k", "stopped")


def test_cleaning_knows_both_names(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    for key in "ab":
        ledger.put(key, result(key, "ok"))
        ledger.put(key, result(key, "stopped"))
    assert clean(str(tmp_path), older_than_seconds=-1, dry_run=True)["results"][0] == 4
    assert clean(str(tmp_path), older_than_seconds=-1)["results"][0] == 4
    assert list((tmp_path / "results").iterdir()) == []


def test_many_results_cost_one_listing_and_a_read_for_each_that_is_there(tmp_path: Path) -> None:
    for number in range(300):
        Ledger(tmp_path).put(f"k{number}", result(f"k{number}", "ok"))
    storage = Counting(str(tmp_path))
    ledger = Ledger(storage)
    ledger.prefetch([f"k{number}" for number in range(1000)])
    found = [ledger.get(f"k{number}") for number in range(1000)]
    assert [one is not None for one in found] == [True] * 300 + [False] * 700
    assert storage.listings == 1 and len(storage.reads) == 300
    assert not ledger._read and not ledger._ahead
    Ledger(tmp_path).put("k999", result("k999", "ok"))  # another sweep's, meanwhile
    assert ledger.get("k999") == result("k999", "ok")  # the second time the storage is asked
