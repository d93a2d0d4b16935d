"""Files of a run, damaged; then any command is given the run: a result or one line, and what was measured stays.

The run is the one that the tests of formats keep, of this version of the files.
"""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from analysis import store
from analysis.schema import SCHEMA_VERSION
from quantizers.files import is_sealed_json, sealed_json, unsealed_json
from sweeps.commands import application
from sweeps.record.tracking.runs import UnreachableError
from tests.attacks.artifacts import lines
from tests.attacks.damage import damaged, raw
from tests.attacks.guard import BrokenPromiseError, Outcome, attempt

ORIGINAL = Path(__file__).parents[1] / "formats" / f"schema-{SCHEMA_VERSION}"
PARQUET = ("trials.parquet", "scores.parquet", "frontier.parquet")
KEY = next((ORIGINAL / "sample" / "artifacts").iterdir()).stem
FILES = [*PARQUET, "run.json", "status.json", "sweep.yaml", "artifacts", "ledger/results", "ledger/baselines", "ledger/fits"]
COMMANDS: dict[str, Callable[[Path], list[object]]] = {
    "recommend": lambda run: ["recommend", run, "--max-drop", "50%"],
    "recommend --max-bytes": lambda run: ["recommend", run, "--max-bytes", "100B"],
    "status": lambda run: ["status", run],
    "report": lambda run: ["report", run, "-o", run.parent / "r.html"],
    "export": lambda run: ["export", run, "--trial", KEY, "-o", run.parent / "x.safetensors"],
    "export --max-bytes": lambda run: ["export", run, "--max-bytes", "100B", "-o", run.parent / "y.safetensors"],
    "sync": lambda run: ["sync", run],
    "inspect": lambda run: ["inspect", run / "artifacts" / f"{KEY}.safetensors"],
    "ledger clean": lambda run: ["ledger", "clean", run / "ledger", "--unless-in", run, "--dry-run"],
    "run --dry-run": lambda run: ["run", run / "sweep.yaml", "--dry-run"],
}
# Of what every damage may change, what each sealed file says.
READ: dict[str, Callable[[Path], Any]] = {
    "trials.parquet": lambda run: store.read_trials(run).to_pylist(),
    "scores.parquet": lambda run: store.read_scores(run).to_pylist(),
    "frontier.parquet": lambda run: store.read_frontier(run).to_pylist(),
    "run.json": store.read_run,
}


def attack(seed: int, number: int, place: Path) -> tuple[str, Outcome]:
    """Attack ``number`` of the seed; -1 gives every command the run whole."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("analysis.report.page.get_plotlyjs", lambda: "")  # 4 MB in each report
        patch.setattr("sweeps.record.tracking.sync.Runs", _Nobody)
        folder = place / "of run"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(ORIGINAL, folder)
        patch.chdir(folder)
        run_dir = folder / "sample"
        sweep = run_dir / "sweep.yaml"
        sweep.write_text(sweep.read_text().replace("tracking: false", "tracking: http://127.0.0.1:9"))
        if number < 0:
            for command in COMMANDS:
                _give(command, run_dir)
            return "all whole", Outcome("result")
        dice = Random(f"runs {seed} {number}")
        what = FILES[number % len(FILES)]
        path = run_dir / what
        if path.is_dir():
            path = dice.choice(sorted(path.iterdir()))
        before = READ[what](run_dir) if what in READ else None
        kind = _damage(path, dice)
        command = dice.choice(list(COMMANDS))

        def work() -> None:
            if kind == "flipped" and before is not None:
                _unchanged(what, run_dir, before)
            _give(command, run_dir)

        return f"{what} {kind}: {command}", attempt(work, folder)


class _Nobody:
    """MLflow that does not answer; no attempt is made to reach it."""

    def __init__(self, *about: object) -> None:
        self.run_ids: dict[str, str] = {}

    def send_all(self, results: Sequence[object]) -> int:
        raise UnreachableError("nobody answers")

    def summarize(self, *about: object, **more: object) -> bool:
        raise UnreachableError("nobody answers")


def _damage(path: Path, dice: Random) -> str:
    """Damage a file; returns a word for what was done."""
    content = path.read_bytes()
    kind = dice.choice(["flipped", "flipped", "raw", "inside", "signed", "gone", "folder", "empty", "other"])
    if kind == "flipped":
        where = dice.randrange(len(content))
        path.write_bytes(content[:where] + bytes([content[where] ^ (1 << dice.randrange(8))]) + content[where + 1 :])
    elif kind == "signed" and path.suffix in (".json", ".parquet"):
        path.write_bytes(_signed(path, content, dice))
    elif kind in ("gone", "folder"):
        path.unlink()
        if kind == "folder":
            path.mkdir()
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "other":
        path.write_bytes(dice.choice(sorted(one for one in path.parents[1].rglob("*") if one.is_file())).read_bytes())
    else:
        path.write_bytes(damaged(content, dice) if kind == "inside" else raw(content, dice))
    return kind


def _signed(path: Path, content: bytes, dice: Random) -> bytes:
    """Another content under a digest that fits, or as an older version wrote it, without one."""
    if path.suffix == ".json":
        for _ in range(20):
            try:
                whole = unsealed_json(damaged(b"{" + content[content.index(b",") + 1 :], dice))
            except ValueError:
                continue
            return sealed_json(whole) if is_sealed_json(content) and dice.random() < 0.5 else json.dumps(whole).encode()
        return content
    table = pq.read_table(pa.BufferReader(content))
    if dice.random() < 0.5:
        table = table.replace_schema_metadata(None)
    column = dice.randrange(table.num_columns)
    name = table.schema.names[column]
    others = [pa.nulls(table.num_rows), pa.array(["x"] * table.num_rows), pa.array([-1] * table.num_rows)]
    kind = dice.randrange(5)
    if kind == 0:
        table = table.remove_column(column)
    elif kind == 1:
        table = table.append_column(name, table[name])
    elif kind == 2:
        table = table.slice(0, dice.choice([0, 1]))
    elif kind == 3:
        table = pa.concat_tables([table, table])
    else:
        table = table.set_column(column, name, dice.choice([*others, pa.array([float("nan")] * table.num_rows)]))
    if dice.random() < 0.5 and table.schema.names == pq.read_schema(pa.BufferReader(content)).names:
        return store._sealed(table)
    out = io.BytesIO()
    pq.write_table(table, out)
    return out.getvalue()


def _unchanged(what: str, run_dir: Path, before: Any) -> None:
    """One flipped bit is refused, or changes nothing that is read."""
    try:
        now = READ[what](run_dir)
    except ValueError:
        return
    if repr(now) != repr(before):
        raise BrokenPromiseError("wrong", f"{what}: a flipped bit is read as another value")


def _give(command: str, run_dir: Path) -> None:
    """Run one command in this process."""
    done = CliRunner().invoke(application(), [str(word) for word in COMMANDS[command](run_dir)], catch_exceptions=False)
    if done.exit_code not in (0, 2):
        raise BrokenPromiseError("wrong", f"{command}: exit code {done.exit_code}: {done.output[-300:]!r}")
    if done.exit_code == 2:
        lines(done.stderr)
