"""A method of somebody else's package: one file and an entry point, taken from the page that says how to write one."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.process


@pytest.fixture
def run_with_signs(tmp_path):
    """Runs Python from the repository's root with the page's example on its path; returns the output."""
    page = (ROOT / "docs" / "writing-a-method.md").read_text(encoding="utf-8")
    source, *others = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    assert not others
    (tmp_path / "signs.py").write_text(source, encoding="utf-8")
    group, entries = re.search(r'\[project.entry-points."(.*?)"\]\n(.*?)```', page, flags=re.DOTALL).groups()
    info = tmp_path / "signs-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: signs\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{group}]\n{entries.replace(chr(34), '')}")

    def run(*arguments):
        environment = os.environ | {"PYTHONPATH": str(tmp_path), "COLUMNS": "200"}
        environment.pop("PYTEST_XDIST_WORKER", None)
        done = subprocess.run(
            [sys.executable, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
        )
        return done.returncode, done.stdout + done.stderr

    return run


def test_it_is_registered(run_with_signs):
    status, output = run_with_signs("-c", "import quantizers; print(*quantizers.list_methods())")
    assert status == 0, output
    assert "signs" in output.split()
    assert "identity" in output.split()


@pytest.mark.slow
def test_it_passes_the_contract_suite(run_with_signs):
    status, output = run_with_signs("-m", "pytest", "tests/contract", "-k", "signs", "-q", "-p", "no:cacheprovider")
    assert status == 0, output
    passed = int(re.search(r"(\d+) passed", output)[1])
    assert passed > 40, output
    assert "failed" not in output


def test_a_broken_one_is_named(run_with_signs, tmp_path):
    (tmp_path / "signs.py").write_text("import no_such_module_of_ours\n")
    status, output = run_with_signs("-c", "import quantizers; quantizers.list_methods()")
    assert status == 1
    assert "InputError: signs's entry point signs = signs cannot be loaded" in output
    assert "no_such_module_of_ours" in output
