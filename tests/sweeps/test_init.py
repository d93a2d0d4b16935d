"""``frontier init``: what it writes for a table is a sweep that can be run, and says why it is as it is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from typer.testing import Result

from analysis import store
from quantizers.errors import InputError
from sweeps.spec.config import load
from sweeps.spec.prepare import prepare


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def vectors(rows: int, columns: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((rows, columns)).astype(np.float32)


def test_a_table_with_words(tmp_path: Path, frontier: Callable[..., Result]) -> None:
    folder = tmp_path / "data" / "wordsim"
    folder.mkdir(parents=True)
    folder.joinpath("EN-MEN-TR-3k.txt").write_text(
        "".join(f"good\t{word}\t1\n" for word in "the of to in for a is was he on".split())
    )
    done = frontier("init", "builtin:glove-10k-50d", "--rows", 2000, "--data", tmp_path / "data")
    assert done.exit_code == 0, done.output
    assert done.stdout.splitlines()[-1] == f"Next: frontier run sweep.yaml --data {tmp_path / 'data'}"
    text = Path("sweep.yaml").read_text()
    assert text.startswith("# builtin:glove-10k-50d: 2,000 rows x 50 columns, 2,000 words")
    config = load("sweep.yaml")
    assert (config.rows, config.seeds, config.stop.time) == (2000, (0, 1, 2), 3600)
    # What is measured is what the data at hand allows; what is not there is said.
    assert config.tasks == ("neighbours", {"task": "similarity", "dataset": ["men"]}, "polarity")
    assert "# - analogy: needs wordsim/" in text
    plan = prepare(config, tmp_path / "data").plan
    assert f" {len(plan.trials)} trials." in done.stdout
    assert {spec.method for spec in plan.trials} >= {"identity", "cast", "scalar", "pq", "rq"}


@pytest.mark.parametrize(
    ("array", "cast", "tasks"),
    [
        (vectors(300, 16).astype(np.float16).astype(np.float32), "float16 loses nothing here", ("neighbours",)),
        (vectors(300, 1), "float16", ("neighbours",)),
        (vectors(1, 8), "float16", ("reconstruction",)),
        (vectors(4, 3), "float16", ("neighbours",)),
        (np.zeros((50, 8), dtype=np.float32), "float16 loses nothing here", ("neighbours",)),
    ],
    ids=["16 bits", "one column", "one row", "few values", "zeros"],
)
def test_a_table_without_words(
    frontier: Callable[..., Result], array: np.ndarray, cast: str, tasks: tuple[str, ...]
) -> None:
    np.save("my items #1.npy", array)
    done = frontier("init", "my items #1.npy", "-o", "mine.yaml")
    assert done.exit_code == 0, done.output
    assert cast in Path("mine.yaml").read_text()
    config = load("mine.yaml")
    assert (config.name, config.table, config.tasks) == ("my-items-1", "my items #1.npy", tasks)
    plan = prepare(config, None).plan
    assert len(plan.trials) >= 3
    ran = {spec.method for spec in plan.trials}
    assert all(entry["method"] in ran if isinstance(entry, dict) else entry in ran for entry in config.quantizers)


def test_a_large_table_gets_what_is_quick(frontier: Callable[..., Result], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sweeps.commands.init._MOST_SLOW", 1000)
    assert frontier("init", "builtin:synthetic-300x16").exit_code == 0
    methods = [entry for entry in yaml.safe_load(Path("sweep.yaml").read_text())["quantizers"] if isinstance(entry, str)]
    assert "pq" in methods and not {"rq", "dccl"} & set(methods)
    assert "many minutes a fit" in Path("sweep.yaml").read_text()


def test_nothing_is_overwritten(frontier: Callable[..., Result]) -> None:
    Path("sweep.yaml").write_text("mine")
    done = frontier("init", "builtin:synthetic-50x8")
    assert done.exit_code == 2 and "sweep.yaml: already exists; --force replaces it." in done.stderr
    assert Path("sweep.yaml").read_text() == "mine"
    Path("runs/synthetic-50x8").mkdir(parents=True)
    assert frontier("init", "builtin:synthetic-50x8", "--force").exit_code == 0
    assert load("sweep.yaml").name == "synthetic-50x8-2"  # another run has the name


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere.txt"], "No table 'nowhere.txt'"),
        (["builtin:synthetic-50x8", "-o", "sweep.txt"], "expected the path of a file NAME.yaml"),
        (["-o", "nowhere/sweep.yaml"], "in an existing folder"),
        (["--max-unpacked", "much"], "--max-unpacked: 'much' is not a size"),
    ],
)
def test_wrong_input_leaves_nothing(tmp_path: Path, frontier: Callable[..., Result], words: list[str], message: str) -> None:
    done = frontier("init", *words)
    assert done.exit_code == 2 and message in " ".join(done.stderr.split())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.parametrize("table", ["builtin:glove-10k-50d", "builtin:synthetic-200x16"])
def test_what_it_writes_is_run_and_exported(warm_ray: Path, frontier: Callable[..., Result], table: str) -> None:
    assert frontier("init", table, "--rows", 1000).exit_code == 0
    command = ["run", "sweep.yaml", "--set", "seeds=[0,1]", "--set", "budgets.compression_ratio=[4,8]"]
    done = frontier(*command)
    assert done.exit_code == 0, done.output
    run = Path("runs") / load("sweep.yaml").name
    assert sum(store.read_frontier(run)["on_frontier"].to_pylist()) > 3
    following = next(line for line in done.stdout.splitlines() if line.startswith("Next: frontier export "))
    exported = frontier(*following.split()[2:])
    assert exported.exit_code == 0, exported.output
    assert Path("small.safetensors").is_file()


def test_a_sweep_that_cannot_be_read_is_not_written(
    frontier: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*given: object) -> None:
        raise InputError("made up")

    monkeypatch.setattr("sweeps.spec.config.build", refuse)
    assert frontier("init", "builtin:synthetic-50x8").exit_code == 2 and not Path("sweep.yaml").exists()


def test_the_tensor_that_was_chosen_is_in_the_file(frontier: Callable[..., Result]) -> None:
    tensors = {"encoder.embed_tokens.weight": torch.randn(60, 8), "lm_head.weight": torch.randn(60, 8)}
    torch.save(tensors, "model.pt")
    for table in ("model.pt", "model.pt#encoder.embed_tokens.weight"):
        done = frontier("init", table, "--force")
        assert "Written: sweep.yaml: 60 x 8, " in done.stdout, done.output
        config = load("sweep.yaml")
        assert (config.name, config.table) == ("model", "model.pt#encoder.embed_tokens.weight")
