"""A few attacks of each part in every run of the tests, and many in the long ones: see ``python -m tests.attacks``."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from quantizers import InputError
from tests.attacks.__main__ import GUARDED, PARTS, made
from tests.attacks.guard import Outcome, attempt
from tests.attacks.long_run import measure
from tests.attacks.record import Record, write_summary

SEED = int(os.environ.get("ATTACK_SEED", "0"))
# How many of each part `make test-long` makes: each part takes under an hour on two cores.
LONG = {"readers": 20_000, "artifacts": 4_000, "runs": 2_000, "kills": 68, "faults": 400, "leaks": 1_000}
GUIDED = ["table t.npy", "table t.safetensors", "table kv", "table npz", "table state_dict", "table fasttext", "table arrow"]
GUIDED += [
    "table parquet_lists",
    "table t.txt",
    "sweep file",
    "cluster file",
    "run trials.parquet",
    "ledger results",
    "artifact",
]
HERE = {"readers": 50, "artifacts": 50, "leaks": 1}


@pytest.mark.parametrize("part", HERE)
def test_a_few_attacks(part: str, tmp_path: Path) -> None:
    module = importlib.import_module(f"tests.attacks.{part}")
    fell = [found for found in (module.attack(0, number, tmp_path) for number in range(HERE[part])) if not found[1].held]
    assert fell == []


@pytest.mark.slow
@pytest.mark.process
@pytest.mark.timeout(2 * 3600)
@pytest.mark.parametrize("part", PARTS)
def test_many_attacks(part: str, tmp_path: Path) -> None:
    """Records go to ``ATTACK_RECORDS`` where that is set: a second call then goes on where the first was stopped."""
    folder = Path(os.environ.get("ATTACK_RECORDS", tmp_path / "records"))
    record = Record(folder, part, SEED)
    numbers = sorted(set(range(LONG[part])) - record.done())
    made(part, SEED, numbers, tmp_path, record, None)
    assert write_summary(folder)[part]["fell"] in ({}, {"skipped": LONG[part]})


@pytest.mark.slow
@pytest.mark.process
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("target", GUIDED)
def test_guided_attacks(target: str, tmp_path: Path) -> None:
    pytest.importorskip("atheris")
    root = Path(__file__).parents[2]
    words = ["--target", target, "--runs", "20000", "--seed", str(SEED + 1), "-o", str(tmp_path)]
    command = [sys.executable, "-m", "tests.attacks.guided", *words]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.process
@pytest.mark.timeout(3600)
def test_a_long_sweep_costs_its_driver_little() -> None:
    cost = measure(5000)
    assert cost.trials >= 5000 and cost.bytes_a_trial <= 20_000
    assert cost.handles[1] - cost.handles[0] <= 40, "workers that come and go open and close some"


def test_what_must_not_be_is_seen(tmp_path: Path) -> None:
    def refuse(message: str) -> None:
        raise InputError(message)

    def write(path: Path) -> None:
        path.write_text("x")

    assert attempt(lambda: None, tmp_path).held and attempt(lambda: refuse("t.npy: no."), tmp_path).kind == "refused"
    assert attempt(lambda: write(tmp_path / "inside"), tmp_path).held
    assert attempt(lambda: write(Path(__file__).with_name("outside")), tmp_path).kind == "code"
    Path(__file__).with_name("outside").unlink()
    assert attempt(lambda: os.system("true") and None, tmp_path).kind == "code"
    assert attempt(lambda: refuse(""), tmp_path).kind == "lines"
    assert attempt(lambda: [][0], tmp_path).kind == "traceback"


def test_a_record_goes_on_where_it_was_stopped(tmp_path: Path) -> None:
    record = Record(tmp_path, "readers", 5)
    record.add(0, "table", Outcome("refused", 'a "quoted", line'))
    record.add(1, "run", Outcome("traceback", "KeyError"))
    with record.path.open("a") as out:
        out.write("5,2,cut o")  # a kill
    assert Record(tmp_path, "readers", 5).done() == {0, 1}
    found = write_summary(tmp_path)
    assert found["readers"] == {"seeds": [5], "tried": 2, "held": 1, "refused": 1, "fell": {"traceback": 1}}
    Record(tmp_path, "readers", 5).add(2, "run", Outcome("result"))
    assert Record(tmp_path, "readers", 5).done() == {0, 1, 2}


def test_every_part_is_known() -> None:
    assert set(LONG) == set(PARTS) and set(GUARDED) < set(PARTS)
