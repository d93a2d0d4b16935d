"""What the commands say as JSON: the shapes of docs/json.md, and nothing else on standard output."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import Result

import quantizers
from analysis import store
from sweeps.commands.app import print_json

FORMATS = Path(__file__).parents[1] / "formats"
Frontier = Callable[..., Result]


@pytest.fixture
def run_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(FORMATS / max(path.name for path in FORMATS.glob("schema-*")), tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "sample"


def told(result: Result) -> Any:
    assert result.exit_code == 0, result.output

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is no JSON")

    return json.loads(result.stdout, parse_constant=refuse)


def test_status(run_dir: Path, frontier: Frontier) -> None:
    found = told(frontier("status", run_dir, "--json"))
    assert set(found) == {
        *("run_dir", "name", "phase", "alive", "started_at", "updated_at", "total", "done", "failed", "reused", "skipped"),
        *("running", "seconds_left", "objective", "best", "frontier", "failures"),
    }
    assert (found["phase"], found["alive"], found["total"], found["done"]) == ("finished", False, 11, 11)
    assert set(found["frontier"][0]) == {"value", "quantizer", "payload_bytes", "ratio"}
    both = frontier("status", run_dir, "--json", "--watch")
    assert both.exit_code == 2 and "--watch or --json" in both.stderr and not both.stdout


def test_report(run_dir: Path, frontier: Frontier, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(run_dirs: list[Path], path: Path, how: dict[Path, str | None]) -> Path:
        store.read_sweep(run_dirs[0])
        path.write_text("page")
        return path

    monkeypatch.setattr("analysis.report.page.write_report", write)
    page = run_dir / "r.html"
    (run_dir / "sweep.yaml").write_text((run_dir / "sweep.yaml").read_text() + "# changed\n")  # its warning goes elsewhere
    found = told(frontier("report", run_dir, "-o", page, "--json"))
    assert found == {"report": str(page), "report_bytes": 4, "figures": [], "run_dirs": [str(run_dir)]}


def test_recommend_with_a_metric_that_is_infinite(run_dir: Path, frontier: Frontier) -> None:
    found = told(frontier("recommend", run_dir, "--task", "reconstruction.sqnr_db", "--json"))
    assert set(found) == {"incomplete", "answers", "unmet", "frontiers"} and found["incomplete"] is None
    (answer,) = found["answers"]
    assert set(answer) == {"pick", "why", "close", "smaller", "alike", "fixed", "tested"}
    lossless = found["frontiers"][0][-1]
    assert (lossless["quantizer"], lossless["value"]) == ("identity", None)  # infinite, which JSON cannot say
    value = answer["pick"]["value"]
    assert value == pytest.approx(np.mean(list(answer["pick"]["by_seed"].values())))
    assert answer["pick"]["compared"] == 5
    rows = store.read_frontier(run_dir).to_pylist()
    assert any(row["value_mean"] == value for row in rows)


def test_methods(frontier: Frontier) -> None:
    found = told(frontier("methods", "--json"))
    assert found["ratios_of"] == "builtin:glove-10k-50d"
    methods = {method["name"]: method for method in found["methods"]}
    assert set(methods) == set(quantizers.list_methods())
    assert set(methods["pq"]) == {"name", "reference", "smallest_ratio", "largest_ratio", "parameters"}
    assert 1 < methods["pq"]["smallest_ratio"] < methods["pq"]["largest_ratio"]
    for name, method in methods.items():  # the values that a method has when nothing is said
        assert quantizers.make_config(name, method["parameters"]) == quantizers.make_config(name, {})
    assert frontier("methods", "--json", "--names").exit_code == 2


def test_inspect(tmp_path: Path, frontier: Frontier) -> None:
    np.save(tmp_path / "t.npy", np.random.default_rng(0).standard_normal((60, 8)).astype(np.float32))
    (tmp_path / "t.words").write_text("".join(f"w[{number}]\n" for number in range(60)))
    for method, has_codes in (("pq", True), ("lowrank", False)):
        file = tmp_path / f"{method}.safetensors"
        assert frontier("compress", tmp_path / "t.npy", "--method", method, "--ratio", 2, "-o", file).exit_code == 0
        found = told(frontier("inspect", file, "--json"))
        artifact = quantizers.read(file)
        assert set(found) == {
            *("file", "method", "config", "num_embeddings", "embedding_dim", "payload_bytes", "code_bytes"),
            *("codebook_bytes", "side_bytes", "compression_ratio", "file_bytes", "vocab_bytes", "has_words", "digest"),
            "words",
        }
        assert (found["method"], found["payload_bytes"], found["digest"], found["words"]) == (
            *(method, artifact.storage.payload_bytes, artifact.digest),
            [],
        )
        (one, _) = told(frontier("inspect", file, "w[1]", "w[2]", "--neighbours", "--table", tmp_path / "t.npy", "--json"))[
            "words"
        ]
        assert (one["word"], one["row"], set(one["neighbours"])) == ("w[1]", 1, {"before", "after"})
        assert len(one["neighbours"]["after"]) == 10 and "w[1]" not in one["neighbours"]["after"]
        assert one["codes"] == (artifact.quantizer.codes()[1].tolist() if has_codes else None)
        assert told(frontier("inspect", file, "w[1]", "--json"))["words"][0]["neighbours"] is None
        # Words as they are written, brackets too.
        assert "w[1] after: " in frontier("inspect", file, "w[1]", "--neighbours").stdout
    wrong = frontier("inspect", file, "w[1", "--json")
    assert wrong.exit_code == 2 and not wrong.stdout and "Did you mean" in wrong.stderr


def test_numbers_that_json_lacks_are_null(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"a": [math.nan, math.inf, 1.5], "b": {"c": (-math.inf, 2, "x", None, True)}})
    assert json.loads(capsys.readouterr().out) == {"a": [None, None, 1.5], "b": {"c": [None, 2, "x", None, True]}}
