"""Which folder may import which, and what a folder holds: read from the source, nothing is imported."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("quantizers", "trainables", "sweeps", "analysis")
PATHS = [path for name in PACKAGES for path in (ROOT / name).rglob("*.py")]
FILES = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in PATHS}
MODULES = {name.removesuffix(".__init__"): path for name, path in FILES.items()}

# What code of a folder must not import, function-level imports included.
FORBIDDEN = [
    ("quantizers", ("trainables", "sweeps", "analysis", "ray", "mlflow")),
    ("trainables", ("sweeps", "analysis", "ray", "mlflow")),
    ("analysis", ("sweeps", "ray", "mlflow")),
    ("quantizers.coding", ("quantizers.methods", "quantizers.fitting")),
    ("quantizers.fitting", ("quantizers.methods",)),
    ("trainables.trial", ("trainables.tasks", "trainables.networks", "trainables.corpora")),
    ("trainables.task", ("trainables.tasks", "trainables.networks", "trainables.corpora")),
    ("trainables.leading", ("trainables.tasks", "trainables.networks", "trainables.corpora")),
    ("trainables.corpora", ("trainables.tasks", "trainables.networks", "trainables.trial")),
    ("trainables.networks", ("trainables.tasks", "trainables.trial")),
    ("sweeps.storage", ("sweeps.spec", "sweeps.search", "sweeps.tune", "sweeps.record", "sweeps.driver", "sweeps.commands")),
    ("sweeps.spec", ("sweeps.search", "sweeps.tune", "sweeps.record", "sweeps.driver", "sweeps.commands")),
    ("sweeps.search", ("sweeps.driver", "sweeps.commands")),
    ("sweeps.tune", ("sweeps.driver", "sweeps.commands")),
    ("sweeps.record", ("sweeps.driver", "sweeps.commands")),
    ("sweeps.driver", ("sweeps.commands",)),
]
# ``Quantizer.module`` and ``Quantizer.save`` lead from the contract to what is built on it; they import when called.
CONVENIENCES = {("quantizers.base", "quantizers.embedding"), ("quantizers.base", "quantizers.artifact")}
FULL = 12  # Python files of a folder
HOLD_ALL = ("quantizers/methods", "trainables/tasks")  # a file for every method, and for every task


def _typing_only(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def _nodes(node: ast.AST) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        if not _typing_only(child):
            yield child
            yield from _nodes(child)


def _imported(path: Path) -> set[str]:
    """Names of the modules that a file imports, anywhere in it, but for those that only types need."""
    found: set[str] = set()
    for node in _nodes(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                found.add(full if full in MODULES else node.module)
    return found


IMPORTS = {name: _imported(path) for name, path in MODULES.items()}


def _inside(module: str, folder: str) -> bool:
    return f"{module}.".startswith(f"{folder}.")


def test_no_import_circle() -> None:
    done: set[str] = set()

    def visit(module: str, way: tuple[str, ...]) -> None:
        assert module not in way, " -> ".join([*way[way.index(module) :], module])
        if module not in done:
            for target in sorted(IMPORTS[module] & MODULES.keys()):
                if (module, target) not in CONVENIENCES:
                    visit(target, (*way, module))
            done.add(module)

    for module in MODULES:
        visit(module, ())


@pytest.mark.parametrize(("folder", "others"), FORBIDDEN, ids=[folder for folder, _ in FORBIDDEN])
def test_arrows(folder: str, others: tuple[str, ...]) -> None:
    wrong = [
        f"{module} imports {target}"
        for module in MODULES
        if _inside(module, folder)
        for target in sorted(IMPORTS[module])
        if any(_inside(target, other) for other in others)
    ]
    assert not wrong


@pytest.mark.parametrize(("library", "owner"), [("ray.tune", "sweeps.tune"), ("mlflow", "sweeps.record")])
def test_one_folder_knows_a_library(library: str, owner: str) -> None:
    users = [module for module in MODULES if any(_inside(target, library) for target in IMPORTS[module])]
    assert users, f"nothing imports {library} any more"
    assert [module for module in users if not _inside(module, owner)] == []


def _classes(paths: list[Path]) -> list[str]:
    """What the classes of some files set ``name`` to."""
    return [
        line.value.value
        for path in paths
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.ClassDef)
        for line in node.body
        if isinstance(line, ast.Assign) and isinstance(line.targets[0], ast.Name) and line.targets[0].id == "name"
        if isinstance(line.value, ast.Constant) and isinstance(line.value.value, str)
    ]


@pytest.mark.parametrize("folder", HOLD_ALL)
def test_one_module_one_method_or_task(folder: str) -> None:
    names = {"binary": "bin"}
    for path in sorted((ROOT / folder).iterdir()):
        if path.suffix == ".py" and path.stem != "__init__" or (path / "__init__.py").is_file():
            found = _classes(sorted(path.rglob("*.py")) if path.is_dir() else [path])
            assert found == [names.get(path.stem, path.stem)], path.name


def test_folders_and_files_stay_small() -> None:
    at_top = [path for path in (ROOT / "sweeps").iterdir() if path.name not in ("__pycache__", "py.typed")]
    assert len(at_top) <= 10, sorted(path.name for path in at_top)
    folders = {path.parent for path in MODULES.values()} - {ROOT / name for name in HOLD_ALL}
    crowded = {str(folder.relative_to(ROOT)): len(list(folder.glob("*.py"))) for folder in folders}
    assert {name: count for name, count in crowded.items() if count > FULL} == {}
    long = {name: count for name, path in MODULES.items() if (count := len(path.read_text().splitlines())) > 350}
    assert long == {}
