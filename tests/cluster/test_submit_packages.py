"""What `frontier submit` sends of other packages, and where relative paths of a sweep lie on the cluster."""

import importlib
import importlib.metadata
import subprocess
import sys
from collections.abc import Iterator
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import pytest

from quantizers.errors import InputError
from sweeps.cluster import submit
from sweeps.spec.config import SweepConfig, build

METHOD = """
from quantizers.methods.identity import Identity
class Mine(Identity):
    name = "{name}"
"""


def sweep(**more: object) -> SweepConfig:
    return build({"name": "s", "table": "builtin:glove-10k-50d", "quantizers": ["pq"], **more})


@pytest.mark.parametrize(
    ("given", "settings", "expected"),
    [
        ({"ledger": "shared"}, {}, ("~/runs", "~/runs/shared", None)),
        ({"ledger": "shared"}, {"output": "s3://b/runs"}, ("s3://b/runs", "s3://b/runs/shared", None)),
        ({"ledger": "RUN_DIR/../shared"}, {}, ("~/runs", "RUN_DIR/../shared", None)),
        ({"ledger": "/nfs/l"}, {"output": "mine"}, ("~/mine", "/nfs/l", None)),
        ({"ledger": False}, {}, ("~/runs", False, None)),
        ({"tracking": "sqlite:///m.db"}, {}, ("~/runs", "RUN_DIR/ledger", "sqlite:///~/runs/m.db")),
        ({"tracking": "sqlite:///m.db"}, {"output": "/nfs"}, ("/nfs", "RUN_DIR/ledger", "sqlite:////nfs/m.db")),
        ({"tracking": "sqlite:///m.db"}, {"output": "s3://b"}, ("s3://b", "RUN_DIR/ledger", "sqlite:///~/runs/m.db")),
        ({}, {"tracking": "sqlite:///m.db"}, ("~/runs", "RUN_DIR/ledger", "sqlite:///~/runs/m.db")),
        ({"tracking": "sqlite:////a/m.db"}, {}, ("~/runs", "RUN_DIR/ledger", "sqlite:////a/m.db")),
        ({"tracking": "http://h:1"}, {}, ("~/runs", "RUN_DIR/ledger", "http://h:1")),
    ],
)
def test_nothing_lies_in_the_folder_of_the_job(
    given: dict[str, object], settings: dict[str, str], expected: tuple[str, str, str]
) -> None:
    config = submit.on_cluster(sweep(**given), submit.Cluster("c.yaml", settings), None)
    assert (config.output, config.ledger, config.tracking) == expected


def test_an_output_folder_on_the_command_line_is_one_of_the_home_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    config = submit.on_cluster(sweep(tracking="sqlite:///m.db"), submit.Cluster("c.yaml", {}), "results/a")
    assert config.output == "~/results/a"
    assert config.run_dir == tmp_path / "results" / "a" / "s"
    assert config.tracking_uri == f"sqlite:///{tmp_path}/results/a/m.db"


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder from which Python imports."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    yield folder
    _forget()


def information(folder: Path, name: str, *entries: str, files: tuple[str, ...] | None = None) -> None:
    info = folder / f"{name.replace('-', '_')}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[embedding_frontier.quantizers]\n" + "\n".join(entries) + "\n")
    if files is not None:
        (info / "RECORD").write_text("".join(f"{file},,\n" for file in (*files, f"{info.name}/METADATA", "../../bin/x")))
    _forget()


def _forget() -> None:
    """What was looked up within one tick of the file system's clock may be from before."""
    importlib.invalidate_caches()
    importlib.metadata.MetadataPathFinder().invalidate_caches()  # on Python 3.11 the line above leaves it as it is


@pytest.mark.process
def test_methods_of_other_packages_are_sent_along(path: Path, tmp_path: Path) -> None:
    # One that is installed, with a helper of its own; one that is a file on the path; one that is installed as editable.
    compiled = f"fast{EXTENSION_SUFFIXES[0]}"
    files = ("first_codes/__init__.py", "first_codes/helper.py", "first_codes/__pycache__/a.pyc", f"first_codes/{compiled}")
    files = (*files, "helper_of_first.py")
    for file in files:
        (path / file).parent.mkdir(parents=True, exist_ok=True)
        (path / file).write_text("")
    (path / "first_codes" / "helper.py").write_text("import helper_of_first\n" + METHOD.format(name="first"))
    information(path, "first-codes", "first = first_codes.helper:Mine", files=files)
    (path / "second.py").write_text(METHOD.format(name="second"))
    information(path, "second", "second = second")
    source = tmp_path / "source"
    (source / "third").mkdir(parents=True)
    (source / "third" / "__init__.py").write_text("from third.inside import Mine\n")
    (source / "third" / "inside.py").write_text(METHOD.format(name="third"))
    (path / "__editable__.third.pth").write_text(str(source))
    information(path, "third", "third = third.inside", files=("__editable__.third.pth",))
    sys.path.append(str(source))
    told: list[str] = []
    try:
        with submit._working_dir(sweep(), told.append) as folder:
            assert not list(folder.rglob("__pycache__")) and not list(folder.glob("*.pth"))
            code = "import quantizers; print(*quantizers.list_methods())"
            command = [sys.executable, "-c", code]
            said = subprocess.run(
                command, cwd=folder, env={"PYTHONPATH": "."}, capture_output=True, text=True, check=True
            ).stdout
    finally:
        sys.path.remove(str(source))
    assert {"identity", "first", "second", "third"} <= set(said.split())
    assert told == [
        f"Sent along: first-codes 1.0 (compiled for this machine: first_codes/{compiled})",
        "Sent along: second 1.0",
        "Sent along: third 1.0",
    ]


@pytest.mark.parametrize(
    ("module", "files", "expected"),
    [
        ("gone", None, "mine: its module gone cannot be sent to the cluster: it cannot be found"),
        ("spread.part", None, "mine: its module spread cannot be sent to the cluster: it is a namespace"),
        ("mine", ("mine.py", "sweeps/extra.py"), "mine: cannot be sent to the cluster: this program has a folder sweeps"),
    ],
)
def test_what_cannot_be_sent_is_refused(path: Path, module: str, files: tuple[str, ...] | None, expected: str) -> None:
    (path / "spread").mkdir()
    (path / "spread" / "part.py").write_text("")
    (path / "sweeps").mkdir()
    for file in ("mine.py", "sweeps/extra.py"):  # there, since importlib_metadata, where a library uses it, lists no others
        (path / file).write_text("")
    information(path, "mine", f"m = {module}", files=files)
    with pytest.raises(InputError, match=expected), submit._working_dir(sweep()):
        pass
