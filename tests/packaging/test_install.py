"""Both distributions in clean virtual environments, as people install them. Needs pip's package registry."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DATA = ROOT / "reader/python/tests/data"
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


def called(*words: object, ok: bool = True) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, check=False)
    assert done.returncode == 0 or not ok, done.stdout + done.stderr
    return done


@pytest.fixture
def environment(tmp_path: Path) -> Path:
    """An empty virtual environment, and beside it nothing of this repository: its folder is no place to import from."""
    called(sys.executable, "-m", "venv", tmp_path / "env")
    return tmp_path / "env"


def install(environment: Path, *what: object) -> None:
    quiet = ("--quiet", "--disable-pip-version-check", "--constraint", ROOT / "constraints.txt")
    done = called(environment / "bin/python", "-m", "pip", "install", *quiet, *what, ok=False)
    if "No matching distribution" in done.stderr or "Connection" in done.stderr:
        pytest.skip("pip reaches no package registry here")
    assert done.returncode == 0, done.stderr


def packages(environment: Path) -> set[str]:
    shown = called(environment / "bin/python", "-m", "pip", "list", "--format", "freeze").stdout
    return {line.partition("=")[0].lower() for line in shown.splitlines()}


def test_the_reader_alone(environment: Path, tmp_path: Path) -> None:
    install(environment, ROOT / "reader/python")
    assert packages(environment) <= {"embedding-frontier-reader", "numpy", "safetensors", "pip", "setuptools"}
    size = sum(path.stat().st_size for path in environment.rglob("*") if path.is_file() and not path.is_symlink())
    assert size < 120e6, f"{size / 1e6:.0f} MB"
    program = f"import embedding_frontier_reader as r; print(r.load({str(DATA / 'pq-5.safetensors')!r})['dog'].shape)"
    assert called(environment / "bin/python", "-I", "-c", program).stdout == "(10,)\n"
    install(environment, "pytest")
    called(environment / "bin/python", "-m", "pytest", "-q", "-p", "no:cacheprovider", ROOT / "reader/python/tests")


def test_the_program_without_extras(environment: Path, tmp_path: Path) -> None:
    install(environment, ROOT)
    assert not packages(environment) & {"ray", "mlflow", "optuna", "plotly", "scikit-learn", "pandas"}
    frontier = environment / "bin/frontier"
    small = tmp_path / "small.safetensors"
    called(
        frontier, "compress", "builtin:glove-10k-50d", "--method", "pq", "--ratio", 16, "--set", "iterations=2", "-o", small
    )
    assert "dog" in called(frontier, "inspect", small, "dog", "--neighbours").stdout
    called(frontier, "convert", "builtin:glove-10k-50d", "-o", tmp_path / "t.txt")
    called(frontier, "export", small, "--format", "model2vec", "-o", tmp_path / "model")
    for words in (["run", "quick"], ["report", ROOT / "tests/formats/schema-4/sample", "-o", tmp_path / "r.html"]):
        done = called(frontier, *words, ok=False)
        assert done.returncode == 2 and "embedding-frontier[sweep]" in done.stderr, done.stderr
    done = called(frontier, "export", small, "--format", "onnx", "-o", tmp_path / "m.onnx", ok=False)
    assert done.returncode == 2 and "embedding-frontier[onnx]" in done.stderr
