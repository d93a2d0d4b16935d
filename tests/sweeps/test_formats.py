"""A run of every version of the files: each later version reads them all. See docs/sweep-file.md, "The run directory"."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

import quantizers
from analysis import store
from analysis.schema import SCHEMA_VERSION
from sweeps.record.ledger import Ledger
from sweeps.record.status import read_status
from sweeps.spec.config import load_run
from trainables.baselines import load_baseline

FORMATS = Path(__file__).parents[1] / "formats"
VERSIONS = sorted(path.name for path in FORMATS.glob("schema-*"))


def test_there_is_a_run_of_this_version() -> None:
    assert f"schema-{SCHEMA_VERSION}" in VERSIONS


@pytest.mark.parametrize("version", VERSIONS)
def test_a_run_of_every_version_is_read(
    tmp_path: Path, version: str, frontier: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("analysis.report.page.get_plotlyjs", lambda: "")
    shutil.copytree(FORMATS / version, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    run_dir = tmp_path / "sample"
    rows = {row["trial_key"]: row for row in store.read_trials(run_dir).to_pylist()}
    assert len(rows) == 11 and {row["status"] for row in rows.values()} == {"ok"}
    assert {row["quantizer"] for row in rows.values()} == {"identity", "pq", "rq", "scalar"}
    assert all(row["dense_bytes"] == 4 * 24 * 4 for row in rows.values())
    assert store.metadata_of(store.read_frontier(run_dir))["schema_version"] <= SCHEMA_VERSION
    assert load_run(run_dir).seeds == (0, 1) and (read_status(run_dir) or {})["done"] == 11

    report = frontier("report", run_dir, "-o", tmp_path / "r.html")
    assert report.exit_code == 0 and "scalar" in (tmp_path / "r.html").read_text(), report.output
    advice = frontier("recommend", run_dir, "--max-bytes", "100B")
    assert advice.exit_code == 0 and "scalar" in advice.stdout, advice.output
    assert frontier("status", run_dir).exit_code == 0

    kept = sorted((run_dir / "artifacts").iterdir())
    assert len(kept) == 4
    for path in kept:
        row = rows[path.stem]
        exported = frontier("export", run_dir, "--trial", path.stem, "--force", "-o", tmp_path / "small.safetensors")
        assert exported.exit_code == 0 and "digest and error as recorded" in exported.stdout, exported.output
        table = quantizers.load(tmp_path / "small.safetensors")
        assert (table.words[0], table.payload_bytes) == ("w0", row["payload_bytes"])

    ledger = Ledger(run_dir / "ledger")
    assert {result.row["trial_key"] for result in ledger.results()} == {path.stem for path in kept}
    assert all(ledger.get(path.stem) is not None for path in kept)
    for path in (run_dir / "ledger" / "baselines").iterdir():
        assert load_baseline(path).scores
    for path in (run_dir / "ledger" / "fits").iterdir():
        assert quantizers.read(path).quantizer.shape == (24, 4)
