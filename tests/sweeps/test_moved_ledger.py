"""Results that go on to another machine as files alone: no fits, no baselines, no compressed files."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import Result

import quantizers
from analysis import store
from sweeps.record.artifacts import bring
from sweeps.spec.config import build
from trainables.records import TrialResult, TrialSpec

TASK = {"task": "sentiment", "hidden_size": 8, "epochs": 1, "batch_size": 8}
SWEEP: dict[str, Any] = {
    "table": "builtin:glove-10k-50d",
    "quantizers": [{"method": "dccl", "num_codebooks": 2, "codebook_size": 4}],
    "tasks": [TASK],
    "seeds": [0, 1],
    "keep_artifacts": "none",
    "tracking": False,
}


@pytest.mark.ray
@pytest.mark.thorough
@pytest.mark.slow
@pytest.mark.xdist_group("warm ray")
@pytest.mark.parametrize(
    "keys",
    [
        {"regime": "finetuned", "weights": "fisher", "metric": "fisher"},
        {"regime": "end_to_end"},
    ],
)
def test_results_alone_are_enough(
    keys: dict[str, Any], tmp_path: Path, corpora: Path, warm_ray: Path, frontier: Callable[..., Result]
) -> None:
    def run(place: str) -> Path:
        folder = tmp_path / place
        folder.mkdir(exist_ok=True)
        sweep = {"name": "s", **SWEEP, **keys, "ledger": str(folder / "ledger")}
        (folder / "s.yaml").write_text(yaml.safe_dump(sweep))
        done = frontier("run", folder / "s.yaml", "--data", corpora, "--out", folder / "runs")
        assert done.exit_code == 0, done.output
        return folder

    first = run("first")
    results = list((first / "ledger" / "results").iterdir())
    assert len(results) == 4
    assert all(str(tmp_path) not in path.read_text() for path in results)
    shutil.copytree(first / "ledger" / "results", tmp_path / "clone" / "ledger" / "results")
    clone = run("clone")
    trials = [store.read_trials(folder / "runs" / "s").to_pylist() for folder in (first, clone)]
    assert [row["reused"] for row in trials[1]] == [True] * 4
    assert [{**row, "reused": True} for row in trials[0]] == trials[1]
    assert [path.name for path in (clone / "ledger").iterdir()] == ["results"]
    scores = [store.read_scores(folder / "runs" / "s").to_pylist() for folder in (first, clone)]
    assert scores[0] == scores[1]
    for row in trials[1]:
        assert None not in json.loads(row["resolved_json"]).values()
        settings = json.loads(row["tasks_json"])["sentiment"]
        assert None not in settings.values() and settings["hidden_size"] == 8 and settings["train_texts"] == 240


@pytest.mark.parametrize(("keep", "counts"), [("none", True), ("frontier", False), ("all", False)])
def test_a_result_without_a_file_counts_where_none_is_wanted(tmp_path: Path, keep: str, counts: bool) -> None:
    config = build({"name": "s", "table": "t", "quantizers": ["pq"], "keep_artifacts": keep, "output": str(tmp_path)})
    config_of_trial = quantizers.make_config("pq", {}).model_dump(mode="json")
    spec = TrialSpec("pq", config_of_trial, None, 0, "pretrained", "none", "t", "", (), "c")
    known = TrialResult({"trial_key": spec.key, "status": "ok"})
    assert bring(known, spec, config) is counts
