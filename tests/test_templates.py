"""The templates of the documentation work as they stand: copied into place, without a change anywhere else."""

import importlib
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from analysis.report.panel import Panel
from quantizers import InputError, Quantizer
from quantizers.registry import discover
from trainables.task import DownstreamTask

ROOT = Path(__file__).parents[1]
PLACES = {"method": "quantizers/methods", "task": "trainables/tasks", "panel": "analysis/report/panels"}

USE = """
import importlib.util, pathlib

from sweeps.commands import application
from trainables.registry import make_task
from trainables.tables.formats import read_table
from typer.testing import CliRunner

for words in (
    "compress builtin:glove-10k-50d --rows 300 --method my_method --ratio 5 -o small.safetensors",
    "inspect small.safetensors the",
):
    print(CliRunner().invoke(application(), words.split()).output)

table = read_table("builtin:glove-10k-50d", rows=200)
task = make_task({"task": "my_task", "rows": 100})
baseline = task.baseline(table, seed=0)
print(task.score(table.vectors * 1.1, table, baseline, seed=0)["length_error"])

spec = importlib.util.spec_from_file_location("made_up", "tests/analysis/test_report.py")
made_up = importlib.util.module_from_spec(spec)
spec.loader.exec_module(made_up)
run = made_up.make_run(pathlib.Path("runs/made-up"), methods=("rq",))
made_up.write_report([run], "report.html")
"""


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The four packages and some tests, with the templates in place."""
    root = tmp_path_factory.mktemp("copy")
    no_caches = shutil.ignore_patterns("__pycache__")
    for name in ("quantizers", "trainables", "sweeps", "analysis", "tests/contract", "tests/analysis"):
        shutil.copytree(ROOT / name, root / name, ignore=no_caches)
    for name in ("pyproject.toml", "tests/conftest.py"):
        shutil.copy(ROOT / name, root / name)
    for name, place in PLACES.items():
        shutil.copy(ROOT / "docs" / "templates" / f"{name}.py", root / place / f"my_{name}.py")
    return root


def run(root: Path, *arguments: str) -> str:
    """Output of Python in the copy, whose packages it imports."""
    environment = os.environ | {"PYTHONPATH": str(root), "COLUMNS": "200"}
    for name in list(environment):
        if name.startswith("PYTEST_"):
            del environment[name]
    done = subprocess.run(
        [sys.executable, *arguments], cwd=root, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_lint_finds_nothing_in_them(copy: Path) -> None:
    files = [f"{place}/my_{name}.py" for name, place in PLACES.items()]
    run(copy, "-m", "mypy", *files)
    run(copy, "-m", "ruff", "check", *files)
    run(copy, "-m", "ruff", "format", "--check", *files)


@pytest.mark.slow
def test_the_method_keeps_the_contract(copy: Path) -> None:
    chosen = "my_method and (test_storage or test_edges)"
    output = run(copy, "-m", "pytest", "tests/contract", "-k", chosen, "-q", "-p", "no:cacheprovider")
    assert "passed" in output and "failed" not in output


@pytest.mark.process
def test_the_method_compresses_the_task_scores_and_the_panel_is_in_the_report(copy: Path) -> None:
    output = run(copy, "-c", USE)
    assert output.count("my_method (bits=5)") == 2 and "value=0.1" in output
    page = (copy / "report.html").read_text(encoding="utf-8")
    assert '<a href="#my-panel">Time of fits</a>' in page
    assert page.index('id="trials-section"') < page.index('id="my-panel"') < page.index('id="reproduce"')
    assert "<tr><td>rq</td>" in page


@pytest.mark.parametrize(
    ("kind", "base", "without", "message"),
    [
        ("method", Quantizer, "name", "The method MyMethod of .*half_method_name.half has no name: give the class a line"),
        ("method", Quantizer, "state_roles", "The method 'my_method' of .* does not define state_roles"),
        ("task", DownstreamTask, "name", "The task MyTask of .* has no name"),
        ("task", DownstreamTask, "metrics", "The task 'my_task' of .* does not define metrics"),
        ("panel", Panel, "name", "The panel MyPanel of .* has no name"),
        ("panel", Panel, "order", "The panel 'my-panel' of .* does not define order"),
    ],
)
def test_a_line_that_was_forgotten_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, base: type[Any], without: str, message: str
) -> None:
    """A class without a name was left out in silence; one without another attribute failed later, far from its file."""
    package = tmp_path / f"half_{kind}_{without}"
    package.mkdir()
    (package / "__init__.py").touch()
    lines = (ROOT / "docs" / "templates" / f"{kind}.py").read_text(encoding="utf-8").splitlines(keepends=True)
    kept = [line for line in lines if not line.startswith(f"    {without} = ")]
    assert len(kept) == len(lines) - 1
    (package / "half.py").write_text("".join(kept), encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InputError, match=message):
        discover(importlib.import_module(package.name), base, "embedding_frontier.none", kind)
