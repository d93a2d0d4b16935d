"""Files of a run that are damaged in any way: one line and exit code 2, or what is damaged is made again. No traceback."""

import json
import logging
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from typer.testing import Result

import sweeps.driver
from analysis import store
from quantizers.errors import InputError
from sweeps.record.intake import Intake
from sweeps.record.ledger import Ledger
from sweeps.record.run_folder import VANISHED
from sweeps.record.status import read_status
from sweeps.spec.config import SweepConfig, build, load_run
from sweeps.spec.prepare import Prepared, prepare
from sweeps.storage import Folder
from sweeps.storage.layout import artifact_name
from trainables import trial
from trainables.baselines import load_baseline, save_baseline
from trainables.records import TrialResult, TrialSpec
from trainables.task import Baseline, Score

PARQUET = ("trials.parquet", "scores.parquet", "frontier.parquet")
FILES = (*PARQUET, "run.json", "status.json", "sweep.yaml")


def measured(spec: TrialSpec, prepared: Prepared, ledger: Ledger) -> TrialResult:
    """What a worker does with a trial, in this process."""
    run_dir = prepared.config.run_dir
    result = trial.run(
        spec,
        prepared.table,
        prepared.tasks,
        weights=None,
        artifact_path=lambda role: run_dir / artifact_name(spec.key, role),
        once=ledger.once,
        device=torch.device("cpu"),
        report=lambda step: None,
    )
    result.artifact = str(run_dir / artifact_name(spec.key))
    ledger.put(spec.key, result)
    return result


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The keys of trials that sweeps of this test have run, without Ray and without pictures."""
    keys: list[str] = []

    def run_trials(prepared: Prepared, intake: Intake, ledger: Ledger, *_: object) -> None:
        while (spec := intake.next_trial()) is not None:
            keys.append(spec.key)
            intake.take(spec, measured(spec, prepared, ledger))

    monkeypatch.setattr("sweeps.driver.engine.run_trials", run_trials)
    monkeypatch.setattr("sweeps.record.finish.frontier_png", lambda run_dir, path: path)
    monkeypatch.setattr("sweeps.record.finish.write_report", lambda run_dirs, path: path)
    return keys


def config_in(folder: Path, **changes: Any) -> SweepConfig:
    pq_entry = {"method": "pq", "num_codebooks": [1, 2], "codebook_size": 4}
    keys = {"name": "s", "table": str(folder / "t.npy"), "quantizers": [pq_entry], "seeds": [0, 1], "tracking": False}
    return build({**keys, "output": str(folder), **changes})


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a table and a run that has ended."""
    folder = tmp_path_factory.mktemp("original")
    np.save(folder / "t.npy", np.random.default_rng(0).standard_normal((40, 8)).astype(np.float32))
    patch = pytest.MonkeyPatch()
    ran.__wrapped__(patch)  # type: ignore[attr-defined]
    sweeps.driver.run(config_in(folder))
    patch.undo()
    return folder


