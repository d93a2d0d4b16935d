"""Sweeps that choose and stop their trials, from the sweep file to the rows."""

import json
from pathlib import Path
from typing import Any

import pytest

import sweeps
from analysis import store
from quantizers.errors import InputError
from sweeps.record.ledger import Ledger

pytestmark = [pytest.mark.xdist_group("warm ray"), pytest.mark.ray, pytest.mark.usefixtures("warm_ray")]


def run(folder: Path, name: str, **changes: Any) -> tuple[Path, list[dict[str, Any]]]:
    """The sweep's folder, and its rows; every trial must have ended well."""
    sweep = {
        "name": name,
        "table": "builtin:glove-10k-50d",
        "rows": 400,
        "objectives": ["payload_bytes", "reconstruction.nmse"],
        "keep_artifacts": "none",
        "tracking": False,
        "output": str(folder),
        **changes,
    }
    done = sweeps.run(sweep)
    assert done.exit_code == 0, done.counts
    return folder / name, store.read_trials(folder / name).to_pylist()


def by_status(rows: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        found.setdefault(row["status"], []).append(row)
    return found


@pytest.mark.slow
def test_optuna_within_constraints_and_some_more(tmp_path: Path) -> None:
    sweep = {
        "quantizers": [
            {"method": "pq", "num_codebooks": {"low": 2, "high": 25}, "codebook_size": [4, 16, 64]},
            {"method": "scalar", "bits": [1, 2, 3, 4, 8]},
        ],
        "search": {"kind": "optuna", "samples": 12},
        "constraints": {"payload_bytes": "<= 14KB", "reconstruction.nmse": "<= 0.5"},
    }
    run_dir, rows = run(tmp_path, "optuna", **sweep)
    found = by_status(rows)
    assert set(found) == {"ok", "infeasible"}
    ran = [row for row in rows if row["payload_bytes"] is not None and row["quantizer"] != "identity"]
    assert len(ran) == 12 and len({row["config_json"] for row in ran}) == 12
    assert all(row["payload_bytes"] <= 14_000 for row in ran)
    assert all((row["nmse"] <= 0.5) == (row["status"] == "ok") for row in ran)
    assert found["ok"][0]["quantizer"] == "identity"  # over the limit, and there all the same
    never = [row for row in found["infeasible"] if row["payload_bytes"] is None]
    assert never and all("payload_bytes <= 14KB" in row["reason"] and row["seed"] is None for row in never)
    assert all("reconstruction.nmse is" in row["reason"] for row in found["infeasible"] if row not in never)
    front = {row["config_json"] for row in store.read_frontier(run_dir).to_pylist()}
    assert front == {row["config_json"] for row in found["ok"]}
    _, more = run(tmp_path, "optuna", **{**sweep, "search": {"kind": "optuna", "samples": 14}})
    after = {row["trial_key"]: row for row in more if row["payload_bytes"] is not None}
    assert len(after) == 15 and all(after[row["trial_key"]]["reused"] for row in ran)
    assert all(after[row["trial_key"]]["status"] == row["status"] for row in ran)


@pytest.mark.slow
def test_moasha_stops_what_is_behind_and_leaves_the_rest_alone(tmp_path: Path) -> None:
    rates = [0.05, 5e-6, 4e-6, 3e-6, 2e-6, 1e-6]  # each behind those before it
    sweep = {
        "quantizers": [
            {"method": "bin", "num_bits": 32, "learning_rate": rates, "epochs": 3000},
            {"method": "lowrank", "rank": [2, 4]},
        ],
        "scheduler": {"kind": "moasha", "grace": 0.1},
    }
    run_dir, rows = run(tmp_path, "moasha", **sweep)
    found = by_status(rows)
    assert set(found) == {"ok", "stopped"}
    assert {row["quantizer"] for row in found["stopped"]} == {"bin"}
    assert {row["quantizer"] for row in found["ok"]} == {"identity", "bin", "lowrank"}
    assert any(json.loads(row["config_json"]).get("learning_rate") == 0.05 for row in found["ok"])
    ledger = Ledger(run_dir / "ledger")
    for row in found["stopped"]:
        assert row["reason"].startswith("moasha: ") and row["fit_seconds"] > 0 and row["payload_bytes"] is None
        known = ledger.get(row["trial_key"])
        assert known is not None and known.curves[-1]["fraction"] < 1 and known.curves[-1]["phase"] == "train"
    _, again = run(tmp_path, "moasha", **sweep)
    assert all(row["reused"] for row in again) and by_status(again).keys() == found.keys()


@pytest.mark.slow
def test_a_sweep_without_a_scheduler_runs_what_another_stopped(tmp_path: Path) -> None:
    quantizers = [{"method": "bin", "num_bits": 32, "learning_rate": [0.05, 5e-6, 1e-6], "epochs": 3000}]
    _, rows = run(tmp_path, "moasha", quantizers=quantizers, scheduler={"kind": "moasha", "grace": 0.1})
    assert by_status(rows).keys() == {"ok", "stopped"}
    _, whole = run(tmp_path, "moasha", quantizers=quantizers)
    assert {row["status"] for row in whole} == {"ok"}


def test_the_frontier_search_runs_every_seed_of_what_it_chooses(tmp_path: Path) -> None:
    quantizers = [
        {"method": "pq", "num_codebooks": [5, 10, 25], "codebook_size": [4, 16]},
        {"method": "bin", "num_bits": [16, 32], "epochs": 5},
    ]
    search = {"search": {"kind": "frontier", "samples": 3}, "scheduler": {"kind": "frontier"}}
    run_dir, rows = run(tmp_path, "frontier", quantizers=quantizers, seeds=[0, 1], **search)
    assert len(rows) == 1 + 3 * 2 and {row["status"] for row in rows} <= {"ok", "stopped"}
    seeds: dict[str, set[int]] = {}
    for row in rows[1:]:
        seeds.setdefault(row["config_json"], set()).add(row["seed"])
    assert len(seeds) == 3 and all(both == {0, 1} for both in seeds.values())
    assert {"pq", "bin"} <= {row["quantizer"] for row in rows}
    assert len((run_dir / "search.jsonl").read_text().split("\n")) == 1 + 3


def test_searches_that_cannot_be_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    sweep = {
        "name": "no",
        "table": "builtin:glove-10k-50d",
        "rows": 400,
        "quantizers": [{"method": "pq", "num_codebooks": [5, 10]}],
        "output": str(tmp_path),
        "scheduler": {"kind": "frontier"},
    }
    with pytest.raises(InputError, match="needs search: "):
        sweeps.run(sweep)
    with pytest.raises(InputError, match="compares the errors that fits report, not neighbours"):
        sweeps.run(
            {
                **sweep,
                "tasks": ["neighbours"],
                "objectives": ["payload_bytes", "neighbours.recall_at_10"],
                "search": {"kind": "frontier"},
            }
        )
    assert not (tmp_path / "no").exists()
