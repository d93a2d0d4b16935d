"""Files of a run directory: round trips, atomic writes, other schema versions, damaged files."""

import datetime
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from analysis import store
from analysis.schema import FRONTIER, SCHEMA_VERSION, SCORES, TRIALS, to_table
from quantizers.errors import InputError

STARTED = datetime.datetime(2024, 5, 1, 12, tzinfo=datetime.UTC)
TRIAL = {"trial_key": "k1", "quantizer": "rq", "status": "ok", "seed": 0, "payload_bytes": 100, "started_at": STARTED}
SCORE = {"trial_key": "k1", "task": "t", "metric": "m", "direction": "max", "value": float("inf")}


def test_rows_come_back(tmp_path: Path) -> None:
    store.write(tmp_path, "trials", [TRIAL], {"note": "x"})
    store.write(tmp_path, "scores", [SCORE])
    trials = store.read_trials(tmp_path)
    assert trials.schema.names == TRIALS.names
    row = trials.to_pylist()[0]
    assert {name: row[name] for name in TRIAL} == TRIAL
    assert row["schema_version"] == SCHEMA_VERSION
    assert row["reason"] is None
    assert store.metadata_of(trials) == {"note": "x", "schema_version": SCHEMA_VERSION}
    assert store.read_scores(tmp_path)["value"].to_pylist() == [float("inf")]


def test_no_rows_come_back_as_none(tmp_path: Path) -> None:
    store.write(tmp_path, "trials", [])
    assert store.read_trials(tmp_path).num_rows == 0


def test_unknown_column_is_named() -> None:
    with pytest.raises(ValueError, match=r"'payload_byte'.*'payload_bytes'"):
        to_table([{"payload_byte": 3}], TRIALS)


def test_wrong_type_names_the_column() -> None:
    with pytest.raises(ValueError, match="'seed' takes int64"):
        to_table([{"seed": "one"}], TRIALS)


def test_table_with_other_columns_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="columns must be"):
        store.write(tmp_path, "trials", to_table([SCORE], SCORES))


def test_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = store.write(tmp_path, "trials", [TRIAL])
    before = path.read_bytes()

    def no_space(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(InputError, match=r"trials\.parquet: cannot write it: No space left"):
        store.write(tmp_path, "trials", [TRIAL, TRIAL])
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["trials.parquet"]


def test_older_schema_is_read_with_nulls(tmp_path: Path) -> None:
    old = to_table([TRIAL], TRIALS).drop_columns(["artifact_digest", "weighted_mse"])
    old = old.replace_schema_metadata({b"embedding_frontier": b'{"schema_version": 3}'})  # digests came with 4
    pq.write_table(old, tmp_path / "trials.parquet")
    read = store.read_trials(tmp_path)
    assert read.schema.names == TRIALS.names
    assert read["weighted_mse"].to_pylist() == [None]
    assert read["payload_bytes"].to_pylist() == [100]


@pytest.mark.parametrize("where", ["metadata", "column"])
def test_newer_schema_is_refused(tmp_path: Path, where: str) -> None:
    table = to_table([TRIAL | {"schema_version": SCHEMA_VERSION + 1}], TRIALS)
    if where == "metadata":
        raw = b'{"schema_version": %d}' % (SCHEMA_VERSION + 1)
        table = to_table([TRIAL], TRIALS).replace_schema_metadata({b"embedding_frontier": raw})
    pq.write_table(table, tmp_path / "trials.parquet")
    with pytest.raises(
        InputError,
        match=rf"trials\.parquet: schema version {SCHEMA_VERSION + 1} is newer than this program reads \({SCHEMA_VERSION}\)",
    ):
        store.read_trials(tmp_path)


def test_missing_file_says_what_makes_it(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"frontier\.parquet: no such file\. `frontier run` writes it"):
        store.read_frontier(tmp_path)
    with pytest.raises(InputError, match=r"run\.json: no such file"):
        store.read_run(tmp_path)


def test_damaged_files_are_named(tmp_path: Path) -> None:
    path = store.write(tmp_path, "scores", [SCORE])
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(InputError, match=r"scores\.parquet: not a complete Parquet file"):
        store.read_scores(tmp_path)
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(InputError, match=r"run\.json: not readable as JSON"):
        store.read_run(tmp_path)


def test_column_of_another_type_is_named(tmp_path: Path) -> None:
    columns = {name: pa.nulls(1, FRONTIER.field(name).type) for name in FRONTIER.names}
    columns["num_seeds"] = pa.array(["many"])
    pq.write_table(pa.table(columns), tmp_path / "frontier.parquet")
    with pytest.raises(InputError, match="column 'num_seeds' must be int64"):
        store.read_frontier(tmp_path)


@pytest.mark.parametrize("column", ["trial_key", "quantizer", "status"])
def test_what_every_trial_has_may_not_be_missing(tmp_path: Path, column: str) -> None:
    found = to_table([TRIAL], TRIALS)
    place = found.schema.get_field_index(column)
    pq.write_table(found.set_column(place, column, pa.nulls(1, pa.string())), tmp_path / "trials.parquet")
    with pytest.raises(InputError, match=rf"trials\.parquet: column '{column}' has rows without a value; rewrite it with"):
        store.read_trials(tmp_path)


@pytest.mark.parametrize("about", [{}, {"direction": "up"}, {"direction": "min", "unit": 3}])
def test_a_metric_of_run_json_has_a_direction_and_a_unit_that_is_text(tmp_path: Path, about: dict[str, Any]) -> None:
    store.write_run(tmp_path, {"name": "quick", "metrics": {"reconstruction.mse": about}})
    with pytest.raises(InputError, match=r"run\.json: damaged: metrics\.reconstruction\.mse\."):
        store.read_run(tmp_path)


def test_run_json_round_trip(tmp_path: Path) -> None:
    run = {"name": "quick", "objectives": ["payload_bytes"], "interrupted": False}
    store.write_run(tmp_path, run)
    assert store.read_run(tmp_path) == run