@pytest.fixture
def place(original: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    shutil.copytree(original, tmp_path, dirs_exist_ok=True)
    return tmp_path


def flipped(content: bytes, dice: random.Random) -> bytes:
    where = dice.randrange(len(content))
    return content[:where] + bytes([content[where] ^ (1 << dice.randrange(8))]) + content[where + 1 :]


def same(one: Any, other: Any) -> bool:
    return json.dumps(one, sort_keys=True, default=str) == json.dumps(other, sort_keys=True, default=str)


@pytest.mark.parametrize("name", FILES)
def test_a_flipped_bit_changes_no_value(place: Path, name: str, caplog: pytest.LogCaptureFixture) -> None:
    dice, path = random.Random(name), place / "s" / name
    read: Callable[[], Any] = {
        "run.json": lambda: store.read_run(place / "s"),
        "status.json": lambda: read_status(place / "s"),
        "sweep.yaml": lambda: load_run(place / "s").model_dump(),
    }.get(name, lambda: store._read(place / "s", path.stem).to_pylist())  # type: ignore[arg-type]
    good, content = read(), path.read_bytes()
    for _ in range(150):
        path.write_bytes(flipped(content, dice))
        caplog.clear()
        try:
            found = read()
        except InputError as error:
            assert name in str(error) and "\n" not in str(error)
            continue
        if name == "sweep.yaml":  # people may edit it
            assert same(found, good) or "changed since the run wrote it" in caplog.text
        else:
            assert (
                found is None or all(same(found[key], good[key]) for key in good)
                if name in ("run.json", "status.json")
                else same(found, good)
            )


def garbage(content: bytes, dice: random.Random) -> Iterator[bytes]:
    """What may be in place of a file's content."""
    yield from (b"", b"\0" * 64, b"[]", b"{}", b"null", b"[" * 100_000, b'{"digest": 3}', b"9" * 5000, b"\xff\xfe{}")
    yield content[: len(content) // 2]
    yield content[:-1]
    yield content + content
    yield from (flipped(content, dice) for _ in range(3))
    yield dice.randbytes(500)


def wrong_values(content: bytes, dice: random.Random) -> Iterator[bytes]:
    """A JSON file of an older version, without a digest, in which one value is of another kind."""
    data = json.loads(content)
    del data["digest"]
    values = [None, "x", -1, 10**400, float("nan"), float("inf"), [[]], {"a": 1}, True]
    for key in data:
        for value in dice.sample(values, 4):
            yield json.dumps({**data, key: value}).encode()
        yield json.dumps({other: data[other] for other in data if other != key}).encode()


def wrong_tables(path: Path, dice: random.Random) -> Iterator[pa.Table]:
    """Tables of an older version with columns or values that are not what they should be."""
    table = pq.read_table(path).replace_schema_metadata(None)
    yield table.slice(0, 0)
    yield pa.table({"a": [1]})
    yield pa.table({})
    for number, field in enumerate(table.schema):
        yield table.remove_column(number)
        others = [pa.nulls(table.num_rows, field.type), pa.array(["x"] * table.num_rows), pa.array([-1] * table.num_rows)]
        yield table.set_column(number, field.name, dice.choice(others))
        yield table.append_column(field.name, table[field.name])


def commands(place: Path, key: str) -> list[tuple[str | Path, ...]]:
    run_dir = place / "s"
    return [
        ("recommend", run_dir, "--max-drop", "50%"),
        ("status", run_dir),
        ("report", run_dir, "-o", place / "r.html"),
        ("export", run_dir, "--trial", key, "-o", place / "x.safetensors"),
        ("ledger", "clean", run_dir / "ledger", "--unless-in", run_dir, "--dry-run"),
    ]


@pytest.mark.parametrize("name", FILES)
def test_commands_end_in_one_line(
    place: Path, name: str, frontier: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("analysis.report.page.get_plotlyjs", lambda: "")
    dice, path = random.Random(name), place / "s" / name
    key, content = store.read_trials(place / "s")["trial_key"][0].as_py(), path.read_bytes()
    damaged: list[bytes | None] = [*garbage(content, dice), None]
    if path.suffix == ".json":
        damaged += list(wrong_values(content, dice))
    if path.suffix == ".parquet":
        for table in wrong_tables(path, dice):
            pq.write_table(table, path)
            damaged.append(path.read_bytes())
    for number, instead in enumerate(damaged):
        path.unlink() if path.is_file() else None
        if instead is None:
            path.mkdir()
        else:
            path.write_bytes(instead)
        said = commands(place, key)
        for words in said if number < 12 else dice.sample(said, 2):
            done = frontier(*words)
            assert done.exit_code in (0, 2), (words, instead, done.output)
            assert done.exit_code == 0 or len(done.stderr.strip().splitlines()) == 1, (words, instead, done.stderr)
        if instead is None:
            path.rmdir()
