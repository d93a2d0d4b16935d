"""What the distributions ask for, and what a program without the packages for sweeps says."""

from __future__ import annotations

import ast
import importlib.metadata
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import Result

from sweeps.commands import _PANELS, _name
from sweeps.commands.app import SWEEP_MODULES, app, checked

ROOT = Path(__file__).parents[2]
MODULE_OF = {"scikit-learn": "sklearn", "pyyaml": "yaml"}
TORCHS = {"filelock", "jinja2", "markupsafe"}  # torch asks for these too


def project(folder: Path) -> dict[str, Any]:
    return dict(tomllib.loads((folder / "pyproject.toml").read_text())["project"])


def names(requirements: Sequence[str]) -> set[str]:
    return {re.match(r"[A-Za-z0-9._-]+", line)[0].lower() for line in requirements}  # type: ignore[index]


def modules(requirements: Sequence[str]) -> set[str]:
    return {MODULE_OF.get(name, name) for name in names(requirements)}


def test_the_extra_for_sweeps_is_what_the_message_knows() -> None:
    assert modules(project(ROOT)["optional-dependencies"]["sweep"]) == SWEEP_MODULES


@pytest.mark.thorough
def test_everything_that_is_imported_is_asked_for() -> None:
    asked = project(ROOT)
    known = modules(asked["dependencies"]) | SWEEP_MODULES | {"onnx"}
    own = {"quantizers", "trainables", "sweeps", "analysis"}
    for package in own:
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                found = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                found += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
                for name in {one.partition(".")[0] for one in found} - own - set(sys.stdlib_module_names):
                    assert name in known, f"{path}: {name}"


@pytest.mark.slow
def test_a_sweep_starts_without_what_is_slow_to_import() -> None:
    code = (
        "import sys, quantizers, sweeps.driver, trainables.registry; from sweeps.commands import application\n"
        "application(), trainables.registry.tasks(), quantizers.list_methods()\n"
        "print(*{'matplotlib', 'mlflow', 'optuna', 'scipy.stats', 'seqeval', 'sklearn'} & sys.modules.keys())\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_what_comes_without_extras_leads_to_no_sweep() -> None:
    """All that the base packages ask for, as the installed ones say."""
    todo, seen = names(project(ROOT)["dependencies"]), set()
    while todo:
        name = todo.pop()
        seen.add(name)
        try:
            lines = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:  # for another system
            continue
        todo |= names([line for line in lines if "extra ==" not in line]) - seen
    assert not seen & names(project(ROOT)["optional-dependencies"]["sweep"]) - TORCHS


def test_the_reader_needs_numpy_and_safetensors_alone() -> None:
    about = project(ROOT / "reader" / "python")
    assert names(about["dependencies"]) == {"numpy", "safetensors"}
    assert about["version"] == project(ROOT)["version"] == importlib.metadata.version("embedding-frontier")


def test_a_missing_package_for_sweeps_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    @checked
    def command(name: str) -> None:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    with pytest.raises(typer.Exit) as left:
        command("ray.tune")
    assert left.value.exit_code == 2
    assert (
        "this needs ray, one of the packages for sweeps: pip install 'embedding-frontier[sweep]'" in capsys.readouterr().err
    )
    with pytest.raises(ModuleNotFoundError):  # a fault of ours, or of somebody's plugin
        command("other")


def test_help_has_every_command_where_it_is_needed(frontier: Callable[..., Result]) -> None:
    shown = frontier("--help").stdout
    listed = [name for group in _PANELS.values() for name in group]
    found = [_name(one) for one in (*app.registered_commands, *app.registered_groups)]
    assert sorted(listed) == sorted(found)
    places = [shown.index(f"│ {name} ") for name in listed]
    assert places == sorted(places)
    assert frontier("--version").stdout == f"frontier {importlib.metadata.version('embedding-frontier')}\n"


@pytest.mark.process
def test_commands_for_tables_and_files_need_no_extras(tmp_path: Path) -> None:
    """As in an environment without them: `make test-long` installs one."""
    missing = "; ".join(f"sys.modules[{name!r}] = None" for name in sorted(SWEEP_MODULES))
    small = tmp_path / "small.safetensors"
    compress = [
        "compress",
        "builtin:glove-10k-50d",
        "--method",
        "pq",
        "--ratio",
        "64",
        "--set",
        "iterations=1",
        "-o",
        str(small),
    ]
    calls = [compress, ["inspect", str(small), "dog"], ["inspect", str(tmp_path)]]
    program = f"""import sys; {missing}
from sweeps.commands import main
for words in {calls!r}:
    sys.argv[1:] = words
    try:
        main()
    except SystemExit as end:
        print("ENDED", end.code or 0)
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert re.findall(r"ENDED (.*)", done.stdout) == ["0", "0", "2"], done.stdout + done.stderr
    assert "Traceback" not in done.stderr
